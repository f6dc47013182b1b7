"""Batches of preprocessed images, from any image on, with any number of worker processes: always the same ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.data.images import Images, LazyPixels, Preprocessing
from benchmark.errors import BenchmarkError

# Batches end at multiples of this, where recordings are cut into shards, so a resumed run sees the same batches.
BOUNDARY = 512


@dataclass(frozen=True)
class Loader:
    """Gives batches (images on the device, labels) from the n-th image on when called with n.

    Images are float [B, C, H, W] of `dtype`; labels are int64 [B] on the CPU. Lazy pixels are decoded in the workers.
    Iterating raises DataError for an image that cannot be decoded.
    """

    images: Images
    preprocessing: Preprocessing
    batch_size: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    workers: int = 0

    def __call__(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        ranges = batch_ranges(first, len(self.images), self.batch_size)
        # A forked worker would inherit torch's threads and a job scheduler's signal handlers.
        context = ("forkserver" if os.name == "posix" else "spawn") if self.workers else None
        loader = DataLoader(
            _Slices(self.images, ranges), batch_size=None, num_workers=self.workers, multiprocessing_context=context
        )
        # What takes its time, decoding pictures, goes on while the batch before is simulated.
        ahead = isinstance(self.images.pixels, LazyPixels) and not self.workers
        for batch in _one_ahead(loader) if ahead else loader:
            if isinstance(batch, BenchmarkError):
                raise batch
            pixels, labels = batch
            yield normalise(pixels.to(self.device), self.preprocessing, self.dtype), labels


Item = TypeVar("Item")


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same; the next one is made by a thread while the last one is in use."""
    source = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield item


def batch_ranges(first: int, images: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of each batch from image `first` on."""
    ranges = []
    while first < images:
        boundary = (first // BOUNDARY + 1) * BOUNDARY
        end = min(first + batch_size, boundary, images)
        ranges.append((first, end))
        first = end
    return ranges


def normalise(pixels: Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, C, H, W] to network input of `dtype`."""
    shape = (1, -1, 1, 1)
    mean = torch.tensor(preprocessing.mean, dtype=dtype, device=pixels.device).reshape(shape)
    std = torch.tensor(preprocessing.std, dtype=dtype, device=pixels.device).reshape(shape)
    return (pixels.to(dtype) / preprocessing.divisor - mean) / std


class _Slices(Dataset["tuple[Tensor, Tensor] | BenchmarkError"]):
    """Batches; an error comes back as a value, because a worker's exception arrives buried in its traceback."""

    def __init__(self, images: Images, ranges: list[tuple[int, int]]):
        self._images, self._ranges = images, ranges

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | BenchmarkError:
        first, end = self._ranges[index]
        try:
            pixels = self._images.pixels[first:end]
        except BenchmarkError as error:
            return error
        return torch.from_numpy(pixels), torch.from_numpy(self._images.labels[first:end])
