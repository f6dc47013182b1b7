"""Summaries of accuracy against latency: static curves, fronts, areas, and what is gained at equal accuracy or latency.

Latencies are in timesteps and include the prelude. Whatever is chosen on the recording it is judged on (a front, the best
point within a budget) is biased upward; choose on calibration where the number is to be a claim.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.judging import outcome
from dynconf.oracles import ORACLES
from dynconf.recording import Recording
from dynconf.sweep import exit_table

DROPS = (0.01, 0.005, 0.0025, 0.0)


@dataclass(frozen=True)
class Points:
    """Operating points, float64 [M] each: mean latency, accuracy in [0, 1], mean SynOps per image (prelude included)."""

    latency: Tensor
    accuracy: Tensor
    synops: Tensor


def static_points(recording: Recording) -> Points:
    """The network stopped after each fixed number of timesteps: T points, by rising latency."""
    steps = torch.arange(1, recording.timesteps + 1, dtype=torch.float64)
    synops = recording.synops.double().cumsum(1) + recording.prelude_synops[:, None]
    return Points(steps + recording.info.prelude_steps, recording.correct.double().mean(0), synops.mean(0))


def threshold_points(recording: Recording, scores: Tensor, thresholds: Tensor) -> Points:
    """What a score does at every threshold: stop at the first timestep whose score exceeds it, else at T.

    Args:
        recording: N images, T timesteps.
        scores: [N, T], larger is surer.
        thresholds: [M], ascending.
    """
    table = exit_table(scores, thresholds.contiguous())
    correct = recording.correct.double()
    synops = recording.synops.double().cumsum(1) + recording.prelude_synops[:, None]
    parts = []
    for exits in table.split(64, dim=1):
        column = exits.long() - 1
        parts.append((exits.double().mean(0), correct.gather(1, column).mean(0), synops.gather(1, column).mean(0)))
    latency, accuracy, cost = (torch.cat(part) for part in zip(*parts, strict=True))
    return Points(latency + recording.info.prelude_steps, accuracy, cost)


def average_earliest_timestep(accuracy: Tensor | Sequence[float], prelude_steps: int = 0) -> float:
    """AET of a static accuracy column [T] in [0, 1]: T minus the accuracies before T, plus the prelude.

    The mean first right timestep if no right answer ever turned wrong again, misses charged T; so it lies between the means
    of `any_time_correct` and `stable_correct`. Li, Geller, Kim, Panda, NeurIPS 2023 (SEENN), arXiv:2304.01230.
    Raises ValueError for an empty column.
    """
    column = torch.as_tensor(accuracy, dtype=torch.float64)
    if column.dim() != 1 or not len(column):
        raise ValueError(f"expected the accuracies of T >= 1 timesteps, got shape {list(column.shape)}")
    return len(column) - float(column[:-1].sum()) + prelude_steps


def average_earliest_timestep_of(recording: Recording) -> float:
    """AET of a recording; see `average_earliest_timestep`."""
    return average_earliest_timestep(recording.correct.double().mean(0), recording.info.prelude_steps)


def gap_closed(latency: float, static: float, oracle: float) -> float | None:
    """Which share of the way from the static to the oracle's latency is covered; negative if slower, None without a gap."""
    return (static - latency) / (static - oracle) if static > oracle else None


def gap_closed_by(
    recording: Recording, exit_steps: Tensor, *, oracle: str = "consistency", static_timesteps: int | None = None
) -> float | None:
    """`gap_closed` of stopping image n after `exit_steps[n]` timesteps.

    Args:
        recording: N images.
        exit_steps: int64 [N], from 1 to T.
        oracle: a name of `dynconf.oracles.ORACLES`. Raises KeyError for another.
        static_timesteps: the fixed time to start from; T by default, which flatters: see `judging.shortest_equal_fixed`.
    """
    best = outcome(recording, ORACLES[oracle](recording)).mean("latency")
    fixed = (static_timesteps or recording.timesteps) + recording.info.prelude_steps
    return gap_closed(outcome(recording, exit_steps).mean("latency"), fixed, best)


def pareto_front(cost: Tensor, accuracy: Tensor) -> Tensor:
    """Indices of the points that no other point beats, by rising cost (latency or SynOps); int64 [at most M].

    A point is beaten by one that is at most as costly and at least as accurate, and better in one of the two. Of equal
    points the first is kept.
    """
    # The second key first: a stable sort by cost then leaves the most accurate of equally costly points in front.
    order = torch.argsort(accuracy, descending=True, stable=True)
    order = order[torch.argsort(cost[order], stable=True)]
    best = accuracy[order].cummax(0).values
    better = torch.ones(len(order), dtype=torch.bool)
    better[1:] = best[1:] > best[:-1]
    return order[better]


