"""How far confidences can be trusted: calibration errors, proper scores, reliability diagrams, risk against coverage.

Functions of a recording give one value per timestep, float64 [T]; with `exit_steps` (int64 [N], from 1 to T) they look at
every image at its own exit instead and give a scalar, float64 []. At exit, confidences of a threshold rule lie above the
threshold but for images at the cap, so its calibration error is that of a truncated range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.recording import Recording

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: mean confidence and accuracy, float64 [bins], and number of images, int64 [bins], of each bin.

    Empty bins have NaN in place of means.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor

    @property
    def calibration_error(self) -> float:
        """Mean over images of the distance between accuracy and confidence of their bin (Guo et al., ICML 2017)."""
        gap = (self.accuracy - self.confidence).abs().nan_to_num(0.0)
        return float((self.count * gap).sum() / self.count.sum())


def reliability(confidence: Tensor, correct: Tensor, *, bins: int = BINS, equal_mass: bool = False) -> Reliability:
    """The reliability diagram of N answers.

    Args:
        confidence: [N], in [0, 1].
        correct: bool [N].
        bins: of equal width, each open below and closed above (Guo et al., ICML 2017, arXiv:1706.04599).
        equal_mass: bins of equally many images instead, by rank (Nguyen and O'Connor, EMNLP 2015, arXiv:1508.05154). Equal
            confidences share a bin, so the order of images does not matter.

    Raises:
        ValueError: no answers, no bins, or confidences outside [0, 1].
    """
    confidence = confidence.double().contiguous()
    if bins < 1:
        raise ValueError(f"there must be at least one bin, got {bins}")
    if not len(confidence):
        raise ValueError("there are no answers")
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise ValueError("confidences must be in [0, 1]")
    if equal_mass:
        _, group, size = torch.unique(confidence, return_inverse=True, return_counts=True)
        doubled_middle_rank = 2 * size.cumsum(0) - size - 1  # doubled, so that it is whole
        position = doubled_middle_rank[group] * bins // (2 * len(confidence))
    else:
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        position = torch.bucketize(confidence, edges) - 1
    position = position.clamp(0, bins - 1)
    count = torch.bincount(position, minlength=bins)
    return Reliability(
        torch.bincount(position, confidence, minlength=bins) / count,
        torch.bincount(position, correct.double(), minlength=bins) / count,
        count,
    )


def reliability_diagrams(
    recording: Recording,
    scale: float,
    exit_steps: Tensor | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> tuple[Reliability, ...]:
    """One diagram per timestep, or with `exit_steps` a single one; confidences are softmax(sum / scale).

    Raises KeyError if the recording holds statistics and not this scale.
    """
    confidence = _observed(recording.evidence.confidence(scale), exit_steps)
    correct = _observed(recording.correct, exit_steps)
    return tuple(
        reliability(confidence[:, t], correct[:, t], bins=bins, equal_mass=equal_mass)
        for t in range(confidence.shape[1])
    )


def expected_calibration_error(
    recording: Recording,
    scale: float,
    exit_steps: Tensor | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> Tensor:
    """Expected calibration error, in [0, 1]; with `equal_mass` the adaptive one. See `reliability` for bins and sources."""
    diagrams = reliability_diagrams(recording, scale, exit_steps, bins=bins, equal_mass=equal_mass)
    errors = torch.tensor([diagram.calibration_error for diagram in diagrams], dtype=torch.float64)
    return errors if exit_steps is None else errors[0]


def negative_log_likelihood(recording: Recording, scale: float, exit_steps: Tensor | None = None) -> Tensor:
    """Mean -log softmax(sum / scale) of the true class, in nats. Raises KeyError for a scale that was not recorded."""
    return _mean(recording.negative_log_likelihood(scale), exit_steps)


def brier_score(recording: Recording, scale: float, exit_steps: Tensor | None = None) -> Tensor:
    """Mean squared distance of softmax(sum / scale) from the true class, summed over classes: in [0, 2] (Brier 1950).

    The sum of squared probabilities is exp(log_sum_exp(scale / 2) - 2 log_sum_exp(scale)), so a recording of statistics gives
    it if both scales were recorded. Raises KeyError that says so if not.
    """
    evidence = recording.evidence
    missing = [needed for needed in (scale, scale / 2) if recording.scales and needed not in recording.scales]
    if missing:
        raise KeyError(
            f"the Brier score at scale {scale:g} needs the recorded scales {scale:g} and {scale / 2:g}; "
            f"recorded: {', '.join(f'{known:g}' for known in recording.scales)}"
        )
    squares = torch.exp(evidence.log_sum_exp(scale / 2) - 2 * evidence.log_sum_exp(scale))
    true = torch.exp(-recording.negative_log_likelihood(scale))
    return _mean(squares - 2 * true + 1, exit_steps)


@dataclass(frozen=True)
class RiskCoverage:
    """Share of wrong answers among the surest ones: `risk[i]` at `coverage[i]` = (i + 1) / N; float64 [N]."""

    coverage: Tensor
    risk: Tensor

    @property
    def area(self) -> float:
        """AURC, the mean risk over all coverages; smaller is better."""
        return float(self.risk.mean())


def risk_coverage(score: Tensor, correct: Tensor) -> RiskCoverage:
    """Selective classification by a score (Geifman and El-Yaniv, NIPS 2017, arXiv:1705.08500).

    Only the order of the scores matters. Equal scores count as if in random order, in expectation.

    Args:
        score: [N], larger is surer.
        correct: bool [N].

    Raises:
        ValueError: there are no answers.
    """
    if not len(score):
        raise ValueError("there are no answers")
    values, group, size = torch.unique(score, return_inverse=True, return_counts=True)
    wrong = torch.bincount(group, (~correct).double(), minlength=len(values)) / size
    errors = wrong.flip(0).repeat_interleave(size.flip(0)).cumsum(0)
    answered = torch.arange(1, len(score) + 1, dtype=torch.float64)
    return RiskCoverage(answered / len(score), errors / answered)


def area_under_risk_coverage(recording: Recording, scores: Tensor, exit_steps: Tensor | None = None) -> Tensor:
    """AURC of scores [N, T] (of any stopping rule, larger is surer); see `risk_coverage`."""
    seen, correct = _observed(scores, exit_steps), _observed(recording.correct, exit_steps)
    areas = [risk_coverage(seen[:, t], correct[:, t]).area for t in range(seen.shape[1])]
    result = torch.tensor(areas, dtype=torch.float64)
    return result if exit_steps is None else result[0]


def _observed(values: Tensor, exit_steps: Tensor | None) -> Tensor:
    """All columns of values [N, T], or for each image the one at its exit, [N, 1]."""
    return values if exit_steps is None else values.gather(1, exit_steps[:, None] - 1)


def _mean(values: Tensor, exit_steps: Tensor | None) -> Tensor:
    means = _observed(values, exit_steps).double().mean(0)
    return means if exit_steps is None else means[0]
