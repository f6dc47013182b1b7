"""CIFAR-10 from torchvision's pickled batches or from the Hugging Face parquet layout of `uoft-cs/cifar10`.

Krizhevsky 2009. The 5,000 calibration images are those of the committed index file; networks train on the other 45,000.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.images import SPLITS, ImageDataset, Images, Preprocessing
from benchmark.errors import DataError, DatasetMissing, UsageError

BATCH_FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
COUNTS = {"train": 50_000, "test": 10_000}
HUB_NAME = "uoft-cs/cifar10"

# Copies that are known not to be the original, by the fingerprint of their full test split.
KNOWN_COPIES: dict[str, str] = {
    "488dd4c8184d": "20 of the 10,000 test images (19 ships, 1 horse) are JPEG-recompressed; the others are bit-exact",
}


class Cifar10(ImageDataset):
    """Looks in `data_dir` for either layout; without `data_dir`, in ./data and in the Hugging Face cache."""

    name = "cifar10"
    num_classes = 10
    preprocessing = Preprocessing(divisor=255.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

    def __init__(self, data_dir: Path | None = None):
        self._read = find_reader(data_dir)

    def split(self, name: str) -> Images:
        if name not in SPLITS:
            raise UsageError(f"unknown split {name!r}; there are {', '.join(SPLITS)}.")
        if name == "test":
            pixels, labels = self._read("test", None)
            return Images("cifar10 test", pixels, labels, self.num_classes)
        held_out = calibration_indices()
        indices = held_out if name == "calibration" else np.setdiff1d(np.arange(COUNTS["train"]), held_out)
        pixels, labels = self._read("train", indices)
        return Images(f"cifar10 {name}", pixels, labels, self.num_classes)

    @staticmethod
    def download(data_dir: Path) -> None:
        """Fetch and unpack the original archive (170 MB, md5 checked by torchvision)."""
        from torchvision.datasets import CIFAR10

        CIFAR10(str(data_dir), train=True, download=True)

    def flags(self, images: Images) -> tuple[str, ...]:
        known = KNOWN_COPIES.get(images.fingerprint)
        return (known,) if known else ()


def calibration_indices() -> np.ndarray:
    """The committed 5,000 sorted indices into the 50,000 training images, 500 a class; int64."""
    text = files("benchmark.data").joinpath("splits/cifar10_calibration.json").read_text()
    return np.array(json.loads(text), dtype=np.int64)


Reader = Callable[[str, "np.ndarray | None"], tuple[np.ndarray, np.ndarray]]


def find_reader(data_dir: Path | None) -> Reader:
    """A function (train|test, indices or None) -> (uint8 [N, 3, 32, 32], int [N]). Raises DatasetMissing."""
    roots = [data_dir] if data_dir is not None else [Path("data"), Path("data/cifar10")]
    looked = []
    for root in roots:
        for folder in (root / "cifar-10-batches-py", root):
            looked.append(str(folder / "data_batch_1"))
            if (folder / "data_batch_1").exists():
                return lambda part, indices, folder=folder: read_batches(folder, part, indices)  # type: ignore[misc]
        for folder in (root / "plain_text", root):
            looked.append(str(folder / "train-*.parquet"))
            if any(folder.glob("train-*.parquet")):
                return lambda part, indices, folder=folder: read_parquet(folder, part, indices)  # type: ignore[misc]
    if data_dir is None:
        looked.append(f"the Hugging Face cache of {HUB_NAME}")
        if (cached := _hub_cache()) is not None:
            return lambda part, indices: read_parquet(cached, part, indices)
    raise DatasetMissing(
        "cifar10 is not on this disk. Looked for: " + ", ".join(looked) + ".",
        "With internet: python -m benchmark prepare cifar10 --data-dir DIR; then run with --data-dir DIR.",
    )


def read_batches(folder: Path, part: str, indices: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """torchvision's `cifar-10-batches-py`. Raises DataError naming the file."""
    pixels, labels = [], []
    for name in BATCH_FILES[part]:
        batch = _unpickle(folder / name)
        try:
            data, batch_labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
            pixels.append(data.reshape(-1, 3, 32, 32))
            labels.append(batch_labels)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{folder / name} is not a CIFAR-10 batch: {error!r}.") from error
        if len(pixels[-1]) != len(batch_labels):
            raise DataError(f"{folder / name} has {len(pixels[-1])} images but {len(batch_labels)} labels.")
    return _select(np.concatenate(pixels), np.concatenate(labels), part, indices, folder)


def read_parquet(folder: Path, part: str, indices: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The layout of `uoft-cs/cifar10`: columns `img` and `label`. Raises DataError naming the folder or the image."""
    from datasets import Dataset, Image

    paths = [str(path) for path in sorted(folder.glob(f"{part}-*.parquet"))]
    if not paths:
        raise DataError(f"{folder} has no {part}-*.parquet.")
    try:
        # Streaming keeps no second copy of the files in a cache; only the images that are wanted are decoded. And
        # load_dataset would go online, even for local files, to count the download.
        table = Dataset.from_parquet(paths, streaming=True)
        missing = {"img", "label"} - set(table.column_names)
        # A cast would add the column that is missing.
        rows = [] if missing else list(table.cast_column("img", Image(decode=False)))
    except Exception as error:  # whatever pyarrow or datasets raise on a damaged or foreign file
        raise DataError(f"{folder}/{part}-*.parquet cannot be read: {error}") from error
    if missing:
        raise DataError(f"{folder}: columns {sorted(missing)} missing; found {sorted(table.column_names)}.")
    _check_count(len(rows), part, folder)
    chosen = range(len(rows)) if indices is None else indices.tolist()
    pixels = np.stack([_decode(rows[row]["img"], f"{folder} {part}: image {row}") for row in chosen])
    return pixels, np.array([rows[row]["label"] for row in chosen])


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


def _hub_cache() -> Path | None:
    """The folder of the parquet files in the Hugging Face cache, if they are there."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(HUB_NAME, repo_type="dataset", local_files_only=True)) / "plain_text"
    except FileNotFoundError:
        return None
    return folder if any(folder.glob("train-*.parquet")) else None


def _select(
    pixels: np.ndarray, labels: np.ndarray, part: str, indices: np.ndarray | None, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    _check_count(len(pixels), part, folder)
    return (pixels, labels) if indices is None else (pixels[indices], labels[indices])


def _check_count(found: int, part: str, folder: Path) -> None:
    if found != COUNTS[part]:
        raise DataError(f"{folder}: the {part} part has {found} images, CIFAR-10 has {COUNTS[part]}.")


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and plain values; anything else in the file is refused, not executed."""

    _allowed = frozenset(
        {
            ("multiarray", "_reconstruct"),
            ("numeric", "_frombuffer"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        short = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if (short, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR-10 batch")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; the copy of CIFAR-10 is incomplete.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a CIFAR-10 batch.")
    return content
