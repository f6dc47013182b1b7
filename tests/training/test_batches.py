"""The order and the shares of training batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.images import Images, LazyPixels, Preprocessing
from benchmark.data.synthetic import Synthetic
from benchmark.errors import DataError, UsageError
from benchmark.training.batches import DecodedBatches, ResidentBatches, Share, training_batches
from benchmark.training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> Images:
    return Synthetic().split("train").first(100)


def batches(images, share=None, workers=0, **recipe):
    fields = {"epochs": 2, "batch_size": 16, **recipe}
    share = share or Share()
    return training_batches(images, Synthetic.preprocessing, Recipe(**fields), share, CPU, torch.float32, workers)


def joined(parts):
    inputs, labels = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_every_epoch_has_every_image_once_but_for_the_rest_of_the_last_batch(images):
    made = batches(images)
    assert isinstance(made, ResidentBatches) and made.steps == 6
    orders = [torch.cat(list(made.chosen(epoch, 0))) for epoch in (0, 1)]
    for order in orders:
        assert len(order) == len(order.unique()) == 96
    assert not torch.equal(*orders)
    assert torch.equal(orders[0], torch.cat(list(batches(images).chosen(0, 0))))
    assert not torch.equal(orders[0], torch.cat(list(batches(images, seed=1).chosen(0, 0))))


@pytest.mark.parametrize("augment", [(), ("crop-flip",), ("crop-flip", "cutout"), ("autoaugment", "cutout")])
def test_the_shares_of_four_processes_are_the_whole_batch(images, augment):
    whole = list(batches(images, augment=augment).epoch(1))
    parts = [list(batches(images, Share(rank, 4), augment=augment).epoch(1)) for rank in range(4)]
    for step, (inputs, labels) in enumerate(whole):
        some_inputs, some_labels = joined([part[step] for part in parts])
        assert torch.equal(inputs, some_inputs) and torch.equal(labels, some_labels)


@pytest.mark.parametrize("augment", [("crop-flip",), ("crop-flip", "cutout"), ("autoaugment", "cutout")])
def test_an_epoch_goes_on_in_its_middle(images, augment):
    made = batches(images, augment=augment)
    inputs, labels = joined(list(made.epoch(0))[4:])
    later_inputs, later_labels = joined(made.epoch(0, 4))
    assert torch.equal(inputs, later_inputs) and torch.equal(labels, later_labels)


def test_worker_processes_change_nothing(images):
    alone = joined(batches(images, augment=("crop-flip", "autoaugment")).epoch(0))
    workers = joined(batches(images, augment=("crop-flip", "autoaugment"), workers=2).epoch(0))
    assert torch.equal(alone[0], workers[0]) and torch.equal(alone[1], workers[1])


def test_pictures_one_by_one_are_the_same_images(images):
    resident = batches(images)
    decoded = DecodedBatches(images, Synthetic.preprocessing, resident.recipe, Share(), CPU, torch.float32, 0)
    for (left, left_labels), (right, right_labels) in zip(resident.epoch(0), decoded.epoch(0), strict=True):
        assert torch.equal(left, right) and torch.equal(left_labels, right_labels)


class Gallery(LazyPixels):
    """Pictures of different sizes; number 3 is damaged."""

    shape = (20, 3, 24, 24)

    def picture(self, index):
        if index == 3:
            raise DataError("picture 3 is corrupt")
        return Image.fromarray(np.full((30 + index, 40, 3), index, dtype=np.uint8))

    def __getitem__(self, chosen):
        raise AssertionError("training looks at pictures")

    def first(self, count):
        raise NotImplementedError

    def identity(self):
        return b"gallery"

    def check(self):
        """Nothing."""


def test_pictures_of_any_size_are_cropped_at_random():
    images = Images("gallery", Gallery(), np.arange(20) % 4, 4)
    recipe = Recipe(epochs=1, batch_size=5, augment=("resized-crop",))
    made = training_batches(
        images, Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, 28, 24), recipe, Share(), CPU, torch.float32
    )
    seen = []
    with pytest.raises(DataError, match="picture 3 is corrupt"):
        for inputs, labels in made.epoch(0):
            assert inputs.shape == (5, 3, 24, 24)
            numbers = inputs.amax((1, 2, 3)).long()
            assert torch.equal(labels, numbers % 4)
            seen.append(numbers)
    assert seen  # what comes before it is trained on


@pytest.mark.parametrize(
    ("share", "recipe", "message"),
    [
        (Share(0, 3), {}, r"a batch of 16 does not divide into 3 process\(es\) x 1 part"),
        (Share(0, 2), {"accumulate": 16}, r"16 does not divide into 2 process\(es\) x 16 part"),
        (Share(), {"batch_size": 101}, "100 training images do not fill a batch of 101"),
    ],
)
def test_what_does_not_divide(images, share, recipe, message):
    with pytest.raises(UsageError, match=message):
        batches(images, share, **recipe)


def test_pictures_of_any_size_need_a_crop():
    images = Images("gallery", Gallery(), np.arange(20) % 4, 4)
    with pytest.raises(UsageError, match="trained on with resized-crop"):
        training_batches(
            images,
            Preprocessing(1.0, (0.0,), (1.0,), 28, 24),
            Recipe(epochs=1, batch_size=5),
            Share(),
            CPU,
            torch.float32,
        )
