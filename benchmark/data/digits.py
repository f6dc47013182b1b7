"""scikit-learn's 1,797 real handwritten digits, 8x8 with 17 grey levels (the test part of UCI optdigits)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from benchmark.data.images import ImageDataset, Images, Preprocessing, unknown_split

SIZES = {"calibration": 500, "test": 500}


class Digits(ImageDataset):
    """Train 797, calibration 500, test 500: in the order of the sha256 of each index, which no library can change."""

    name = "digits"
    num_classes = 10
    preprocessing = Preprocessing(divisor=16.0, mean=(0.3053,), std=(0.3761,))

    def __init__(self, data_dir: Path | None = None):
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._pixels = bunch.images.astype(np.uint8)[:, None]
        self._labels = bunch.target

    def split(self, name: str) -> Images:
        order = sorted(range(len(self._labels)), key=lambda index: hashlib.sha256(f"digits {index}".encode()).digest())
        first, second = SIZES["calibration"], SIZES["calibration"] + SIZES["test"]
        chosen = {"calibration": order[:first], "test": order[first:second], "train": order[second:]}
        if name not in chosen:
            raise unknown_split(name)
        return Images(f"digits {name}", self._pixels[chosen[name]], self._labels[chosen[name]], self.num_classes)
