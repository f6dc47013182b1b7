"""Curve summaries against values computed by hand, slow loops, and inequalities that always hold."""

from __future__ import annotations

import pytest
import torch
from recordings import drift, from_predictions

from dynconf import DynamicConfidence
from dynconf.curves import (
    Points,
    average_earliest_timestep,
    average_earliest_timestep_of,
    budget_area,
    budgets_of,
    gap_closed,
    gap_closed_by,
    iso_accuracy,
    iso_latency,
    pareto_front,
    static_points,
    threshold_points,
)
from dynconf.judging import outcome, static_outcome
from dynconf.oracles import any_time_correct, consistency, stable_correct

GRID = torch.linspace(0, 1, 1001, dtype=torch.float64)
# Accuracies 1/4, 1/2, 3/4, 3/4 over time; the last image flickers.
HAND = from_predictions([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]], [1, 1, 1, 1])


def points(*pairs):
    latency, accuracy = (torch.tensor(part, dtype=torch.float64) for part in zip(*pairs, strict=True))
    return Points(latency, accuracy, 10 * latency)


def test_average_earliest_timestep_by_hand():
    assert average_earliest_timestep([0.25, 0.5, 0.75, 0.75]) == 4 - 1.5
    assert average_earliest_timestep([0.25, 0.5, 0.75, 0.75], prelude_steps=3) == 7 - 1.5
    assert average_earliest_timestep([0.3]) == 1.0
    assert average_earliest_timestep_of(HAND) == 4 - (0.25 + 0.5 + 0.75)
    with pytest.raises(ValueError, match="T >= 1"):
        average_earliest_timestep([])


