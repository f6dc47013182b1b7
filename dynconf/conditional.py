"""Learn then Test of the share lost among the images that have left by t, for every t at once.

After Ringel, Cohen, Freedman, Elad, Romano, ICML 2024, arXiv:2402.00857: a rule that loses few of all images may still lose
many of those that leave first. With tau the exit of an image, what is bounded is

    R_t = P(right after all timesteps, wrong at its exit | tau <= t)    for every t < T with P(tau <= t) > 0.

At T it is no larger than at T - 1, as those that leave at T lose nothing by it.

Test of one candidate (a threshold for every timestep, fixed before the testing images are seen). Given the number n_t of
testing images with tau <= t, the number k_t of those lost is Bin(n_t, R_t), so p_t = P(Bin(n_t, epsilon) <= k_t | n_t) is a
p-value of "R_t > epsilon" whatever n_t turns out to be, and max_t p_t is one of "R_t > epsilon for some t", over those t at
which the candidate can have stopped anybody. The candidate passes if max_t p_t <= delta. As n_t = 0 gives p_t = 1, the first
timestep with a threshold must stop images enough: (1 - epsilon)^n_t <= delta at least.

Several candidates are tested one after the other, each at level delta, until one fails; the last that passed is taken. The
first candidate that does not keep the bound, if it is reached, passes with probability delta at most, so with probability
1 - delta no such candidate is taken. The order has to be fixed before the testing images are seen: it comes from the
screening images alone.

Candidates are levels of `dynconf.levels` whose thresholds before a first timestep are closed. The screening images say which
of them would pass, and which is fastest. Its first timestep is then moved from T - 1 backwards, as in the paper, and after
that ever faster levels follow. (In the paper the threshold of each t is the lowest that keeps the share lost by t within
epsilon on the screening images, so a test of the same bound on other images tends to fail soon.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.choosing import losers_allowed_among

# By how many standard deviations the counts of the candidate that the sequence starts with are made worse on the screening
# images, as they are going to differ on the testing images.
CAUTION = 1.0


@dataclass(frozen=True)
class Candidate:
    """The thresholds of a level (from 0, the fastest), closed before timestep `first` (from 1)."""

    level: int
    first: int


def candidate_sequence(levels: Tensor, lost: Tensor, count: int, epsilon: float, delta: float) -> list[Candidate]:
    """Which candidates to test, in this order; chosen on screening images. Empty if none is expected to pass.

    Args:
        levels: int64 [N, T] of the screening images, see `dynconf.levels.levels_exceeded`.
        lost: bool [N, T], whether an image that leaves then is lost.
        count: J, the number of levels.
        epsilon, delta: of the test.
    """
    images, timesteps = levels.shape
    allowed = losers_allowed_among(images, epsilon, delta)
    margins = (CAUTION, 0.0)
    passing = torch.ones(len(margins), count, dtype=torch.bool)
    first = torch.zeros(len(margins), count, dtype=torch.long)  # 0: none
    steps = torch.full((len(margins), count), float(timesteps), dtype=torch.float64)
    for start in range(timesteps - 1, 0, -1):
        halted, losers = halted_and_lost(levels, lost, start, count)
        mean = timesteps - halted.sum(0).double() / images
        for row, margin in enumerate(margins):
            passing[row] &= (_more(losers, margin) <= allowed[_fewer(halted, margin, images)]).all(0)
            first[row, passing[row]] = start
            steps[row, passing[row]] = mean[passing[row]]
        if not bool(passing.any()):
            break
    careful, bold = range(len(margins))
    if not bool(first[careful].any()):
        return []
    start_level = int(steps[careful].argmin())
    begin = [Candidate(start_level, t) for t in range(timesteps - 1, int(first[careful, start_level]) - 1, -1)]
    faster = torch.nonzero(steps[bold] < steps[careful, start_level])[:, 0].tolist()
    faster.sort(key=lambda level: (-float(steps[bold, level]), -level))
    return begin + [Candidate(level, int(first[bold, level])) for level in faster]


def conditional_choice(
    levels: Tensor, lost: Tensor, count: int, candidates: Sequence[Candidate], epsilon: float, delta: float
) -> Candidate | None:
    """The last candidate before the first that fails on the testing images; None if the first does.

    Arguments as those of `candidate_sequence`, of the testing images.
    """
    allowed = losers_allowed_among(len(levels), epsilon, delta)
    passes: dict[int, Tensor] = {}
    chosen = None
    for candidate in candidates:
        if candidate.first not in passes:
            halted, losers = halted_and_lost(levels, lost, candidate.first, count)
            passes[candidate.first] = (losers <= allowed[halted]).all(0)
        if not bool(passes[candidate.first][candidate.level]):
            return chosen
        chosen = candidate
    return chosen


def halted_and_lost(levels: Tensor, lost: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """How many images have left by t and how many of those are lost, for t = first, ..., T - 1 and every level.

    Two int64 [T - first, J], for thresholds that are closed before `first`. Arguments as those of `candidate_sequence`.
    """
    before = torch.zeros(len(levels), dtype=torch.long)
    halted, losers = [], []
    total = torch.zeros(count, dtype=torch.long)
    for t in range(first, levels.shape[1]):
        now = torch.maximum(before, levels[:, t - 1])  # images leave at t for levels in [before, now)
        halted.append(torch.bincount(now, minlength=count + 1).flip(0).cumsum(0).flip(0)[1:])
        change = torch.zeros(count + 1, dtype=torch.long)
        here = lost[:, t - 1].long()
        change.index_add_(0, before, here)
        change.index_add_(0, now, -here)
        total = total + change[:count].cumsum(0)
        losers.append(total)
        before = now
    return torch.stack(halted), torch.stack(losers)


def _fewer(halted: Tensor, margin: float, images: int) -> Tensor:
    counts = halted.double()
    return (counts - margin * torch.sqrt(counts * (1 - counts / images))).floor().clamp_min(0).long()


def _more(losers: Tensor, margin: float) -> Tensor:
    counts = losers.double()
    return torch.ceil(counts + margin * counts.sqrt())
