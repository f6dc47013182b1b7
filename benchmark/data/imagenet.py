"""ImageNet-1k validation images from the parquet files of `ILSVRC/imagenet-1k` or from an ImageFolder.

Russakovsky et al. 2015. The validation set is split once, by the committed index file: 10,000 images calibrate, the other
40,000 test.
"""

from __future__ import annotations

import copy
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmark.data.encoded import WNID, EncodedImages, EncodedPixels, FolderImages, ParquetImages
from benchmark.data.images import ImageDataset, Images, Preprocessing
from benchmark.errors import DataError, DatasetMissing, UsageError

CLASSES = 1000
COUNT = 50_000  # validation images
ENOUGH = 100  # calibration images that a partial copy must have to be split by the index file
OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
LAYOUTS = "data/validation-*.parquet of the Hugging Face dataset ILSVRC/imagenet-1k, or val/<wnid>/*.JPEG"


class ImageNet(ImageDataset):
    """Looks in `data_dir` for either layout; without `data_dir`, in ./data and ./data/imagenet. Pixels are lazy.

    An image is known by the number in its file name, ILSVRC2012_val_000NNNNN. Where any has none, all are known by
    their place, and `flags` says so. A partial copy with few calibration images is split otherwise, and flagged too.

    Raises:
        DatasetMissing: neither layout is there.
        DataError: damaged files, labels out of range, an image that is there twice.
    """

    name = "imagenet"
    num_classes = CLASSES
    preprocessing = Preprocessing(
        divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224
    )
    splits = ("calibration", "test")

    def __init__(self, data_dir: Path | None = None):
        self._source = find_source(data_dir)
        _check_labels(self._source)
        numbers = official_numbers(self._source)
        self._unnamed = int((numbers < 0).sum())
        if self._unnamed:
            numbers = np.arange(len(numbers))
        _check_numbers(numbers, self._source)
        held_out = np.isin(numbers, calibration_indices())
        self._partial = len(numbers) < COUNT
        self._improvised = self._partial and int(held_out.sum()) < ENOUGH
        self._held_out = np.arange(len(numbers)) % 2 == 0 if self._improvised else held_out

    def viewed(self, preprocessing: Preprocessing) -> ImageNet:
        if preprocessing.crop is None:
            raise UsageError(
                "ImageNet's images differ in size; the preprocessing of these weights names no crop.",
                "Add resize and crop to the preprocessing in their card.",
            )
        result = copy.copy(self)
        result.preprocessing = preprocessing
        return result

    def split(self, name: str) -> Images:
        if name == "train":
            raise UsageError("training on ImageNet is not there yet; its splits are calibration and test.")
        if name not in self.splits:
            raise UsageError(f"unknown split {name!r}; there are {', '.join(self.splits)}.")
        rows = np.flatnonzero(self._held_out if name == "calibration" else ~self._held_out)
        pixels = EncodedPixels(self._source, rows, self.preprocessing)
        return Images(f"imagenet {name}", pixels, self._source.labels[rows], self.num_classes)

    @staticmethod
    def download(data_dir: Path) -> None:
        """Raises UsageError: ImageNet cannot be fetched without an account."""
        raise UsageError(
            "ImageNet needs an account and agreement to its terms, so it is not downloaded here.",
            f"Put into {data_dir}: {LAYOUTS} (all {CLASSES:,} folders).",
        )

    def flags(self, images: Images) -> tuple[str, ...]:
        found = []
        if self._partial:
            found.append(
                f"{len(self._source):,} of the {COUNT:,} validation images: a smoke test, comparable with no paper"
            )
        if self._improvised:
            found.append("unofficial split: every second image is calibration")
        elif self._unnamed:
            found.append(
                "unofficial split: all images are known by their place, because of file names without official number:"
                f" {self._unnamed:,}"
            )
        return tuple(found)


def calibration_indices() -> np.ndarray:
    """The committed 10,000 sorted calibration images, int64; index n is ILSVRC2012_val_<n + 1>.

    They are the n in 0..49,999 with the smallest sha256 of "dynconf-bench imagenet calibration <n>".
    """
    text = files("benchmark.data").joinpath("splits/imagenet_calibration.json").read_text()
    return np.array(json.loads(text), dtype=np.int64)


def find_source(data_dir: Path | None) -> EncodedImages:
    """The images in either layout. Raises DatasetMissing, or DataError for damaged or incomplete ones."""
    roots = [data_dir] if data_dir is not None else [Path("data"), Path("data/imagenet")]
    looked = []
    for root in roots:
        for folder in (root / "data", root):
            looked.append(str(folder / "validation-*.parquet"))
            if paths := list(folder.glob("validation-*.parquet")):
                return ParquetImages(paths)
        looked.append(str(root / "val" / "<wnid>" / "*.JPEG"))
        if any(WNID.fullmatch(path.name) for path in (root / "val").glob("n*")):
            return FolderImages(root / "val", CLASSES)
    raise DatasetMissing(
        "imagenet is not on this disk. Looked for: " + ", ".join(looked) + ".",
        "It needs an account; which files go where: python -m benchmark prepare imagenet --data-dir DIR; "
        "then run with --data-dir DIR.",
    )


def official_numbers(source: EncodedImages) -> np.ndarray:
    """The number of each image minus 1, int64 [N]; -1 where its file name holds none in 1..50,000."""
    found = [OFFICIAL_NAME.search(name) for name in source.file_names]
    numbers = np.array([int(match[1]) - 1 if match else -1 for match in found], dtype=np.int64)
    return np.where(numbers < COUNT, numbers, -1)


def _check_labels(source: EncodedImages) -> None:
    wrong = np.flatnonzero((source.labels < 0) | (source.labels >= CLASSES))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{source.name(row)} has label {source.labels[row]}, outside 0..{CLASSES - 1}.")


def _check_numbers(numbers: np.ndarray, source: EncodedImages) -> None:
    """A second copy of the files in the folder would count every image twice."""
    if len(numbers) > COUNT:
        raise DataError(f"there are {len(numbers):,} images, ImageNet has {COUNT:,} for validation.")
    _, firsts = np.unique(numbers, return_index=True)
    if len(firsts) < len(numbers):
        row = int(np.setdiff1d(np.arange(len(numbers)), firsts)[0])
        raise DataError(f"{source.name(row)} is there twice.")
