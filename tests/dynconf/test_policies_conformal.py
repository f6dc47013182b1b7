"""Conformal prediction sets: the definition, the number of images they need, and their coverage."""

from __future__ import annotations

import math

import pytest
import torch
from recordings import drift

from dynconf import Conformal
from dynconf.evidence import SCALES, LogitEvidence, StatisticEvidence, statistics_of
from dynconf.policies import FitError


def by_definition(calibration, evidence, timestep, scale, alpha):
    """Whether (1 + #{i: s_c <= s_i}) / (n + 1) > alpha for every class."""
    own = -torch.log_softmax(calibration.evidence.logits[:, timestep - 1].double() / scale, -1)
    own = own.gather(1, calibration.labels[:, None])[:, 0]
    scores = -torch.log_softmax(evidence.logits.double() / scale, -1)
    p = (1 + (scores[..., None] <= own).sum(-1)).double() / (len(own) + 1)
    return p > alpha


@pytest.mark.parametrize("images", [40, 79, 80, 200, 501])
def test_sets_are_those_of_the_p_values(images):
    calibration, test = drift(images=images, split="calibration"), drift(images=300, seed=1)
    policy = Conformal(target=0.9, scale=4.0).fit(calibration)
    assert policy.timesteps == (3, 6, 9, 12) and policy.images == images
    for timestep in policy.timesteps:
        evidence = test.evidence[:, timestep - 1]
        expected = by_definition(calibration, evidence, timestep, 4.0, 0.1 / 4 * (1 + 1e-12))
        assert torch.equal(policy.prediction_set(evidence, timestep), expected)
        assert torch.equal(policy.decide(evidence, timestep), expected.sum(-1) <= 1)
    assert not bool(policy.decide(test.evidence[:, 3], 4).any())


@pytest.mark.parametrize(
    ("target", "checkpoints", "needed"), [(0.95, 27, 539), (0.99, 27, 2699), (0.9, 4, 39), (0.8, 1, 4)]
)
def test_how_many_images_it_takes(target, checkpoints, needed):
    for images, missing in ((needed - 1, needed), (needed, None)):
        calibration = drift(images=images, timesteps=27, split="calibration")
        policy = Conformal(target=target, checkpoints=checkpoints, scale=2.0).fit(calibration)
        assert len(policy.timesteps) == checkpoints and policy.timesteps[-1] == 27
        assert policy.images_needed == missing
        if missing:
            assert policy.limits is None and bool(policy.prediction_set(calibration.evidence[:, 26], 27).all())
            assert policy.exit_steps(calibration).unique().tolist() == [27]


def test_coverage_over_a_thousand_splits():
    """The right class is in the set at the exit in `target` of the cases at least."""
    pool = drift(images=3000, timesteps=8, classes=6, seed=7, split="calibration")
    generator = torch.Generator().manual_seed(1)
    start = Conformal(target=0.8, max_set=3, checkpoints=2, scale=4.0)
    covered, early = [], []
    for _ in range(1000):
        order = torch.randperm(len(pool), generator=generator)
        policy = start.fit(pool.take(order[:60]))
        rest = order[60:160]
        test = pool.take(rest)
        exits = policy.exit_steps(test)
        sets = torch.stack([policy.prediction_set(test.evidence[:, t - 1], t) for t in policy.timesteps], 1)
        at = torch.tensor([policy.timesteps.index(t) for t in exits.tolist()])
        inside = sets[torch.arange(100), at].gather(1, test.labels[:, None])
        covered.append(inside.double().mean().item())
        early.append((exits < 8).double().mean().item())
    mean = sum(covered) / 1000
    assert 0.8 <= mean < 0.95
    assert sum(early) / 1000 > 0.05  # some do leave early, or this would say nothing


