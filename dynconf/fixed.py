"""The rule that every other has to beat."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.policy import GIVEN, Policy, default, unfitted
from dynconf.recording import Recording


@dataclass(frozen=True)
class FixedTime(Policy):
    """The same number of timesteps for every image.

    Without `timesteps`, fit takes the shortest time whose accuracy on the calibration recording is not below that of all
    timesteps by more than `tolerance`.
    """

    name: ClassVar[str] = "fixed"

    timesteps: int | None = None
    tolerance: float = 0.0
    selection: str = ""

    def __post_init__(self) -> None:
        if self.timesteps is not None and self.timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, got {self.timesteps}")
        default(self, selection=GIVEN if self.timesteps is not None else "no-loss")

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if self.timesteps is None:
            raise unfitted("the time")
        return torch.full(evidence.prediction.shape, timestep >= self.timesteps, device=evidence.prediction.device)

    def _fit(self, recording: Recording) -> FixedTime:
        if self.selection == GIVEN:
            return self
        accuracy = recording.correct.double().mean(0)
        enough = accuracy >= accuracy[-1] - self.tolerance
        return dataclasses.replace(self, timesteps=int(enough.int().argmax()) + 1)
