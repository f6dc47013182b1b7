"""Any folder of images as a dataset, `imagefolder:PATH`: a folder for each part, in it a folder for each class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmark.data import recorded_name
from benchmark.data.encoded import EncodedPixels, with_geometry
from benchmark.data.file_images import FileImages, class_folders, images_by_class
from benchmark.data.finding import not_on_disk
from benchmark.data.images import ImageDataset, Images, Preprocessing, unknown_split
from benchmark.data.seeded import first_of_each, shuffled
from benchmark.errors import DataError, UsageError

LAYOUT = "train/<class>/<image> and val/<class>/<image> (or test/<class>/<image>)"
SHARE = 10  # one training image in so many calibrates
MOST = 5_000  # calibration images


@dataclass(frozen=True)
class ImageFolderAt:
    """What stands behind the name `imagefolder:PATH`; called with `data_dir` like the class of any other dataset.

    A PATH that is not absolute lies below `data_dir`, or without one here or in ./data.
    """

    path: str

    def __call__(self, data_dir: Path | None = None) -> ImageFolder:
        """Raises DatasetMissing where there is no such folder, and what `ImageFolder` raises."""
        places = [data_dir / self.path] if data_dir is not None else [Path(self.path), Path("data") / self.path]
        for place in places:
            if place.is_dir():
                return ImageFolder(recorded_name(f"imagefolder:{self.path}"), place)
        raise not_on_disk(
            recorded_name(f"imagefolder:{self.path}"),
            list(dict.fromkeys(map(str, places))),
            f"It should hold {LAYOUT}.",
        )

    @staticmethod
    def download(data_dir: Path) -> None:
        """Raises UsageError: nobody knows where to fetch it."""
        raise UsageError("a folder of your own is not downloaded.", f"It should hold {LAYOUT}.")


class ImageFolder(ImageDataset):
    """The folders `train`, and `test` or else `val`, of one folder. Pixels are lazy.

    A label is the place of a class among the sorted folders of `train`. All images are in the order of the sha256 of
    `dynconf-bench imagefolder <class>/<file name>`, so that the first ones are of all classes. Of each class a tenth
    of the training images, but at least one, calibrates; a smaller share where those were more than 5,000.

    Args:
        name: for records, without the path.
        root: the folder.

    Raises:
        DataError: the folder is laid out otherwise, a class is unknown in `train` or has no image there.
    """

    num_classes: int
    # ImageNet's, with which most weights come.
    preprocessing = Preprocessing(
        divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224
    )

    def __init__(self, name: str, root: Path):
        self.name = name
        test = next((root / part for part in ("test", "val") if (root / part).is_dir()), None)
        if test is None or not (root / "train").is_dir():
            found = ", ".join(class_folders(root)[:5]) or "no folder"
            raise DataError(
                f"{root} is not laid out as {LAYOUT}; it has {found}.", "Split it into these folders first."
            )
        self._folders = {"train": root / "train", "test": test}
        self._classes = class_folders(root / "train")
        self.num_classes = len(self._classes)
        if self.num_classes < 2:
            raise DataError(f"{root / 'train'} has {self.num_classes} class folders; two are the least.")
        unknown = sorted(set(class_folders(test)) - set(self._classes))
        if unknown:
            raise DataError(f"{test} has classes that {root / 'train'} does not have: {', '.join(unknown[:5])}.")

    def viewed(self, preprocessing: Preprocessing) -> ImageFolder:
        return with_geometry(self, preprocessing)

    def split(self, name: str) -> Images:
        if name not in self.splits:
            raise unknown_split(name)
        source = self._test if name == "test" else self._train
        rows = shuffled(
            f"dynconf-bench imagefolder {self._classes[label]}/{source.file_name(row)}"
            for row, label in enumerate(source.labels.tolist())
        )
        if name != "test":
            held_out = first_of_each(source.labels, rows, calibration_counts(source.labels, self.num_classes))
            rows = rows[held_out if name == "calibration" else ~held_out]
        pixels = EncodedPixels(source, rows, self.preprocessing, by_size=name == "train")
        return Images(f"{self.name} {name}", pixels, source.labels[rows], self.num_classes)

    @cached_property
    def _train(self) -> FileImages:
        source = images_by_class(self._folders["train"], self._classes)
        empty = np.flatnonzero(np.bincount(source.labels, minlength=self.num_classes) < 2)
        if len(empty):
            raise DataError(
                f"{self._folders['train'] / self._classes[empty[0]]} has fewer than two images: one is held out, one trains."
            )
        return source

    @cached_property
    def _test(self) -> FileImages:
        there = set(class_folders(self._folders["test"]))
        return images_by_class(self._folders["test"], self._classes, only=there)


def calibration_counts(labels: np.ndarray, classes: int) -> list[int]:
    """How many images of each class calibrate: a tenth of all or fewer, at most 5,000 in all unless there are more classes."""
    divisor = max(SHARE, -(-len(labels) // MOST))
    return [max(1, count // divisor) for count in np.bincount(labels, minlength=classes).tolist()]
