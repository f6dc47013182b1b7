"""Tiny ImageNet, 200 classes of ImageNet at 64x64 pixels, in the layout of its authors, `tiny-imagenet-200`.

Le and Yang 2015, Stanford CS231n. The official test images have no labels, so the 10,000 validation images are the test
split. 25 training images of each class calibrate, 5,000 in all; networks train on the other 95,000.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmark.data.encoded import EncodedPixels, with_geometry
from benchmark.data.file_images import FileImages, images_by_class
from benchmark.data.finding import not_on_disk, roots
from benchmark.data.images import ImageDataset, Images, Preprocessing, unknown_split
from benchmark.data.seeded import first_of_each, shuffled
from benchmark.errors import DataError, UsageError

CLASSES = 200
COUNTS = {"train": 100_000, "test": 10_000}
PER_CLASS = 25  # calibration images
SIDE = 64
ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class TinyImageNet(ImageDataset):
    """Looks in `data_dir` and its folder tiny-imagenet-200; without `data_dir`, in ./data. Pixels are lazy.

    A label is the place of its class among the sorted wnids. The test images are in the order of val_annotations.txt.
    The training images are in the order of the sha256 of `dynconf-bench tiny-imagenet <file name>`, and the first 25 of
    each class calibrate.

    Raises:
        DatasetMissing: the files are not there.
        DataError: a list is damaged, a class or an image is missing.
    """

    name = "tiny-imagenet"
    num_classes = CLASSES
    # As in tjmoon0104/pytorch-tiny-imagenet and most code since; the deviations are means of those within each image.
    preprocessing = Preprocessing(divisor=255.0, mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262), crop=SIDE)

    def __init__(self, data_dir: Path | None = None):
        self._folder = find_folder(data_dir)
        self._classes = read_classes(self._folder / "wnids.txt")

    def viewed(self, preprocessing: Preprocessing) -> TinyImageNet:
        if preprocessing.crop is None and preprocessing.resize is None:
            preprocessing = replace(preprocessing, crop=SIDE)
        return with_geometry(self, preprocessing)

    def split(self, name: str) -> Images:
        if name not in self.splits:
            raise unknown_split(name)
        source = self._test if name == "test" else self._train
        rows = np.arange(len(source))
        if name != "test":
            order = shuffled(f"dynconf-bench tiny-imagenet {source.file_name(row)}" for row in range(len(source)))
            held_out = first_of_each(source.labels, order, [PER_CLASS] * CLASSES)
            rows = order[held_out if name == "calibration" else ~held_out]
        same_size = (self.preprocessing.resize or SIDE) == self.preprocessing.crop == SIDE
        pixels = EncodedPixels(source, rows, self.preprocessing, by_size=name == "train", same_size=same_size)
        return Images(f"tiny-imagenet {name}", pixels, source.labels[rows], CLASSES)

    @staticmethod
    def download(data_dir: Path) -> None:
        """Raises UsageError: torchvision does not know this dataset."""
        raise UsageError(
            "torchvision cannot fetch tiny-imagenet.", f"Unpack {ARCHIVE} (237 MB) so that {data_dir} holds its folder."
        )

    @cached_property
    def _train(self) -> FileImages:
        source = images_by_class(self._folder / "train", self._classes, "images")
        _check_count(len(source), "train", self._folder)
        return source

    @cached_property
    def _test(self) -> FileImages:
        return read_annotations(self._folder / "val", self._classes)


def find_folder(data_dir: Path | None) -> Path:
    """The folder of wnids.txt. Raises DatasetMissing."""
    looked = []
    for root in roots("tiny-imagenet", data_dir):
        for folder in (root / "tiny-imagenet-200", root):
            looked.append(str(folder / "wnids.txt"))
            if (folder / "wnids.txt").is_file():
                return folder
    raise not_on_disk("tiny-imagenet", looked, f"Unpack {ARCHIVE} (237 MB) into DIR; then run with --data-dir DIR.")


def read_classes(path: Path) -> list[str]:
    """The 200 wnids, sorted. Raises DataError."""
    classes = sorted(set(_lines(path)))
    if len(classes) != CLASSES:
        raise DataError(f"{path} names {len(classes)} classes, Tiny ImageNet has {CLASSES}.")
    return classes


def read_annotations(folder: Path, classes: list[str]) -> FileImages:
    """The images of val_annotations.txt (file name, wnid and four numbers a line, separated by tabs), in its order.

    Raises:
        DataError: a line is damaged, names an unknown class or an image again, or there are too many or few lines.
    """
    path = folder / "val_annotations.txt"
    places = {wnid: place for place, wnid in enumerate(classes)}
    found: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        name, *rest = line.split("\t")
        if not rest or rest[0] not in places:
            raise DataError(f"{path}, line {number}: no class of wnids.txt behind {name!r}.")
        if name in found:
            raise DataError(f"{path}, line {number}: {name} is there twice.")
        found[name] = places[rest[0]]
    _check_count(len(found), "test", path)
    labels = np.array(list(found.values()), dtype=np.int64)
    return FileImages(folder, ["images"], np.zeros(len(found), dtype=np.uint8), found, labels)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_count(found: int, part: str, where: Path) -> None:
    if found != COUNTS[part]:
        raise DataError(f"{where}: the {part} part has {found:,} images, Tiny ImageNet has {COUNTS[part]:,}.")
