"""Oracles, intervals, and what a policy is charged for."""

from __future__ import annotations

import math

import pytest
import torch
from recordings import drift, from_predictions

from dynconf import Conformal, DynamicConfidence, Entropy, FixedTime, Margin, Patience, RandomExit
from dynconf.intervals import drop_upper_bound, mcnemar, wilson
from dynconf.judging import (
    bootstrap_latency,
    bootstrap_mean,
    compare,
    compare_policies,
    outcome,
    shortest_equal_fixed,
    static_outcome,
)
from dynconf.oracles import any_time_correct, consistency, stable_correct
from dynconf.rechoosing import REFITS
from dynconf.scaling import second_half


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


# Selection noise, by fitting again and again


def drawn(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(0, count, (count,), generator=generator).tolist()


def interval(values: list[float]) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5, interpolated between order statistics."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.025), at(0.975)


def refitted(policy, calibration, images: list[int]):
    """The policy fitted again on drawn images; if its scale took every second image, on those of the others."""
    halved = getattr(policy, "images", None) not in (None, len(calibration))
    own = [image for image in images if image % 2] if halved else images
    return policy.fit(calibration.take(torch.tensor(sorted(own))))


POLICIES = [
    DynamicConfidence(),
    DynamicConfidence(selection="ltt", epsilon=0.05),
    Margin(per_step=True, epsilon=0.1),
    Patience(tolerance=0.03),
    Conformal(target=0.7),
    FixedTime(),
    DynamicConfidence(scale=6.0, threshold=0.7),
]


@pytest.mark.parametrize("policy", POLICIES[:-1], ids=lambda policy: f"{policy.name} {policy.selection}")
def test_the_interval_of_every_policy_has_selection_noise_in_it(policy):
    calibration, test = drift(images=200, split="calibration", prelude_steps=2), drift(seed=1, prelude_steps=2)
    fitted = policy.fit(calibration)
    halved = getattr(fitted, "images", None) == 100
    part = second_half(calibration) if halved else calibration
    generator = torch.Generator().manual_seed(4)
    variants = [fitted.fit(part.take(torch.tensor(sorted(drawn(len(part), generator))))) for _ in range(40)]
    means = []
    for variant in variants:
        exits = variant.exit_steps(test).tolist()
        images = drawn(len(test), generator)
        means.append(sum(exits[image] for image in images) / len(images) + 2)
    found = bootstrap_latency(fitted, part, test, resamples=40, seed=4)
    assert found == pytest.approx(interval(means), abs=1e-9)
    without = bootstrap_mean(fitted.exit_steps(test) + 2)
    assert found[1] - found[0] > without[1] - without[0]


def test_random_exit_has_the_selection_noise_of_its_reference():
    calibration, test = drift(images=60, split="calibration"), drift(seed=1)
    found = bootstrap_latency(RandomExit().fit(calibration), calibration, test, resamples=300)
    without = bootstrap_mean(RandomExit().fit(calibration).exit_steps(test), resamples=300)
    assert found[1] - found[0] > 1.5 * (without[1] - without[0])


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.name} {policy.selection}")
@pytest.mark.parametrize("against", [POLICIES[1], POLICIES[5]], ids=lambda policy: policy.name)
def test_the_paired_bootstrap_against_a_slow_one(policy, against):
    """Shared draws of both splits, independent of each other; each policy chooses anew on its own part of them."""
    calibration, test = (
        drift(images=160, split="calibration", prelude_steps=3),
        drift(images=150, seed=1, prelude_steps=3),
    )
    pair = [each.fit(calibration) for each in (policy, against)]
    found = compare_policies(*pair, calibration, test, resamples=30, seed=5)
    generator = torch.Generator().manual_seed(5)
    draws = [drawn(len(calibration), generator) for _ in range(30)]
    ratios, differences, accuracies = [], [], []
    for images in draws:
        on_test = drawn(len(test), generator)
        latency, right = [], []
        for each in pair:
            exits = refitted(each, calibration, images).exit_steps(test).tolist()
            latency.append(sum(exits[image] for image in on_test) / len(on_test) + 3)
            right.append(sum(bool(test.correct[image, exits[image] - 1]) for image in on_test) / len(on_test))
        ratios.append(latency[0] / latency[1])
        differences.append(latency[0] - latency[1])
        accuracies.append(right[0] - right[1])
    assert found.latency_ratio_ci95 == pytest.approx(interval(ratios), abs=1e-9)
    assert found.latency_difference_ci95 == pytest.approx(interval(differences), abs=1e-9)
    assert found.accuracy_difference_ci95 == pytest.approx(interval(accuracies), abs=1e-9)
    ours, theirs = (outcome(test, each.exit_steps(test)) for each in pair)
    assert found.latency_ratio == ours.mean("latency") / theirs.mean("latency")
    assert found.latency_difference == ours.mean("latency") - theirs.mean("latency")
    assert found.accuracy_difference == ours.accuracy - theirs.accuracy


