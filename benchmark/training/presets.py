"""The papers' recipes, and ours, by name. Imports nothing heavy: `--help` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

AUGMENTATIONS = ("crop-flip", "resized-crop", "autoaugment", "color-jitter", "cutout")


@dataclass(frozen=True)
class Preset:
    """A published recipe: where it is from, what it sets, and the method's options that belong to it.

    `fine_tunes` says that it starts from a trained ReLU network.
    """

    source: str
    recipe: dict[str, Any]
    options: dict[str, int | float]
    fine_tunes: bool = False


_QCFS = {"lr": 0.1, "momentum": 0.9, "threshold_quantile": None}

PRESETS: dict[str, Preset] = {
    "qcfs-cifar": Preset(
        "Bu et al., ICLR 2022, and their second code release",
        {
            **_QCFS,
            "epochs": 300,
            "batch_size": 300,
            "weight_decay": 5e-4,
            "augment": ("crop-flip", "autoaugment", "cutout"),
        },
        {"levels": 4, "threshold": 8.0},
    ),
    "qcfs-imagenet": Preset(
        "Bu et al., ICLR 2022, and their second code release",
        {
            **_QCFS,
            "epochs": 120,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "augment": ("resized-crop", "color-jitter"),
        },
        {"levels": 8, "threshold": 8.0},
    ),
    "qffs-cifar": Preset(
        "Li, Jones and Furber 2022; 40 epochs of quantisation-aware training from a ReLU network",
        {"epochs": 40, "batch_size": 32, "lr": 0.01, "weight_decay": 5e-4, "augment": ("crop-flip",)},
        {"levels": 3},
        fine_tunes=True,
    ),
    "surrogate-cifar": Preset(
        "the code of Deng et al., ICLR 2022 (TET): Adam, 150 epochs from 1e-3; batch size and augmentation are ours",
        {
            "epochs": 150,
            "batch_size": 128,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "augment": ("crop-flip",),
        },
        {},
    ),
    "short-cifar": Preset(
        "ours: from scratch in an hour on a processor",
        {
            "epochs": 30,
            "batch_size": 128,
            "lr": 0.2,
            "warmup_epochs": 2,
            "augment": ("crop-flip",),
            "start_thresholds": True,
        },
        {},
    ),
    "fine-tune": Preset(
        "ours: a few epochs from a ReLU network of the same data",
        {"epochs": 10, "batch_size": 128, "lr": 0.05, "warmup_epochs": 1, "augment": ("crop-flip",)},
        {},
        fine_tunes=True,
    ),
    "embedded": Preset(
        "ours: seconds, for the small datasets that come with the package",
        {"epochs": 30, "batch_size": 64, "lr": 0.1, "warmup_epochs": 6, "start_thresholds": True},
        {},
    ),
}
