"""Early exit by the gap between the two largest sums of logits."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.oracles import consistency
from dynconf.policy import FITTED, GIVEN, unfitted
from dynconf.recording import Recording
from dynconf.sweep import refuse_nan
from dynconf.threshold import ChosenThreshold

CUTOFF = "cutoff"

# Logits have no natural unit: even in the logarithm over nine decades. Every margin exceeds the first, none the last.
MARGIN_THRESHOLDS = torch.cat(
    [
        torch.tensor([-1.0], dtype=torch.float64),
        torch.logspace(-3.0, 6.0, 1000, dtype=torch.float64),
        torch.tensor([sys.float_info.max], dtype=torch.float64),
    ]
)


@dataclass(frozen=True)
class Margin(ChosenThreshold):
    """Stop when the largest minus the second largest sum of logits exceeds the threshold (strictly).

    Wu, Jin, Yu, Yi, Huang, arXiv:2301.09522. By default one threshold for all timesteps, chosen as that of Dynamic
    Confidence; there is no scale, which would only change the unit.

    With `per_step` there is a threshold for every timestep, in the manner of the paper: the lowest at which at most a share
    `epsilon` of the images above it (0.01 by default) has not reached its final answer. Unlike the authors' code, this

    * looks at calibration images rather than training images under dropout;
    * asks for the answer after all timesteps rather than the right one: an image that stays wrong loses nothing by leaving;
    * goes from large margins downwards and stops before the first threshold that fails, as the share is not monotone;
    * counts one more image against every threshold, (failing + 1) / (above + 1) <= epsilon, so that a timestep at which too
      few images have a large margin stops nobody. `images_needed` is given if all timesteps together are too few.

    It carries no guarantee, and resampling does not choose these thresholds anew.
    """

    name: ClassVar[str] = "margin"

    threshold: float | None = None
    tolerance: float = 0.0
    selection: str = ""
    epsilon: float | None = None
    delta: float | None = None
    per_step: bool | None = None
    limits: tuple[float, ...] | None = field(default=None, metadata=FITTED)
    images: int | None = field(default=None, metadata=FITTED)
    images_needed: int | None = field(default=None, metadata=FITTED)

    def __post_init__(self) -> None:
        if not self.per_step:  # the default; it has one spelling
            object.__setattr__(self, "per_step", None)
            self._complete_choice()
            return
        if self.threshold is not None:
            raise ValueError("threshold is one for all timesteps and does not go with per_step")
        if self.tolerance:
            raise ValueError("tolerance belongs to selection=pareto; per_step has epsilon")
        self._complete_choice((CUTOFF,))
        if self.epsilon is None:
            object.__setattr__(self, "epsilon", 0.01)

    @property
    def grid(self) -> Tensor:
        return MARGIN_THRESHOLDS

    @property
    def thresholds(self) -> Tensor | None:
        return None if self.per_step else super().thresholds

    def score(self, evidence: Evidence) -> Tensor:
        """The margin, float64."""
        top = evidence.top.double()
        return top[..., 0] - top[..., 1]

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if not self.per_step:
            return super().decide(evidence, timestep)
        if self.limits is None:
            raise unfitted("the threshold of each timestep")
        # Timesteps that were not calibrated have no threshold of their own; the last one's was chosen at the surest.
        limit = self.limits[timestep - 1] if timestep <= len(self.limits) else float(self.grid[-1])
        return self.score(evidence) > limit

    def _fit(self, recording: Recording) -> Margin:  # type: ignore[override]
        if not self.per_step:
            return self if self.selection == GIVEN else self._choose_on(recording)
        assert self.epsilon is not None
        scores = refuse_nan(self.score(recording.evidence))
        settled = consistency(recording)
        limits = tuple(
            float(self.grid[_cutoff(scores[:, t - 1], settled <= t, self.grid, self.epsilon)])
            for t in range(1, recording.timesteps)
        )
        needed = math.ceil(1 / self.epsilon - 1 - 1e-9)
        return dataclasses.replace(
            self,
            limits=limits,
            images=len(recording),
            images_needed=needed if len(recording) < needed else None,
        )


def _cutoff(scores: Tensor, settled: Tensor, grid: Tensor, epsilon: float) -> int:
    """Index of the lowest threshold before the first that fails, from the largest with enough images above it."""
    position = torch.searchsorted(grid, scores.contiguous())  # the score exceeds the thresholds before this index
    above, failing = (
        torch.bincount(position[mask], minlength=len(grid) + 1).flip(0).cumsum(0).flip(0)[1:].double()
        for mask in (torch.ones_like(settled), ~settled)
    )
    enough = 1 / (above + 1) <= epsilon + 1e-12
    passes = (failing + 1) / (above + 1) <= epsilon + 1e-12
    failed = torch.nonzero(enough & ~passes)
    lowest = int(failed[-1]) + 1 if len(failed) else 0
    return lowest if bool(passes[lowest]) else len(grid) - 1
