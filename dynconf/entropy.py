"""Early exit by entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.smoothed import SmoothedThreshold


@dataclass(frozen=True)
class Entropy(SmoothedThreshold):
    """Stop when 1 - H(p) / log K > threshold (strictly), p = softmax(sum of logits / scale) over K classes.

    DT-SNN: Li, Moitra, Geller, Panda, DAC 2023, arXiv:2305.17346, whose code takes the sum as well (equation 1 has the
    mean) and has scale 1. Scale and threshold are fitted as those of Dynamic Confidence.
    """

    name: ClassVar[str] = "entropy"

    def score(self, evidence: Evidence) -> Tensor:
        """One minus the normalised entropy, float64 in [0, 1]. Raises FitError before the scale is known."""
        return 1.0 - evidence.entropy(self._known_scale())
