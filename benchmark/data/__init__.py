"""Datasets: where the pixels come from. `DATASETS` is a table; listing imports nothing heavy.

Splits are always `train`, `calibration` and `test`; smoothing scales and thresholds are chosen on `calibration`,
which no network is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetEntry:
    """Where the class is, what it holds, the backbone used when none is named, and whether it is embedded.

    A network for an `embedded` dataset trains in seconds, so `run` does that by itself. An entry that is `parametrised`
    stands in the table as NAME:PARAMETER, and `target` is called with what a user writes for PARAMETER. `large` images of
    different sizes are trained on with ImageNet's recipes.
    """

    target: str
    summary: str
    model: str
    embedded: bool = False
    parametrised: bool = False
    large: bool = False


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
    "cifar100": DatasetEntry(
        "benchmark.data.cifar100:Cifar100",
        "60,000 colour images, 32x32, 100 classes; train 45,000, calibration 5,000, test 10,000",
        model="resnet20",
    ),
    "fashion-mnist": DatasetEntry(
        "benchmark.data.fashion_mnist:FashionMnist",
        "70,000 grey images of clothes, 28x28, 10 classes; train 55,000, calibration 5,000, test 10,000",
        model="small-cnn",
    ),
    "tiny-imagenet": DatasetEntry(
        "benchmark.data.tiny_imagenet:TinyImageNet",
        "110,000 colour images, 64x64, 200 classes; train 95,000, calibration 5,000, test 10,000",
        model="resnet18",
    ),
    "imagenet": DatasetEntry(
        "benchmark.data.imagenet:ImageNet",
        "ILSVRC2012, 1,000 classes; train 1,281,167; of the validation images calibration 10,000, test 40,000",
        model="resnet34",
        large=True,
    ),
    "imagefolder:PATH": DatasetEntry(
        "benchmark.data.imagefolder:ImageFolderAt",
        "any folder with train/<class>/, and val/<class>/ or test/<class>/; a tenth of train is calibration",
        model="resnet18",
        parametrised=True,
        large=True,
    ),
    "synthetic": DatasetEntry(
        "benchmark.data.synthetic:Synthetic",
        "seeded patterns, 3x8x8, 4 classes; for tests only",
        model="small-cnn",
        embedded=True,
    ),
}


def recorded_name(dataset: str) -> str:
    """A dataset's name as records show it: `imagefolder:PATH` with the last folder of its path alone."""
    name, colon, path = dataset.partition(":")
    if name != "imagefolder" or not colon:
        return dataset
    last = Path(path).name
    return f"{name}:{last if last not in ('', '..') else Path(path).resolve().name}"
