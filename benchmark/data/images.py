"""Images with labels, and the interface of a dataset. No torch: fingerprints and ids must be quick."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import DataError

SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to network input: (pixels / divisor - mean) / std, per channel. It belongs to the weights."""

    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"divisor": self.divisor, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """From JSON. Raises KeyError for a missing key."""
        return cls(float(values["divisor"]), tuple(map(float, values["mean"])), tuple(map(float, values["std"])))


class Images:
    """One split, in memory.

    Args:
        name: how messages call it, for example `cifar10 test`.
        pixels: uint8 [N, C, H, W].
        labels: int [N], each in 0..num_classes-1.

    Raises:
        DataError: shapes, dtype or labels are wrong.
    """

    def __init__(self, name: str, pixels: np.ndarray, labels: np.ndarray, num_classes: int):
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise DataError(f"{name}: pixels must be uint8 [N, C, H, W], found {pixels.dtype} {list(pixels.shape)}.")
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise DataError(f"{name}: labels must be integers [N], found {labels.dtype} {list(labels.shape)}.")
        if len(pixels) != len(labels):
            raise DataError(f"{name}: {len(pixels)} images but {len(labels)} labels.")
        if len(pixels) == 0:
            raise DataError(f"{name}: no images.")
        wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(wrong):
            raise DataError(f"{name}: image {wrong[0]} has label {labels[wrong[0]]}, outside 0..{num_classes - 1}.")
        self.name = name
        self.pixels = pixels
        self.labels = np.ascontiguousarray(labels, dtype=np.int64)
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Images:
        """The first `count` images (all if None). Raises DataError if there are fewer."""
        if count is None or count == len(self):
            return self
        if count > len(self):
            raise DataError(f"{self.name}: {count} images asked for, {len(self)} there.")
        return Images(self.name, self.pixels[:count], self.labels[:count], self.num_classes)

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hexadecimal digits of the sha256 of shape, pixels and labels as read."""
        checksum = hashlib.sha256(str(self.pixels.shape).encode())
        checksum.update(np.ascontiguousarray(self.pixels).data)
        checksum.update(self.labels.data)
        return checksum.hexdigest()[:12]


class ImageDataset(ABC):
    """A dataset: splits, and the preprocessing for networks trained on it from scratch.

    Subclasses take `data_dir` (or None) and raise DatasetMissing when their files are not there.
    """

    name: str
    num_classes: int
    preprocessing: Preprocessing

    @abstractmethod
    def split(self, name: str) -> Images:
        """One of `SPLITS`."""

    @staticmethod  # noqa: B027  (embedded datasets have nothing to fetch)
    def download(data_dir: Path) -> None:
        """Fetch the files into `data_dir`; only `prepare` calls it."""

    def flags(self, images: Images) -> tuple[str, ...]:
        """What a reader of the table must know about this copy of the data."""
        return ()
