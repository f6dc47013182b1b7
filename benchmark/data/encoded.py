"""Encoded images on disk, read only where they are needed: parquet files, folders, and their lazily decoded pixels."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.data.decoding import decode
from benchmark.data.images import LazyPixels, Preprocessing
from benchmark.errors import DataError

if TYPE_CHECKING:
    import pyarrow

WNID = re.compile(r"n\d{8}")
SUFFIXES = {".jpeg", ".jpg", ".png"}


class EncodedImages(ABC):
    """Images as the files hold them.

    Attributes:
        file_names: of each image, for example `ILSVRC2012_val_00000001.JPEG`; empty where there is none.
        labels: int64 [N].
    """

    file_names: list[str]
    labels: np.ndarray

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.file_names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": {}}  # a worker needs none

    @abstractmethod
    def name(self, row: int) -> str:
        """How messages call an image."""

    @abstractmethod
    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """The bytes of some images; empty where there are none. Quick in increasing order. Raises DataError."""

    def digest(self, rows: Iterable[int]) -> bytes:
        """The sha256 of the bytes of each image, one after the other. Raises DataError."""
        rows = list(rows)
        for row in rows:
            if row not in self._digests:
                together = self._read_together(row)
                for other, content in zip(together, self.read(together), strict=True):
                    self._digests[other] = hashlib.sha256(content).digest()
        return b"".join(self._digests[row] for row in rows)

    def _read_together(self, row: int) -> range:
        """The images that reading this one reads anyway."""
        return range(row, row + 1)


class ParquetImages(EncodedImages):
    """The Hugging Face layout, columns `image` {bytes, path} and `label`: in the order of the file names, then of rows.

    Keeps one row group in memory. Copies in other processes open the files themselves.

    Raises:
        DataError: a file is damaged, a column is missing or of another type, a label is missing.
    """

    def __init__(self, paths: Sequence[Path]):
        super().__init__()
        self._groups: list[tuple[Path, int]] = []
        self.file_names = []
        labels, sizes = [], []
        for path in sorted(paths):
            names, some_labels, some_sizes = _read_index(path)
            self.file_names += names
            labels.append(some_labels)
            sizes += some_sizes
            self._groups += [(path, number) for number in range(len(some_sizes))]
        self.labels = np.concatenate(labels)
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._loaded: tuple[int, pyarrow.ChunkedArray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_loaded": None}

    def name(self, row: int) -> str:
        path, _ = self._groups[self._group(row)]
        file_name = f" ({self.file_names[row]})" if self.file_names[row] else ""
        return f"{path.parent}: image {row}{file_name}"

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        for row in rows:
            group = self._group(row)
            yield self._load(group)[row - int(self._starts[group])].as_py() or b""

    def _read_together(self, row: int) -> range:
        group = self._group(row)
        return range(int(self._starts[group]), int(self._starts[group + 1]))

    def _group(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _load(self, group: int) -> pyarrow.ChunkedArray:
        import pyarrow
        import pyarrow.compute
        from pyarrow import parquet

        if self._loaded is None or self._loaded[0] != group:
            self._loaded = None  # first let go of the old one
            path, number = self._groups[group]
            try:
                with parquet.ParquetFile(path) as file:
                    table = file.read_row_group(number, columns=["image.bytes"], use_threads=False)
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{path} cannot be read: {error}") from error
            self._loaded = group, pyarrow.compute.struct_field(table["image"], "bytes")
        return self._loaded[1]


def _read_index(path: Path) -> tuple[list[str], np.ndarray, list[int]]:
    """File names (empty where missing), labels and sizes of the row groups of a parquet file, without the images."""
    import pyarrow
    import pyarrow.compute
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = {"image", "label"} - set(schema.names)
            if missing:
                raise DataError(f"{path}: columns {sorted(missing)} missing; found {sorted(schema.names)}.")
            image, label = schema.field("image").type, schema.field("label").type
            if not pyarrow.types.is_struct(image) or {"bytes", "path"} - {field.name for field in image}:
                raise DataError(f"{path}: column 'image' must hold bytes and path, found {image}.")
            if not pyarrow.types.is_integer(label):
                raise DataError(f"{path}: column 'label' must hold integers, found {label}.")
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            table = file.read(columns=["image.path", "label"], use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table["label"].null_count:
        raise DataError(f"{path}: {table['label'].null_count} of its {table.num_rows} images have no label.")
    paths = pyarrow.compute.struct_field(table["image"], "path").to_pylist()
    labels = np.asarray(table["label"].to_numpy(), dtype=np.int64)
    return [Path(stored or "").name for stored in paths], labels, sizes


class FolderImages(EncodedImages):
    """An ImageFolder, `<wnid>/<file>.JPEG`, in the order of the file names; labels are places in the sorted wnids.

    Raises:
        DataError: not all `classes` folders are there, so that labels cannot be known; or there is no image.
    """

    def __init__(self, root: Path, classes: int):
        super().__init__()
        folders = sorted(path for path in root.iterdir() if path.is_dir() and WNID.fullmatch(path.name))
        if len(folders) != classes:
            raise DataError(
                f"{root} has {len(folders)} of the {classes:,} class folders. A label is the place of a folder among all"
                f" {classes:,} in sorted order, so it cannot be known here.",
                "Add the others; they may be empty.",
            )
        found = [
            (path, label)
            for label, folder in enumerate(folders)
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES
        ]
        if not found:
            raise DataError(f"{root}: its class folders hold no images.")
        found.sort(key=lambda entry: (entry[0].name, entry[1]))
        self._paths = [path for path, _ in found]
        self.file_names = [path.name for path in self._paths]
        self.labels = np.array([label for _, label in found], dtype=np.int64)

    def name(self, row: int) -> str:
        return str(self._paths[row])

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        for row in rows:
            try:
                yield self._paths[row].read_bytes()
            except OSError as error:
                raise DataError(f"{self._paths[row]} cannot be read: {error.strerror}.") from error


class EncodedPixels(LazyPixels):
    """Some of the encoded images, in increasing order of their rows, decoded when they are sliced.

    `identity` holds the geometry and the sha256 of the bytes of every image: reading without decoding, about a minute
    for the 6.4 GB of ImageNet's validation set, once for all splits of a source. A decoder that rounds otherwise is
    not seen by it.

    Args:
        source: where the bytes are.
        rows: int64 [N], which images.
        preprocessing: its geometry; it must name a crop.
    """

    def __init__(self, source: EncodedImages, rows: np.ndarray, preprocessing: Preprocessing):
        if preprocessing.crop is None:
            raise ValueError("images of different sizes need a crop")
        self._source = source
        self._rows = rows
        self._preprocessing = preprocessing
        self._side = preprocessing.crop

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

    def first(self, count: int) -> EncodedPixels:
        return EncodedPixels(self._source, self._rows[:count], self._preprocessing)

    def identity(self) -> bytes:
        geometry = self._preprocessing
        text = f"resize {geometry.resize}, crop {geometry.crop}, {geometry.interpolation}"
        return text.encode() + self._source.digest(self._rows.tolist())
