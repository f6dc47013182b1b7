"""Which smoothing scale makes the confidences of summed logits mean what they say."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dynconf.evidence import SCALES
from dynconf.metrics import reliability
from dynconf.recording import Recording


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
        return sum(reliability(confidence[:, t], correct[:, t]).calibration_error for t in range(recording.timesteps))

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
