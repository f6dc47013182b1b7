"""Early exit by the gap between the two largest sums of logits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.policy import GIVEN
from dynconf.recording import Recording
from dynconf.threshold import ChosenThreshold

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

    With `per_step` there is a threshold for every timestep, by default in the manner of the paper (`dynconf.cutoff`): the
    lowest at which at most a share `epsilon` of the images above it (0.01 by default) has not reached its final answer.
    Unlike the authors' code, this

    * looks at calibration images rather than training images under dropout;
    * asks for the answer after all timesteps rather than the right one: an image that stays wrong loses nothing by leaving;
    * goes from large margins downwards and stops before the first threshold that fails, as the share is not monotone;
    * counts one more image against every threshold, (failing + 1) / (above + 1) <= epsilon, so that a timestep at which too
      few images have a large margin stops nobody. `images_needed` is given if all timesteps together are too few.

    It carries no guarantee; for other selections see `ChosenThreshold`.
    """

    name: ClassVar[str] = "margin"

    threshold: float | None = None

    @property
    def grid(self) -> Tensor:
        return MARGIN_THRESHOLDS

    def score(self, evidence: Evidence) -> Tensor:
        """The margin, float64."""
        top = evidence.top.double()
        return top[..., 0] - top[..., 1]

    def _fit(self, recording: Recording) -> Margin:  # type: ignore[override]
        return self if self.selection == GIVEN else self._choose_on(recording)
