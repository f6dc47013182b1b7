"""A threshold on a score of softmax(sum of logits / scale), and how the scale comes about."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from dynconf.policy import GIVEN, unfitted
from dynconf.recording import Recording
from dynconf.scaling import SCALE_RULES, first_half, second_half
from dynconf.threshold import CONFIDENCE_THRESHOLDS, PROMISING, ChosenThreshold, ChosenType


@dataclass(frozen=True)
class SmoothedThreshold(ChosenThreshold):
    """A threshold on a score of softmax(sum of logits / scale).

    A scale that is not given is fitted, by the negative log-likelihood over all timesteps of the calibration recording, or
    by the expected calibration error (`scale_by="ece"`). With `pareto` and `cutoff`, scale and threshold see the same images,
    which promises nothing. The other selections hold for scores that were fixed before their images were seen: there the
    scale is fitted on every second image, beginning with the first, and the threshold chosen on the others. With `per_step`
    the family of thresholds comes from the images of the scale.
    """

    scale: float | None = None
    threshold: float | None = None
    scale_by: str | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.scale_by is not None and self.scale_by not in SCALE_RULES:
            raise ValueError(f"scale_by must be one of {', '.join(SCALE_RULES)}, not {self.scale_by!r}")
        if self.scale_by == "nll":  # the default; it has one spelling
            object.__setattr__(self, "scale_by", None)
        super().__post_init__()

    @property
    def grid(self) -> Tensor:
        return CONFIDENCE_THRESHOLDS

    def _known_scale(self) -> float:
        if self.scale is None:
            raise unfitted("the scale")
        return self.scale

    def _fit(self: ChosenType, recording: Recording) -> ChosenType:
        assert isinstance(self, SmoothedThreshold)
        scaled, part, screening = self, recording, None
        if self.scale is None:
            if self.selection in PROMISING:
                recording = screening = first_half(recording)
                part = second_half(part)
            scaled = dataclasses.replace(self, scale=SCALE_RULES[self.scale_by or "nll"](recording))
        return scaled if self.selection == GIVEN else scaled._choose_on(part, screening)