def test_average_earliest_timestep_is_the_papers_sum():
    """(1/N) [C_1 + sum_t t (C_t - C_{t-1}) + T (N - C_T)] with C_t right answers at t."""
    recording = drift()
    right = recording.correct.sum(0).tolist()
    count, last = len(recording), recording.timesteps
    total = right[0] + sum(t * (right[t - 1] - right[t - 2]) for t in range(2, last + 1)) + last * (count - right[-1])
    assert average_earliest_timestep_of(recording) == pytest.approx(total / count, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("prelude", [0, 5])
def test_average_earliest_timestep_lies_between_two_oracles(seed, prelude):
    recording = drift(images=100, timesteps=3 + seed, classes=2 + seed % 5, seed=seed, prelude_steps=prelude)
    low = outcome(recording, any_time_correct(recording)).mean("latency")
    high = outcome(recording, stable_correct(recording)).mean("latency")
    assert low - 1e-9 <= average_earliest_timestep_of(recording) <= high + 1e-9


def test_gap_closed():
    assert gap_closed(6.0, static=10.0, oracle=2.0) == 0.5
    assert gap_closed(12.0, static=10.0, oracle=2.0) == -0.25
    assert gap_closed(2.0, static=2.0, oracle=2.0) is None
    recording = drift(prelude_steps=7)
    assert gap_closed_by(recording, consistency(recording)) == pytest.approx(1.0)
    assert gap_closed_by(recording, torch.full((400,), 12)) == 0.0
    assert gap_closed_by(recording, torch.full((400,), 11), static_timesteps=11) == 0.0
    with pytest.raises(KeyError):
        gap_closed_by(recording, consistency(recording), oracle="delphi")


def test_static_points_are_the_static_outcomes():
    recording = drift(prelude_steps=3, spikes=torch.randint(0, 50, (400, 12)))
    static = static_points(recording)
    for t in range(1, 13):
        expected = static_outcome(recording, t)
        assert static.latency[t - 1] == expected.mean("latency") == t + 3
        assert static.accuracy[t - 1] == pytest.approx(expected.accuracy)
        assert static.synops[t - 1] == pytest.approx(expected.mean("synops"))


def test_threshold_points_are_the_outcomes_of_the_policy():
    recording = drift(prelude_steps=2, spikes=torch.randint(0, 50, (400, 12)))
    grid = GRID[::7]
    early = threshold_points(recording, recording.evidence.confidence(4.0), grid)
    assert len(early.latency) == len(grid) > 64
    for index in range(0, len(grid), 11):
        policy = DynamicConfidence(scale=4.0, threshold=float(grid[index]))
        expected = outcome(recording, policy.exit_steps(recording))
        assert early.latency[index].item() == pytest.approx(expected.mean("latency"))
        assert early.accuracy[index].item() == pytest.approx(expected.accuracy)
        assert early.synops[index].item() == pytest.approx(expected.mean("synops"))


def test_front_by_hand():
    cost = torch.tensor([3.0, 1.0, 2.0, 2.0, 1.0, 5.0, 4.0])
    accuracy = torch.tensor([0.8, 0.5, 0.4, 0.7, 0.5, 0.9, 0.8])
    assert pareto_front(cost, accuracy).tolist() == [1, 3, 0, 5]
    assert pareto_front(torch.tensor([2.0]), torch.tensor([0.1])).tolist() == [0]
    assert pareto_front(torch.zeros(0), torch.zeros(0)).tolist() == []


def test_front_is_what_nothing_beats():
    generator = torch.Generator().manual_seed(1)
    cost = torch.randint(0, 12, (80,), generator=generator).double()
    accuracy = torch.randint(0, 12, (80,), generator=generator).double()
    front = pareto_front(cost, accuracy).tolist()
    unbeaten = {
        (c, a)
        for c, a in zip(cost.tolist(), accuracy.tolist(), strict=True)
        if not bool(((cost <= c) & (accuracy >= a) & ((cost < c) | (accuracy > a))).any())
    }
    assert [(cost[i].item(), accuracy[i].item()) for i in front] == sorted(unbeaten)


def test_area_by_hand():
    curve = points((2, 0.5), (4, 0.9), (3, 0.4))  # the last is beaten
    # from 1 to 2 nothing, from 2 to 4 a half, from 4 to 6 nine tenths
    assert budget_area(curve, (1, 6)) == pytest.approx((0 + 2 * 0.5 + 2 * 0.9) / 5)
    assert budget_area(curve, (1, 6), unanswered=0.1) == pytest.approx((0.1 + 2 * 0.5 + 2 * 0.9) / 5)
    assert budget_area(curve, (2.5, 3.5)) == pytest.approx(0.5)
    assert budget_area(curve, (4, 4)) == 0.9
    assert budget_area(curve, (1, 1)) == 0.0
    with pytest.raises(ValueError, match="must rise"):
        budget_area(curve, (4, 1))


def test_area_of_a_static_curve_and_the_price_of_a_prelude():
    assert budget_area(static_points(HAND), budgets_of(HAND)) == pytest.approx((0.25 + 0.5 + 0.75) / 3)
    recording, late = drift(), drift(prelude_steps=12)
    best = recording.correct.double().mean(0).cummax(0).values
    assert budgets_of(late) == (1.0, 24.0)
    assert budget_area(static_points(recording), budgets_of(recording)) == pytest.approx(best[:-1].mean().item())
    assert budget_area(static_points(late), budgets_of(late)) == pytest.approx(best[:-1].sum().item() / 23)


def test_area_against_many_budgets():
    recording = drift(prelude_steps=1)
    early = threshold_points(recording, recording.evidence.confidence(4.0), GRID)
    budgets = 1 + 12 * (torch.arange(20_000) + 0.5) / 20_000
    paid = early.latency[None, :] <= budgets[:, None]
    best = torch.where(paid, early.accuracy, 0.0).amax(1)
    assert budget_area(early, budgets_of(recording)) == pytest.approx(best.mean().item(), abs=1e-4)


def test_iso_accuracy_by_hand():
    static = points((1, 0.5), (2, 0.895), (3, 0.88), (4, 0.896), (5, 0.9))
    early = points((1.5, 0.6), (2.5, 0.897), (1.8, 0.89), (3.0, 0.89))
    found = iso_accuracy(static, early)
    assert [round(point.accuracy, 6) for point in found] == [0.89, 0.895, 0.8975, 0.9]
    assert [point.static for point in found] == [2, 2, 5, 5]
    assert [point.early for point in found] == [1.8, 2.5, None, None]
    assert found[0].speed_up == pytest.approx(2 / 1.8)
    assert found[2].speed_up is None
    (all_wrong,) = iso_accuracy(points((1, 0.0)), early, drops=(0.0,))
    assert all_wrong.speed_up == pytest.approx(1 / 1.5)


def test_iso_latency_by_hand():
    # mean exit 2.25: accuracy 3/4 against 1/2 + 1/4 (3/4 - 1/2)
    found = iso_latency(HAND, torch.tensor([1, 2, 2, 4]))
    assert found.latency == 2.25
    assert found.static_accuracy == pytest.approx(0.5625)
    assert found.gain == pytest.approx(0.75 - 0.5625)


@pytest.mark.parametrize("steps", [1, 7, 12])
def test_fixed_time_gains_nothing_over_itself(steps):
    found = iso_latency(drift(prelude_steps=4), torch.full((400,), steps), resamples=50)
    assert found.latency == steps + 4
    assert found.gain == pytest.approx(0, abs=1e-12)
    assert found.interval == pytest.approx((0, 0), abs=1e-12)


def test_iso_latency_interval_covers_the_gain_and_is_paired():
    recording = drift()
    exits = DynamicConfidence(scale=4.0, threshold=0.9).exit_steps(recording)
    found = iso_latency(recording, exits)
    assert found.interval[0] < found.gain < found.interval[1]
    assert found == iso_latency(recording, exits)
    # unpaired, two accuracies near 0.9 on 400 images would differ by about +-0.04 by chance
    right = outcome(recording, exits).correct.double()
    fixed = recording.correct[:, round(found.latency) - 1].double()
    unpaired = 1.96 * ((right.var() + fixed.var()) / 400).sqrt().item()
    assert (found.interval[1] - found.interval[0]) / 2 < unpaired