def budget_area(points: Points, budgets: tuple[float, float], *, unanswered: float = 0.0) -> float:
    """Mean accuracy over a budget of mean latency that is uniform (not logarithmic) between two bounds.

    Within each budget counts the most accurate point that it can pay, so the curve is a staircase and the integral exact.
    With `budgets = (1, prelude + T)` a prelude costs what it should: nothing is answered within it.

    Args:
        points: operating points in any order.
        budgets: from, to, in timesteps with prelude. Equal bounds give the accuracy at that budget.
        unanswered: accuracy within budgets that no point can pay: 0, or 1/K for guessing.

    Raises:
        ValueError: the bounds are in the wrong order.
    """
    low, high = budgets
    if low > high:
        raise ValueError(f"budgets must rise, got {low} to {high}")
    front = pareto_front(points.latency, points.accuracy)
    latency, accuracy = points.latency[front].tolist(), points.accuracy[front].tolist()

    def affordable(budget: float) -> float:
        return max([unanswered] + [right for cost, right in zip(latency, accuracy, strict=True) if cost <= budget])

    if low == high:
        return affordable(low)
    edges = [low, *(cost for cost in latency if low < cost < high), high]
    total = sum((right - left) * affordable(left) for left, right in itertools.pairwise(edges))
    return total / (high - low)


def budgets_of(recording: Recording) -> tuple[float, float]:
    """From 1 timestep to prelude + T, the bounds for `budget_area`."""
    return 1.0, float(recording.info.prelude_steps + recording.timesteps)


@dataclass(frozen=True)
class IsoAccuracy:
    """Latencies at which fixed time and early exit reach `accuracy`, None where they do not; `speed_up` is their ratio."""

    accuracy: float
    static: float | None
    early: float | None

    @property
    def speed_up(self) -> float | None:
        """Static over early latency; None if either is."""
        return None if self.static is None or self.early is None else self.static / self.early


def iso_accuracy(static: Points, early: Points, drops: Sequence[float] = DROPS) -> tuple[IsoAccuracy, ...]:
    """Speed-up at equal accuracy, at that of the last static point minus each of `drops`.

    Both sides get the cheapest of their points that is at least as accurate; for fixed time this is the first T, not
    interpolated. `static` must be in order of latency, as `static_points` gives it.
    """
    full = float(static.accuracy[-1])
    return tuple(
        IsoAccuracy(full - drop, _cheapest(static, full - drop), _cheapest(early, full - drop)) for drop in drops
    )


def _cheapest(points: Points, accuracy: float) -> float | None:
    # Shares of images can differ in their last bits.
    enough = points.latency[points.accuracy >= accuracy - 1e-12]
    return float(enough.min()) if len(enough) else None


@dataclass(frozen=True)
class IsoLatency:
    """Accuracy gained over fixed time of the same mean latency, with a 95% interval over images."""

    latency: float
    static_accuracy: float
    gain: float
    interval: tuple[float, float]


def iso_latency(recording: Recording, exit_steps: Tensor, *, resamples: int = 1000, seed: int = 0) -> IsoLatency:
    """Early exit against fixed time of equal mean latency, on the same images.

    Between two whole numbers of timesteps, fixed time gives the longer one to a random share of the images, so its accuracy
    is interpolated. Paired percentile bootstrap: every resample of images has its own mean latency and both accuracies. The
    threshold behind `exit_steps` is taken as given. The prelude is paid by both sides alike.

    Args:
        recording: N images.
        exit_steps: int64 [N], from 1 to T.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    correct = recording.correct.double()
    early = correct.gather(1, exit_steps[:, None] - 1)
    columns = torch.cat([exit_steps[:, None].double(), early, correct], dim=1)
    generator = torch.Generator().manual_seed(seed)
    count = len(recording)
    means = torch.stack(
        [columns[torch.randint(0, count, (count,), generator=generator)].mean(0) for _ in range(resamples)]
    )
    static, gain = _at_equal_latency(columns.mean(0, keepdim=True))
    low, high = torch.quantile(_at_equal_latency(means)[1], torch.tensor([0.025, 0.975]).double()).tolist()
    latency = float(columns[:, 0].mean()) + recording.info.prelude_steps
    return IsoLatency(latency, float(static), float(gain), (low, high))


def _at_equal_latency(means: Tensor) -> tuple[Tensor, Tensor]:
    """Static accuracy and gain of rows (mean exit, accuracy, static accuracies [T]); [R] each."""
    steps, accuracy, curve = means[:, 0], means[:, 1], means[:, 2:]
    # A mean of whole numbers may exceed T by a rounding error.
    position = (steps - 1).clamp(0, curve.shape[1] - 1)
    before = position.floor().long()
    after = (before + 1).clamp_max(curve.shape[1] - 1)
    share = position - before
    static = (1 - share) * curve.gather(1, before[:, None])[:, 0] + share * curve.gather(1, after[:, None])[:, 0]
    return static, accuracy - static
