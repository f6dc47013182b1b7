"""Datasets: where the pixels come from. `DATASETS` is a table; listing imports nothing heavy.

Splits are always `train`, `calibration` and `test`; smoothing scales and thresholds are chosen on `calibration`,
which no network is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetEntry:
    """Where the class is, what it holds, the backbone used when none is named, and whether it is embedded.

    A network for an `embedded` dataset trains in seconds, so `run` does that by itself.
    """

    target: str
    summary: str
    model: str
    embedded: bool = False


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        "benchmark.data.digits:Digits",
        "1,797 handwritten digits, 8x8, embedded in scikit-learn",
        model="small-cnn",
        embedded=True,
    ),
    "cifar10": DatasetEntry(
        "benchmark.data.cifar10:Cifar10",
        "60,000 colour images, 32x32, 10 classes; train 45,000, calibration 5,000, test 10,000",
        model="resnet20",
    ),
    "imagenet": DatasetEntry(
        "benchmark.data.imagenet:ImageNet",
        "50,000 validation images of ILSVRC2012, 1,000 classes; calibration 10,000, test 40,000",
        model="resnet34",
    ),
    "synthetic": DatasetEntry(
        "benchmark.data.synthetic:Synthetic",
        "seeded patterns, 3x8x8, 4 classes; for tests only",
        model="small-cnn",
        embedded=True,
    ),
}
