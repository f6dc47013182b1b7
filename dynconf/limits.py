"""Candidate thresholds of every timestep, made on some calibration images, and the choice among them on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.choosing import lowest_within
from dynconf.conditional import Candidate, candidate_sequence, conditional_choice
from dynconf.levels import constant_limits, equal_risk_limits, levels_exceeded
from dynconf.sweep import Sweep, sweep_thresholds

DEGREES = (2, 3)
# Families are compared where they lose these shares of what is tolerated: the test will allow less than all of it.
SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Candidates:
    """What the screening images say; the images that the choice is made on must be others.

    Attributes:
        limits: float64 [J, T - 1], a level per row, from fast to safe; see `dynconf.levels`.
        sequence: for `conditional-ltt` what is tested, in this order; see `dynconf.conditional`.
    """

    limits: Tensor
    sequence: tuple[Candidate, ...] = ()

    @classmethod
    def screened(
        cls, scores: Tensor, correct: Tensor, grid: Tensor, epsilon: float, conditional_delta: float | None = None
    ) -> Candidates:
        """From the scores [N, T] and right answers, bool [N, T], of the screening images.

        There are three families, levels of equal risk from a polynomial of degree 2 or 3 and one threshold for all timesteps.
        The one with the earliest exits is taken, on average over a few shares of lost images up to `epsilon`. So where the
        polynomials do not fit the scores, or time does not matter, there is something to fall back on.

        Args:
            grid: thresholds to choose from, float64 [M], ascending; no score exceeds the last.
            epsilon: share of lost images that is going to be tolerated.
            conditional_delta: delta of the test, if it is to be chosen with `by_sequence`.
        """
        lost = lost_by_leaving(correct)
        tables = [equal_risk_limits(scores, lost, grid, degree) for degree in DEGREES]
        tables.append(constant_limits(grid, correct.shape[1]))
        families = [cls(limits) for limits in tables]
        best = min(families, key=lambda family: family._mean_exit(scores, correct, epsilon))
        if conditional_delta is None:
            return best
        levels, count = levels_exceeded(scores, best.limits), len(best.limits)
        return cls(best.limits, tuple(candidate_sequence(levels, lost, count, epsilon, conditional_delta)))

    def _mean_exit(self, scores: Tensor, correct: Tensor, epsilon: float) -> float:
        sweep = self._sweep(scores, correct)
        return sum(float(sweep.timesteps[lowest_within(sweep, share * epsilon)]) for share in SHARES)

    def _sweep(self, scores: Tensor, correct: Tensor) -> Sweep:
        levels = levels_exceeded(scores, self.limits).double()
        return sweep_thresholds(levels, correct, torch.arange(len(self.limits), dtype=torch.float64))

    def by_sweep(self, scores: Tensor, correct: Tensor, choose: Callable[[Sweep], int]) -> tuple[float, ...]:
        """The limits of the level that is chosen from the sweep over all of them, on images with these scores [N, T].

        In the sweep the levels 0, ..., J - 1 are the thresholds.
        """
        return tuple(self.limits[choose(self._sweep(scores, correct))].tolist())

    def by_sequence(self, scores: Tensor, correct: Tensor, epsilon: float, delta: float) -> tuple[float, ...]:
        """The limits of the candidate that the sequence of conditional tests reaches, on images with these scores [N, T]."""
        levels, lost, count = levels_exceeded(scores, self.limits), lost_by_leaving(correct), len(self.limits)
        chosen = conditional_choice(levels, lost, count, self.sequence, epsilon, delta)
        nothing = self.limits[-1]
        if chosen is None:
            return tuple(nothing.tolist())
        open_ = torch.arange(1, correct.shape[1]) >= chosen.first
        return tuple(torch.where(open_, self.limits[chosen.level], nothing).tolist())


def lost_by_leaving(correct: Tensor) -> Tensor:
    """Whether an image that leaves at each timestep is lost, bool [N, T]: right at T and wrong then."""
    return correct[:, -1:] & ~correct
