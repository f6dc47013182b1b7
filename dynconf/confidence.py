"""Dynamic Confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.smoothed import SmoothedThreshold


@dataclass(frozen=True)
class DynamicConfidence(SmoothedThreshold):
    """Stop when max_k softmax(sum of logits / scale) > threshold (strictly).

    Li, Jones, Furber, ICCV 2023, arXiv:2303.10276. What is None is fitted: the scale by the negative log-likelihood over
    all timesteps of the calibration recording; the threshold from the accuracy-latency Pareto front, as the fastest point
    before more than `tolerance` (a share) of the images are lost: right after all timesteps, wrong at their exit. For the
    other selections see `ChosenThreshold`.
    """

    name: ClassVar[str] = "dynamic-confidence"

    def score(self, evidence: Evidence) -> Tensor:
        """The confidence, float64. Raises FitError before the scale is known."""
        return evidence.confidence(self._known_scale())
