"""Early exit once the answer has stayed the same for a while."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.choosing import pareto_choice
from dynconf.evidence import Evidence
from dynconf.policy import GIVEN, Policy, Watch, default, unfitted
from dynconf.recording import Recording
from dynconf.sweep import sweep_thresholds


@dataclass(frozen=True)
class Patience(Policy):
    """Stop when the answer (the class with the largest sum) has been the same for `steps` timesteps in a row, now included.

    A baseline without scale or confidence; `steps=1` stops at once. Without `steps`, fit takes the fewest before more than a
    share `tolerance` of the calibration images is lost, coming from more.
    """

    name: ClassVar[str] = "patience"

    steps: int | None = None
    tolerance: float = 0.0
    selection: str = ""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        default(self, selection=GIVEN if self.steps is not None else "pareto")

    def watch(self) -> Watch:
        if self.steps is None:
            raise unfitted("the number of steps")
        return _Streaks(self.steps)

    def _fit(self, recording: Recording) -> Patience:
        if self.selection == GIVEN:
            return self
        timesteps = recording.timesteps
        streaks = torch.empty(len(recording), timesteps, dtype=torch.float64)
        previous, streak = recording.predictions[:, 0], torch.zeros(len(recording), dtype=torch.long)
        for t in range(timesteps):
            answer = recording.predictions[:, t]
            streak = torch.where(answer == previous, streak + 1, 1)
            streaks[:, t], previous = streak, answer
        # A streak of m or more exceeds m - 1; none exceeds T - 1 before T.
        grid = torch.arange(timesteps, dtype=torch.float64)
        chosen = pareto_choice(sweep_thresholds(streaks, recording.correct, grid), self.tolerance)
        return dataclasses.replace(self, steps=chosen + 1)


class _Streaks(Watch):
    """For how many timesteps in a row each image has given the same answer."""

    def __init__(self, steps: int):
        super().__init__()
        self._steps = steps
        self._answer: Tensor | None = None
        self._streak: Tensor | None = None

    def stops(self, evidence: Evidence, timestep: int, spikes: Tensor) -> Tensor:
        answer = evidence.prediction
        if self._answer is None or self._streak is None:
            self._streak = torch.ones_like(answer)
        else:
            self._streak = torch.where(answer == self._answer, self._streak + 1, 1)
        self._answer = answer
        return self._streak >= self._steps

    def keep(self, mask: Tensor) -> None:
        if self._answer is not None and self._streak is not None:
            self._answer, self._streak = self._answer[mask], self._streak[mask]
