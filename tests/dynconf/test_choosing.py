"""Choosing a threshold: what is allowed, hand-made cases, and whether the promises hold over simulated calibration draws."""

from __future__ import annotations

import pytest
import torch
from recordings import drift, from_logits

from dynconf import DynamicConfidence, Entropy, Margin
from dynconf.choosing import (
    crc_choice,
    images_for_crc,
    images_for_ltt,
    losers_allowed,
    ltt_choice,
    pareto_choice,
)
from dynconf.judging import bootstrap_latency, outcome
from dynconf.policies import CONFIDENCE_THRESHOLDS, FitError, scale_by_ece, scale_by_nll
from dynconf.scaling import first_half, second_half
from dynconf.sweep import Sweep, exit_table, sweep_thresholds

DRAWS = 1000
CALIBRATED = (DynamicConfidence, Entropy, Margin)


def sweep_of(lost, images=None, lost_safer=None):
    """A sweep of which only the losses matter; thresholds ascend, so the last is the safest."""
    lost = torch.as_tensor(lost, dtype=torch.float64)
    count = torch.arange(1.0, len(lost) + 1, dtype=torch.float64)
    return Sweep(count, count, 1 - lost, lost, images=images, lost_safer=lost_safer)


# What the binomial test allows


@pytest.mark.parametrize(
    ("epsilon", "allowed", "smallest"),
    [
        (0.001, (-1, -1, -1, 1, 4, 16), 2995),
        (0.0025, (-1, -1, 1, 6, 16, 49), 1197),
        (0.005, (-1, 1, 4, 16, 38, 106), 598),
        (0.01, (1, 4, 12, 38, 83, 223), 299),
        (0.02, (4, 12, 29, 83, 176, 463), 149),
    ],
)
def test_losers_allowed_at_five_percent(epsilon, allowed, smallest):
    sizes = (500, 1000, 2000, 5000, 10_000, 25_000)
    assert tuple(losers_allowed(size, epsilon, 0.05) for size in sizes) == allowed
    assert images_for_ltt(epsilon, 0.05) == smallest
    assert losers_allowed(smallest, epsilon, 0.05) == 0
    assert losers_allowed(smallest - 1, epsilon, 0.05) == -1


def test_images_for_risk_control():
    assert images_for_crc(0.005) == 199
    assert crc_choice(sweep_of([0.5, 0.0, 0.0]), 199, 0.005) == 1
    assert crc_choice(sweep_of([0.5, 0.0, 0.0]), 198, 0.005) == 2


# By hand


def test_ltt_keeps_the_threshold_before_the_first_failure():
    lost = [0.0, 4 / 1000, 0.0, 2 / 1000, 1 / 1000, 0.0]
    assert losers_allowed(1000, 0.005, 0.05) == 1
    assert ltt_choice(sweep_of(lost), 1000, 0.005, 0.05) == 4
    assert ltt_choice(sweep_of(lost), 2000, 0.005, 0.05) == 2  # of 2,000, 4 may be lost, 8 not
    assert ltt_choice(sweep_of([0.0] * 6), 1000, 0.005, 0.05) == 0
    assert ltt_choice(sweep_of([0.0] * 6), 500, 0.005, 0.05) == 5  # too few images for any conclusion


def test_the_last_threshold_needs_no_test():
    """Nothing exceeds it, so it loses nothing; and it must not be given up because there are few images."""
    assert ltt_choice(sweep_of([0.0]), 1, 0.005, 0.05) == 0
    assert crc_choice(sweep_of([0.0]), 1, 0.005) == 0


def test_risk_control_goes_by_the_largest_loss_so_far():
    lost = [0.0, 0.0, 0.02, 0.0, 0.0]
    assert crc_choice(sweep_of(lost), 999, 0.01) == 3
    assert crc_choice(sweep_of(lost), 999, 0.0210) == 0
    union = torch.tensor([0.03, 0.02, 0.02, 0.0, 0.0]).double()
    assert crc_choice(sweep_of(lost, lost_safer=union), 999, 0.0210) == 1