def test_the_scale_comes_from_the_other_half():
    calibration = drift(images=400, split="calibration")
    fitted = Conformal().fit(calibration)
    assert fitted.images == 200
    assert Conformal(scale=fitted.scale).fit(calibration.take(torch.arange(1, 400, 2))).limits == fitted.limits


def test_larger_sets_and_lower_targets_leave_earlier():
    calibration = drift(images=2000, split="calibration")
    means = [
        Conformal(target=target, max_set=size, scale=4.0)
        .fit(calibration)
        .exit_steps(calibration)
        .double()
        .mean()
        .item()
        for target, size in ((0.99, 1), (0.9, 1), (0.9, 2), (0.7, 2))
    ]
    assert means == sorted(means, reverse=True) and len(set(means)) == 4


@pytest.mark.parametrize("max_set", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("scale", [None, 4.0])
def test_statistics_give_exactly_what_logits_give(max_set, scale):
    """Scores, limits and exits are equal to the last bit; 6 classes, so that the largest sets hold them all."""
    pairs = [
        [
            drift(images=300, split="calibration", statistics=statistics),
            drift(images=400, seed=1, statistics=statistics),
        ]
        for statistics in (False, True)
    ]
    policy = Conformal(target=0.8, max_set=max_set, scale=scale)
    fitted = [policy.fit(calibration) for calibration, _ in pairs]
    assert fitted[0] == fitted[1]
    exits = [each.exit_steps(test) for each, (_, test) in zip(fitted, pairs, strict=True)]
    assert torch.equal(*exits)
    sizes = {t: fitted[0].prediction_set(pairs[0][1].evidence[:, t - 1], t).sum(-1) for t in (3, 6, 9, 12)}
    small = torch.stack([sizes[t] <= max_set for t in (3, 6, 9)] + [torch.ones(400, dtype=torch.bool)], 1)
    assert torch.equal(exits[0], 3 * (small.int().argmax(1) + 1))


def test_sets_of_equal_logits_are_counted_whole():
    """Where several classes have the same sum, all are in the set or none."""
    fitted = Conformal(target=0.8, max_set=2, checkpoints=2, scale=4.0).fit(drift(split="calibration"))
    logits = torch.tensor(
        [[60.0, 60.0, 60.0, 0.0, 0.0, 0.0], [60.0, 60.0, 0.0, 0.0, 0.0, 0.0], [60.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    )
    for evidence in (LogitEvidence(logits), StatisticEvidence(statistics_of(logits, SCALES), SCALES, 6)):
        assert fitted.decide(evidence, 6).tolist() == [False, True, True]


def test_where_statistics_are_not_enough():
    calibration, test = (drift(split=split, statistics=True, classes=8) for split in ("calibration", "test"))
    with pytest.raises(
        FitError, match=r'max_set=5 needs the logits of all classes.*keep="logits", or take max_set below 5'
    ):
        Conformal(max_set=5).fit(calibration)
    fitted = Conformal(max_set=5).fit(drift(split="calibration", classes=8))
    with pytest.raises(FitError, match="max_set=5 needs the logits of all classes"):
        fitted.exit_steps(test)
    with pytest.raises(FitError, match="needs the logits of all classes"):
        Conformal().fit(calibration).prediction_set(test.evidence[:, 5], 6)
    with pytest.raises(KeyError, match="scale 5 was not recorded"):
        Conformal(scale=5.0).fit(calibration)


def test_fewer_timesteps_than_checkpoints():
    fitted = Conformal(scale=2.0).fit(drift(timesteps=2, split="calibration"))
    assert fitted.timesteps == (1, 2) and len(fitted.limits) == 2
    assert all(math.isfinite(limit) for limit in fitted.limits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.0}, "target must lie between 0 and 1"),
        ({"max_set": 0}, "max_set and checkpoints must be at least 1"),
        ({"checkpoints": 0}, "max_set and checkpoints must be at least 1"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"selection": "pareto"}, "knows no selection 'pareto'; there is: conformal"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        Conformal(**options)
