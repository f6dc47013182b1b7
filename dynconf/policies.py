"""Stopping rules. One `decide` serves the replay of a recording and the running network."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from dynconf.evidence import SCALES, Evidence
from dynconf.recording import Recording
from dynconf.sweep import Sweep, sweep_thresholds

PolicyType = TypeVar("PolicyType", bound="Policy")

# The grid is fixed before any data are seen: even in log-odds, so that it resolves confidences close to 1, and it ends
# with 1, which no confidence exceeds.
CONFIDENCE_THRESHOLDS = torch.cat(
    [torch.sigmoid(torch.linspace(-6.0, 30.0, 1000, dtype=torch.float64)), torch.ones(1, dtype=torch.float64)]
)


GIVEN = "given"


class FitError(ValueError):
    """A policy must not, or cannot, be fitted on this recording."""


class Policy(ABC):
    """A stopping rule. Subclasses are frozen dataclasses; `fit` returns a new one with its parameters filled in."""

    name: ClassVar[str]
    selection: str
    """How the parameters come about: `given`, or the name of the rule that chooses them."""

    @abstractmethod
    def _fit(self: PolicyType, recording: Recording) -> PolicyType:
        """As `fit`, after the split has been checked."""

    @abstractmethod
    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        """Whether each image may stop after `timestep` (from 1): bool, the shape of the evidence."""

    def fit(self: PolicyType, recording: Recording) -> PolicyType:
        """Choose what is not given, on a calibration recording. Raises FitError for a test recording."""
        if recording.split == "test":
            raise FitError(f"{self.name} must not be fitted on the test split; pass the calibration recording")
        return self._fit(recording)

    def exit_steps(self, recording: Recording) -> Tensor:
        """The timestep at which each image stops (from 1, prelude not counted), T at the latest; int64 [N]."""
        exits = torch.full((len(recording),), recording.timesteps)
        open_ = torch.ones(len(recording), dtype=torch.bool)
        for timestep in range(1, recording.timesteps):
            stops = open_ & self.decide(recording.evidence[:, timestep - 1], timestep)
            exits[stops] = timestep
            open_ &= ~stops
        return exits

    def params(self) -> dict[str, Any]:
        """The parameters in force, as JSON."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.name != "selection"
        }


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


@dataclass(frozen=True)
class DynamicConfidence(ThresholdPolicy):
    """Stop when max_k softmax(sum of logits / scale) > threshold (strictly).

    Li, Jones, Furber, ICCV 2023, arXiv:2303.10276. What is None is fitted: the scale by the negative log-likelihood over
    all timesteps of the calibration recording; the threshold from the accuracy-latency Pareto front, as the fastest point
    before more than `tolerance` (a share) of the images are lost: right after all timesteps, wrong at their exit.
    """

    name: ClassVar[str] = "dynamic-confidence"

    scale: float | None = None
    threshold: float | None = None
    tolerance: float = 0.0
    selection: str = ""

    def __post_init__(self) -> None:
        if self.scale is not None and not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        _default_selection(self, GIVEN if self.threshold is not None else "pareto")

    @property
    def thresholds(self) -> Tensor | None:
        return None if self.selection == GIVEN else CONFIDENCE_THRESHOLDS

    def score(self, evidence: Evidence) -> Tensor:
        """The confidence, float64. Raises FitError before the scale is known."""
        if self.scale is None:
            raise FitError("the scale is not known yet: call fit(calibration recording) first")
        return evidence.confidence(self.scale)

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if self.threshold is None:
            raise FitError("the threshold is not known yet: call fit(calibration recording) first")
        return self.score(evidence) > self.threshold

    def choose(self, sweep: Sweep) -> int:
        return pareto_choice(sweep, self.tolerance)

    def _fit(self, recording: Recording) -> DynamicConfidence:
        scale = self.scale if self.scale is not None else scale_by_nll(recording)
        scaled = dataclasses.replace(self, scale=scale)
        if self.selection == GIVEN:
            return scaled
        if self.selection != "pareto":
            raise FitError(f"{self.name} knows no selection {self.selection!r}; there is: pareto")
        sweep = sweep_thresholds(scaled.score(recording.evidence), recording.correct, CONFIDENCE_THRESHOLDS)
        return dataclasses.replace(scaled, threshold=float(CONFIDENCE_THRESHOLDS[self.choose(sweep)]))


@dataclass(frozen=True)
class FixedTime(Policy):
    """The same number of timesteps for every image.

    Without `timesteps`, fit takes the shortest time whose accuracy on the calibration recording is not below that of all
    timesteps by more than `tolerance`.
    """

    name: ClassVar[str] = "fixed"

    timesteps: int | None = None
    tolerance: float = 0.0
    selection: str = ""

    def __post_init__(self) -> None:
        if self.timesteps is not None and self.timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, got {self.timesteps}")
        _default_selection(self, GIVEN if self.timesteps is not None else "no-loss")

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if self.timesteps is None:
            raise FitError("the time is not known yet: call fit(calibration recording) first")
        return torch.full(evidence.prediction.shape, timestep >= self.timesteps, device=evidence.prediction.device)

    def _fit(self, recording: Recording) -> FixedTime:
        if self.selection == GIVEN:
            return self
        accuracy = recording.correct.double().mean(0)
        enough = accuracy >= accuracy[-1] - self.tolerance
        return dataclasses.replace(self, timesteps=int(enough.int().argmax()) + 1)


def _default_selection(policy: Policy, selection: str) -> None:
    if not policy.selection:
        object.__setattr__(policy, "selection", selection)


def scale_by_nll(recording: Recording) -> float:
    """The smoothing scale with the smallest mean negative log-likelihood over all images and timesteps."""
    scales = recording.scales or SCALES
    losses = [float(recording.negative_log_likelihood(scale).mean()) for scale in scales]
    return scales[losses.index(min(losses))]


def pareto_choice(sweep: Sweep, tolerance: float) -> int:
    """The fastest point of the accuracy-latency front that is reached before images are lost.

    From the safest threshold (the last, which never stops) downwards, as long as no threshold passed loses more than a
    share of `tolerance` of the images. Taking the fastest threshold of the whole grid without loss of accuracy instead
    would pick one that is accurate by luck: far below the point where losses begin, a few images that flicker to the
    right answer can make up for them on few calibration images.
    """
    # Shares can differ in their last bits; a billionth of an image does not count.
    unsafe = torch.nonzero(sweep.lost > tolerance + 1e-12)
    first_safe = int(unsafe[-1]) + 1 if len(unsafe) else 0
    safe = slice(first_safe, None)
    fastest = sweep.timesteps[safe] <= sweep.timesteps[safe].min() + 1e-12
    accuracy = torch.where(fastest, sweep.accuracy[safe], -torch.inf)
    best = torch.nonzero(accuracy >= accuracy.max() - 1e-12)
    return first_safe + int(best[-1])
