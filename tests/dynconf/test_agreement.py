"""The learned rule: what it looks at, that it learns it, that replay and running network agree, and its promise."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import torch
from recordings import drift, from_logits

from dynconf import Agreement, DynamicConfidence
from dynconf.choosing import losers_allowed
from dynconf.evidence import LogitEvidence
from dynconf.finality import FEATURES, Finality, Trace, fit_finality
from dynconf.judging import compare, outcome, static_outcome
from dynconf.leads import WINDOWS, Leads
from dynconf.policy import FitError
from dynconf.recording import Recording

SCALE = 3.0


@pytest.fixture(scope="module")
def calibration():
    return drift(images=800, split="calibration", seed=1)


@pytest.fixture(scope="module")
def fitted(calibration):
    return Agreement(tolerance=0.01).fit(calibration)


def literal_features(sums, timestep):
    """The features of one image from its sums, a list of T lists of K numbers, after `timestep`."""
    answers = [row.index(max(row)) for row in sums[:timestep]]
    now, answer = sums[timestep - 1], answers[-1]
    streak = 0
    while streak < timestep and answers[timestep - 1 - streak] == answer:
        streak += 1
    changes = sum(before != after for before, after in itertools.pairwise(answers))
    first, second = sorted(now, reverse=True)[:2]
    p = math.exp(now[answer] / SCALE) / sum(math.exp(value / SCALE) for value in now)
    leads = []
    for window in WINDOWS:
        past = [0.0] * len(now) if timestep <= window else sums[timestep - 1 - window]
        gained = [value - before for value, before in zip(now, past, strict=True)]
        rivals = [value for index, value in enumerate(gained) if index != answer]
        leads.append((gained[answer] - max(rivals)) / min(window, timestep))
    return [first - second, math.log(p / (1 - p)), math.log(timestep), math.log(streak), changes, *leads]


def test_features_equal_a_literal_computation():
    recording = drift(images=30)
    trace = Trace(SCALE)
    features = torch.stack([trace.advance(recording.evidence[:, t], t + 1) for t in range(12)], 1)
    sums = recording.evidence.logits.double().tolist()
    expected = [[literal_features(image, t + 1) for t in range(12)] for image in sums]
    assert features.shape == (30, 12, FEATURES)
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_leads_of_a_hand_made_case():
    # Class 1 is behind for two timesteps and gains 5 in every later one; class 0 gains 2 throughout.
    steps = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 5.0], [2.0, 5.0], [2.0, 5.0]])
    leads, sums = Leads(), torch.zeros(2)
    found = []
    for step in steps:
        sums = sums + step
        found.append(leads.advance(sums[None])[0].tolist())
    assert WINDOWS == (1, 2, 4, 8)
    # After four timesteps the sums are 8 and 10: class 1 answers, with 3, 3, and in all (10 - 8) / 4 a timestep.
    assert found[0] == [2.0, 2.0, 2.0, 2.0]
    assert found[1] == [2.0, 2.0, 2.0, 2.0]
    assert found[2] == [-3.0, -0.5, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert found[3] == [3.0, 3.0, 0.5, 0.5]
    assert found[4] == [3.0, 3.0, 7 / 4, 1.0]


def test_a_sure_answer_keeps_finite_log_odds():
    for logits in ([0.0, 500.0, 0.0], [0.0, 0.0, 0.0]):
        features = Trace(1.0).advance(LogitEvidence(torch.tensor([logits])), 1)
        assert torch.isfinite(features).all()


def test_dropping_images_equals_the_rest_alone(fitted):
    recording = drift(images=60, seed=7)
    watch = fitted.watch()
    there = torch.arange(60)
    generator = torch.Generator().manual_seed(0)
    left = torch.full((60,), 12)
    for t in range(1, 12):
        stops = watch.stops(recording.evidence[there, t - 1], t, recording.spikes[there, t - 1])
        stay = ~stops & (torch.rand(len(there), generator=generator) < 0.97)  # some are dropped for other reasons
        left[there[stops]] = t
        left[there[~stops & ~stay]] = -t
        there = there[stay]
        watch.keep(stay)
    alone = fitted.exit_steps(recording)
    assert (left > 0).sum() > 40
    assert torch.equal(left[left > 0], alone[left > 0])
    assert bool((alone[left < 0] > -left[left < 0]).all())


def test_exits_are_the_first_scores_above_the_threshold(fitted):
    recording = drift(images=300, seed=3)
    above = fitted.scores(recording) > fitted.threshold
    above[:, -1] = True
    assert torch.equal(fitted.exit_steps(recording), above.int().argmax(1) + 1)
    assert len(fitted.exit_steps(recording).unique()) > 3


def test_it_learns_probabilities_of_the_final_answer():
    fitted = Agreement().fit(drift(images=3000, split="calibration", seed=2))
    recording = drift(images=4000, seed=5)
    scores = fitted.scores(recording)[:, :-1]
    final = (recording.predictions == recording.predictions[:, -1:])[:, :-1]
    for low, high in ((0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        some = (scores > low) & (scores <= high)
        assert some.sum() > 300
        assert abs(float(final[some].double().mean()) - float(scores[some].mean())) < 0.05


def test_it_finds_what_a_threshold_on_the_sum_cannot_see():
    """Sums that hold a false start of random size: only the recent leads tell who is going to win."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for split in ("calibration", "test"):
        labels = torch.randint(0, 4, (2000,), generator=generator)
        steps = 0.4 * torch.randn(2000, 16, 4, generator=generator)
        steps[torch.arange(2000), :, labels] += 1.0
        false = torch.randint(0, 4, (2000,), generator=generator)
        steps[torch.arange(2000), 0, false] += 12 * torch.rand(2000, generator=generator)
        parts.append(from_logits(steps.double().cumsum(1).float(), labels, split))
    calibration, test = parts
    learned, plain = (
        policy(selection="ltt", epsilon=0.02, delta=0.05).fit(calibration) for policy in (Agreement, DynamicConfidence)
    )
    early, late = (policy.exit_steps(test).double().mean() for policy in (learned, plain))
    assert early < 0.7 * late
    assert compare(outcome(test, learned.exit_steps(test)), static_outcome(test)).losers <= 0.03 * len(test)


