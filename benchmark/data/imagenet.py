"""ImageNet-1k from the parquet files of `ILSVRC/imagenet-1k`, from an ImageFolder, or as its authors packed it.

Russakovsky et al. 2015. The validation set is split once, by the committed index file: 10,000 images calibrate, the other
40,000 test. Networks train on all 1,281,167 training images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.data.devkit import FOLDER, find_devkit, read_labels
from benchmark.data.encoded import EncodedImages, EncodedPixels, with_geometry
from benchmark.data.file_images import FileImages, class_folders, image_names, images_by_class
from benchmark.data.finding import hub_snapshot, not_on_disk, roots
from benchmark.data.held_out import committed
from benchmark.data.images import SPLITS, ImageDataset, Images, Preprocessing, unknown_split
from benchmark.data.parquet_images import ParquetImages, ShuffledParquetImages
from benchmark.data.seeded import shuffled
from benchmark.errors import DataError, UsageError

CLASSES = 1000
COUNT = 50_000  # validation images
TRAIN_COUNT = 1_281_167
ENOUGH = 100  # calibration images that a partial copy must have to be split by the index file
WNID = re.compile(r"n\d{8}")
OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
FLAT_FOLDERS = ("val", "ILSVRC2012_img_val", "")
HUB_NAME = "ILSVRC/imagenet-1k"
LAYOUTS = (
    f"data/validation-*.parquet of the Hugging Face dataset {HUB_NAME}, or val/<wnid>/*.JPEG"
    f" (all {CLASSES:,} folders), or val/ILSVRC2012_val_*.JPEG with the folder {FOLDER}; to train, also"
    " data/train-*.parquet or train/<wnid>/*.JPEG"
)


class ImageNet(ImageDataset):
    """Looks in `data_dir` for all layouts; without it, in ./data, ./data/imagenet and the Hugging Face cache.

    Pixels are lazy. A validation image is known by the number in its file name, ILSVRC2012_val_000NNNNN. Where any has
    none, all are known by their place, and `flags` says so. A partial copy with few calibration images is split
    otherwise, and flagged too.

    The split `train` is there where its files are, in either of two layouts whatever that of the validation images. It is
    in the order of the sha256 of the file names, so that its first images are of all classes. Its fingerprint holds file
    names, sizes and labels, because reading 150 GB takes an hour; from parquet files, it holds their sizes. Reading
    images from the parquet files first makes a copy of 150 GB, see `ShuffledParquetImages`.

    Raises:
        DatasetMissing: no layout is there.
        DataError: damaged files, labels out of range, an image that is there twice.
    """

    name = "imagenet"
    num_classes = CLASSES
    preprocessing = Preprocessing(
        divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224
    )
    splits: tuple[str, ...] = ("calibration", "test")
    calibration_from_train = False

    def __init__(self, data_dir: Path | None = None):
        found = find_copy(data_dir)
        self._source = found.validation
        self._read_train = found.train
        self.splits = SPLITS if found.train is not None else ("calibration", "test")
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
        return with_geometry(self, preprocessing)

    def split(self, name: str) -> Images:
        if name == "train":
            return self._train_split()
        if name not in self.splits:
            raise unknown_split(name, self.splits)
        rows = np.flatnonzero(self._held_out if name == "calibration" else ~self._held_out)
        pixels = EncodedPixels(self._source, rows, self.preprocessing)
        return Images(f"imagenet {name}", pixels, self._source.labels[rows], self.num_classes)

    def _train_split(self) -> Images:
        if self._read_train is None:
            raise UsageError(
                "this copy of imagenet has no training images; its splits are calibration and test.",
                "They lie beside the validation images, in data/train-*.parquet or train/<wnid>/*.JPEG.",
            )
        source = self._read_train()
        _check_labels(source)
        if len(source) > TRAIN_COUNT:
            raise DataError(f"there are {len(source):,} images, ImageNet has {TRAIN_COUNT:,} for training.")
        rows = shuffled(map(source.file_name, range(len(source)))).astype(np.int32)
        pixels = EncodedPixels(source, rows, self.preprocessing, by_size=True)
        return Images("imagenet train", pixels, source.labels[rows], self.num_classes)

    @staticmethod
    def download(data_dir: Path) -> None:
        """Raises UsageError: ImageNet cannot be fetched without an account."""
        raise UsageError(
            "ImageNet needs an account and agreement to its terms, so it is not downloaded here.",
            f"Put into {data_dir}: {LAYOUTS}.",
        )

    def flags(self, images: Images) -> tuple[str, ...]:
        if images.name == "imagenet train":
            return (f"{len(images):,} of the {TRAIN_COUNT:,} training images",) if len(images) < TRAIN_COUNT else ()
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
    return committed("imagenet")


@dataclass(frozen=True)
class Copy:
    """The validation images, and how to list the training images where there are any."""

    validation: EncodedImages
    train: Callable[[], EncodedImages] | None


def find_copy(data_dir: Path | None) -> Copy:
    """The first copy in any layout. Raises DatasetMissing, or DataError for a damaged or incomplete one."""
    looked = []
    for root in roots("imagenet", data_dir):
        for folder in (root / "data", root):
            looked.append(str(folder / "validation-*.parquet"))
            if paths := list(folder.glob("validation-*.parquet")):
                return Copy(ParquetImages(paths), _find_train(root, None))
        looked.append(str(root / "val" / "<wnid>" / "*.JPEG"))
        if wnids := _wnids(root / "val"):
            return Copy(_by_wnid(root / "val", wnids), _find_train(root, wnids))
        for folder in (root / name for name in FLAT_FOLDERS):
            looked.append(str(folder / "ILSVRC2012_val_*.JPEG"))
            if any(folder.glob("ILSVRC2012_val_*")):
                images, wnids = _flat(folder, root)
                return Copy(images, _find_train(root, wnids))
    if data_dir is None:
        looked.append(f"the Hugging Face cache of {HUB_NAME}")
        snapshot = hub_snapshot(HUB_NAME)
        if snapshot is not None and (paths := list((snapshot / "data").glob("validation-*.parquet"))):
            return Copy(ParquetImages(paths), _find_train(snapshot, None))
    raise not_on_disk(
        "imagenet",
        looked,
        "It needs an account; which files go where: python -m benchmark prepare imagenet --data-dir DIR; "
        "then run with --data-dir DIR.",
    )


def official_numbers(source: EncodedImages) -> np.ndarray:
    """The number of each image minus 1, int64 [N]; -1 where its file name holds none in 1..50,000."""
    return np.fromiter(_numbers(map(source.file_name, range(len(source)))), dtype=np.int64, count=len(source))


def _numbers(names: Iterable[str]) -> Iterator[int]:
    for name in names:
        match = OFFICIAL_NAME.search(name)
        number = int(match[1]) - 1 if match else -1
        yield number if number < COUNT else -1


def _wnids(folder: Path) -> list[str]:
    """The sorted names of its class folders."""
    return [name for name in class_folders(folder) if WNID.fullmatch(name)] if folder.is_dir() else []


def _by_wnid(folder: Path, wnids: list[str]) -> FileImages:
    if len(wnids) != CLASSES:
        raise DataError(
            f"{folder} has {len(wnids)} of the {CLASSES:,} class folders. A label is the place of a folder among all"
            f" {CLASSES:,} in sorted order, so it cannot be known here.",
            "Add the others; they may be empty.",
        )
    return images_by_class(folder, wnids)


def _flat(folder: Path, root: Path) -> tuple[FileImages, list[str]]:
    """The validation images as their archive holds them, in the order of their numbers, and the wnids of the kit."""
    labels, wnids = read_labels(find_devkit(root), COUNT, CLASSES)
    names = sorted(name for name in image_names(folder) if OFFICIAL_NAME.match(name))
    numbers = np.array(list(_numbers(names)), dtype=np.int64)
    foreign = np.flatnonzero(numbers < 0)
    if len(foreign):
        raise DataError(f"{folder / names[foreign[0]]} has no number in 1..{COUNT:,}, so its label cannot be known.")
    return FileImages(folder, [""], np.zeros(len(names), dtype=np.uint8), names, labels[numbers]), wnids


def _find_train(root: Path, classes: list[str] | None) -> Callable[[], EncodedImages] | None:
    """A way to list the training images; folders first, because parquet files have to be copied."""
    if _wnids(root / "train"):
        return partial(_train_by_wnid, root / "train", classes)
    for folder in (root / "data", root):
        if paths := list(folder.glob("train-*.parquet")):
            return partial(ShuffledParquetImages, paths)
    return None


def _train_by_wnid(folder: Path, classes: list[str] | None) -> FileImages:
    wnids = _wnids(folder)
    if classes is not None and wnids != classes:
        differences = [
            f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in (
                ("missing are", sorted(set(classes) - set(wnids))),
                ("not known there are", sorted(set(wnids) - set(classes))),
            )
            if names
        ]
        raise DataError(f"{folder} has other class folders than the validation set: {'; '.join(differences)}.")
    return _by_wnid(folder, wnids)


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
