"""The first real test images of CIFAR-10, from the mosaic that holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def real_tiles(shared: Callable[[str], Path], rows: int) -> tuple[Tensor, Tensor]:
    """uint8 [100 x rows, 3, 32, 32] and labels int64; skips the test where they are missing."""
    with np.load(shared("cifar10/labels.npz")) as found:
        labels = torch.from_numpy(found["test_labels"][: 100 * rows].astype("int64"))
    with Image.open(shared("cifar10/test.webp")) as mosaic:
        pixels = torch.from_numpy(np.array(mosaic.convert("RGB").crop((0, 0, 3200, 32 * rows))))
    return pixels.reshape(rows, 32, 100, 32, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32), labels
