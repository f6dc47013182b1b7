"""Early exit once the answer has stayed the same for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.policy import GIVEN, Watch
from dynconf.recording import Recording
from dynconf.threshold import ChosenThreshold

# A streak of m or more timesteps exceeds m - 1.
STREAK_THRESHOLDS = torch.cat([torch.arange(1024, dtype=torch.float64), torch.tensor([2.0**31], dtype=torch.float64)])


@dataclass(frozen=True)
class Patience(ChosenThreshold):
    """Stop when the answer (the class with the largest sum) has been the same for `steps` timesteps in a row, now included.

    A baseline without scale or confidence; `steps=1` stops at once. The score is the length of the streak so far, and the
    threshold is `steps` - 1. Without `steps`, fit takes the fewest before more than a share `tolerance` of the calibration
    images is lost, coming from more; for other selections see `ChosenThreshold`. Steps that stop nobody early are T.
    """

    name: ClassVar[str] = "patience"

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        super().__post_init__()

    @property
    def threshold(self) -> float | None:
        return None if self.steps is None else self.steps - 1.0

    @property
    def grid(self) -> Tensor:
        return STREAK_THRESHOLDS

    def scores(self, recording: Recording) -> Tensor:
        """For how many timesteps in a row the answer has been the same, float64 [N, T]."""
        streaks = _Streaks(self.exceeds)
        return torch.stack([streaks.advance(recording.evidence[:, t]) for t in range(recording.timesteps)], 1)

    def watch(self) -> Watch:
        return _Streaks(self.exceeds)

    def _fit(self, recording: Recording) -> Patience:  # type: ignore[override]
        return self if self.selection == GIVEN else self._choose_on(recording)

    def _settled(self, threshold: float, part: Recording) -> dict[str, Any]:
        return {"steps": min(int(threshold) + 1, part.timesteps)}


class _Streaks(Watch):
    """For how many timesteps in a row each image has given the same answer."""

    def __init__(self, exceeds: Callable[[Tensor, int], Tensor]):
        super().__init__()
        self._exceeds = exceeds
        self._answer: Tensor | None = None
        self._streak: Tensor | None = None

    def advance(self, evidence: Evidence) -> Tensor:
        """The streak of each image with this timestep, float64 [B]."""
        answer = evidence.prediction
        if self._answer is None or self._streak is None:
            self._streak = torch.ones_like(answer)
        else:
            self._streak = torch.where(answer == self._answer, self._streak + 1, 1)
        self._answer = answer
        return self._streak.double()

    def stops(self, evidence: Evidence, timestep: int, spikes: Tensor) -> Tensor:
        return self._exceeds(self.advance(evidence), timestep)

    def keep(self, mask: Tensor) -> None:
        if self._answer is not None and self._streak is not None:
            self._answer, self._streak = self._answer[mask], self._streak[mask]
