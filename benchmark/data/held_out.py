"""Datasets of a training and a test part that fit into memory: which training images calibrate, and the three splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files

import numpy as np

from benchmark.data.images import ImageDataset, Images, unknown_split
from benchmark.data.seeded import first_of_each, shuffled
from benchmark.errors import DataError

# From the labels of all images of a part, int [N], to the indices of the wanted ones, int64 [M].
Choice = Callable[[np.ndarray], np.ndarray]
# From `train` or `test` and a choice to its pixels, uint8 [M, C, H, W], and labels, int [M].
Reader = Callable[[str, Choice], tuple[np.ndarray, np.ndarray]]


def split_in_memory(dataset: ImageDataset, name: str, read: Reader, held_out: Choice) -> Images:
    """`test` is the test part, `calibration` the `held_out` training images, `train` the others.

    Raises UsageError for another name, and what `read` raises.
    """
    choices: dict[str, tuple[str, Choice]] = {
        "train": ("train", lambda labels: np.setdiff1d(np.arange(len(labels)), held_out(labels))),
        "calibration": ("train", held_out),
        "test": ("test", lambda labels: np.arange(len(labels))),
    }
    if name not in choices:
        raise unknown_split(name, dataset.splits)
    pixels, labels = read(*choices[name])
    return Images(f"{dataset.name} {name}", pixels, labels, dataset.num_classes)


def committed(name: str) -> np.ndarray:
    """The sorted indices of the committed file `splits/<name>_calibration.json`, int64."""
    text = files("benchmark.data").joinpath(f"splits/{name}_calibration.json").read_text()
    return np.array(json.loads(text), dtype=np.int64)


def balanced(name: str, labels: np.ndarray, classes: int, per_class: int) -> np.ndarray:
    """Sorted indices of `per_class` images of each class, int64: those n with the smallest sha256 of
    `dynconf-bench <name> calibration <n>`. They follow from the official order of the images and are the same for ever.

    Raises:
        DataError: the classes are not equally large, as they are in `name`, or a label is no integer.
    """
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels must be integers, found {labels.dtype}.")
    counts = np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    odd = np.flatnonzero(counts * classes != len(labels))
    if len(odd):
        raise DataError(
            f"this is not {name}: {counts[odd[0]]:,} of its {len(labels):,} training images are of class {odd[0]}, not"
            f" {len(labels) // classes:,}."
        )
    order = shuffled(f"dynconf-bench {name} calibration {index}" for index in range(len(labels)))
    return np.sort(order[first_of_each(labels, order, [per_class] * classes)])
