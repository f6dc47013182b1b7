"""All thresholds at once: what a score-and-threshold rule does on a recording, for a whole grid of thresholds.

An image leaves at the first timestep whose score exceeds the threshold, else at T. With c[n, t] the running maximum of
the scores, it leaves at t for thresholds in [c[n, t-1], c[n, t]); so one pass over the N x T scores gives the totals for
every threshold, in O(N T log M) time and O(N T + M) memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sweep:
    """Means over images for each threshold, float64 [M]; `thresholds` ascending. Timesteps exclude the prelude.

    `lost` is the share of images that are right at T but wrong at their exit: the accuracy drop cannot be larger.
    `lost_safer` is the share of those that are lost at this threshold or at any larger one, which only rises as thresholds
    fall. `images` is how many there are, as tests must know it. Both are None where nobody counted.
    """

    thresholds: Tensor
    timesteps: Tensor
    accuracy: Tensor
    lost: Tensor
    images: int | None = field(default=None, kw_only=True)
    lost_safer: Tensor | None = field(default=None, kw_only=True)


def sweep_thresholds(scores: Tensor, correct: Tensor, thresholds: Tensor) -> Sweep:
    """Mean timesteps, accuracy and share of lost images of every threshold.

    Args:
        scores: [N, T], larger is surer.
        correct: bool [N, T], whether the answer at each timestep is right.
        thresholds: [M], ascending.

    Raises ValueError if a score is NaN.
    """
    images, timesteps = refuse_nan(scores).shape
    count = len(thresholds)
    steps = torch.ones(count, dtype=torch.float64)
    right = torch.zeros(2, count, dtype=torch.float64)
    start = torch.zeros(images, dtype=torch.long)
    lost_below = torch.zeros(images, dtype=torch.long)  # lost at a threshold j or above it, for every j below this
    running = torch.full((images,), -torch.inf, dtype=scores.dtype)
    for t in range(timesteps):
        # Thresholds with index in [start, stop) stop here; those from stop on go further.
        if t < timesteps - 1:
            running = torch.maximum(running, scores[:, t])
            stop = torch.searchsorted(thresholds, running)
            still = torch.bincount(stop, minlength=count + 1)[:count].cumsum(0)
            steps += still.double() / images
        else:
            stop = torch.full((images,), count)
        weight = torch.stack([correct[:, t], correct[:, t] & correct[:, -1]]).double()
        change = torch.zeros(2, count + 1, dtype=torch.float64)
        change.index_add_(1, start, weight)
        change.index_add_(1, stop, -weight)
        right += change[:, :count].cumsum(1)
        lost_here = (stop > start) & correct[:, -1] & ~correct[:, t]
        lost_below = torch.where(lost_here, stop, lost_below)  # stops only rise
        start = stop
    accuracy, kept = right / images
    ever_lost = torch.bincount(lost_below, minlength=count + 1).flip(0).cumsum(0).flip(0)[1:].double() / images
    return Sweep(
        thresholds, steps, accuracy, correct[:, -1].double().mean() - kept, images=images, lost_safer=ever_lost
    )


def exit_table(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Exit timesteps of every image for every threshold, int16 [N, M]. Raises ValueError if a score is NaN."""
    peaks = refuse_nan(scores)[:, :-1].cummax(1).values
    position = torch.searchsorted(thresholds, peaks.contiguous())
    table = torch.zeros(len(scores), len(thresholds) + 1, dtype=torch.int16)
    table.scatter_add_(1, position, torch.ones_like(position, dtype=torch.int16))
    return table[:, :-1].cumsum(1, dtype=torch.int16).add_(1)


def refuse_nan(scores: Tensor) -> Tensor:
    """The scores. Raises ValueError if any is NaN: it exceeds no threshold, yet is sorted as if it exceeded them all."""
    if bool(torch.isnan(scores).any()):
        raise ValueError("some scores are NaN")
    return scores
