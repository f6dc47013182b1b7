"""CIFAR-10 from torchvision's pickled batches or from the Hugging Face parquet layout of `uoft-cs/cifar10`.

Krizhevsky 2009. The 5,000 calibration images are those of the committed index file; networks train on the other 45,000.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data.cifar import CifarFiles, find_reader
from benchmark.data.held_out import committed, split_in_memory
from benchmark.data.images import ImageDataset, Images, Preprocessing

BATCH_FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
COUNTS = {"train": 50_000, "test": 10_000}

# Copies that are known not to be the original, by the fingerprint of their full test or training split.
KNOWN_COPIES: dict[str, str] = {
    "488dd4c8184d": "20 of the 10,000 test images (19 ships, 1 horse) are JPEG-recompressed; the others are bit-exact",
    "b69192ae8ef7": "trained on a recompressed copy of the training images (JPEG quality 92)",
}


class Cifar10(ImageDataset):
    """Looks in `data_dir` for either layout; without `data_dir`, in ./data and in the Hugging Face cache."""

    name = "cifar10"
    num_classes = 10
    preprocessing = Preprocessing(divisor=255.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

    def __init__(self, data_dir: Path | None = None):
        self._read = find_reader(
            CifarFiles(
                name="cifar10",
                title="CIFAR-10",
                counts=COUNTS,
                batch_folder="cifar-10-batches-py",
                batches=BATCH_FILES,
                batch_labels="labels",
                parquet_folder="plain_text",
                parquet_labels="label",
                hub_name="uoft-cs/cifar10",
            ),
            data_dir,
        )

    def split(self, name: str) -> Images:
        return split_in_memory(self, name, self._read, lambda labels: calibration_indices())

    @staticmethod
    def download(data_dir: Path) -> None:
        """Fetch and unpack the original archive (170 MB, md5 checked by torchvision)."""
        from torchvision.datasets import CIFAR10

        CIFAR10(str(data_dir), train=True, download=True)

    def flags(self, images: Images) -> tuple[str, ...]:
        known = KNOWN_COPIES.get(images.fingerprint)
        return (known,) if known else ()


def calibration_indices() -> np.ndarray:
    """The committed 5,000 sorted indices into the 50,000 training images, 500 a class; int64."""
    return committed("cifar10")