def test_model_and_threshold_come_from_different_halves(calibration):
    policy = Agreement(selection="ltt", epsilon=0.05, delta=0.1)
    fitted = policy.fit(calibration)
    learning, choosing = torch.arange(0, 800, 2), torch.arange(1, 800, 2)
    assert fitted.images == 400
    other = calibration.take(torch.cat([learning, choosing]).reshape(2, -1).T.flatten())  # the same, only to be sure
    assert policy.fit(other).params() == fitted.params()
    # Other labels do not change the model, which needs none; other images in the choosing half do not either.
    shuffled = dataclasses.replace(calibration, labels=calibration.labels.roll(1))
    assert policy.fit(shuffled).model == fitted.model
    rows = torch.arange(800)
    rows[1::2] = torch.roll(rows[1::2], 13)
    assert policy.fit(calibration.take(rows)).model == fitted.model
    rows = torch.arange(800)
    rows[0::2] = rows[0::2].flip(0)[: len(rows[0::2])] * 0
    assert policy.fit(calibration.take(rows)).model != fitted.model
    scores = fitted.scores(calibration.take(choosing))
    exits = (torch.cat([scores[:, :-1] > fitted.threshold, torch.ones(400, 1, dtype=torch.bool)], 1)).int().argmax(1)
    correct = calibration.take(choosing).correct
    lost = correct[:, -1] & ~correct.gather(1, exits[:, None])[:, 0]
    assert int(lost.sum()) <= losers_allowed(400, 0.05, 0.1)
    assert torch.equal(fitted.choosing_part(calibration).labels, calibration.labels[1::2])
    assert fitted.promise is not None and fitted.promise.epsilon == 0.05


