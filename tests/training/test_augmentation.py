"""Shifts against a loop; torchvision's changes seeded by the image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.data.images import Preprocessing
from benchmark.errors import UsageError
from benchmark.training.augmentation import Holes, Pictures, Shifts
from benchmark.training.recipe import Recipe

COLOUR = Preprocessing(255.0, (0.2, 0.4, 0.6), (0.5,) * 3)


def test_shifts_against_a_loop():
    pixels = torch.arange(1, 6 * 2 * 5 * 5 + 1).reshape(6, 2, 5, 5)
    shifts = Shifts.draw(9, 2, seed=3, epoch=1)
    assert 0 < shifts.mirrored.sum() < 9 and shifts.top.max() == shifts.left.max() == 4
    chosen = torch.tensor([8, 1, 2, 0, 5, 3])
    moved = shifts.apply(pixels, chosen)
    for place, index in enumerate(chosen.tolist()):
        padded = np.pad(pixels[place].numpy(), ((0, 0), (2, 2), (2, 2)))
        top, left = shifts.top[index], shifts.left[index]
        window = padded[:, top : top + 5, left : left + 5]
        assert np.array_equal(moved[place].numpy(), window[:, :, ::-1] if shifts.mirrored[index] else window)


def test_an_image_is_moved_alike_in_any_batch_and_otherwise_in_the_next_epoch():
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifts = Shifts.draw(8, 4, seed=0, epoch=0)
    whole = shifts.apply(pixels, torch.arange(8))
    alone = torch.cat([shifts.apply(pixels[i : i + 1], torch.tensor([i])) for i in range(8)])
    assert torch.equal(whole, alone)
    assert not torch.equal(whole, Shifts.draw(8, 4, seed=0, epoch=1).apply(pixels, torch.arange(8)))
    assert not torch.equal(whole, Shifts.draw(8, 4, seed=1, epoch=0).apply(pixels, torch.arange(8)))


def pictures(*augment: str, seed: int = 0, channels: int = 3) -> Pictures:
    return Pictures(Recipe(epochs=1, augment=augment, seed=seed), COLOUR, channels, 32)


@pytest.mark.parametrize("augment", ["crop-flip", "resized-crop", "autoaugment", "color-jitter", "cutout"])
def test_a_picture_changes_by_seed_epoch_and_number_alone(augment):
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    change = pictures(augment)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = change(picture, 2, 7)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's numbers are used up
    assert type(first) is torch.Tensor and first.dtype == torch.uint8 and first.shape == (3, 32, 32)
    torch.manual_seed(2)
    assert torch.equal(first, pictures(augment)(picture, 2, 7))
    others = [change(picture, 3, 7), change(picture, 2, 8), pictures(augment, seed=1)(picture, 2, 7)]
    assert any(not torch.equal(first, other) for other in others)
    many = {change(picture, 0, number).numpy().tobytes() for number in range(20)}
    assert len(many) > 5


def test_cutout_is_a_square_of_half_the_side_in_the_mean_colour():
    picture = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    cut = pictures("cutout")(picture, 0, 0)
    hole = (cut != 255).all(0)
    assert hole.sum() == 16 * 16
    assert cut[:, hole].unique(dim=1).flatten().tolist() == [51, 102, 153]


def test_a_hole_on_the_device_is_such_a_square_too_anywhere_in_the_image():
    pixels = torch.full((500, 3, 32, 32), 255, dtype=torch.uint8)
    holes = Holes.draw(500, 32, 32, (51, 102, 153), seed=0, epoch=0)
    cut = holes.apply(pixels, torch.arange(500))
    hole = (cut != 255).any(1)
    assert hole.sum((1, 2)).eq(16 * 16).all()
    assert cut.movedim(1, -1)[hole].unique(dim=0).tolist() == [[51, 102, 153]]
    for side in (1, 2):
        lines = hole.any(side)
        assert lines.sum(1).eq(16).all()
        assert lines.float().argmax(1).unique().tolist() == list(range(17))
    alone = torch.cat([holes.apply(pixels[i : i + 1], torch.tensor([i])) for i in (3, 7)])
    assert torch.equal(alone, cut[[3, 7]])
    assert not torch.equal(cut, Holes.draw(500, 32, 32, (51, 102, 153), 0, 1).apply(pixels, torch.arange(500)))


def test_the_order_is_the_papers():
    """AutoAugment first, then cutout: the hole stays one plain square whatever colours change."""
    picture = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    for number in range(30):
        cut = pictures("autoaugment", "cutout")(picture, 0, number)
        mean = (cut == torch.tensor([51, 102, 153], dtype=torch.uint8)[:, None, None]).all(0)
        assert mean.sum() >= 16 * 16


@pytest.mark.parametrize("augment", ["autoaugment", "color-jitter"])
def test_grey_pictures_have_no_colours_to_change(augment):
    with pytest.raises(UsageError, match=f"{augment} needs colour images; these have 1 channel"):
        pictures(augment, channels=1)
