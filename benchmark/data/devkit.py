"""Labels of ImageNet's validation images from the development kit of ILSVRC2012, for images in one flat folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import DataError

FOLDER = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"


def find_devkit(root: Path) -> Path:
    """The folder of the two files below `root`; unpacking may have put the kit into a folder of its own name.

    Raises:
        DataError: they are not there.
    """
    places = [root / FOLDER / "data", root / FOLDER / FOLDER / "data"]
    for folder in places:
        if (folder / TRUTH).is_file() and (folder / META).is_file():
            return folder
    raise DataError(
        f"{root} has validation images in one flat folder, but not the labels of the development kit. Looked for"
        f" {TRUTH} and {META} in {' and '.join(map(str, places))}.",
        f"Unpack {FOLDER}.tar.gz into {root}.",
    )


def read_labels(folder: Path, images: int, classes: int) -> tuple[np.ndarray, list[str]]:
    """The label of each validation image in the order of their numbers, int64 [images], and the sorted wnids.

    A label is the place of the class among the sorted wnids, as everywhere; the kit counts its classes otherwise.

    Raises:
        DataError: a file is damaged or foreign, or has other than `images` lines or `classes` classes.
    """
    wnids = read_wnids(folder / META, classes)
    in_order = sorted(wnids.values())
    places = {wnid: place for place, wnid in enumerate(in_order)}
    path = folder / TRUTH
    try:
        lines = path.read_text().split()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(lines) != images:
        raise DataError(f"{path} has {len(lines):,} lines for the {images:,} validation images.")
    known = {str(number): places[wnid] for number, wnid in wnids.items()}
    for number, line in enumerate(lines, 1):
        if line not in known:
            raise DataError(f"{path}, line {number}: {line[:20]!r} is no class of 1..{classes}.")
    return np.array([known[line] for line in lines], dtype=np.int64), in_order


def read_wnids(path: Path, classes: int) -> dict[int, str]:
    """From ILSVRC2012_ID, 1..classes, to wnid, for the synsets without children. No code is executed. Raises DataError."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(path, variable_names=["synsets"], squeeze_me=True)["synsets"]
        leaves = {
            _value(synset["ILSVRC2012_ID"], int): _value(synset["WNID"], str)
            for synset in np.atleast_1d(synsets)
            if _value(synset["num_children"], int) == 0
        }
    except Exception as error:  # whatever scipy raises on a damaged or foreign file
        raise DataError(f"{path} is not the {META} of ILSVRC2012: {error!r}.") from error
    if sorted(leaves) != list(range(1, classes + 1)) or len(set(leaves.values())) != classes:
        raise DataError(
            f"{path} has {len(set(leaves.values())):,} classes without children, numbered {min(leaves, default=0)} to"
            f" {max(leaves, default=0)}; ImageNet has {classes:,}, numbered from 1."
        )
    return leaves


def _value(stored: Any, kind: type) -> Any:
    """MATLAB has no scalars: a number is an array of one."""
    return kind(np.asarray(stored).item())
