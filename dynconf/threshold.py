"""Policies that compare a score with one threshold, and how that threshold is chosen on calibration images."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from dynconf.choosing import crc_choice, images_for_crc, images_for_ltt, ltt_choice, pareto_choice
from dynconf.cutoff import cutoff_limits, images_for_cutoff
from dynconf.evidence import Evidence
from dynconf.limits import Candidates
from dynconf.oracles import consistency
from dynconf.policy import FITTED, GIVEN, REMEMBERED, FitError, Policy, Promise, default, unfitted
from dynconf.recording import Recording
from dynconf.scaling import first_half, second_half
from dynconf.sweep import Sweep, sweep_thresholds

ChosenType = TypeVar("ChosenType", bound="ChosenThreshold")

# The grid is fixed before any data are seen: even in log-odds, so that it resolves confidences close to 1, and it ends
# with 1, which no confidence exceeds.
CONFIDENCE_THRESHOLDS = torch.cat(
    [torch.sigmoid(torch.linspace(-6.0, 30.0, 1000, dtype=torch.float64)), torch.ones(1, dtype=torch.float64)]
)

PARETO, LTT, CRC, CUTOFF, CONDITIONAL = "pareto", "ltt", "crc", "cutoff", "conditional-ltt"
SINGLE, PER_STEP = (PARETO, LTT, CRC), (CUTOFF, LTT, CONDITIONAL, CRC)
PROMISING = (LTT, CRC, CONDITIONAL)
EPSILON, CUTOFF_EPSILON, DELTA = 0.005, 0.01, 0.05
LOST = "share of images that are right after all timesteps but wrong at their exit"
LOST_BY_THEN = (
    "share of images that are right after all timesteps but wrong at their exit, "
    "among those that have left by timestep t, for every t at once"
)


class ThresholdPolicy(Policy):
    """A policy that compares a score with one threshold; its threshold can be re-chosen in every bootstrap resample."""

    @property
    @abstractmethod
    def thresholds(self) -> Tensor | None:
        """The ascending grid that the threshold is chosen from; None if the threshold is given."""

    def score(self, evidence: Evidence) -> Tensor:
        """Larger is surer; float, the shape of the evidence. For scores that look at the present sum of logits alone."""
        raise NotImplementedError(f"{self.name} looks at more than the present sum: use scores()")

    def scores(self, recording: Recording) -> Tensor:
        """The score of every image after every timestep, float [N, T].

        A score that remembers earlier timesteps overrides this and `watch`, and leaves `score` alone.
        """
        return self.score(recording.evidence)

    @abstractmethod
    def choose(self, sweep: Sweep) -> int:
        """Index of the chosen threshold."""

    def choosing_part(self, calibration: Recording) -> Recording:
        """Those calibration images that the fitted threshold was chosen on: all, unless something else took its share."""
        return calibration


@dataclass(frozen=True, kw_only=True)
class ChosenThreshold(ThresholdPolicy):
    """Stop when the score exceeds the threshold, strictly. A threshold that is not given is chosen from a fixed grid.

    `selection` says how; see `dynconf.choosing`:

    * `pareto`: the fastest before more than a share `tolerance` of the calibration images is lost; no promise.
    * `ltt`: Learn then Test; at most a share `epsilon` of all images is lost, with probability 1 - `delta`.
    * `crc`: conformal risk control; at most a share `epsilon` is lost in expectation.

    With `per_step` there is a threshold for every timestep, in `limits`; timesteps beyond those of the calibration recording
    stop nobody. It is chosen by

    * `cutoff`, the default: timestep by timestep, see `dynconf.cutoff`; no promise.
    * `ltt`, `crc`: on every second image, beginning with the first, a family of such thresholds with one knob is made, see
      `dynconf.levels`; on the others the knob is chosen as a single threshold would be, with the same promise.
    * `conditional-ltt`: as `ltt`, but at most a share `epsilon` is lost among those images that have left by t, for every t;
      see `dynconf.conditional`. It implies `per_step`.

    With fewer calibration images than the rule can conclude anything from, thresholds are the last of the grid, which no
    score exceeds: nothing stops early, and `images_needed` says how many it takes. `images` is the number of images that the
    thresholds were chosen on. A policy that is fitted already and is fitted again chooses its thresholds anew, on all
    images; the family stays.

    A subclass is a frozen dataclass that adds `threshold`, as a field or a property, and what its score needs. Its `_fit` ends
    with `_choose_on`; a `__post_init__` of its own ends with this one.
    """

    tolerance: float = 0.0
    selection: str = ""
    epsilon: float | None = None
    delta: float | None = None
    per_step: bool | None = None
    limits: tuple[float, ...] | None = field(default=None, metadata=FITTED)
    images: int | None = field(default=None, metadata=FITTED)
    images_needed: int | None = field(default=None, metadata=FITTED)
    candidates: Candidates | None = field(default=None, compare=False, repr=False, metadata=REMEMBERED)

    def __post_init__(self) -> None:
        self._complete_choice()

    @property
    @abstractmethod
    def threshold(self) -> float | None:
        """The one threshold of all timesteps; None before it is known, and with `per_step`."""

    @property
    @abstractmethod
    def grid(self) -> Tensor:
        """All thresholds there are, float64, ascending, fixed before any data are seen; nothing exceeds the last."""

    @property
    def thresholds(self) -> Tensor | None:
        fixed = self.per_step or self.selection == GIVEN or self.images_needed is not None
        return None if fixed else self.grid

    @property
    def ageless(self) -> bool:
        kind = type(self)
        usual = (ChosenThreshold.decide, ChosenThreshold.exceeds, Policy.watch)
        return (kind.decide, kind.exceeds, kind.watch) == usual and not self.per_step

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        return self.exceeds(self.score(evidence), timestep)

    def exceeds(self, scores: Tensor, timestep: int) -> Tensor:
        """Whether scores [B] after `timestep` are above the threshold in force then, strictly; bool [B].

        A score that remembers is compared in this way in its own `watch`. Raises FitError before `fit`.
        """
        if self.per_step:
            if self.limits is None:
                raise unfitted("the threshold of each timestep")
            return scores > (self.limits[timestep - 1] if timestep <= len(self.limits) else float(self.grid[-1]))
        if self.threshold is None:
            raise unfitted("the threshold")
        return scores > self.threshold

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

    def choosing_part(self, calibration: Recording) -> Recording:
        return calibration if self.images in (None, len(calibration)) else second_half(calibration)

    @property
    def promise(self) -> Promise | None:
        if self.selection not in (LTT, CONDITIONAL) or (self.limits if self.per_step else self.threshold) is None:
            return None
        assert self.epsilon is not None and self.delta is not None
        return Promise(self.epsilon, self.delta, LOST if self.selection == LTT else LOST_BY_THEN)

    def _complete_choice(self) -> None:
        """Fill in and check the options of the choice, so that one rule has one spelling; for `__post_init__`."""
        if self.selection == CONDITIONAL and self.per_step is None:
            object.__setattr__(self, "per_step", True)
        if not self.per_step:  # the default; it has one spelling
            object.__setattr__(self, "per_step", None)
        selections = PER_STEP if self.per_step else SINGLE
        self._check_thresholds()
        default(self, selection=GIVEN if self.threshold is not None else selections[0])
        if self.selection not in (selections if self.per_step else (GIVEN, *selections)):
            other = "" if self.per_step else f"; with per_step=true: {', '.join(PER_STEP)}"
            raise ValueError(
                f"{self.name} knows no selection {self.selection!r}; there is: {', '.join(selections)}{other}"
            )
        self._check_risks()
        if self.selection not in (GIVEN, PARETO):
            default(self, epsilon=CUTOFF_EPSILON if self.selection == CUTOFF else EPSILON)
        if self.selection in (LTT, CONDITIONAL):
            default(self, delta=DELTA)

    def _check_thresholds(self) -> None:
        if self.per_step and self.threshold is not None:
            raise ValueError("threshold is one for all timesteps and does not go with per_step")
        if self.per_step and self.tolerance:
            raise ValueError("tolerance belongs to selection=pareto; per_step has epsilon")
        if self.limits is not None and not self.per_step:
            raise ValueError("limits are no option: fit fills them in")

    def _check_risks(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        if self.tolerance and self.selection in PROMISING:
            raise ValueError(f"tolerance belongs to selection=pareto; {self.selection} has epsilon")
        if self.delta is not None and self.selection not in (LTT, CONDITIONAL):
            raise ValueError("delta belongs to selection=ltt")
        if self.epsilon is not None and self.selection in (GIVEN, PARETO):
            raise ValueError("epsilon belongs to selection=ltt or crc; pareto has tolerance")
        counted = self.images is not None or self.images_needed is not None
        if counted and self.selection in (GIVEN, PARETO):
            raise ValueError("images and images_needed are not options: fit fills them in")
        for name, share in (("epsilon", self.epsilon), ("delta", self.delta)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {share}")

    def _choose_on(self: ChosenType, part: Recording, screening: Recording | None = None) -> ChosenType:
        """This policy with its thresholds, chosen on `part`; everything else is known.

        `screening` are images that the family of thresholds of `per_step` may be made on; without them, `part` is divided.
        A policy that learned something else on images of its own passes those.
        """
        family = self.candidates
        if self.per_step and self.selection != CUTOFF and family is None and screening is None:
            screening, part = first_half(part), second_half(part)
        known: dict[str, Any] = {}
        if self.selection != PARETO:
            needed = self._images_it_takes()
            known = {"images": len(part), "images_needed": needed if len(part) < needed else None}
        if known.get("images_needed") is not None:
            nothing = float(self.grid[-1])
            closed = {"limits": (nothing,) * (part.timesteps - 1)} if self.per_step else self._settled(nothing, part)
            return dataclasses.replace(self, **known, **closed)  # type: ignore[type-var]
        scores = self.scores(part)
        if not self.per_step:
            sweep = sweep_thresholds(scores, part.correct, self.grid)
            known |= self._settled(float(self.grid[self.choose(sweep)]), part)
            return dataclasses.replace(self, **known)  # type: ignore[type-var]
        if self.selection != CUTOFF and family is None:
            assert self.epsilon is not None and screening is not None
            delta = self.delta if self.selection == CONDITIONAL else None
            family = Candidates.screened(self.scores(screening), screening.correct, self.grid, self.epsilon, delta)
        fitted = dataclasses.replace(self, candidates=family, **known)  # type: ignore[type-var]
        limits = fitted.choose_limits(scores, part.correct, consistency(part))
        return dataclasses.replace(fitted, limits=limits)  # type: ignore[type-var]

    def choose_limits(self, scores: Tensor, correct: Tensor, settled: Tensor) -> tuple[float, ...]:
        """The threshold of every timestep but the last, of a policy with `per_step` that has been fitted: its last stage.

        Args:
            scores: of the images that it is chosen on, [N, T].
            correct: whether the answers are right, bool [N, T].
            settled: int64 [N], see `dynconf.oracles.consistency`.

        Raises FitError for another number of timesteps than it was fitted with.
        """
        assert self.epsilon is not None
        if self.selection == CUTOFF:
            return cutoff_limits(scores, settled, self.grid, self.epsilon)
        if self.candidates is None:
            raise unfitted("the family of thresholds")
        fitted, given = self.candidates.limits.shape[1] + 1, scores.shape[1]
        if fitted != given:
            raise FitError(f"{self.name} has thresholds for {fitted} timesteps, not {given}")
        if self.selection == CONDITIONAL:
            assert self.delta is not None
            return self.candidates.by_sequence(scores, correct, self.epsilon, self.delta)
        return self.candidates.by_sweep(scores, correct, self.choose)

    def _images_it_takes(self) -> int:
        """The fewest images that the selection can conclude anything from."""
        assert self.epsilon is not None
        if self.selection == CUTOFF:
            return images_for_cutoff(self.epsilon)
        if self.selection == CRC:
            return images_for_crc(self.epsilon)
        assert self.delta is not None
        return images_for_ltt(self.epsilon, self.delta)

    def _settled(self, threshold: float, part: Recording) -> dict[str, Any]:
        """The fields that a chosen threshold goes to."""
        return {"threshold": threshold}
