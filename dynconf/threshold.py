"""Policies that compare a score with one threshold, and how that threshold is chosen on calibration images."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from dynconf.choosing import crc_choice, images_for_crc, images_for_ltt, ltt_choice, pareto_choice
from dynconf.evidence import Evidence
from dynconf.policy import FITTED, GIVEN, Policy, Promise, default, unfitted
from dynconf.recording import Recording
from dynconf.scaling import SCALE_RULES, first_half, second_half
from dynconf.sweep import Sweep, sweep_thresholds

ChosenType = TypeVar("ChosenType", bound="ChosenThreshold")

# The grid is fixed before any data are seen: even in log-odds, so that it resolves confidences close to 1, and it ends
# with 1, which no confidence exceeds.
CONFIDENCE_THRESHOLDS = torch.cat(
    [torch.sigmoid(torch.linspace(-6.0, 30.0, 1000, dtype=torch.float64)), torch.ones(1, dtype=torch.float64)]
)

PARETO, LTT, CRC = "pareto", "ltt", "crc"
EPSILON, DELTA = 0.005, 0.05
LOST = "share of images that are right after all timesteps but wrong at their exit"


class ThresholdPolicy(Policy):
    """A policy that compares a score with one threshold; its threshold can be re-chosen in every bootstrap resample."""

    @property
    @abstractmethod
    def thresholds(self) -> Tensor | None:
        """The ascending grid that the threshold is chosen from; None if the threshold is given."""

    @abstractmethod
    def score(self, evidence: Evidence) -> Tensor:
        """Larger is surer; float, the shape of the evidence."""

    @abstractmethod
    def choose(self, sweep: Sweep) -> int:
        """Index of the chosen threshold."""

    def choosing_part(self, calibration: Recording) -> Recording:
        """Those calibration images that the fitted threshold was chosen on: all, unless the scale took its share."""
        return calibration


class ChosenThreshold(ThresholdPolicy):
    """Stop when the score exceeds the threshold, strictly. A threshold that is not given is chosen from a fixed grid.

    `selection` says how; see `dynconf.choosing`:

    * `pareto`: the fastest before more than a share `tolerance` of the calibration images is lost; no promise.
    * `ltt`: Learn then Test; at most a share `epsilon` of all images is lost, with probability 1 - `delta`.
    * `crc`: conformal risk control; at most a share `epsilon` is lost in expectation.

    With fewer calibration images than `ltt` or `crc` can conclude anything from, the threshold is the last of the grid,
    which no score exceeds: nothing stops early, and `images_needed` says how many it takes. `images` is the number of
    images that the threshold was chosen on.
    """

    threshold: float | None
    tolerance: float
    epsilon: float | None
    delta: float | None
    images: int | None
    images_needed: int | None

    @property
    @abstractmethod
    def grid(self) -> Tensor:
        """All thresholds there are, float64, ascending, fixed before any data are seen; nothing exceeds the last."""

    @property
    def thresholds(self) -> Tensor | None:
        return None if self.selection == GIVEN or self.images_needed is not None else self.grid

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if self.threshold is None:
            raise unfitted("the threshold")
        return self.score(evidence) > self.threshold

    def choose(self, sweep: Sweep) -> int:
        """Index of the chosen threshold. A sweep that does not say on how many images it is takes those of the fit."""
        if self.selection == PARETO:
            return pareto_choice(sweep, self.tolerance)
        images = sweep.images if sweep.images is not None else self.images
        if images is None:
            raise ValueError(f"selection={self.selection} must know on how many images the sweep is")
        assert self.epsilon is not None
        if self.selection == CRC:
            return crc_choice(sweep, images, self.epsilon)
        assert self.delta is not None
        return ltt_choice(sweep, images, self.epsilon, self.delta)

    @property
    def promise(self) -> Promise | None:
        if self.selection != LTT or self.threshold is None:
            return None
        assert self.epsilon is not None and self.delta is not None
        return Promise(self.epsilon, self.delta, LOST)

    def _complete_choice(self, selections: tuple[str, ...] = (PARETO, LTT, CRC)) -> None:
        """Fill in and check the options of the choice, so that one rule has one spelling; for `__post_init__`."""
        default(self, selection=GIVEN if self.threshold is not None else selections[0])
        if self.selection not in (GIVEN, *selections):
            raise ValueError(f"{self.name} knows no selection {self.selection!r}; there is: {', '.join(selections)}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        if self.tolerance and self.selection in (LTT, CRC):
            raise ValueError(f"tolerance belongs to selection=pareto; {self.selection} has epsilon")
        if self.delta is not None and self.selection != LTT:
            raise ValueError("delta belongs to selection=ltt")
        if self.epsilon is not None and self.selection in (GIVEN, PARETO):
            raise ValueError("epsilon belongs to selection=ltt or crc; pareto has tolerance")
        if self.selection in (LTT, CRC):
            default(self, epsilon=EPSILON)
        if self.selection == LTT:
            default(self, delta=DELTA)
        counted = self.images is not None or self.images_needed is not None
        if counted and self.selection in (GIVEN, PARETO):
            raise ValueError("images and images_needed are not options: fit fills them in")
        for name, share in (("epsilon", self.epsilon), ("delta", self.delta)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {share}")

    def _choose_on(self: ChosenType, part: Recording) -> ChosenType:
        """This policy with the threshold, chosen on these images; everything else is known."""
        known: dict[str, Any] = {}
        if self.selection in (LTT, CRC):
            assert self.epsilon is not None
            if self.selection == CRC:
                needed = images_for_crc(self.epsilon)
            else:
                assert self.delta is not None
                needed = images_for_ltt(self.epsilon, self.delta)
            known = {"images": len(part), "images_needed": None}
            if len(part) < needed:
                known |= {"images_needed": needed, "threshold": float(self.grid[-1])}
                return dataclasses.replace(self, **known)  # type: ignore[type-var]
        sweep = sweep_thresholds(self.score(part.evidence), part.correct, self.grid)
        threshold = float(self.grid[self.choose(sweep)])
        return dataclasses.replace(self, threshold=threshold, **known)  # type: ignore[type-var]


@dataclass(frozen=True)
class SmoothedThreshold(ChosenThreshold):
    """A threshold on a score of softmax(sum of logits / scale).

    A scale that is not given is fitted, by the negative log-likelihood over all timesteps of the calibration recording, or
    by the expected calibration error (`scale_by="ece"`). With `pareto`, scale and threshold see the same images, which
    promises nothing. `ltt` and `crc` hold for scores that were fixed before their images were seen: there the scale is
    fitted on every second image, beginning with the first, and the threshold chosen on the others.
    """

    scale: float | None = None
    threshold: float | None = None
    tolerance: float = 0.0
    selection: str = ""
    epsilon: float | None = None
    delta: float | None = None
    scale_by: str | None = None
    images: int | None = field(default=None, metadata=FITTED)
    images_needed: int | None = field(default=None, metadata=FITTED)

    def __post_init__(self) -> None:
        if self.scale is not None and not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.scale_by is not None and self.scale_by not in SCALE_RULES:
            raise ValueError(f"scale_by must be one of {', '.join(SCALE_RULES)}, not {self.scale_by!r}")
        if self.scale_by == "nll":  # the default; it has one spelling
            object.__setattr__(self, "scale_by", None)
        self._complete_choice()

    @property
    def grid(self) -> Tensor:
        return CONFIDENCE_THRESHOLDS

    def choosing_part(self, calibration: Recording) -> Recording:
        return calibration if self.images in (None, len(calibration)) else second_half(calibration)

    def _known_scale(self) -> float:
        if self.scale is None:
            raise unfitted("the scale")
        return self.scale

    def _fit(self: ChosenType, recording: Recording) -> ChosenType:
        assert isinstance(self, SmoothedThreshold)
        scaled, part = self, recording
        if self.scale is None:
            if self.selection in (LTT, CRC):
                recording, part = first_half(recording), second_half(recording)
            scaled = dataclasses.replace(self, scale=SCALE_RULES[self.scale_by or "nll"](recording))
        return scaled if self.selection == GIVEN else scaled._choose_on(part)
