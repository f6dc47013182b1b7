"""The training loop: deterministic, resumable, guarded; and its augmentation against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark import training
from benchmark.backbones.small_cnn import small_cnn
from benchmark.data.images import Images, Preprocessing
from benchmark.data.synthetic import Synthetic
from benchmark.errors import BenchmarkError
from methods.qcfs import QCFS, QCFSActivation

PREPROCESSING = Synthetic.preprocessing


@pytest.fixture(scope="module")
def images() -> Images:
    return Synthetic().split("train").first(128)


def network(threshold: float = 4.0) -> torch.nn.Module:
    torch.manual_seed(0)
    return QCFS(threshold=threshold).prepare(small_cnn(3, 4))


def recipe(**changes) -> training.Recipe:
    return training.Recipe(**{"epochs": 4, "batch_size": 32, "lr": 0.05, "augment": "crop-flip", **changes})


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_repeats_exactly(images):
    first, second, untrained = network(), network(), network()
    for model in (first, second):
        training.train(model, images, PREPROCESSING, recipe(augment="none", epochs=8))
    assert same(first, second)
    assert not same(first, untrained)
    assert training.accuracy(first, images, PREPROCESSING) > 0.6 > training.accuracy(untrained, images, PREPROCESSING)


def test_an_interrupted_training_ends_with_the_same_weights(images, tmp_path):
    unbroken, broken = network(), network()
    training.train(unbroken, images, PREPROCESSING, recipe())

    class PowerCut(Exception):
        pass

    def cut(epoch: int, loss: float) -> None:
        if epoch == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        training.train(broken, images, PREPROCESSING, recipe(), resume=tmp_path / "state.pt", after_epoch=cut)
    seen = []
    torch.manual_seed(99)  # the global generator must not matter
    resumed = QCFS().prepare(small_cnn(3, 4))
    training.train(
        resumed,
        images,
        PREPROCESSING,
        recipe(),
        resume=tmp_path / "state.pt",
        after_epoch=lambda epoch, loss: seen.append(epoch),
    )
    assert seen == [3, 4]
    assert same(resumed, unbroken)


def test_a_diverging_training_stops(images):
    with pytest.raises(BenchmarkError, match="diverged in epoch 1"):
        training.train(network(), images, PREPROCESSING, recipe(lr=1e20))


def test_a_threshold_that_falls_below_zero_is_named(images):
    model = network()
    for activation in (module for module in model.modules() if isinstance(module, QCFSActivation)):
        activation.threshold.data.fill_(-0.5)
        activation.threshold.requires_grad_(False)
    with pytest.raises(BenchmarkError, match=r"threshold of features\.2 fell to -0\.5 in epoch 1"):
        training.train(model, images, PREPROCESSING, recipe(lr=1e-6))


def test_thresholds_start_at_the_quantile_of_their_input(images):
    model = network().eval()
    inputs = {}
    batch = training.first_batch(images, PREPROCESSING, 64)
    training.initialise_thresholds(model, batch, quantile=0.9)
    for name, module in model.named_modules():
        if isinstance(module, QCFSActivation):
            module.register_forward_pre_hook(
                lambda module, args, name=name: inputs.__setitem__(name, (module, args[0]))
            )
    with torch.no_grad():
        model(batch)
    assert len(inputs) == 3
    for module, z in inputs.values():
        below = (z.clamp_min(0) < module.threshold).double().mean().item()
        assert below == pytest.approx(0.9, abs=0.002)


def test_crop_and_flip_against_a_loop():
    pixels = torch.arange(6 * 2 * 5 * 5).reshape(6, 2, 5, 5).float()
    moved = training.crop_and_flip(pixels, torch.Generator().manual_seed(3), padding=2)
    generator = torch.Generator().manual_seed(3)
    top = torch.randint(0, 5, (6,), generator=generator)
    left = torch.randint(0, 5, (6,), generator=generator)
    mirrored = torch.randint(0, 2, (6,), generator=generator)
    assert 0 < mirrored.sum() < 6
    for index in range(6):
        padded = np.pad(pixels[index].numpy(), ((0, 0), (2, 2), (2, 2)))
        window = padded[:, top[index] : top[index] + 5, left[index] : left[index] + 5]
        expected = window[:, :, ::-1] if mirrored[index] else window
        assert np.array_equal(moved[index].numpy(), expected)


def test_preprocessing_of_a_constant_image():
    from benchmark.loading import normalise

    values = normalise(torch.full((1, 2, 1, 1), 51, dtype=torch.uint8), Preprocessing(255.0, (0.1, 0.2), (0.5, 0.25)))
    assert values.flatten().tolist() == pytest.approx([0.2, 0.0], abs=1e-6)
