"""Seeded patterns for tests: four noisy prototypes of 3x8x8 pixels. Never a benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data.images import SPLITS, ImageDataset, Images, Preprocessing, unknown_split

SIZES = {"train": 512, "calibration": 192, "test": 1280}


class Synthetic(ImageDataset):
    """Noise hard enough that a trained network errs on some images."""

    name = "synthetic"
    num_classes = 4
    preprocessing = Preprocessing(divisor=255.0, mean=(0.5,) * 3, std=(0.3,) * 3)

    def __init__(self, data_dir: Path | None = None):
        pass

    def split(self, name: str) -> Images:
        if name not in SIZES:
            raise unknown_split(name)
        # RandomState's stream is frozen by numpy, so the pixels are the same everywhere.
        prototypes = np.random.RandomState(7).uniform(60, 195, size=(self.num_classes, 3, 8, 8))
        random = np.random.RandomState(100 + SPLITS.index(name))
        labels = random.randint(0, self.num_classes, size=SIZES[name])
        noisy = prototypes[labels] + random.normal(0, 75, size=(SIZES[name], 3, 8, 8))
        return Images(f"synthetic {name}", noisy.clip(0, 255).astype(np.uint8), labels, self.num_classes)
