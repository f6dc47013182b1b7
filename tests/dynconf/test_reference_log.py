"""The log that the authors of Dynamic Confidence published, as far as it is known here, put through our own accounting.

Li, Jones, Furber, ICCV 2023; released code, CIFAR-10, ResNet-18, threshold 0.6, scale 30, T = 27, 10,000 images. Known are
some rows of its table (static accuracy; mean timesteps when stopped by the rule or by a cap) and the shares of the images
that left at a time, to 0.1%.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from recordings import from_logits
from scipy.optimize import Bounds, LinearConstraint, milp

from dynconf import DynamicConfidence
from dynconf.curves import average_earliest_timestep
from dynconf.judging import outcome

IMAGES, CAP = 10_000, 27
STATIC = {
    1: 0.7876,
    2: 0.8428,
    4: 0.8889,
    7: 0.9168,
    8: 0.9217,
    10: 0.9279,
    12: 0.9318,
    16: 0.9376,
    20: 0.9401,
    23: 0.9422,
    27: 0.9427,
}
MEAN_STEPS = {
    1: 1.000,
    2: 2.000,
    4: 4.000,
    7: 7.000,
    8: 7.999,
    10: 9.653,
    12: 10.306,
    16: 10.894,
    20: 11.204,
    23: 11.358,
    27: 11.510,
}
# (first, last timestep): share of the images
SHARES = {
    (1, 6): 0.0,
    (7, 7): 0.001,
    (8, 8): 0.038,
    (9, 9): 0.267,
    (10, 10): 0.300,
    (11, 11): 0.135,
    (12, 12): 0.063,
    (13, 16): 0.103,
    (17, 26): 0.060,
    (27, 27): 0.034,
}
STEPS = np.arange(1, CAP + 1)


@pytest.fixture(scope="module")
def histogram():
    """Images per exit timestep 1..27 that agree with every known number to its last digit; one solution of several."""
    rows, low, high = [np.ones(CAP)], [IMAGES], [IMAGES]
    for (first, last), share in SHARES.items():
        rows.append((first <= STEPS) & (last >= STEPS))
        low.append((share - 0.0005) * IMAGES)
        high.append((share + 0.0005) * IMAGES)
    for cap, mean in MEAN_STEPS.items():
        rows.append(np.minimum(STEPS, cap))
        low.append((mean - 0.0005) * IMAGES)
        high.append((mean + 0.0005) * IMAGES)
    # median 10, 90th percentile 16, 95th 22
    for quantile, at in ((0.5, 10), (0.9, 16), (0.95, 22)):
        rows += [at - 1 >= STEPS, at >= STEPS]
        low += [0, quantile * IMAGES]
        high += [quantile * IMAGES - 1, IMAGES]
    found = milp(
        np.zeros(CAP),
        constraints=LinearConstraint(np.array(rows, dtype=float), low, high),
        integrality=np.ones(CAP),
        bounds=Bounds(0, IMAGES),
    )
    assert found.success, "the numbers of the log contradict one another"
    counts = torch.from_numpy(found.x).round().long()
    assert counts.sum() == IMAGES
    return counts


@pytest.fixture(scope="module")
def logits(histogram):
    """Summed logits [10000, 27, 10] that leave at these times: conf > 0.6 among 10 needs a gap of 30 ln 13.5 = 78.1."""
    exits = torch.repeat_interleave(torch.arange(1, CAP + 1), histogram)
    sums = torch.zeros(IMAGES, CAP, 10)
    sums[:, :, 3] = torch.where(torch.arange(1, CAP + 1) >= exits[:, None], 78.2, 78.0)
    return sums


def test_shares_sum_to_one_within_their_rounding():
    assert abs(sum(SHARES.values()) - 1) <= 0.0005 * len(SHARES)


def test_exit_law_follows_from_successive_means():
    """L(j+1) - L(j) = P(tau > j), and so L(b) - L(a) is the sum over a <= j < b; where the shares tell each of them."""
    told = {j: 1 - sum(share for (_, last), share in SHARES.items() if last <= j) for j in (*range(13), 16, 26)}
    checked = 0
    for before, after in itertools.pairwise(MEAN_STEPS):
        difference = MEAN_STEPS[after] - MEAN_STEPS[before]
        # where they do not: P(tau > j) falls with j, so the mean difference lies between the values at the ends
        assert told[min(j for j in told if j >= after - 1)] - 0.006 <= difference / (after - before)
        assert difference / (after - before) <= told[max(j for j in told if j <= before)] + 0.006
        if all(j in told for j in range(before, after)):
            terms = [told[j] for j in range(before, after)]
            # half a digit for each of the two means, and for every share that enters
            rounding = 0.001 + 0.0005 * sum(max(j - 6, 0) for j in range(before, after))
            assert difference == pytest.approx(sum(terms), abs=rounding)
            checked += 1
    assert checked == 6


def test_our_rule_leaves_at_these_times(logits, histogram):
    recording = from_logits(logits, torch.full((IMAGES,), 3))
    exits = DynamicConfidence(scale=30.0, threshold=0.6).exit_steps(recording)
    assert torch.equal(torch.bincount(exits, minlength=CAP + 1)[1:], histogram)
    times = outcome(recording, exits)
    assert times.mean("latency") == pytest.approx(11.510, abs=0.0005 + 1e-9)
    # the mean of the log to four digits, and its quantiles
    assert times.mean("latency") == pytest.approx(11.5097, abs=0.001)
    ordered = times.latency.sort().values
    assert [int(ordered[int(q * IMAGES) - 1]) for q in (0.5, 0.9, 0.95)] == [10, 16, 22]
    assert (times.timesteps == CAP).double().mean().item() == pytest.approx(0.034, abs=0.0005 + 1e-9)


@pytest.mark.parametrize(("cap", "mean"), MEAN_STEPS.items())
def test_mean_latency_at_every_known_cap(logits, cap, mean):
    recording = from_logits(logits[:, :cap], torch.full((IMAGES,), 3))
    exits = DynamicConfidence(scale=30.0, threshold=0.6).exit_steps(recording)
    assert outcome(recording, exits).mean("latency") == pytest.approx(mean, abs=0.0005 + 1e-9)


def test_means_at_consecutive_caps_give_the_law_back(logits, histogram):
    policy = DynamicConfidence(scale=30.0, threshold=0.6)
    means = [0.0]
    for cap in range(1, CAP + 1):
        recording = from_logits(logits[:, :cap], torch.full((IMAGES,), 3))
        means.append(outcome(recording, policy.exit_steps(recording)).mean("latency"))
    survival = torch.tensor(means, dtype=torch.float64).diff()  # P(tau > j), j = 0..26
    law = torch.cat([survival, torch.zeros(1, dtype=torch.float64)]).diff().neg()
    assert law.sum().item() == pytest.approx(1.0)
    assert torch.allclose(law, histogram.double() / IMAGES, atol=1e-9)


def test_average_earliest_timestep_by_bounds():
    """The log gives 3.0933, from all 27 static accuracies; eleven of them are known here.

    Filling the gaps with the neighbouring known accuracies, assumed to rise with t between them, bounds the number from both
    sides; the formula itself is checked by hand elsewhere.
    """
    known = sorted(STATIC)
    lower = [STATIC[max(t for t in known if t <= step)] for step in STEPS]
    upper = [STATIC[min(t for t in known if t >= step)] for step in STEPS]
    earliest, latest = average_earliest_timestep(upper), average_earliest_timestep(lower)
    assert earliest < 3.0933 < latest
    assert latest - earliest < 0.2
    middle = average_earliest_timestep(np.interp(STEPS, known, [STATIC[t] for t in known]).tolist())
    assert middle == pytest.approx(3.0933, abs=0.05)


def test_wait_before_the_first_exit_follows_from_scale_and_threshold():
    """Nobody leaves before the sum leads by 30 ln 13.5 = 78 over nine equal rivals; 150 among 100 classes, 219 among 1000."""
    for classes, gap in ((10, 78), (100, 150), (1000, 219)):
        policy = DynamicConfidence(scale=30.0, threshold=0.6)
        for lead, leaves in ((gap - 1, False), (gap + 1, True)):
            sums = torch.zeros(1, 2, classes)
            sums[..., 0] = lead
            recording = from_logits(sums, torch.zeros(1, dtype=torch.long))
            assert (policy.exit_steps(recording).item() == 1) is leaves
