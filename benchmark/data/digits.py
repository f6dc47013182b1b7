"""scikit-learn's 1,797 real handwritten digits, 8x8 with 17 grey levels (the test part of UCI optdigits)."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import ImageDataset, Images, Preprocessing, unknown_split

SIZES = {"calibration": 500, "test": 500}


class Digits(ImageDataset):
    """Train 797, calibration 500, test 500: in the order of the sha256 of each index, which no library can change."""

    name = "digits"
    num_classes = 10
    preprocessing = Preprocessing(divisor=16.0, mean=(0.3053,), std=(0.3761,))

    def __init__(self, data_dir: Path | None = None):
        table = _table()
        self._pixels = table[:, :-1].reshape(-1, 1, 8, 8)
        self._labels = table[:, -1].astype(np.int64)

    def split(self, name: str) -> Images:
        order = sorted(range(len(self._labels)), key=lambda index: hashlib.sha256(f"digits {index}".encode()).digest())
        first, second = SIZES["calibration"], SIZES["calibration"] + SIZES["test"]
        chosen = {"calibration": order[:first], "test": order[first:second], "train": order[second:]}
        if name not in chosen:
            raise unknown_split(name)
        return Images(f"digits {name}", self._pixels[chosen[name]], self._labels[chosen[name]], self.num_classes)


def _table() -> NDArray[np.uint8]:
    """Pixels of a digit and its label, uint8 [1797, 65], from the file that `sklearn.datasets.load_digits` reads.

    Importing scikit-learn for it takes as long as importing torch.
    """
    package = find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, dtype=np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.uint8)
