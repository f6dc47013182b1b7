"""A threshold for every timestep in the manner of Cutoff (Wu, Jin, Yu, Yi, Huang, arXiv:2301.09522)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynconf.sweep import refuse_nan


def cutoff_limits(scores: Tensor, settled: Tensor, grid: Tensor, epsilon: float) -> tuple[float, ...]:
    """For each timestep but the last the lowest threshold above which few images have yet to reach their final answer.

    The threshold at t is the lowest of the grid before the first, from the largest downwards, with
    (failing + 1) / (above + 1) > epsilon: `above` counts the images whose score exceeds it, `failing` those of them whose
    answer changes after t. One image more is counted against every threshold, so a timestep at which too few images have a
    large score stops nobody: its threshold is the last of the grid. No promise.

    Args:
        scores: of calibration images, [N, T].
        settled: int64 [N], the timestep from which on the answer of each image is its last, see `dynconf.oracles.consistency`.
        grid: thresholds, float64 [M], ascending; no score exceeds the last.
        epsilon: tolerated share.

    Raises ValueError if a score is NaN.
    """
    timesteps = refuse_nan(scores).shape[1]
    return tuple(float(grid[_cutoff(scores[:, t - 1], settled <= t, grid, epsilon)]) for t in range(1, timesteps))


def images_for_cutoff(epsilon: float) -> int:
    """With fewer images no timestep can stop anybody: the smallest n with 1 / (n + 1) <= epsilon."""
    return math.ceil(1 / epsilon - 1 - 1e-9)


def _cutoff(scores: Tensor, settled: Tensor, grid: Tensor, epsilon: float) -> int:
    """Index of the lowest threshold before the first that fails, from the largest with enough images above it."""
    position = torch.searchsorted(grid, scores.contiguous())  # the score exceeds the thresholds before this index
    above, failing = (
        torch.bincount(position[mask], minlength=len(grid) + 1).flip(0).cumsum(0).flip(0)[1:].double()
        for mask in (torch.ones_like(settled), ~settled)
    )
    enough = 1 / (above + 1) <= epsilon + 1e-12
    passes = (failing + 1) / (above + 1) <= epsilon + 1e-12
    failed = torch.nonzero(enough & ~passes)
    lowest = int(failed[-1]) + 1 if len(failed) else 0
    return lowest if bool(passes[lowest]) else len(grid) - 1
