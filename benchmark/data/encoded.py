"""Encoded images on disk, read only where they are needed: what every layout must tell, and lazily decoded pixels."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchmark.data.decoding import EDGE, check_whole, decode, looks_whole, picture
from benchmark.data.images import ImageDataset, LazyPixels, Preprocessing
from benchmark.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Dataset = TypeVar("Dataset", bound=ImageDataset)


class EncodedImages(ABC):
    """Images as the files hold them.

    Attributes:
        labels: int [N].
    """

    labels: np.ndarray

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}
        self._suspects: set[int] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": {}, "_suspects": set()}  # a worker needs none

    @abstractmethod
    def file_name(self, row: int) -> str:
        """For example `ILSVRC2012_val_00000001.JPEG`; empty where there is none."""

    @abstractmethod
    def name(self, row: int) -> str:
        """How messages call an image."""

    @abstractmethod
    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """The bytes of some images; empty where there are none. Quick in increasing order. Raises DataError."""

    def edges(self, rows: Iterable[int]) -> Iterator[tuple[bytes, bytes]]:
        """The first and the last `EDGE` bytes of some images. Raises DataError."""
        return ((content[:EDGE], content[-EDGE:]) for content in self.read(rows))

    def sizes(self, rows: Iterable[int]) -> Iterator[int]:
        """The number of bytes of some images. Raises DataError."""
        return map(len, self.read(rows))

    def digest(self, rows: Iterable[int]) -> bytes:
        """The sha256 of the bytes of each image, one after the other. Raises DataError."""
        rows = list(rows)
        for row in rows:
            if row not in self._digests:
                together = self._read_together(row)
                for other, content in zip(together, self.read(together), strict=True):
                    self._digests[other] = hashlib.sha256(content).digest()
                    if not looks_whole(content[:EDGE], content[-EDGE:]):
                        self._suspects.add(other)
        return b"".join(self._digests[row] for row in rows)

    def outline(self, rows: Iterable[int]) -> bytes:
        """The sha256 of the names and sizes of some images: what can be known without reading them. Raises DataError."""
        rows = list(rows)
        checksum = hashlib.sha256()
        for row, size in zip(rows, self.sizes(rows), strict=True):
            checksum.update(f"{self.file_name(row)}\0{size}\n".encode(errors="surrogateescape"))
        return checksum.digest()

    def suspects(self, rows: Sequence[int], by_edges: bool) -> list[int]:
        """Those that do not begin and end like a whole JPEG or PNG.

        `by_edges` reads no more than the first and last bytes; without it the reading is that of `digest`, done once
        for both. Raises DataError.
        """
        if by_edges:
            return [row for row, edges in zip(rows, self.edges(rows), strict=True) if not looks_whole(*edges)]
        self.digest(rows)
        return [row for row in rows if row in self._suspects]

    def _read_together(self, row: int) -> range:
        """The images that reading this one reads anyway."""
        return range(row, row + 1)


class EncodedPixels(LazyPixels):
    """Some of the encoded images, decoded when they are sliced.

    `identity` holds the geometry and the sha256 of the bytes of every image: reading without decoding, about a minute
    for the 6.4 GB of ImageNet's validation set, once for all splits of a source. A decoder that rounds otherwise is
    not seen by it. With `by_size` it holds the names and sizes of the files instead, for training images that would
    take an hour to read: an image that was replaced by one of the same size is not seen.

    Args:
        source: where the bytes are.
        rows: int [N], which images; increasing ones are read quickest.
        preprocessing: its geometry; it must name a crop.
        by_size: what `identity` and `check` read.
        same_size: the stored images have the size of the crop.
    """

    def __init__(
        self,
        source: EncodedImages,
        rows: np.ndarray,
        preprocessing: Preprocessing,
        by_size: bool = False,
        same_size: bool = False,
    ):
        if preprocessing.crop is None:
            raise ValueError("images of different sizes need a crop")
        self._source = source
        self._rows = rows
        self._preprocessing = preprocessing
        self._side = preprocessing.crop
        self._by_size = by_size
        self.same_size = same_size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._rows), 3, self._side, self._side

    def __getitem__(self, chosen: slice) -> np.ndarray:
        if not isinstance(chosen, slice):
            raise TypeError(f"lazy pixels give slices, not [{chosen!r}]")
        rows = self._rows[chosen].tolist()
        pixels = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for place, (row, content) in enumerate(zip(rows, self._source.read(rows), strict=True)):
            pixels[place] = decode(content, self._source.name(row), self._preprocessing)
        return pixels

    def picture(self, index: int) -> Image:
        row = int(self._rows[index])
        (content,) = self._source.read([row])
        return picture(content, self._source.name(row))

    def first(self, count: int) -> EncodedPixels:
        return EncodedPixels(self._source, self._rows[:count], self._preprocessing, self._by_size, self.same_size)

    def identity(self) -> bytes:
        geometry = self._preprocessing
        text = f"resize {geometry.resize}, crop {geometry.crop}, {geometry.interpolation}"
        rows = self._rows.tolist()
        if self._by_size:
            return f"{text}, names and sizes".encode() + self._source.outline(rows)
        return text.encode() + self._source.digest(rows)

    def check(self) -> None:
        first, damaged = None, 0
        for row in self._source.suspects(self._rows.tolist(), self._by_size):
            try:
                (content,) = self._source.read([row])
                check_whole(content, self._source.name(row))
            except DataError as error:
                first, damaged = first or error, damaged + 1
        if first is not None:
            others = damaged - 1
            more = f" {others:,} more image{' is' if others == 1 else 's are'} damaged." if others else ""
            raise DataError(f"{str(first).removesuffix('.')}.{more}", "Copy the damaged ones again.") from first


def with_geometry(dataset: Dataset, preprocessing: Preprocessing) -> Dataset:
    """A copy of a dataset of encoded images that gives them in this geometry. Raises UsageError where it names no crop."""
    if preprocessing.crop is None:
        raise UsageError(
            f"the images of {dataset.name} differ in size; the preprocessing of these weights names no crop.",
            "Add resize and crop to the preprocessing in their card.",
        )
    result = copy.copy(dataset)
    result.preprocessing = preprocessing
    return result
