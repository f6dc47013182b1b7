"""Fashion-MNIST, 70,000 grey pictures of clothes, 28x28, from the idx files of its authors as torchvision stores them.

Xiao, Rasul, Vollgraf 2017. 500 training images of each class calibrate, 5,000 in all; networks train on the other 55,000.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from benchmark.data.finding import not_on_disk, roots
from benchmark.data.held_out import Choice, balanced, split_in_memory
from benchmark.data.images import ImageDataset, Images, Preprocessing
from benchmark.errors import DataError

CLASSES = 10
COUNTS = {"train": 60_000, "test": 10_000}
PER_CLASS = 500  # calibration images
PREFIXES = {"train": "train", "test": "t10k"}
UINT8 = 8  # how an idx file calls this type


class FashionMnist(ImageDataset):
    """Looks in `data_dir` and its folder FashionMNIST/raw; without `data_dir`, in ./data. Files may be gzipped.

    MNIST has files of the same names; it is refused, because its classes differ in size.
    """

    name = "fashion-mnist"
    num_classes = CLASSES
    # Over all pixels of the training images, as in chatflip/CalculationMeanStd.
    preprocessing = Preprocessing(divisor=255.0, mean=(0.2860,), std=(0.3530,))

    def __init__(self, data_dir: Path | None = None):
        self._folder = find_folder(data_dir)

    def split(self, name: str) -> Images:
        return split_in_memory(self, name, self._read, calibration_indices)

    @staticmethod
    def download(data_dir: Path) -> None:
        """Fetch and unpack the original files (31 MB, md5 checked by torchvision)."""
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(data_dir), download=True)

    def _read(self, part: str, choose: Choice) -> tuple[np.ndarray, np.ndarray]:
        pixels = read_idx(self._folder / f"{PREFIXES[part]}-images-idx3-ubyte", 3)
        labels = read_idx(self._folder / f"{PREFIXES[part]}-labels-idx1-ubyte", 1)
        for what, found in (("images", pixels), ("labels", labels)):
            if len(found) != COUNTS[part]:
                raise DataError(
                    f"{self._folder}: the {part} part has {len(found)} {what}, Fashion-MNIST has {COUNTS[part]}."
                )
        if pixels.shape[1:] != (28, 28):
            raise DataError(f"{self._folder}: images of {pixels.shape[1]} x {pixels.shape[2]} pixels, not 28 x 28.")
        chosen = choose(labels)
        return pixels[chosen][:, None], labels[chosen]


def calibration_indices(labels: np.ndarray) -> np.ndarray:
    """Sorted indices into the training images in their official order, int64. Raises DataError for odd labels."""
    return balanced("fashion-mnist", labels, CLASSES, PER_CLASS)


def find_folder(data_dir: Path | None) -> Path:
    """The folder of the four files. Raises DatasetMissing."""
    name = "train-images-idx3-ubyte"
    looked = []
    for root in roots("fashion-mnist", data_dir):
        for folder in (root / "FashionMNIST" / "raw", root):
            looked.append(str(folder / f"{name}[.gz]"))
            if _stored(folder / name) is not None:
                return folder
    raise not_on_disk("fashion-mnist", looked)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array of an idx file, or of that file with .gz behind its name.

    Raises:
        DataError: the file is missing, damaged, or holds anything else; it names the file.
    """
    stored = _stored(path)
    if stored is None:
        raise DataError(f"{path} is missing, also with .gz; the copy is incomplete.")
    try:
        content = gzip.decompress(stored.read_bytes()) if stored.suffix == ".gz" else stored.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{stored} cannot be read: {error}") from error
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, UINT8, axes]) or len(content) < start:
        raise DataError(f"{stored} is not an idx file of bytes with {axes} axes.")
    shape = [int(side) for side in np.frombuffer(content, ">u4", axes, 4)]
    if len(content) != start + math.prod(shape):
        raise DataError(f"{stored} has {len(content) - start:,} bytes of data, its header says {math.prod(shape):,}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _stored(path: Path) -> Path | None:
    zipped = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else zipped if zipped.is_file() else None
