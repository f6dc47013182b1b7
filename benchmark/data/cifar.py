"""The files of CIFAR-10 and CIFAR-100: torchvision's pickled batches, or the parquet files of the Hugging Face hub."""

from __future__ import annotations

import glob
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.finding import hub_snapshot, not_on_disk, roots
from benchmark.data.held_out import Choice, Reader
from benchmark.data.unpickling import unpickle_arrays
from benchmark.errors import DataError


@dataclass(frozen=True)
class CifarFiles:
    """What the two datasets call things. `counts` and `batches` are of the parts `train` and `test`."""

    name: str
    title: str
    counts: Mapping[str, int]
    batch_folder: str
    batches: Mapping[str, list[str]]
    batch_labels: str
    parquet_folder: str
    parquet_labels: str
    hub_name: str


def find_reader(files: CifarFiles, data_dir: Path | None) -> Reader:
    """How to read the copy in `data_dir`; without it, in ./data and in the Hugging Face cache. Raises DatasetMissing.

    Pixels are uint8 [N, 3, 32, 32].
    """
    looked = []
    batch = files.batches["train"][0]
    for root in roots(files.name, data_dir):
        for folder in (root / files.batch_folder, root):
            looked.append(str(folder / batch))
            if (folder / batch).is_file():
                return lambda part, choose, folder=folder: read_batches(files, folder, part, choose)  # type: ignore[misc]
        for folder in (root / files.parquet_folder, root):
            looked.append(str(folder / "train-*.parquet"))
            if any(folder.glob("train-*.parquet")):
                return lambda part, choose, folder=folder: read_parquet(files, folder, part, choose)  # type: ignore[misc]
    if data_dir is None:
        looked.append(f"the Hugging Face cache of {files.hub_name}")
        snapshot = hub_snapshot(files.hub_name)
        if snapshot is not None and any((snapshot / files.parquet_folder).glob("train-*.parquet")):
            cached = snapshot / files.parquet_folder
            return lambda part, choose: read_parquet(files, cached, part, choose)
    raise not_on_disk(files.name, looked)


def read_batches(files: CifarFiles, folder: Path, part: str, choose: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Pickled batches. Raises DataError naming the file."""
    pixels, labels = [], []
    for name in files.batches[part]:
        batch = unpickle_arrays(folder / name, f"{files.title} batch")
        try:
            data, batch_labels = np.asarray(batch["data"]), np.asarray(batch[files.batch_labels])
            pixels.append(data.reshape(-1, 3, 32, 32))
            labels.append(batch_labels)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{folder / name} is not a {files.title} batch: {error!r}.") from error
        if len(pixels[-1]) != len(batch_labels):
            raise DataError(f"{folder / name} has {len(pixels[-1])} images but {len(batch_labels)} labels.")
    together = np.concatenate(labels)
    _check_count(files, len(together), part, folder)
    chosen = choose(together)
    return np.concatenate(pixels)[chosen], together[chosen]


def read_parquet(files: CifarFiles, folder: Path, part: str, choose: Choice) -> tuple[np.ndarray, np.ndarray]:
    """The hub's layout: column `img` and one of labels. Raises DataError naming the folder or the image."""
    from datasets import Dataset, Image

    paths = [glob.escape(str(path)) for path in sorted(folder.glob(f"{part}-*.parquet"))]
    if not paths:
        raise DataError(f"{folder} has no {part}-*.parquet.")
    try:
        # Streaming keeps no second copy of the files in a cache; only the images that are wanted are decoded. And
        # load_dataset would go online, even for local files, to count the download.
        table = Dataset.from_parquet(paths, streaming=True)
        missing = {"img", files.parquet_labels} - set(table.column_names)
        # A cast would add the column that is missing.
        rows = [] if missing else list(table.cast_column("img", Image(decode=False)))
    except Exception as error:  # whatever pyarrow or datasets raise on a damaged or foreign file
        raise DataError(f"{folder}/{part}-*.parquet cannot be read: {error}") from error
    if missing:
        raise DataError(f"{folder}: columns {sorted(missing)} missing; found {sorted(table.column_names)}.")
    _check_count(files, len(rows), part, folder)
    labels = np.array([row[files.parquet_labels] for row in rows])
    chosen = choose(labels)
    pixels = [_decode(rows[row]["img"], f"{folder} {part}: image {row}") for row in chosen.tolist()]
    return np.stack(pixels), labels[chosen]


def _decode(stored: Any, name: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(stored["bytes"])) as image:
            pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # whatever Pillow raises on a corrupt image
        raise DataError(f"{name} is corrupt: {error}") from error
    if pixels.shape != (3, 32, 32):
        raise DataError(f"{name} is {pixels.shape[1]} x {pixels.shape[2]} pixels, not 32 x 32.")
    return pixels


def _check_count(files: CifarFiles, found: int, part: str, folder: Path) -> None:
    if found != files.counts[part]:
        raise DataError(f"{folder}: the {part} part has {found} images, {files.title} has {files.counts[part]}.")
