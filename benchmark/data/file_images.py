"""Images in files of their own, and the lists of them: a folder a class, or however else they lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmark.data.decoding import EDGE
from benchmark.data.encoded import EncodedImages
from benchmark.data.packed_names import PackedNames
from benchmark.errors import DataError

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
THREADS = 16  # they wait for the disk
BLOCK = 256  # files a thread takes at once

Result = TypeVar("Result")


class FileImages(EncodedImages):
    """Image n is the file `<root>/<folders[places[n]]>/<names[n]>`. Copies in other processes take little: no path is kept.

    Args:
        root: a folder.
        folders: folders below it.
        places: int [N], the folder of each image.
        names: the N file names.
        labels: int [N].
    """

    def __init__(
        self, root: Path, folders: Sequence[str], places: np.ndarray, names: Iterable[str], labels: np.ndarray
    ):
        super().__init__()
        self._root = root
        self._folders = tuple(folders)
        self._places = places
        self._names = PackedNames(names)
        self.labels = labels

    def file_name(self, row: int) -> str:
        return self._names[row]

    def path(self, row: int) -> Path:
        """Where an image lies."""
        return self._root / self._folders[self._places[row]] / self._names[row]

    def name(self, row: int) -> str:
        return str(self.path(row))

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        for row in rows:
            try:
                yield self.path(row).read_bytes()
            except OSError as error:
                raise DataError(f"{self.path(row)} cannot be read: {error.strerror}.") from error

    def edges(self, rows: Iterable[int]) -> Iterator[tuple[bytes, bytes]]:
        """Read in threads. A file that cannot be read has empty edges, so that `check` counts it among the damaged."""
        return self._in_threads(self._edges, rows)

    def sizes(self, rows: Iterable[int]) -> Iterator[int]:
        return self._in_threads(self._size, rows)

    def _edges(self, row: int) -> tuple[bytes, bytes]:
        try:
            with self.path(row).open("rb", buffering=0) as file:
                first = file.read(EDGE)
                file.seek(max(0, os.fstat(file.fileno()).st_size - EDGE))
                return first, file.read(EDGE)
        except OSError:
            return b"", b""

    def _size(self, row: int) -> int:
        try:
            return self.path(row).stat().st_size
        except OSError as error:
            raise DataError(f"{self.path(row)} cannot be read: {error.strerror}.") from error

    def _in_threads(self, look: Callable[[int], Result], rows: Iterable[int]) -> Iterator[Result]:
        rows = list(rows)
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(lambda block: [look(row) for row in block], blocks):
                yield from found


def class_folders(root: Path) -> list[str]:
    """The names of the folders in a folder, sorted; without hidden ones."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_by_class(
    root: Path, classes: Sequence[str], inner: str = "", only: Collection[str] | None = None
) -> FileImages:
    """`<root>/<class>/<inner>/<file>` in the order of the file names; a label is the place of its class in `classes`.

    Hidden files and those that are no images by their suffix are left out, and classes that are not in `only`.

    Raises:
        DataError: a folder is missing, or there is no image.
    """
    folders = [str(Path(name) / inner) for name in classes]
    found: list[tuple[str, int]] = []
    for label, (name, folder) in enumerate(zip(classes, folders, strict=True)):
        if only is not None and name not in only:
            continue
        try:
            found += [(file_name, label) for file_name in image_names(root / folder)]
        except OSError as error:
            raise DataError(f"{root / folder} cannot be read: {error.strerror}.") from error
    if not found:
        raise DataError(f"{root}: its class folders hold no images.")
    found.sort()
    labels = np.array([label for _, label in found], dtype=np.min_scalar_type(len(classes)))
    return FileImages(root, folders, labels, (name for name, _ in found), labels)


def image_names(folder: Path) -> list[str]:
    """The names of the images in a folder, unsorted. Raises OSError."""
    # os.listdir, because a Path for each of a million files takes longer than the disk.
    return [name for name in os.listdir(folder) if is_image(name)]  # noqa: PTH208


def is_image(name: str) -> bool:
    """Whether a file is an image by its name. Other systems leave hidden files that only look like images."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
