"""Augmentation: shifts, mirrors and holes for whole batches on their device, the rest picture by picture with torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.images import Preprocessing
from benchmark.errors import UsageError
from benchmark.training.recipe import Recipe
from benchmark.training.seeds import Purpose, generator, seed_of

if TYPE_CHECKING:
    from PIL.Image import Image

SMALL = 64  # up to this side a picture gets CIFAR-10's AutoAugment policy


@dataclass(frozen=True)
class Shifts:
    """Where every image of an epoch is cropped, and whether it is mirrored: the same in whatever batch it comes.

    Attributes:
        top, left: int64 [N], 0..2 * padding.
        mirrored: bool [N].
        padding: black pixels on each side.
    """

    top: Tensor
    left: Tensor
    mirrored: Tensor
    padding: int

    @classmethod
    def draw(cls, count: int, padding: int, seed: int, epoch: int) -> Shifts:
        """Those of `count` images in an epoch."""
        random = generator(seed, Purpose.SHIFTS, epoch)
        top, left = (torch.randint(0, 2 * padding + 1, (count,), generator=random) for _ in range(2))
        return cls(top, left, torch.randint(0, 2, (count,), generator=random).bool(), padding)

    def apply(self, images: Tensor, chosen: Tensor) -> Tensor:
        """The images [B, C, H, W], which are the `chosen` [B] ones of the epoch, moved. torchvision has no crop per image."""
        count, channels, height, width = images.shape
        device = images.device
        padded = F.pad(images, [self.padding] * 4)
        top, left, mirrored = (part[chosen].to(device) for part in (self.top, self.left, self.mirrored))
        across = torch.arange(width, device=device)
        columns = left[:, None] + torch.where(mirrored[:, None], across.flip(0), across)
        rows = top[:, None] + torch.arange(height, device=device)
        index = torch.arange(count, device=device)[:, None, None, None]
        plane = torch.arange(channels, device=device)[None, :, None, None]
        return padded[index, plane, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class Holes:
    """Where every image of an epoch gets a square of half its side in the mean colour: the same in whatever batch it comes.

    Attributes:
        top, left: int64 [N]; the square lies wholly in the image.
        colour: pixel values, one per channel.
    """

    top: Tensor
    left: Tensor
    colour: tuple[int, ...]

    @classmethod
    def draw(cls, count: int, height: int, width: int, colour: tuple[int, ...], seed: int, epoch: int) -> Holes:
        """Those of `count` images in an epoch."""
        random = generator(seed, Purpose.HOLES, epoch)
        top, left = (torch.randint(0, side - side // 2 + 1, (count,), generator=random) for side in (height, width))
        return cls(top, left, colour)

    def apply(self, images: Tensor, chosen: Tensor) -> Tensor:
        """The images uint8 [B, C, H, W], which are the `chosen` [B] ones of the epoch, with their squares."""
        device = images.device

        def covered(start: Tensor, side: int) -> Tensor:
            place = torch.arange(side, device=device) - start[chosen].to(device)[:, None]
            return (place >= 0) & (place < side // 2)

        height, width = images.shape[2:]
        hole = covered(self.top, height)[:, None, :, None] & covered(self.left, width)[:, None, None, :]
        colour = torch.tensor(self.colour, dtype=images.dtype, device=device).reshape(1, -1, 1, 1)
        return torch.where(hole, colour, images)


def mean_colour(preprocessing: Preprocessing) -> tuple[int, ...]:
    """The mean colour as pixel values."""
    return tuple(round(value * preprocessing.divisor) for value in preprocessing.mean)


@dataclass(frozen=True)
class Pictures:
    """Everything that changes a picture on its own, by torchvision; seeded by seed, epoch and the number of the image.

    Raises:
        UsageError: the recipe asks for what these images cannot have.
    """

    recipe: Recipe
    preprocessing: Preprocessing
    channels: int
    side: int

    def __post_init__(self) -> None:
        for name in ("autoaugment", "color-jitter"):
            if name in self.recipe.augment and self.channels != 3:
                raise UsageError(f"{name} needs colour images; these have {self.channels} channel(s).")

    def __call__(self, picture: Image | Tensor, epoch: int, index: int) -> Tensor:
        """An RGB picture, or pixels uint8 [C, H, W], to pixels uint8 [C, side, side]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.recipe.seed, Purpose.PICTURE, epoch, index))
            for change in self._changes:
                picture = change(picture)
        assert isinstance(picture, Tensor)
        return picture.as_subclass(Tensor)

    @cached_property
    def _changes(self) -> list[Callable[[Image | Tensor], Image | Tensor]]:
        from torchvision.transforms import v2

        augment = self.recipe.augment
        bicubic = self.preprocessing.interpolation == "bicubic"
        interpolation = v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR
        changes: list[Callable[[Image | Tensor], Image | Tensor]] = []
        if "crop-flip" in augment:
            changes += [v2.RandomCrop(self.side, padding=self.side // 8), v2.RandomHorizontalFlip()]
        elif "resized-crop" in augment:
            changes += [
                v2.RandomResizedCrop(self.side, interpolation=interpolation, antialias=True),
                v2.RandomHorizontalFlip(),
            ]
        if "autoaugment" in augment:
            policy = v2.AutoAugmentPolicy.CIFAR10 if self.side <= SMALL else v2.AutoAugmentPolicy.IMAGENET
            changes.append(v2.AutoAugment(policy))
        if "color-jitter" in augment:
            changes.append(v2.ColorJitter(0.2, 0.2, 0.2, 0.1))
        changes.append(v2.ToImage())
        if "cutout" in augment:
            mean = mean_colour(self.preprocessing)
            changes.append(v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0), value=list(mean)))
        return changes
