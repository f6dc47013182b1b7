"""Entropy, margin, patience, chance: identities, hand-made cases, ties."""

from __future__ import annotations

import math

import pytest
import torch
from recordings import drift, from_logits, from_predictions

from dynconf import DynamicConfidence, Entropy, Margin, Patience, RandomExit
from dynconf.choosing import losers_allowed
from dynconf.evidence import LogitEvidence
from dynconf.judging import outcome, static_outcome
from dynconf.margin import MARGIN_THRESHOLDS
from dynconf.oracles import consistency
from dynconf.policies import CONFIDENCE_THRESHOLDS, FitError
from dynconf.sweep import sweep_thresholds

# Entropy and margin


@pytest.mark.parametrize(("scale", "threshold"), [(4.0, 0.5), (1.0, 0.9), (12.0, 0.1)])
def test_entropy_equals_a_literal_loop(scale, threshold):
    recording = drift(images=200)
    expected = []
    for image in recording.evidence.logits.double():
        for t, total in enumerate(image):
            p = torch.softmax(total / scale, 0)
            if 1 + float((p * p.log()).sum()) / math.log(6) > threshold or t == 11:
                expected.append(t + 1)
                break
    assert Entropy(scale=scale, threshold=threshold).exit_steps(recording).tolist() == expected


@pytest.mark.parametrize("statistics", [False, True])
def test_margin_equals_a_literal_loop(statistics):
    recording = drift(images=200)
    expected = []
    for image in recording.evidence.logits.tolist():
        for t, total in enumerate(image):
            first, second = sorted(total, reverse=True)[:2]
            if first - second > 5.5 or t == 11:
                expected.append(t + 1)
                break
    assert Margin(threshold=5.5).exit_steps(drift(images=200, statistics=statistics)).tolist() == expected


def test_with_two_classes_confidence_entropy_and_margin_are_one_rule():
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-3, 5, (500, 8), generator=generator)
    half = steps.cumsum(1).float()
    recording = from_logits(torch.stack([half, -half], -1), torch.zeros(500, dtype=torch.long))
    between = torch.arange(-1.0, 40.0, 2.0, dtype=torch.float64)  # margins are even
    p = torch.sigmoid(between.clamp_min(0.0) / 8)
    p[0] = 0.4  # below every confidence, as -1 is below every margin
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)
    entropy[0] = 1.1
    sweeps = [
        sweep_thresholds(policy.score(recording.evidence), recording.correct, grid)
        for policy, grid in (
            (Margin(threshold=0.0), between),
            (DynamicConfidence(scale=8.0, threshold=0.0), p),
            (Entropy(scale=8.0, threshold=0.0), 1 - entropy),
        )
    ]
    assert len(sweeps[0].timesteps.unique()) > 10
    for other in sweeps[1:]:
        for name in ("timesteps", "accuracy", "lost"):
            assert torch.equal(getattr(other, name), getattr(sweeps[0], name)), name


@pytest.mark.parametrize(("policy", "nothing"), [(Entropy(scale=4.0), 1.0), (Margin(), float(MARGIN_THRESHOLDS[-1]))])
def test_the_ends_of_the_grid(policy, nothing):
    recording = drift()
    sweep = sweep_thresholds(policy.score(recording.evidence), recording.correct, policy.thresholds)
    assert float(policy.thresholds[-1]) == nothing
    assert sweep.timesteps[-1].item() == pytest.approx(12)
    assert sweep.accuracy[-1].item() == static_outcome(recording).accuracy
    assert sweep.lost[-1].item() == sweep.lost_safer[-1].item() == 0
    assert bool((sweep.timesteps.diff() >= -1e-12).all())
    low = {"threshold": -1.0} | ({"scale": 4.0} if isinstance(policy, Entropy) else {})
    assert type(policy)(**low).exit_steps(recording).unique().tolist() == [1]
    top = low | {"threshold": nothing}
    assert type(policy)(**top).exit_steps(recording).unique().tolist() == [12]


def test_grids_are_ascending_and_fixed():
    for grid in (CONFIDENCE_THRESHOLDS, MARGIN_THRESHOLDS):
        assert bool((grid.diff() > 0).all()) and grid.dtype == torch.float64 and bool(torch.isfinite(grid).all())


def test_ties_are_neither_sure_nor_wide():
    tied = LogitEvidence(torch.tensor([[2.0, 2.0, 2.0], [5.0, 5.0, -90.0]]))
    assert Margin(threshold=0.0).decide(tied, 1).tolist() == [False, False]
    assert Entropy(scale=1.0, threshold=1e-6).decide(tied, 1).tolist() == [False, True]
    assert Entropy(scale=1.0, threshold=0.5).decide(tied, 1).tolist() == [False, False]
    assert Patience(steps=2).exit_steps(from_logits(tied.logits.repeat(1, 1, 1), torch.tensor([0]))).tolist() == [2]


