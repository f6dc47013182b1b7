"""When a spiking network is driven by its image and its biases, when it only settles, and when it rests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Phase(IntEnum):
    """What happens to an image in one timestep."""

    DRIVEN = 0
    """The image and all biases act."""
    SETTLING = 1
    """Spikes still travel; nothing else acts."""
    FROZEN = 2
    """Nothing moves."""


@dataclass(frozen=True)
class Schedule:
    """When a network is driven. Of every image, the timesteps are counted from 1 after the prelude.

    Attributes:
        drive: for how many timesteps the image and all biases act; None: always.
        settle: for how many more timesteps spikes still travel, before the network is frozen; None: always.
    """

    drive: int | None = None
    settle: int | None = None

    def phases(self, ages: Tensor) -> dict[Phase, Tensor]:
        """The images of every phase that has some, as int64 indices, given the timestep of each image, int64 [B]."""
        phase = torch.zeros_like(ages)
        if self.drive is not None:
            phase += ages > self.drive
            if self.settle is not None:
                phase += ages > self.drive + self.settle
        found = {kind: torch.nonzero(phase == kind)[:, 0] for kind in Phase}
        return {kind: images for kind, images in found.items() if len(images)}
