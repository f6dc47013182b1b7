"""Thresholds of every timestep in the policies: what is chosen on which images, what is promised, replay and online."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from counted_network import CountedNetwork, racing_images
from recordings import drift

from dynconf import DynamicConfidence, DynamicInference, Entropy, Margin, Patience, record
from dynconf.choosing import losers_allowed, pareto_choice
from dynconf.judging import outcome
from dynconf.limits import Candidates, lost_by_leaving
from dynconf.policies import FitError, ThresholdPolicy, scale_by_nll
from dynconf.policy import Watch
from dynconf.scaling import first_half, second_half
from dynconf.sweep import sweep_thresholds

POLICIES = (DynamicConfidence, Entropy, Margin, Patience)
MODES = (
    {"per_step": True, "epsilon": 0.1},
    {"per_step": True, "selection": "ltt", "epsilon": 0.05},
    {"per_step": True, "selection": "crc", "epsilon": 0.05},
    {"selection": "conditional-ltt", "epsilon": 0.08},
)


def losers(recording, policy):
    """Of the images that have left by each t < T: how many, and how many of them are lost."""
    exits = policy.exit_steps(recording)
    lost = lost_by_leaving(recording.correct).gather(1, exits[:, None] - 1)[:, 0]
    return [(int((exits <= t).sum()), int((lost & (exits <= t)).sum())) for t in range(1, recording.timesteps)]


# What is chosen on which images


@pytest.mark.parametrize("policy", POLICIES)
def test_ltt_loses_no_more_than_is_allowed_of_the_images_it_chose_on(policy):
    calibration = drift(images=2401, split="calibration")
    fitted = policy(selection="ltt", per_step=True, epsilon=0.03).fit(calibration)
    assert (fitted.images, len(fitted.limits), fitted.images_needed, fitted.threshold) == (1200, 11, None, None)
    assert torch.equal(fitted.choosing_part(calibration).labels, calibration.labels[1::2])
    (_, lost) = losers(second_half(calibration), fitted)[-1]
    assert 0.5 * losers_allowed(1200, 0.03, 0.05) < lost <= losers_allowed(1200, 0.03, 0.05)
    assert fitted.promise == policy(selection="ltt", epsilon=0.03).fit(calibration).promise
    assert (fitted.promise.epsilon, fitted.promise.delta) == (0.03, 0.05)
    assert fitted.exit_steps(drift(seed=1)).double().mean() < 11.5
    crc = policy(selection="crc", per_step=True, epsilon=0.03).fit(calibration)
    assert crc.promise is None and crc.delta is None
    assert (losers(second_half(calibration), crc)[-1][1] + 1) / 1201 <= 0.03


@pytest.mark.parametrize("policy", POLICIES)
def test_conditional_ltt_loses_no_more_than_is_allowed_of_those_that_have_left(policy):
    calibration = drift(images=3000, split="calibration")
    fitted = policy(selection="conditional-ltt", epsilon=0.06).fit(calibration)
    assert (fitted.per_step, fitted.images, fitted.delta) == (True, 1500, 0.05)
    by_then = losers(second_half(calibration), fitted)
    first = next(t for t, (halted, _) in enumerate(by_then, 1) if halted)
    assert (first < 11 or policy is Patience) and all(
        limit == float(fitted.grid[-1]) for limit in fitted.limits[: first - 1]
    )
    assert all(lost <= losers_allowed(halted, 0.06, 0.05) for halted, lost in by_then[first - 1 :])
    assert "among those that have left by timestep t" in fitted.promise.risk
    assert "right after all timesteps but wrong at their exit" in fitted.promise.risk


@pytest.mark.parametrize("given", [{}, {"scale": 6.0}])
def test_the_family_sees_the_first_half_and_the_choice_the_second(given):
    calibration = drift(images=2000, split="calibration")
    fitted = DynamicConfidence(selection="ltt", per_step=True, epsilon=0.03, **given).fit(calibration)
    screening, part = first_half(calibration), second_half(calibration)
    assert fitted.scale == given.get("scale", scale_by_nll(screening))
    family = Candidates.screened(fitted.scores(screening), screening.correct, fitted.grid, 0.03)
    assert torch.equal(family.limits, fitted.candidates.limits)
    assert fitted.limits == family.by_sweep(fitted.scores(part), part.correct, fitted.choose)
    assert fitted.limits in map(tuple, family.limits.tolist())


def test_fitting_again_repeats_the_last_stage_alone():
    calibration, other = drift(images=2000, split="calibration"), drift(images=900, split="calibration", seed=8)
    for selection in ("ltt", "conditional-ltt", "crc"):
        fitted = Margin(selection=selection, per_step=True, epsilon=0.06).fit(calibration)
        assert fitted.fit(second_half(calibration)) == fitted
        again = fitted.fit(other)
        assert again.images == 900 and again.candidates is fitted.candidates and again.limits != fitted.limits
    with pytest.raises(FitError, match="12 timesteps, not 5"):
        fitted.fit(drift(images=900, timesteps=5, split="calibration"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("options", "images", "needed"),
    [
        ({"selection": "ltt"}, 597, 598),
        ({"selection": "conditional-ltt"}, 597, 598),
        ({"selection": "crc"}, 198, 199),
        ({"selection": "cutoff"}, 98, 99),
        ({"selection": "ltt"}, 0, 598),
    ],
)
def test_too_few_images_stop_nobody_and_say_how_many_it_takes(policy, options, images, needed):
    share = 1 if options["selection"] == "cutoff" else 2
    few, enough = (
        drift(images=share * count + (share - 1) * (count == 0), split="calibration") for count in (images, needed)
    )
    fitted = policy(per_step=True, **options).fit(few)
    if images:
        assert (fitted.images, fitted.images_needed) == (images, needed)
    assert fitted.params()["images_needed"] == needed
    assert fitted.limits == (float(fitted.grid[-1]),) * 11
    assert fitted.exit_steps(drift(seed=1)).unique().tolist() == [12]
    assert "images_needed" not in policy(per_step=True, **options).fit(enough).params()


def test_a_candidate_that_fails_stops_nobody():
    """Every exit before T loses an image, so that no test is passed although there are images enough."""
    calibration = drift(images=2000, split="calibration")
    logits = calibration.evidence.logits.clone()
    logits[:, :-1] = -logits[:, :-1]
    hopeless = drift(images=2000, split="calibration")
    hopeless.evidence.logits.copy_(logits)
    fitted = Margin(selection="conditional-ltt").fit(hopeless)
    assert fitted.limits == (float(fitted.grid[-1]),) * 11 and fitted.images_needed is None
    assert Margin(selection="ltt", per_step=True).fit(hopeless).exit_steps(hopeless).double().mean() > 11.9


# Options and parameters


@pytest.mark.parametrize("policy", POLICIES)
def test_one_rule_has_one_spelling(policy):
    assert policy(per_step=False) == policy() and policy().per_step is None
    assert policy(per_step=True) == policy(per_step=True, selection="cutoff", epsilon=0.01)
    assert policy(selection="conditional-ltt") == policy(
        selection="conditional-ltt", per_step=True, epsilon=0.005, delta=0.05
    )
    assert policy(per_step=True, selection="ltt").params() == {
        "tolerance": 0.0,
        "epsilon": 0.005,
        "delta": 0.05,
        "per_step": True,
    }
    assert policy().params() == {"tolerance": 0.0}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_parameters_are_json_and_carry_the_policy(policy, mode):
    calibration = drift(images=1500, split="calibration")
    fitted = policy(**mode).fit(calibration)
    parameters = json.loads(json.dumps(fitted.params(), allow_nan=False))
    assert parameters == fitted.params() and "candidates" not in parameters
    again = policy(**{**parameters, "limits": tuple(parameters["limits"]), "selection": fitted.selection})
    assert again == fitted
    test = drift(seed=1)
    assert torch.equal(again.exit_steps(test), fitted.exit_steps(test))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_step": True, "tolerance": 0.1}, "tolerance belongs to selection=pareto"),
        ({"per_step": True, "selection": "crc", "delta": 0.1}, "delta belongs to selection=ltt"),
        ({"per_step": True, "selection": "luck"}, "there is: cutoff, ltt, conditional-ltt, crc"),
        ({"selection": "conditional-ltt", "epsilon": 1.0}, "epsilon must lie between 0 and 1"),
        ({"selection": "conditional-ltt", "per_step": False}, "knows no selection 'conditional-ltt'"),
    ],
)
def test_impossible_options(policy, options, message):
    with pytest.raises(ValueError, match=message):
        policy(**options)


def test_a_given_threshold_is_one_for_all_timesteps():
    for options in ({"threshold": 0.5}, {"threshold": 0.5, "scale": 2.0}):
        with pytest.raises(ValueError, match="does not go with per_step"):
            DynamicConfidence(per_step=True, **options)
    with pytest.raises(ValueError, match="does not go with per_step"):
        Patience(per_step=True, steps=3)


@pytest.mark.parametrize("policy", POLICIES)
def test_unfitted(policy):
    with pytest.raises(FitError, match="call fit"):
        policy(per_step=True).exit_steps(drift())


# Timesteps and running networks


@pytest.mark.parametrize("policy", POLICIES)
def test_limits_are_those_of_their_timesteps(policy):
    calibration, test = drift(images=3000, split="calibration"), drift(seed=1)
    fitted = policy(selection="ltt", per_step=True, epsilon=0.05).fit(calibration)
    scores = fitted.scores(test)
    expected = [
        next((t for t, limit in enumerate(fitted.limits, 1) if image[t - 1] > limit), 12) for image in scores.tolist()
    ]
    assert fitted.exit_steps(test).tolist() == expected and len(set(expected)) > 3


def test_timesteps_that_were_not_calibrated_stop_nobody():
    fitted = Margin(selection="ltt", per_step=True, epsilon=0.05).fit(drift(images=1500, split="calibration"))
    longer = drift(timesteps=20)
    exits = fitted.exit_steps(longer)
    assert not bool(((exits > 11) & (exits < 20)).any()) and bool((exits == 20).any())


@pytest.mark.parametrize("shape", [{"timesteps": 1}, {"timesteps": 2}, {"classes": 2}, {"images": 1}, {"images": 2}])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_edges_do_not_crash(policy, mode, shape):
    calibration = drift(**{"images": 300, "split": "calibration", **shape})
    exits = policy(**{**mode, "epsilon": 0.3}).fit(calibration).exit_steps(calibration)
    assert bool(((exits >= 1) & (exits <= calibration.timesteps)).all())


@pytest.fixture(scope="module")
def races():
    made = {}
    for seed, (split, count) in enumerate((("calibration", 1600), ("test", 150))):
        images, labels = racing_images(count, 10, seed=seed)
        made[split] = record(CountedNetwork(), [(images, labels)], timesteps=10, split=split)
    return made, images


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_online_equals_replay(policy, mode, races):
    recordings, images = races
    fitted = policy(**mode).fit(recordings["calibration"])
    test = recordings["test"]
    expected = outcome(test, fitted.exit_steps(test))
    assert len(expected.timesteps.unique()) > 2
    for size in (1, 7, 64):
        run = DynamicInference(CountedNetwork(), fitted, 10)
        answers = [run(batch) for batch in images.split(size)]
        for name in ("prediction", "timesteps"):
            assert torch.equal(torch.cat([getattr(answer, name) for answer in answers]), getattr(expected, name))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_watch_of_a_few_images_decides_as_the_replay(policy, mode, races):
    """Images are dropped at random, those that would have stopped among them not first."""
    recordings, _ = races
    test, generator = recordings["test"], torch.Generator().manual_seed(3)
    fitted = policy(**mode).fit(recordings["calibration"])
    scores, watch, left = fitted.scores(test), fitted.watch(), torch.arange(len(test))
    for timestep in range(1, test.timesteps):
        stops = watch.stops(test.evidence[left, timestep - 1], timestep, test.spikes[left, timestep - 1])
        assert torch.equal(stops, scores[left, timestep - 1] > fitted.limits[timestep - 1])
        mask = torch.rand(len(left), generator=generator) < 0.85
        watch.keep(mask)
        left = left[mask]
    assert len(left) > 5


# Scores that remember


@dataclass(frozen=True)
class LongestMargin(Margin):
    """The largest margin so far: a score with a memory, given as `scores` and `watch`."""

    name: ClassVar[str] = "longest"

    def score(self, evidence):
        raise AssertionError("a score that remembers has no score of the present alone")

    def scores(self, recording):
        return Margin.score(self, recording.evidence).cummax(1).values

    def watch(self):
        policy = self

        class Memory(Watch):
            best = None

            def stops(self, evidence, timestep, spikes):
                margin = Margin.score(policy, evidence)
                self.best = margin if self.best is None else torch.maximum(self.best, margin)
                return policy.exceeds(self.best, timestep)

            def keep(self, mask):
                self.best = self.best[mask]

        return Memory()


@pytest.mark.parametrize("mode", [{}, {"selection": "ltt", "epsilon": 0.05}, *MODES])
def test_a_score_that_remembers(mode, races):
    recordings, images = races
    fitted = LongestMargin(**mode).fit(recordings["calibration"])
    assert isinstance(fitted, ThresholdPolicy)
    test = recordings["test"]
    exits = fitted.exit_steps(test)
    assert len(exits.unique()) > 2
    scores = fitted.scores(test)
    limits = fitted.limits or (fitted.threshold,) * 9
    assert exits.tolist() == [
        next((t for t, limit in enumerate(limits, 1) if image[t - 1] > limit), 10) for image in scores.tolist()
    ]
    assert torch.equal(DynamicInference(CountedNetwork(), fitted, 10)(images).timesteps, exits)
    if not mode:  # one threshold of the largest so far stops as one of the present
        plain = Margin().fit(recordings["calibration"])
        assert fitted.threshold == plain.threshold
        calibration = recordings["calibration"]
        sweep = sweep_thresholds(fitted.scores(calibration), calibration.correct, fitted.thresholds)
        assert float(fitted.grid[pareto_choice(sweep, 0.0)]) == plain.threshold