def test_sweep_counts_what_was_lost_at_any_safer_threshold():
    recording = drift(images=200, seed=3)
    scores = recording.evidence.confidence(4.0)
    grid = CONFIDENCE_THRESHOLDS[::29].contiguous()
    sweep = sweep_thresholds(scores, recording.correct, grid)
    right = recording.correct.gather(1, exit_table(scores, grid).long() - 1)
    lost = recording.correct[:, -1:] & ~right
    union = lost.flip(1).cummax(1).values.flip(1)
    assert torch.allclose(sweep.lost_safer, union.double().mean(0), atol=1e-12)
    assert bool((sweep.lost_safer >= sweep.lost - 1e-12).all()) and not torch.equal(sweep.lost_safer, sweep.lost)
    assert bool((sweep.lost_safer.diff() <= 0).all())
    assert sweep.images == 200


def test_nan_is_refused():
    scores = torch.tensor([[0.5, float("nan")], [0.1, 0.2]])
    right = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="NaN"):
        sweep_thresholds(scores, right, torch.tensor([0.4]))
    with pytest.raises(ValueError, match="NaN"):
        exit_table(scores, torch.tensor([0.4]))


# Promises, over draws of the calibration images


def naive(lost):
    """The smallest threshold without loss on the calibration images."""
    return int(torch.nonzero(lost <= 0)[0])


def binomial(images, risks, seed):
    """Shares lost, independent between thresholds, [DRAWS, M]: as unlike a monotone risk as can be."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.full((DRAWS, len(risks)), float(images), dtype=torch.float64)
    return torch.binomial(counts, risks.expand(DRAWS, -1), generator=generator) / images


def nested(images, risks, seed):
    """Shares lost where an image lost at a threshold is lost at all smaller ones, [DRAWS, M]."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(DRAWS, images, generator=generator, dtype=torch.float64)
    return torch.stack([(places < risk).double().mean(1) for risk in risks], 1)


@pytest.mark.parametrize("draw", [binomial, nested])
def test_ltt_on_a_coarse_grid_and_the_off_by_one(draw):
    risks = torch.tensor([0.20, 0.10, 0.04, 0.02, 0.0], dtype=torch.float64)
    chosen = [ltt_choice(sweep_of(lost), 800, 0.05, 0.10) for lost in draw(800, risks, seed=1)]
    violated = sum(float(risks[index] > 0.05) for index in chosen) / DRAWS
    assert violated <= 0.10
    # the first threshold that fails, instead of the one before it: breaks the promise every other time
    off_by_one = sum(float(risks[max(index - 1, 0)] > 0.05) for index in chosen) / DRAWS
    assert 0.4 < off_by_one < 0.65


