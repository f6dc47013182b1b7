"""Which smoothing scale makes the confidences of summed logits mean what they say."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dynconf.evidence import SCALES
from dynconf.recording import Recording

BINS = 15


def scale_by_nll(recording: Recording) -> float:
    """The smoothing scale with the smallest mean negative log-likelihood over all images and timesteps."""
    return _smallest(recording, lambda scale: float(recording.negative_log_likelihood(scale).mean()))


def scale_by_ece(recording: Recording) -> float:
    """The smoothing scale with the smallest expected calibration error, averaged over timesteps.

    Each timestep has its own 15 equal-width bins: the sum of logits is too sure late where it is not sure enough early, and
    the two must not cancel.
    """
    correct = recording.correct

    def error(scale: float) -> float:
        confidence = recording.evidence.confidence(scale)
        return sum(_calibration_error(confidence[:, t], correct[:, t]) for t in range(recording.timesteps))

    return _smallest(recording, error)


SCALE_RULES: dict[str, Callable[[Recording], float]] = {"nll": scale_by_nll, "ece": scale_by_ece}


def first_half(recording: Recording) -> Recording:
    """Every second image, beginning with the first: the half that scales are fitted on."""
    return recording.take(torch.arange(0, len(recording), 2))


def second_half(recording: Recording) -> Recording:
    """The images between those: the half that thresholds are chosen on."""
    return recording.take(torch.arange(1, len(recording), 2))


def _smallest(recording: Recording, loss: Callable[[float], float]) -> float:
    scales = recording.scales or SCALES
    losses = [loss(scale) for scale in scales]
    return scales[losses.index(min(losses))]


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Sum over bins of |number right - sum of confidences|, divided by the number of images."""
    position = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, position, correct.double() - confidence)
    return float(gaps.abs().sum()) / len(confidence)
