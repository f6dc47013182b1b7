"""Early exit once a small learned model is sure that the answer is the final one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.finality import Finality, Trace, fit_finality
from dynconf.policy import FITTED, Watch, unfitted
from dynconf.recording import Recording
from dynconf.scaling import first_half, scale_by_nll, second_half
from dynconf.threshold import CONFIDENCE_THRESHOLDS, ChosenThreshold


@dataclass(frozen=True)
class Agreement(ChosenThreshold):
    """Stop when P(this answer is the one after all timesteps) > threshold (strictly), as a small learned model says.

    Ours. The model (`dynconf.finality`) looks at the margin and the smoothed confidence of the sum, at how long the answer has
    been the same and how often it changed, and at the leads that it gained in the last 1, 2, 4 and 8 timesteps, which show
    where the sum is going. It needs no labels. It is fitted on every second calibration image, beginning with the first; the
    threshold is chosen on the others, whatever the `selection`, for which see `ChosenThreshold`. Whoever chooses anew keeps the
    model.

    It needs the logits of all classes, or a recording with their `leads`.
    """

    name: ClassVar[str] = "agreement"

    threshold: float | None = None
    scale: float | None = field(default=None, metadata=FITTED)
    model: tuple[float, ...] | None = field(default=None, metadata=FITTED)

    @property
    def grid(self) -> Tensor:
        return CONFIDENCE_THRESHOLDS

    def scores(self, recording: Recording) -> Tensor:
        """The probability that the answer is the final one, float64 [N, T]. Raises FitError before `fit`."""
        trace, final = self._learned()
        columns = [final(trace.advance(recording.evidence[:, t], t + 1)) for t in range(recording.timesteps)]
        return torch.stack(columns, 1)

    def watch(self) -> Watch:
        return _Finality(*self._learned(), self.exceeds)

    def choosing_part(self, calibration: Recording) -> Recording:
        return calibration if self.images == len(calibration) else second_half(calibration)

    def _learned(self) -> tuple[Trace, Finality]:
        if self.model is None or self.scale is None:
            raise unfitted("the model")
        return Trace(self.scale), Finality(self.model)

    def _fit(self, recording: Recording) -> Agreement:  # type: ignore[override]
        if self.model is not None:
            return self._choose_on(recording)
        learning, choosing = first_half(recording), second_half(recording)
        known: dict[str, Any] = {"scale": scale_by_nll(learning)}
        trace = Trace(known["scale"])
        features = [trace.advance(learning.evidence[:, t], t + 1) for t in range(recording.timesteps)]
        final = learning.predictions == learning.predictions[:, -1:]
        asked = slice(0, max(1, recording.timesteps - 1))  # nobody asks at T
        known["model"] = fit_finality(torch.stack(features, 1)[:, asked], final[:, asked])
        return dataclasses.replace(self, **known)._choose_on(choosing, learning)


class _Finality(Watch):
    """What the model says of the images of a batch."""

    def __init__(self, trace: Trace, final: Finality, exceeds: Callable[[Tensor, int], Tensor]):
        super().__init__()
        self._trace, self._final, self._exceeds = trace, final, exceeds

    def stops(self, evidence: Evidence, timestep: int, spikes: Tensor) -> Tensor:
        return self._exceeds(self._final(self._trace.advance(evidence, timestep)), timestep)

    def keep(self, mask: Tensor) -> None:
        self._trace.keep(mask)