def test_a_policy_against_itself_differs_by_nothing():
    calibration, test = drift(images=100, split="calibration"), drift(images=100, seed=1)
    for policy in (DynamicConfidence().fit(calibration), RandomExit().fit(calibration), FixedTime().fit(calibration)):
        found = compare_policies(policy, policy, calibration, test, resamples=20)
        assert (found.latency_ratio, found.latency_ratio_ci95) == (1.0, (1.0, 1.0))
        assert (found.latency_difference_ci95, found.accuracy_difference_ci95) == ((0.0, 0.0), (0.0, 0.0))


def test_pairing_makes_the_interval_narrow():
    """Two scores that nearly agree: their difference is far surer than either latency."""
    calibration, test = drift(images=300, split="calibration"), drift(seed=1)
    confidence, entropy = (cls(tolerance=0.02).fit(calibration) for cls in (DynamicConfidence, Entropy))
    paired = compare_policies(confidence, entropy, calibration, test, resamples=200)
    alone = [bootstrap_latency(policy, calibration, test, resamples=200) for policy in (confidence, entropy)]
    width = paired.latency_difference_ci95[1] - paired.latency_difference_ci95[0]
    unpaired = math.hypot(*(high - low for low, high in alone))
    assert width < 0.8 * unpaired


def test_a_slow_policy_gets_fewer_resamples():
    calibration, test = drift(images=60, split="calibration"), drift(images=40, seed=1)
    slow, quick = (policy.fit(calibration) for policy in (Margin(per_step=True, epsilon=0.1), FixedTime()))
    few = compare_policies(slow, quick, calibration, test, resamples=REFITS)
    # The calibration draws come first, so with more of them the test draws are others; the number that counts is REFITS.
    many = compare_policies(slow, quick, calibration, test, resamples=REFITS + 50)
    assert few.latency_ratio == many.latency_ratio
    assert many.latency_ratio_ci95 == pytest.approx(few.latency_ratio_ci95, rel=0.2)


def test_the_interval_covers_the_expected_latency():
    """Over draws of both splits, the interval with selection noise holds the mean latency in about 95% of the cases.

    That of the test images alone, with the threshold taken as given, does not.
    """
    population = drift(images=20_000, timesteps=8, seed=9, split="calibration")
    generator = torch.Generator().manual_seed(2)
    means, with_noise, without = [], [], []
    for number in range(150):
        order = torch.randperm(len(population), generator=generator)
        calibration, test = population.take(order[:150]), population.take(order[150:350])
        policy = Margin(tolerance=0.03).fit(calibration)
        exits = policy.exit_steps(test)
        means.append(exits.double().mean().item())
        with_noise.append(bootstrap_latency(policy, calibration, test, resamples=200, seed=number))
        without.append(bootstrap_mean(exits, resamples=200, seed=number))
    truth = sum(means) / len(means)
    covered, naive = (sum(low <= truth <= high for low, high in found) / 150 for found in (with_noise, without))
    assert covered >= 0.9
    assert naive < covered - 0.15


@pytest.mark.parametrize("resamples", [1, 250, 260, 600])
def test_resamples_in_blocks_are_those_drawn_at_once(resamples):
    """However many are added up together, the same images are drawn."""
    values = torch.arange(37).double() ** 2
    generator = torch.Generator().manual_seed(4)
    drawn = torch.stack([torch.randint(0, 37, (37,), generator=generator) for _ in range(resamples)])
    expected = torch.quantile(values[drawn].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert bootstrap_mean(values, resamples=resamples, seed=4) == pytest.approx(expected, rel=1e-12)