@pytest.mark.parametrize("policy", [Entropy(), Margin(), DynamicConfidence()])
def test_a_fitted_threshold_loses_no_calibration_image(policy):
    calibration = drift(images=1000, split="calibration")
    fitted = policy.fit(calibration)
    result, full = outcome(calibration, fitted.exit_steps(calibration)), static_outcome(calibration)
    assert not bool((full.correct & ~result.correct).any())
    assert result.mean("timesteps") < 12


# Margins of each timestep


def test_a_threshold_for_every_timestep():
    calibration = drift(images=3000, split="calibration")
    fitted = Margin(per_step=True, epsilon=0.02).fit(calibration)
    assert (fitted.selection, fitted.images, len(fitted.limits)) == ("cutoff", 3000, 11)
    scores, settled = fitted.score(calibration.evidence), consistency(calibration)
    for t, limit in enumerate(fitted.limits, 1):
        for threshold in MARGIN_THRESHOLDS[limit <= MARGIN_THRESHOLDS].tolist()[::10]:
            above = scores[:, t - 1] > threshold
            failing = int((above & (settled > t)).sum())
            enough = int(above.sum()) >= 49
            assert not enough or (failing + 1) / (int(above.sum()) + 1) <= 0.02
        lower = MARGIN_THRESHOLDS[limit > MARGIN_THRESHOLDS]
        if limit < MARGIN_THRESHOLDS[-1] and len(lower):
            above = scores[:, t - 1] > float(lower[-1])
            assert (int((above & (settled > t)).sum()) + 1) / (int(above.sum()) + 1) > 0.02
    assert fitted.limits[0] > fitted.limits[8]  # later, less is asked for
    assert fitted.thresholds is None
    exits = fitted.exit_steps(calibration)
    assert 1 < exits.double().mean().item() < 12
    result = outcome(calibration, exits)
    assert float((result.prediction != calibration.predictions[:, -1]).double().mean()) < 0.03


def test_a_timestep_with_few_large_margins_stops_nobody():
    images = 98
    logits = torch.zeros(images, 3, 4)
    logits[:, :, 1] = 100.0
    sure = from_logits(logits, torch.ones(images, dtype=torch.long), split="calibration")
    few = Margin(per_step=True).fit(sure)
    assert few.limits == (float(MARGIN_THRESHOLDS[-1]),) * 2 and few.images_needed == 99
    enough = Margin(per_step=True).fit(
        from_logits(torch.cat([logits, logits[:1]]), torch.ones(99, dtype=torch.long), split="calibration")
    )
    assert enough.limits == (-1.0, -1.0) and "images_needed" not in enough.params()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_step": True, "threshold": 1.0}, "does not go with per_step"),
        ({"per_step": True, "tolerance": 0.1}, "tolerance belongs to selection=pareto"),
        (
            {"per_step": True, "selection": "pareto"},
            "knows no selection 'pareto'; there is: cutoff, ltt, conditional-ltt, crc",
        ),
        ({"selection": "cutoff"}, "knows no selection 'cutoff'.* with per_step=true: cutoff, ltt"),
        ({"per_step": False, "selection": "conditional-ltt"}, "knows no selection 'conditional-ltt'"),
        ({"limits": (1.0,)}, "limits are no option"),
    ],
)
def test_impossible_margins(options, message):
    with pytest.raises(ValueError, match=message):
        Margin(**options)


# Patience


def test_patience_by_hand():
    recording = from_predictions(
        [[0, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 0], [2, 2, 0, 0, 0, 1]],
        [1, 1, 0, 0],
        split="calibration",
    )
    assert Patience(steps=1).exit_steps(recording).tolist() == [1, 1, 1, 1]
    assert Patience(steps=2).exit_steps(recording).tolist() == [3, 2, 6, 2]
    assert Patience(steps=3).exit_steps(recording).tolist() == [4, 3, 6, 5]
    assert Patience(steps=6).exit_steps(recording).tolist() == [6, 6, 6, 6]
    assert Patience(steps=99).exit_steps(recording).tolist() == [6, 6, 6, 6]


def test_patience_is_chosen_from_more_to_fewer():
    recording = from_predictions(
        [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1]], [1, 1, 1], split="calibration"
    )
    assert Patience().fit(recording).steps == 3  # with 2, the first and the third image leave too early
    assert Patience(tolerance=0.7).fit(recording).steps == 1
    # at 1 nobody is lost, but at 2 the last one is
    lucky = from_predictions([[1, 0, 0, 1, 1, 1, 1, 1]], [1], split="calibration")
    assert Patience().fit(lucky).steps == 3
    calibration = drift(images=500, split="calibration")
    fitted = Patience().fit(calibration)
    assert outcome(calibration, fitted.exit_steps(calibration)).accuracy >= static_outcome(calibration).accuracy