def test_fitting_again_keeps_the_model(fitted, calibration):
    other = drift(images=500, split="calibration", seed=9)
    again = fitted.fit(other)
    assert again.model == fitted.model and again.scale == fitted.scale
    assert again.threshold != fitted.threshold
    assert fitted.fit(fitted.choosing_part(calibration)).threshold == fitted.threshold
    chosen_on_all = Agreement(selection="ltt", epsilon=0.05, delta=0.1).fit(calibration).fit(other)
    assert chosen_on_all.images == 500 and chosen_on_all.choosing_part(other) is other


def test_too_few_images_stop_nobody(calibration):
    fitted = Agreement(selection="ltt").fit(calibration)
    assert fitted.images_needed == 598 and fitted.images == 400
    assert fitted.exit_steps(drift(images=50)).tolist() == [12] * 50


@pytest.mark.parametrize("selection", ["ltt", "conditional-ltt"])
def test_thresholds_of_every_timestep(calibration, selection):
    fitted = Agreement(selection=selection, per_step=True, epsilon=0.05, delta=0.1).fit(calibration)
    recording = drift(images=200, seed=4)
    assert fitted.exit_steps(recording).double().mean() < 12
    # The family that is chosen may have one threshold for all timesteps, depending on how a processor rounds the model.
    given = dataclasses.replace(fitted, limits=tuple(torch.linspace(0.99, 0.5, 11, dtype=torch.float64).tolist()))
    for policy in (fitted, given):
        above = policy.scores(recording)[:, :-1] > torch.tensor(policy.limits)
        above = torch.cat([above, torch.ones(200, 1, dtype=torch.bool)], 1)
        assert torch.equal(policy.exit_steps(recording), above.int().argmax(1) + 1)


def test_parameters_survive_json(fitted):
    params = json.loads(json.dumps(fitted.params(), allow_nan=False))
    again = Agreement(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in params.items()},
    )
    recording = drift(images=100, seed=2)
    assert torch.equal(again.exit_steps(recording), fitted.exit_steps(recording))


def test_recorded_statistics_give_the_same_exits():
    """Recordings of many classes hold leads instead of logits; only rounding of the expected values could differ."""
    recordings = {}
    for keep in ("logits", "statistics"):
        for split, seed in (("calibration", 1), ("test", 2)):
            made = drift(images=300, split=split, seed=seed)
            recordings[keep, split] = Recording.from_logits(
                made.labels, made.evidence.logits, split=split, sums=True, keep=keep
            )
    fitted = {keep: Agreement().fit(recordings[keep, "calibration"]) for keep in ("logits", "statistics")}
    assert fitted["logits"].params() == fitted["statistics"].params()
    exits = [fitted["logits"].exit_steps(recordings[keep, "test"]) for keep in ("logits", "statistics")]
    assert torch.equal(*exits) and len(exits[0].unique()) > 3


def test_it_says_what_is_missing():
    with pytest.raises(FitError, match="model is not known yet"):
        Agreement().exit_steps(drift(images=10))
    with pytest.raises(FitError, match="logits of all classes or recorded leads"):
        Agreement().fit(drift(images=100, split="calibration", statistics=True))
    with pytest.raises(FitError, match="test split"):
        Agreement().fit(drift(images=100))
    with pytest.raises(ValueError, match="numbers, got 3"):
        Finality((0.0, 1.0, 2.0))


def test_two_classes_and_few_timesteps():
    for timesteps in (1, 2):
        recording = drift(images=60, timesteps=timesteps, classes=2, split="calibration")
        exits = Agreement().fit(recording).exit_steps(drift(images=20, timesteps=timesteps, classes=2))
        assert bool(((exits >= 1) & (exits <= timesteps)).all())


def test_the_model_of_one_feature_is_a_logistic_regression_of_it():
    """Where the truth is a logistic function of one feature, the learned probabilities come close to it."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 5, FEATURES, generator=generator, dtype=torch.float64)
    truth = torch.sigmoid(1.5 * features[..., 0] - 0.5)
    final = torch.rand(truth.shape, generator=generator) < truth
    found = Finality(fit_finality(features, final))(features)
    assert float((found - truth).abs().mean()) < 0.06 < 0.2 * float((truth - truth.mean()).abs().max())
