"""Images in parquet files as the Hugging Face hub stores them: columns `image` {bytes, path} and `label`."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.data.decoding import EDGE
from benchmark.data.encoded import EncodedImages
from benchmark.data.packed_names import PackedNames
from benchmark.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow

PART = re.compile(r"-\d{5}-of-(\d{5})\.parquet")


@dataclass(frozen=True)
class ParquetIndex:
    """What parquet files say about their images without reading them, in the order of the file names, then of rows.

    Attributes:
        names: the file name of each image; empty where there is none.
        labels: int64 [N].
        groups: file and number of each row group.
        starts: int64 [groups + 1], the first image of each row group, and N.
    """

    names: PackedNames
    labels: np.ndarray
    groups: tuple[tuple[Path, int], ...]
    starts: np.ndarray

    @classmethod
    def read(cls, paths: Iterable[Path]) -> ParquetIndex:
        """Raises DataError: a file is damaged, a column is missing or of another type, a label is missing."""
        names: list[str] = []
        labels, sizes, groups = [], [], []
        for path in sorted(paths):
            some_names, some_labels, some_sizes = _read_index(path)
            names += some_names
            labels.append(some_labels)
            sizes += some_sizes
            groups += [(path, number) for number in range(len(some_sizes))]
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return cls(PackedNames(names), np.concatenate(labels), tuple(groups), starts)

    def group(self, row: int) -> int:
        """The row group that an image is in."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def called(self, row: int) -> str:
        """How messages call an image."""
        path, _ = self.groups[self.group(row)]
        file_name = f" ({self.names[row]})" if self.names[row] else ""
        return f"{path.parent}: image {row}{file_name}"


class ParquetImages(EncodedImages):
    """Images for reading in order: keeps one row group in memory. Copies in other processes open the files themselves.

    Raises:
        DataError: as for `ParquetIndex.read`.
    """

    def __init__(self, paths: Sequence[Path]):
        super().__init__()
        self._index = ParquetIndex.read(paths)
        self.labels = self._index.labels
        self._loaded: tuple[int, pyarrow.ChunkedArray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_loaded": None}

    def file_name(self, row: int) -> str:
        return self._index.names[row]

    def name(self, row: int) -> str:
        return self._index.called(row)

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        for row in rows:
            group = self._index.group(row)
            yield self._load(group)[row - int(self._index.starts[group])].as_py() or b""

    def _read_together(self, row: int) -> range:
        group = self._index.group(row)
        return range(int(self._index.starts[group]), int(self._index.starts[group + 1]))

    def _load(self, group: int) -> pyarrow.ChunkedArray:
        import pyarrow
        import pyarrow.compute
        from pyarrow import parquet

        if self._loaded is None or self._loaded[0] != group:
            self._loaded = None  # first let go of the old one
            path, number = self._index.groups[group]
            try:
                with parquet.ParquetFile(path) as file:
                    table = file.read_row_group(number, columns=["image.bytes"], use_threads=False)
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{path} cannot be read: {error}") from error
            self._loaded = group, pyarrow.compute.struct_field(table["image"], "bytes")
        return self._loaded[1]


class ShuffledParquetImages(EncodedImages):
    """Images for reading in any order, as training does, although a row group holds a hundred of them.

    The first reading, also that of `edges`, makes an Arrow copy of the files in the cache of the `datasets` library and
    maps it into memory. The copy takes as much disk as the files, 150 GB for ImageNet's training set, and as long as
    writing them. It lies in ~/.cache/huggingface/datasets, or where HF_DATASETS_CACHE or HF_HOME says; later runs find it
    there. `sizes` are those of the parquet files, which need no copy.

    Raises:
        DataError: as for `ParquetIndex.read`; or some of the files are missing.
    """

    def __init__(self, paths: Sequence[Path]):
        super().__init__()
        self._paths = sorted(paths)
        _check_parts(self._paths)
        self._index = ParquetIndex.read(self._paths)
        self.labels = self._index.labels

    def __getstate__(self) -> dict[str, Any]:
        # The copy is made here and now, not by every worker; what travels is the way to it.
        return {**super().__getstate__(), "_table": self._table}

    def file_name(self, row: int) -> str:
        return self._index.names[row]

    def name(self, row: int) -> str:
        return self._index.called(row)

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        for row in rows:
            stored = self._table[row]["image"]
            yield (stored and stored["bytes"]) or b""

    def edges(self, rows: Iterable[int]) -> Iterator[tuple[bytes, bytes]]:
        import pyarrow.compute

        content = pyarrow.compute.struct_field(self._table.data["image"], "bytes")
        first = pyarrow.compute.binary_slice(content, 0, EDGE).to_pylist()
        last = pyarrow.compute.binary_slice(content, -EDGE).to_pylist()
        for row in rows:
            yield first[row] or b"", last[row] or b""

    def sizes(self, rows: Iterable[int]) -> Iterator[int]:
        files = {path: path.stat().st_size for path in self._paths}
        for row in rows:
            yield files[self._index.groups[self._index.group(row)][0]]

    @cached_property
    def _table(self) -> datasets.Dataset:
        import datasets

        # Names are taken for patterns.
        patterns = [glob.escape(str(path)) for path in self._paths]
        try:
            table = datasets.Dataset.from_parquet(patterns, columns=["image"])
            return table.cast_column("image", datasets.Image(decode=False))
        except Exception as error:  # whatever pyarrow or datasets raise on a damaged file or a full disk
            raise DataError(
                f"the parquet files in {self._paths[0].parent} cannot be copied to Arrow files in"
                f" {datasets.config.HF_DATASETS_CACHE}: {error}",
                "The copy takes as much disk as they do; HF_DATASETS_CACHE moves it.",
            ) from error


def _check_parts(paths: Sequence[Path]) -> None:
    """The file names say how many there are. Two uploads in one folder would count every image twice."""
    totals = {int(match[1]) for path in paths if (match := PART.search(path.name))}
    if totals and totals != {len(paths)}:
        said = " or ".join(map(str, sorted(totals)))
        raise DataError(f"{paths[0].parent} has {len(paths)} training files; their names say {said}.")


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
