"""Oracles, intervals, and what a policy is charged for."""

from __future__ import annotations

import math

import pytest
import torch
from recordings import drift, from_predictions

from dynconf import DynamicConfidence, FixedTime
from dynconf.intervals import drop_upper_bound, mcnemar, wilson
from dynconf.judging import (
    bootstrap_latency,
    bootstrap_mean,
    compare,
    outcome,
    shortest_equal_fixed,
    static_outcome,
)
from dynconf.oracles import any_time_correct, consistency, stable_correct


def test_oracles_by_hand():
    recording = from_predictions(
        [
            [0, 1, 0, 1],  # flickers, right at the end
            [1, 1, 1, 1],  # right from the start
            [0, 0, 2, 2],  # wrong for ever
            [1, 1, 0, 0],  # right first, wrong at the end
            [0, 0, 1, 1],  # settles
        ],
        [1, 1, 1, 1, 1],
    )
    assert any_time_correct(recording).tolist() == [2, 1, 4, 1, 3]
    assert stable_correct(recording).tolist() == [4, 1, 4, 4, 3]
    assert consistency(recording).tolist() == [4, 1, 3, 3, 3]


def test_oracles_in_general():
    recording = drift()
    full = static_outcome(recording)
    peeks = outcome(recording, any_time_correct(recording))
    assert peeks.accuracy >= recording.correct.double().mean(0).max()
    for oracle in (stable_correct, consistency):
        result = outcome(recording, oracle(recording))
        assert torch.equal(result.correct, full.correct)
    assert torch.equal(outcome(recording, consistency(recording)).prediction, full.prediction)
    # mean(any-time) <= T - sum of accuracies before T <= mean(stable)
    estimate = recording.timesteps - recording.correct.double().mean(0)[:-1].sum().item()
    assert peeks.mean("timesteps") <= estimate <= outcome(recording, stable_correct(recording)).mean("timesteps")


def test_costs_stop_at_the_exit_and_include_the_prelude():
    spikes = torch.tensor([[10, 20, 30], [1, 2, 3]])
    recording = drift(images=2, timesteps=3, prelude_steps=4, spikes=spikes)
    result = outcome(recording, torch.tensor([2, 3]))
    assert result.latency.tolist() == [6, 7]
    assert result.spikes.tolist() == [10 + 20 + 20, 1 + 2 + 3 + 20]
    assert result.synops.tolist() == [3 * 30 + 40, 3 * 6 + 40]
    assert result.macs.tolist() == [100 + 60, 100 + 70]
    assert static_outcome(recording).latency.tolist() == [7, 7]


def test_comparison_counts_losers_and_winners():
    recording = from_predictions([[1, 0], [0, 1], [1, 1], [0, 0]], [1, 1, 1, 1])
    paired = compare(outcome(recording, torch.ones(4).long()), static_outcome(recording))
    assert (paired.losers, paired.winners, paired.mcnemar_p) == (1, 1, 1.0)


def test_shortest_equal_fixed_time():
    recording = from_predictions([[1, 0, 1], [0, 1, 1]], [1, 1])
    assert shortest_equal_fixed(recording, 0.5) == 1
    assert shortest_equal_fixed(recording, 0.51) == 3
    assert shortest_equal_fixed(recording, 1.0) == 3
    assert shortest_equal_fixed(from_predictions([[0, 0]], [1]), 0.5) is None


def test_wilson_at_the_published_accuracy():
    low, high = wilson(9427, 10000)
    assert (round(100 * low, 2), round(100 * high, 2)) == (93.80, 94.71)


@pytest.mark.parametrize(
    ("losers", "winners", "significant"),
    [(6, 0, True), (5, 0, False), (9, 1, True), (8, 2, False), (15, 5, True), (14, 6, False), (0, 0, False)],
)
def test_mcnemar_needs_what_the_notes_say(losers, winners, significant):
    """|b - c| of 6 in 6, 8 in 10, 10 in 20 discordant images."""
    assert (mcnemar(losers, winners) <= 0.05) is significant


def test_drop_bound_solves_the_score_equation_and_never_collapses():
    assert drop_upper_bound(0, 0, 10_000) == pytest.approx(1.6449**2 / (10_000 + 1.6449**2), rel=1e-3)
    # with many discordant images it approaches the normal bound: 0.13 points at b = c = 30, 0.23 at 100
    assert 100 * drop_upper_bound(30, 30, 10_000) == pytest.approx(0.128, abs=0.003)
    assert 100 * drop_upper_bound(100, 100, 10_000) == pytest.approx(0.233, abs=0.003)
    assert drop_upper_bound(10, 0, 1000) > 0.01
    assert drop_upper_bound(5, 5, 10) <= 1.0
    assert drop_upper_bound(4, 0, 4) == 1.0


def test_drop_bound_covers():
    """Over simulated test sets the bound lies below the true drop in about 5% of cases, not more than 7%."""
    generator = torch.Generator().manual_seed(0)
    lost, won, images, trials = 0.02, 0.01, 800, 2000
    draws = torch.rand(trials, images, generator=generator)
    losers, winners = (draws < lost).sum(1).tolist(), ((draws >= lost) & (draws < lost + won)).sum(1).tolist()
    pairs = {pair: drop_upper_bound(*pair, images) for pair in set(zip(losers, winners, strict=True))}
    missed = sum(pairs[pair] < lost - won for pair in zip(losers, winners, strict=True))
    assert 0.03 < missed / trials < 0.07


def test_bootstrap_rechooses_the_threshold():
    """With few calibration images the chosen threshold varies, and the interval must be wider than without that."""
    calibration, test = drift(images=60, split="calibration"), drift(images=400, seed=1)
    fitted = DynamicConfidence().fit(calibration)
    chosen_anew = bootstrap_latency(fitted, calibration, test, resamples=300)
    kept = bootstrap_latency(DynamicConfidence(fitted.scale, fitted.threshold), calibration, test, resamples=300)
    assert chosen_anew[1] - chosen_anew[0] > 1.5 * (kept[1] - kept[0])
    mean = outcome(test, fitted.exit_steps(test)).mean("latency")
    assert kept[0] < mean < kept[1]
    assert bootstrap_latency(fitted, calibration, test, resamples=300) == chosen_anew  # seeded


def test_bootstrap_includes_the_prelude():
    calibration, test = drift(split="calibration", prelude_steps=3), drift(seed=1, prelude_steps=3)
    policy = DynamicConfidence(scale=6.0).fit(calibration)
    low, high = bootstrap_latency(policy, calibration, test, resamples=50)
    without = bootstrap_latency(policy, calibration, drift(seed=1), resamples=50)
    assert (low, high) == pytest.approx((without[0] + 3, without[1] + 3))


def test_bootstrap_mean_is_as_wide_as_theory_says():
    values = torch.arange(400) % 2
    low, high = bootstrap_mean(values, resamples=4000)
    half = 1.96 * 0.5 / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.12)


def test_fixed_policy_is_judged_like_the_curve():
    recording = drift()
    result = outcome(recording, FixedTime(timesteps=5).exit_steps(recording))
    assert result.accuracy == recording.correct[:, 4].double().mean().item()
