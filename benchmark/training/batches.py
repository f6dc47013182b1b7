"""The training batches of an epoch: in an order that follows from seed and epoch, each process its share of every batch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.data.images import Images, LazyPixels, Preprocessing
from benchmark.errors import BenchmarkError, UsageError
from benchmark.loading import normalise
from benchmark.training.augmentation import Holes, Pictures, Shifts, mean_colour
from benchmark.training.recipe import Recipe
from benchmark.training.seeds import Purpose, generator


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world` processes; each computes an equal part of every batch."""

    rank: int = 0
    world: int = 1


class TrainingBatches(ABC):
    """Network input [B, C, H, W] and labels [B] on the device, step by step; B is this process's share of the batch."""

    def __init__(self, images: Images, recipe: Recipe, share: Share):
        parts = share.world * recipe.accumulate
        if recipe.batch_size % parts:
            raise UsageError(
                f"a batch of {recipe.batch_size} does not divide into {share.world} process(es) x {recipe.accumulate} part(s)."
            )
        if len(images) < recipe.batch_size:
            raise UsageError(f"{len(images)} training images do not fill a batch of {recipe.batch_size}.")
        self.images, self.recipe, self.share = images, recipe, share

    @property
    def steps(self) -> int:
        """Steps of an epoch; the images that do not fill the last batch are left out of it."""
        return len(self.images) // self.recipe.batch_size

    def chosen(self, epoch: int, first: int) -> Iterator[Tensor]:
        """The image numbers, int64 [B], of each step of an epoch from step `first` on."""
        order = torch.randperm(len(self.images), generator=generator(self.recipe.seed, Purpose.ORDER, epoch))
        size = self.recipe.batch_size // self.share.world
        for step in range(first, self.steps):
            start = step * self.recipe.batch_size + self.share.rank * size
            yield order[start : start + size]

    @abstractmethod
    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `first` on. Raises DataError for an image that cannot be decoded."""


class ResidentBatches(TrainingBatches):
    """All pixels on the device; moved, mirrored and covered there."""

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        recipe: Recipe,
        share: Share,
        device: torch.device,
        dtype: torch.dtype,
    ):
        super().__init__(images, recipe, share)
        assert isinstance(images.pixels, np.ndarray)
        self._pixels = torch.from_numpy(images.pixels).to(device)
        self._labels = torch.from_numpy(images.labels)
        self._preprocessing, self._device, self._dtype = preprocessing, device, dtype

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        recipe, (count, _, height, width) = self.recipe, self._pixels.shape
        changes: list[Shifts | Holes] = []
        if "crop-flip" in recipe.augment:
            changes.append(Shifts.draw(count, width // 8, recipe.seed, epoch))
        if "cutout" in recipe.augment:
            changes.append(Holes.draw(count, height, width, mean_colour(self._preprocessing), recipe.seed, epoch))
        for chosen in self.chosen(epoch, first):
            pixels = self._pixels[chosen.to(self._device)]
            for change in changes:
                pixels = change.apply(pixels, chosen)
            yield normalise(pixels, self._preprocessing, self._dtype), self._labels[chosen].to(self._device)


class DecodedBatches(TrainingBatches):
    """Pictures decoded and changed one by one, in `workers` processes."""

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        recipe: Recipe,
        share: Share,
        device: torch.device,
        dtype: torch.dtype,
        workers: int,
    ):
        super().__init__(images, recipe, share)
        _, channels, side, _ = images.pixels.shape
        self._pictures = Pictures(recipe, preprocessing, channels, side)
        self._labels = torch.from_numpy(images.labels)
        self._preprocessing, self._device, self._dtype = preprocessing, device, dtype
        self._workers = workers

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = list(self.chosen(epoch, first))
        # A forked worker would inherit torch's threads and a job scheduler's signal handlers.
        context = ("forkserver" if os.name == "posix" else "spawn") if self._workers else None
        loader = DataLoader(
            _ChangedPictures(self.images.pixels, self._pictures, epoch, chosen),
            batch_size=None,
            num_workers=self._workers,
            multiprocessing_context=context,
            pin_memory=self._device.type == "cuda",
        )
        for numbers, pixels in zip(chosen, loader, strict=True):
            if isinstance(pixels, BenchmarkError):
                raise pixels
            there = pixels.to(self._device, non_blocking=True)
            yield normalise(there, self._preprocessing, self._dtype), self._labels[numbers].to(self._device)


class _ChangedPictures(Dataset["Tensor | BenchmarkError"]):
    """Batches of changed pictures; an error comes back as a value, because a worker's exception arrives buried in its trace."""

    def __init__(self, pixels: np.ndarray | LazyPixels, pictures: Pictures, epoch: int, chosen: list[Tensor]):
        self._pixels, self._pictures, self._epoch, self._chosen = pixels, pictures, epoch, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, step: int) -> Tensor | BenchmarkError:
        if step >= len(self):
            raise IndexError(step)
        try:
            return torch.stack([self._picture(index) for index in self._chosen[step].tolist()])
        except BenchmarkError as error:
            return error

    def _picture(self, index: int) -> Tensor:
        pixels = self._pixels
        picture = torch.from_numpy(pixels[index]) if isinstance(pixels, np.ndarray) else pixels.picture(index)
        return self._pictures(picture, self._epoch, index)


def training_batches(
    images: Images,
    preprocessing: Preprocessing,
    recipe: Recipe,
    share: Share,
    device: torch.device,
    dtype: torch.dtype,
    workers: int = 0,
) -> TrainingBatches:
    """The cheapest way to these batches: pixels that fit into memory stay on the device unless torchvision has to change them.

    Raises UsageError where batch size, number of processes and images do not fit together, or the images the augmentation.
    """
    resident = isinstance(images.pixels, np.ndarray)
    if resident and set(recipe.augment) <= {"crop-flip", "cutout"}:
        return ResidentBatches(images, preprocessing, recipe, share, device, dtype)
    framed = not isinstance(images.pixels, LazyPixels) or images.pixels.same_size
    if not framed and "resized-crop" not in recipe.augment:
        raise UsageError(
            f"the images of {images.name} differ in size; they are trained on with resized-crop.",
            "Pass --augment resized-crop, or a preset for ImageNet.",
        )
    return DecodedBatches(images, preprocessing, recipe, share, device, dtype, workers)