@pytest.mark.parametrize("images", [100, 700, 3000])
@pytest.mark.parametrize("draw", [binomial, nested])
def test_ltt_on_a_fine_grid(draw, images):
    risks = torch.cat([torch.logspace(-0.5, -5, 120, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    draws = draw(images, risks, seed=2)
    chosen = torch.tensor([ltt_choice(sweep_of(lost), images, 0.005, 0.05) for lost in draws])
    assert float((risks[chosen] > 0.005).double().mean()) <= 0.05 + 0.015  # two standard errors of the simulation
    if images == 100:
        assert chosen.unique().tolist() == [120]
        by_luck = torch.tensor([naive(lost) for lost in draws])
        assert float((risks[by_luck] > 0.005).double().mean()) > 0.5


def test_ltt_on_early_exits():
    """The same on images that leave a noisy race early, where the risk is not monotone."""
    pool = drift(images=20_000, seed=9)
    scores, grid = pool.evidence.confidence(8.0), CONFIDENCE_THRESHOLDS[:700:10].contiguous()
    grid = torch.cat([grid, torch.ones(1, dtype=torch.float64)])
    right = pool.correct.gather(1, exit_table(scores, grid).long() - 1)
    lost = pool.correct[:, -1:] & ~right
    truth = lost.double().mean(0)
    generator = torch.Generator().manual_seed(4)
    static = pool.correct[:, -1].double()
    violations, luck = 0, 0
    for _ in range(DRAWS):
        drawn = torch.randint(0, len(pool), (500,), generator=generator)
        violations += float(truth[ltt_choice(sweep_of(lost[drawn].double().mean(0)), 500, 0.01, 0.1)]) > 0.01
        # no loss of accuracy on these images, where gains make up for losses
        drop = static[drawn].mean() - right[drawn].double().mean(0)
        luck += float(truth[naive(drop)]) > 0.01
    assert violations / DRAWS <= 0.1 + 0.02
    assert luck / DRAWS > 0.2


def test_risk_control_holds_in_expectation():
    risks = torch.cat([torch.logspace(-0.5, -5, 120, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    chosen = [crc_choice(sweep_of(lost), 400, 0.02) for lost in nested(400, risks, seed=3)]
    mean = float(risks[torch.tensor(chosen)].mean())
    assert 0.012 < mean <= 0.02


# The selections in the policies


@pytest.mark.parametrize("policy", CALIBRATED)
def test_ltt_in_a_policy(policy):
    calibration = drift(images=3000, split="calibration")
    fitted = policy(selection="ltt", epsilon=0.02).fit(calibration)
    assert (fitted.epsilon, fitted.delta, fitted.images_needed) == (0.02, 0.05, None)
    assert (fitted.promise.epsilon, fitted.promise.delta) == (0.02, 0.05)
    part = fitted.choosing_part(calibration)
    assert fitted.images == len(part) == (3000 if policy is Margin else 1500)
    result = outcome(part, fitted.exit_steps(part))
    losers = int((part.correct[:, -1] & ~result.correct).sum())
    assert 0 < losers <= losers_allowed(len(part), 0.02, 0.05)
    assert result.mean("timesteps") < 12
    assert policy(selection="pareto").fit(calibration).promise is None


def test_scale_and_threshold_see_different_images():
    calibration = drift(images=2000, split="calibration")
    fitted = DynamicConfidence(selection="ltt").fit(calibration)
    assert fitted.scale == scale_by_nll(first_half(calibration))
    again = DynamicConfidence(scale=fitted.scale, selection="ltt").fit(second_half(calibration))
    assert fitted.threshold == again.threshold and again.images == 1000
    assert torch.equal(first_half(calibration).labels, calibration.labels[::2])
    assert torch.equal(second_half(calibration).labels, calibration.labels[1::2])
    assert DynamicConfidence(scale=4.0, selection="ltt").fit(calibration).images == 2000


@pytest.mark.parametrize("policy", CALIBRATED)
@pytest.mark.parametrize(
    ("selection", "images", "needed"), [("ltt", 597, 598), ("crc", 198, 199), ("ltt", 1, 598), ("crc", 1, 199)]
)
def test_too_few_images_stop_nothing_and_say_how_many_it_takes(policy, selection, images, needed):
    given = {} if policy is Margin else {"scale": 4.0}
    calibration, test = drift(images=images, split="calibration"), drift(seed=1)
    fitted = policy(selection=selection, **given).fit(calibration)
    assert (fitted.images, fitted.images_needed) == (images, needed)
    assert fitted.params()["images_needed"] == needed
    assert fitted.exit_steps(test).unique().tolist() == [12]
    assert bootstrap_latency(fitted, fitted.choosing_part(calibration), test, resamples=20) == (12.0, 12.0)
    enough = policy(selection=selection, **given).fit(drift(images=needed, split="calibration"))
    assert "images_needed" not in enough.params()


@pytest.mark.parametrize("policy", CALIBRATED)
@pytest.mark.parametrize("selection", ["ltt", "crc"])
def test_bootstrap_chooses_anew_with_every_selection(policy, selection):
    calibration, test = drift(images=800, split="calibration"), drift(seed=1)
    fitted = policy(selection=selection, epsilon=0.03).fit(calibration)
    part = fitted.choosing_part(calibration)
    low, high = bootstrap_latency(fitted, part, test, resamples=200)
    assert low < outcome(test, fitted.exit_steps(test)).mean("timesteps") < high
    given = {} if policy is Margin else {"scale": fitted.scale}
    kept = bootstrap_latency(policy(threshold=fitted.threshold, **given), part, test, resamples=200)
    assert high - low > kept[1] - kept[0]


def test_tolerated_losses_make_it_faster():
    calibration = drift(images=4000, split="calibration")
    steps = [
        policy.fit(calibration).exit_steps(calibration).double().mean().item()
        for policy in (
            DynamicConfidence(scale=6.0),
            DynamicConfidence(scale=6.0, selection="ltt"),
            DynamicConfidence(scale=6.0, selection="crc"),
            DynamicConfidence(scale=6.0, selection="crc", epsilon=0.02),
        )
    ]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 4


def test_fixing_the_scale_by_calibration_error():
    """Labels drawn from softmax(sum / 4): a scale of 4 is calibrated."""
    logits = drift(images=4000, timesteps=3).evidence.logits[:, 2:].expand(-1, 2, -1).contiguous()
    chances = torch.softmax(logits[:, 0].double() / 4, -1)
    labels = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    calibration = from_logits(logits, labels, split="calibration")
    assert scale_by_ece(calibration) == 4.0 == scale_by_nll(calibration)
    assert DynamicConfidence(scale_by="ece").fit(calibration).scale == 4.0
    assert DynamicConfidence(scale_by="ece").params()["scale_by"] == "ece"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "luck"}, "knows no selection 'luck'; there is: pareto, ltt, crc"),
        ({"selection": "ltt", "tolerance": 0.1}, "tolerance belongs to selection=pareto"),
        ({"epsilon": 0.1}, "epsilon belongs to selection=ltt or crc"),
        ({"threshold": 0.5, "epsilon": 0.1}, "epsilon belongs to selection=ltt or crc"),
        ({"selection": "crc", "delta": 0.1}, "delta belongs to selection=ltt"),
        ({"selection": "ltt", "delta": 1.0}, "delta must lie between 0 and 1"),
        ({"selection": "ltt", "epsilon": 0.0}, "epsilon must lie between 0 and 1"),
        ({"images": 5}, "fit fills them in"),
    ],
)
@pytest.mark.parametrize("policy", CALIBRATED)
def test_impossible_choices(policy, options, message):
    with pytest.raises(ValueError, match=message):
        policy(**options)


def test_impossible_scale_rules():
    with pytest.raises(ValueError, match="scale_by must be one of nll, ece, not 'luck'"):
        DynamicConfidence(scale_by="luck")
    with pytest.raises(FitError, match="test split"):
        DynamicConfidence(selection="ltt").fit(drift(split="test"))


def test_one_rule_has_one_spelling():
    assert DynamicConfidence(scale_by="nll") == DynamicConfidence()
    assert DynamicConfidence(selection="ltt", epsilon=0.005, delta=0.05) == DynamicConfidence(selection="ltt")
    assert Margin(per_step=False) == Margin()
    assert DynamicConfidence().params() == {"tolerance": 0.0}


def test_pareto_is_what_it_was():
    calibration = drift(images=1500, split="calibration")
    fitted = DynamicConfidence().fit(calibration)
    sweep = sweep_thresholds(fitted.score(calibration.evidence), calibration.correct, CONFIDENCE_THRESHOLDS)
    assert fitted.threshold == float(CONFIDENCE_THRESHOLDS[pareto_choice(sweep, 0.0)])
    assert fitted.params() == {"scale": fitted.scale, "threshold": fitted.threshold, "tolerance": 0.0}
