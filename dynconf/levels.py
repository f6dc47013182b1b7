"""Thresholds that change over time, in a family with one knob: the risk at which an image may leave.

At timestep t an image leaves if the chance that it is lost by leaving now (right after all timesteps, wrong now) is at most
lambda, the same lambda at every t. That chance is estimated on calibration images from the score s alone, by a logistic
regression on polynomials of a low degree d in the rank of s among all scores and in log t,

    logit P(lost | s, t) = sum_ij w_ij rank(s)^i (log t)^j,    i, j in 0..d,

and made to fall with s. (d + 1)^2 numbers are all that is learned, from the answers of every image at every timestep, so the
few images that are lost with good thresholds do not decide alone where these lie. As only the rank of a score counts, two
scores that order images and timesteps alike get the same exits.

Falling lambda gives nested candidates: a `level` is a row of the table of thresholds, the last of which stops nobody.
Which level to take is for a test on other images to say (`dynconf.choosing`, `dynconf.conditional`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynconf.sweep import refuse_nan

# Risks, from large to small, even in log-odds: fixed before any data are seen.
RISKS = torch.sigmoid(torch.linspace(4.0, -16.0, 601, dtype=torch.float64))
RIDGE = 1.0


def equal_risk_limits(scores: Tensor, lost: Tensor, grid: Tensor, degree: int) -> Tensor:
    """Candidate thresholds of every timestep but the last, float64 [J, T - 1]: one level per row, from fast to safe.

    Each column ascends, and its last entry is the last of the grid, which no score exceeds.

    Args:
        scores: of screening images, [N, T], larger is surer.
        lost: bool [N, T], whether an image that leaves then is lost.
        grid: thresholds to choose from, float64 [M], ascending.
        degree: d.

    Raises ValueError if a score is NaN.
    """
    cells = len(grid) + 1
    timesteps = scores.shape[1]
    if timesteps == 1:
        return grid.new_empty(len(RISKS) + 1, 0)
    # A score in cell u exceeds the thresholds before index u.
    cell = torch.searchsorted(grid, refuse_nan(scores)[:, :-1].contiguous())
    place = (torch.arange(timesteps - 1) * cells + cell).flatten()
    count, losses = (
        torch.bincount(place, weights, minlength=(timesteps - 1) * cells).reshape(-1, cells)
        for weights in (None, lost[:, :-1].flatten().double())
    )
    features = _features(count.sum(0).double(), timesteps, degree)
    seen = count > 0
    weights = _logistic(features[seen], losses[seen], count[seen].double())
    risk = torch.sigmoid(features @ weights).cummin(1).values  # [T - 1, cells], falls with the score
    # The first cell whose risk is small enough, but never that of scores which exceed no threshold.
    first = cells - torch.searchsorted(
        risk.flip(1).contiguous(), RISKS.expand(timesteps - 1, -1).contiguous(), right=True
    )
    limits = torch.cat([grid, grid[-1:]])[first.clamp_min(1) - 1].T
    return torch.cat([limits, grid[-1].expand(1, timesteps - 1)])


def constant_limits(grid: Tensor, timesteps: int) -> Tensor:
    """The table of levels with one threshold for all timesteps, [M, T - 1]: every threshold of the grid."""
    return grid[:, None].expand(-1, timesteps - 1)


def levels_exceeded(scores: Tensor, limits: Tensor) -> Tensor:
    """How many levels let each image leave at each timestep, int64 [N, T]: those with an index below this number.

    Zero at T. So an image leaves at the first timestep at which this number exceeds the index of the level: a score with one
    threshold for all timesteps. Raises ValueError if a score is NaN.

    Args:
        scores: [N, T].
        limits: [J, T - 1], a table of levels.
    """
    refuse_nan(scores)
    columns = [torch.searchsorted(limits[:, t].contiguous(), scores[:, t].contiguous()) for t in range(limits.shape[1])]
    return torch.stack([*columns, torch.zeros(len(scores), dtype=torch.long)], 1)


def _features(count: Tensor, timesteps: int, degree: int) -> Tensor:
    """Polynomials of the mean rank of each cell and of log t, both in [-1, 1]; [T - 1, cells, (d + 1)^2]."""
    rank = 2 * (count.cumsum(0) - count / 2) / count.sum() - 1
    time = 2 * torch.arange(1, timesteps, dtype=torch.float64).log() / math.log(timesteps) - 1
    powers = [rank[None, :] ** i * time[:, None] ** j for i in range(degree + 1) for j in range(degree + 1)]
    return torch.stack(powers, -1)


def _logistic(features: Tensor, losses: Tensor, count: Tensor) -> Tensor:
    """Weights of a ridge-penalised logistic regression of `losses` among `count`, by Newton's method with halved steps."""
    penalty = RIDGE * torch.eye(features.shape[1], dtype=torch.float64)

    def objective(weights: Tensor) -> float:
        logits = features @ weights
        likelihood = count * torch.nn.functional.softplus(logits) - losses * logits
        return float(likelihood.sum() + weights @ penalty @ weights / 2)

    weights = torch.zeros(features.shape[1], dtype=torch.float64)
    value = objective(weights)
    for _ in range(100):
        chance = torch.sigmoid(features @ weights)
        gradient = features.T @ (count * chance - losses) + penalty @ weights
        curvature = features.T @ (features * (count * chance * (1 - chance))[:, None]) + penalty
        step = torch.linalg.solve(curvature, gradient)
        share = 1.0
        while (new := objective(weights - share * step)) > value and share > 1e-6:
            share /= 2
        if new >= value - 1e-9 * (1 + abs(value)):
            break
        weights, value = weights - share * step, new
    return weights
