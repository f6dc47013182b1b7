"""CIFAR-100, its 100 fine classes, from torchvision's pickles or from the parquet layout of `uoft-cs/cifar100`.

Krizhevsky 2009. 50 training images of each class calibrate, 5,000 in all; networks train on the other 45,000.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data.cifar import CifarFiles, find_reader
from benchmark.data.held_out import balanced, split_in_memory
from benchmark.data.images import ImageDataset, Images, Preprocessing

CLASSES = 100
COUNTS = {"train": 50_000, "test": 10_000}
PER_CLASS = 50  # calibration images


class Cifar100(ImageDataset):
    """Looks in `data_dir` for either layout; without `data_dir`, in ./data and in the Hugging Face cache."""

    name = "cifar100"
    num_classes = CLASSES
    # Over all pixels of the training images, as in weiaicunzai/pytorch-cifar100 and the QCFS code.
    preprocessing = Preprocessing(divisor=255.0, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))

    def __init__(self, data_dir: Path | None = None):
        self._read = find_reader(
            CifarFiles(
                name="cifar100",
                title="CIFAR-100",
                counts=COUNTS,
                batch_folder="cifar-100-python",
                batches={"train": ["train"], "test": ["test"]},
                batch_labels="fine_labels",
                parquet_folder="cifar100",
                parquet_labels="fine_label",
                hub_name="uoft-cs/cifar100",
            ),
            data_dir,
        )

    def split(self, name: str) -> Images:
        return split_in_memory(self, name, self._read, calibration_indices)

    @staticmethod
    def download(data_dir: Path) -> None:
        """Fetch and unpack the original archive (169 MB, md5 checked by torchvision)."""
        from torchvision.datasets import CIFAR100

        CIFAR100(str(data_dir), train=True, download=True)


def calibration_indices(labels: np.ndarray) -> np.ndarray:
    """Sorted indices into the training images in their official order, int64. Raises DataError for odd labels."""
    return balanced("cifar100", labels, CLASSES, PER_CLASS)