@pytest.mark.parametrize("options", [{"steps": 0}, {"tolerance": -1.0}])
def test_impossible_patience(options):
    with pytest.raises(ValueError, match="must"):
        Patience(**options)


def test_the_score_of_patience_is_the_streak():
    recording = from_predictions([[0, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 0]], [1, 1, 0])
    streaks = [[1, 1, 2, 3, 1, 2], [1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 2]]
    assert Patience().scores(recording).tolist() == streaks
    sweep = sweep_thresholds(Patience().scores(recording), recording.correct, Patience().thresholds)
    for steps in range(1, 9):
        exits = Patience(steps=steps).exit_steps(recording)
        assert sweep.timesteps[steps - 1].item() == pytest.approx(exits.double().mean().item(), abs=1e-12)
    with pytest.raises(NotImplementedError, match="use scores"):
        Patience(steps=2).score(recording.evidence)


def test_patience_with_a_promise():
    calibration = drift(images=700, split="calibration")
    fitted = Patience(selection="ltt", epsilon=0.03).fit(calibration)
    assert (fitted.promise.epsilon, fitted.promise.delta, fitted.images) == (0.03, 0.05, 700)

    def losers(steps):
        exits = Patience(steps=steps).exit_steps(calibration)
        right = outcome(calibration, exits).correct
        return int((calibration.correct[:, -1] & ~right).sum())

    allowed = losers_allowed(700, 0.03, 0.05)
    assert 2 < fitted.steps < 12
    assert all(losers(steps) <= allowed for steps in range(fitted.steps, 13)) and losers(fitted.steps - 1) > allowed
    assert Patience(selection="crc", epsilon=0.03).fit(calibration).steps <= fitted.steps
    few = Patience(selection="ltt").fit(drift(images=597, split="calibration"))
    assert (few.steps, few.images, few.images_needed) == (12, 597, 598)
    assert Patience().params() == {"tolerance": 0.0}
    assert Patience().fit(calibration).params().keys() == {"steps", "tolerance"}


# Chance


def test_chance_has_the_exit_times_of_its_reference_and_the_accuracy_of_a_mixture():
    calibration = drift(images=4000, split="calibration", seed=2)
    test = drift(images=20_000, seed=3)
    reference = DynamicConfidence(tolerance=0.0).fit(calibration)
    exits = RandomExit().fit(calibration).exit_steps(test)
    shares = torch.bincount(reference.exit_steps(calibration) - 1, minlength=12).double() / 4000
    found = torch.bincount(exits - 1, minlength=12).double() / 20_000
    assert len(exits.unique()) > 3
    assert torch.allclose(found, shares, atol=4 * 0.5 / math.sqrt(20_000))
    mixture = float((shares * test.correct.double().mean(0)).sum())
    accuracy = outcome(test, exits).accuracy
    assert accuracy == pytest.approx(mixture, abs=4 * 0.5 / math.sqrt(20_000))
    assert accuracy < outcome(test, reference.exit_steps(test)).accuracy


def test_the_dice_are_fair_and_know_nothing():
    recording = drift(images=20_000, seed=5)
    chance = RandomExit(seed=1)
    sides = [chance.dice(recording.evidence[:, t], t + 1) for t in range(12)]
    assert bool((torch.stack(sides) >= 0).all()) and bool((torch.stack(sides) < 1).all())
    for t, dice in enumerate(sides):
        histogram = torch.histc(dice, 20, 0, 1)
        assert float(((histogram - 1000) ** 2 / 1000).sum()) < 60  # chi squared, 19 degrees of freedom
        for other in (recording.correct[:, t].double(), Margin().score(recording.evidence[:, t]), sides[t - 1]):
            assert abs(float(torch.corrcoef(torch.stack([dice, other]))[0, 1])) < 0.03
    assert abs(float((RandomExit(seed=2).dice(recording.evidence[:, 0], 1) - sides[0]).mean())) < 0.02
    assert not torch.equal(RandomExit(seed=2).dice(recording.evidence[:, 0], 1), sides[0])


def test_the_dice_hardly_notice_rounding():
    logits = drift(images=5000, seed=5).evidence.logits
    nudged = logits * (1 + 1e-7 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)))
    dice = [RandomExit().dice(LogitEvidence(values[:, 3]), 4) for values in (logits, nudged)]
    assert float((dice[0] != dice[1]).double().mean()) < 0.005


def test_chance_refuses_an_unknown_reference():
    with pytest.raises(ValueError, match=r"reference must be one of .*not 'random'"):
        RandomExit(reference="random")
    with pytest.raises(FitError, match="call fit"):
        RandomExit().exit_steps(drift())
