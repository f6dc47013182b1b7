"""Stopping times that peek: what is the best that any rule could do?

Each returns the timestep (from 1) at which each image stops; int64 [N]. Dynamic Confidence and SEENN quote the first,
Wu et al. (arXiv:2301.09522) the second; the third needs no labels and is what a stopping rule can aim at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconf.recording import Recording


def any_time_correct(recording: Recording) -> Tensor:
    """The first timestep with the right answer, else T. Rewards flicker; an upper bound only."""
    correct = recording.correct
    first = correct.int().argmax(1) + 1
    return torch.where(correct.any(1), first, recording.timesteps)


def stable_correct(recording: Recording) -> Tensor:
    """The first timestep from which on the answer stays right, else T. Its accuracy is that of T."""
    first = _first_of_final_run(recording.correct)
    return torch.where(recording.correct[:, -1], first, recording.timesteps)


def consistency(recording: Recording) -> Tensor:
    """The first timestep from which on the answer is the one after T. Its accuracy is that of T."""
    predictions = recording.predictions
    return _first_of_final_run(predictions == predictions[:, -1:])


ORACLES = {"any_time_correct": any_time_correct, "stable_correct": stable_correct, "consistency": consistency}


def _first_of_final_run(holds: Tensor) -> Tensor:
    """1 + number of leading timesteps before the last run of True that reaches T."""
    unbroken = holds.flip(1).int().cumprod(1).sum(1)
    return (holds.shape[1] - unbroken + 1).clamp_max(holds.shape[1])
