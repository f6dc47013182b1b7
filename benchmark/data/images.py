"""Images with labels, and the interface of a dataset. No torch: fingerprints and ids must be quick."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "calibration", "test")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """From stored images to network input. It belongs to the weights.

    Geometry first, for datasets whose images differ in size: the short side becomes `resize` pixels (antialiased
    `bilinear` or `bicubic`), then the middle `crop` x `crop` pixels are taken. Then, per channel:
    (pixels / divisor - mean) / std.

    Raises:
        ValueError, TypeError: the geometry is impossible.
    """

    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name, value in (("resize", self.resize), ("crop", self.crop)):
            if value is not None and not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number of pixels, not {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, not {value}")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} pixels does not fit into a short side of {self.resize}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be {' or '.join(INTERPOLATIONS)}, not {self.interpolation!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON; without the geometry that is not asked for, so that cards without any stay as they were."""
        values: dict[str, Any] = {"divisor": self.divisor, "mean": list(self.mean), "std": list(self.std)}
        if self.resize is not None:
            values["resize"] = self.resize
        if self.crop is not None:
            values["crop"] = self.crop
        if self.interpolation != "bilinear":
            values["interpolation"] = self.interpolation
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """From JSON. Raises KeyError for a missing key, ValueError or TypeError for a wrong value."""
        return cls(
            float(values["divisor"]),
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            resize=values.get("resize"),
            crop=values.get("crop"),
            interpolation=values.get("interpolation", "bilinear"),
        )


class LazyPixels(ABC):
    """Pixels that are made when they are sliced, for splits that do not fit into memory. Must be picklable.

    `pixels[a:b]` is uint8 [b - a, C, H, W], always the same. `same_size`: every picture is H x W as it is stored.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4
    same_size: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, H, W."""

    @abstractmethod
    def __getitem__(self, chosen: slice) -> np.ndarray:
        """Raises DataError naming an image that cannot be decoded."""

    @abstractmethod
    def picture(self, index: int) -> Image:
        """One image in RGB before any resizing or cropping, which training does in its own way.

        Raises DataError naming an image that cannot be decoded.
        """

    @abstractmethod
    def first(self, count: int) -> LazyPixels:
        """The first `count` images, still lazy."""

    @abstractmethod
    def identity(self) -> bytes:
        """What determines the pixels besides the shape, without making them: stored bytes, geometry."""

    @abstractmethod
    def check(self) -> None:
        """Look for damaged images without decoding all. Raises DataError naming the first and counting the others."""

    def __len__(self) -> int:
        return self.shape[0]


class Images:
    """One split, in memory or lazy.

    Args:
        name: how messages call it, for example `cifar10 test`.
        pixels: uint8 [N, C, H, W]; an array, or LazyPixels that give arrays when sliced.
        labels: int [N], each in 0..num_classes-1.

    Raises:
        DataError: shapes, dtype or labels are wrong.
    """

    def __init__(self, name: str, pixels: np.ndarray | LazyPixels, labels: np.ndarray, num_classes: int):
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
        pixels = self.pixels.first(count) if isinstance(self.pixels, LazyPixels) else self.pixels[:count]
        return Images(self.name, pixels, self.labels[:count], self.num_classes)

    def check(self) -> None:
        """Find images that are cut off or empty in minutes, before hours of compute. Arrays in memory need no check.

        An image is decoded only if its first or last bytes are not those of a whole one, so damage in the middle of a
        file stays unseen until that image is used.

        Raises:
            DataError: it names the first damaged image and says how many more there are.
        """
        if isinstance(self.pixels, LazyPixels):
            self.pixels.check()

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hexadecimal digits of the sha256 of shape, pixels and labels as read.

        For lazy pixels their `identity` stands in for them: nothing is decoded.
        """
        checksum = hashlib.sha256(str(self.pixels.shape).encode())
        if isinstance(self.pixels, LazyPixels):
            checksum.update(self.pixels.identity())
        else:
            checksum.update(np.ascontiguousarray(self.pixels).data)
        checksum.update(self.labels.data)
        return checksum.hexdigest()[:12]


class ImageDataset(ABC):
    """A dataset: splits, and the preprocessing for networks trained on it from scratch.

    Subclasses take `data_dir` (or None) and raise DatasetMissing when their files are not there. `splits` are those
    that `split` gives. `calibration_from_train`: the calibration images are held out of the official training images,
    so other people's networks were trained on them.
    """

    name: str
    num_classes: int
    preprocessing: Preprocessing
    splits: tuple[str, ...] = SPLITS
    calibration_from_train: bool = True

    @abstractmethod
    def split(self, name: str) -> Images:
        """One of `splits`. Raises UsageError for another name."""

    def viewed(self, preprocessing: Preprocessing) -> ImageDataset:
        """This dataset with the geometry that the weights want.

        Raises:
            UsageError: the images of this dataset have one size, and the weights want another geometry.
        """
        if preprocessing.resize is not None or preprocessing.crop is not None:
            raise UsageError(
                f"{self.name} gives its images as they are; these weights want"
                f" resize {preprocessing.resize}, crop {preprocessing.crop}."
            )
        return self

    @staticmethod  # noqa: B027  (embedded datasets have nothing to fetch)
    def download(data_dir: Path) -> None:
        """Fetch the files into `data_dir`; only `prepare` calls it."""

    def flags(self, images: Images) -> tuple[str, ...]:
        """What a reader of the table must know about this copy of the data."""
        return ()


def unknown_split(name: str, splits: tuple[str, ...] = SPLITS) -> UsageError:
    """The error for a split that a dataset does not have."""
    return UsageError(f"unknown split {name!r}; there are {', '.join(splits)}.")
