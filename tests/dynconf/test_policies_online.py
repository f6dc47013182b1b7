"""Every stopping rule: the running network, whose images leave the batch, stops like the replay, image by image."""

from __future__ import annotations

import json

import pytest
import torch
from counted_network import CountedNetwork, racing_images

from benchmark.conformance import quantised_network, random_images
from benchmark.evaluation import make_policy, parse_policy
from dynconf import DynamicInference, Silence, record
from dynconf.judging import outcome
from dynconf.names import POLICIES
from dynconf.policies import FitError
from methods.qffs import QFFS
from methods.st_bif import STBIF

TIMESTEPS = 10
RULES = [
    *POLICIES,
    "dynamic-confidence[selection=ltt,epsilon=0.05]",
    "dynamic-confidence[selection=crc,epsilon=0.05,scale_by=ece]",
    "entropy[selection=ltt,epsilon=0.05]",
    "entropy[scale=2,threshold=0.7]",
    "margin[per_step=true,epsilon=0.1]",
    "margin[selection=crc,epsilon=0.05]",
    "margin[threshold=9]",
    "patience[steps=3]",
    "patience[tolerance=0.05]",
    "random[reference=patience,seed=4]",
    "conformal[target=0.8,max_set=2,scale=3]",
    "silence[after=5]",
    "fixed[timesteps=4]",
]


@pytest.fixture(scope="module")
def recordings():
    made = {}
    for seed, split in enumerate(("calibration", "test")):
        images, labels = racing_images(600 if split == "calibration" else 150, TIMESTEPS, seed=seed)
        made[split] = record(CountedNetwork(), [(images, labels)], timesteps=TIMESTEPS, split=split)
    return made


@pytest.mark.parametrize("rule", RULES)
def test_online_equals_replay(rule, recordings):
    policy = make_policy(parse_policy(rule)).fit(recordings["calibration"])
    test = recordings["test"]
    expected = outcome(test, policy.exit_steps(test))
    if rule != "dynamic-confidence-reference":  # its scale of 30 is for longer runs
        assert len(expected.timesteps.unique()) > (0 if "fixed" in rule else 1)
    images, _ = racing_images(150, TIMESTEPS, seed=1)
    for size in (1, 7, 64):
        run = DynamicInference(CountedNetwork(), policy, TIMESTEPS)
        answers = [run(batch) for batch in images.split(size)]
        for name in ("prediction", "timesteps", "latency", "spikes", "synops"):
            found = torch.cat([getattr(answer, name) for answer in answers])
            assert torch.equal(found, getattr(expected, name)), (size, name)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_refuses_test_images_and_has_parameters_in_json(rule, recordings):
    policy = make_policy(parse_policy(rule))
    with pytest.raises(FitError, match="must not be fitted on the test split"):
        policy.fit(recordings["test"])
    fitted = policy.fit(recordings["calibration"])
    assert json.loads(json.dumps(fitted.params(), allow_nan=False)) == fitted.params()
    assert fitted == policy.fit(recordings["calibration"])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule == rule.partition("[")[0]])
@pytest.mark.parametrize("shape", [{"timesteps": 1}, {"classes": 2}, {"count": 1}, {"count": 2}])
def test_edges_do_not_crash(rule, shape):
    images, labels = racing_images(**{"count": 40, "timesteps": 6, "classes": 5, **shape})
    network, steps = CountedNetwork(), images.shape[1]
    calibration = record(network, [(images, labels)], timesteps=steps, split="calibration")
    policy = make_policy(parse_policy(rule))
    if rule == "conformal" and shape.get("count") == 1:
        fitted = policy.fit(calibration)
        assert fitted.images == 0 and fitted.exit_steps(calibration).tolist() == [steps]
        return
    exits = policy.fit(calibration).exit_steps(calibration)
    assert bool(((exits >= 1) & (exits <= steps)).all())


def test_an_unfitted_rule_says_so(recordings):
    for name, entry in POLICIES.items():
        policy = make_policy(parse_policy(name))
        if not entry.options:
            with pytest.raises(FitError, match="call fit"):
                policy.exit_steps(recordings["test"])


# Silence changes no answer


@pytest.mark.parametrize(("method", "tiny"), [(QFFS(), "plain"), (QFFS(), "pooled"), (STBIF(), "plain")])
def test_silence_on_a_settling_network_changes_no_answer(method, tiny):
    network = method.convert(quantised_network(method, tiny), random_images(1))
    labels = torch.zeros(40, dtype=torch.long)
    calibration, test = (
        record(network, [(random_images(40, seed), labels)], timesteps=40, split=split)
        for seed, split in ((2, "calibration"), (3, "test"))
    )
    for policy in (Silence().fit(calibration), Silence(after=method.levels)):
        exits = policy.exit_steps(test)
        assert int(exits.max()) < 40 and len(exits.unique()) > 1
        result = outcome(test, exits)
        assert torch.equal(result.prediction, test.predictions[:, -1])
        left = torch.arange(1, 41)[None] > exits[:, None]
        assert int(test.spikes[left].abs().sum()) == 0  # it had come to rest for good
        answers = DynamicInference(network, policy, 40)(random_images(40, 3))
        assert torch.equal(answers.timesteps, exits) and torch.equal(answers.prediction, result.prediction)


def test_silence_waits_until_no_calibration_image_woke_up():
    spikes = [[3, 0, 2, 0, 0, 0], [3, 2, 1, 1, 0, 0]]
    images = torch.zeros(2, 6, 4, dtype=torch.float64)
    images[:, 0, 0] = 1.0
    images[..., -1] = torch.tensor(spikes)
    recording = record(CountedNetwork(), [(images, torch.zeros(2).long())], timesteps=6, split="calibration")
    fitted = Silence().fit(recording)
    assert fitted.after == 2
    assert fitted.exit_steps(recording).tolist() == [4, 5]
    assert Silence(after=0).exit_steps(recording).tolist() == [2, 5]
    images[1, 5, 1] = 0.5  # the sums move although nothing fires: a bias is still acting
    recording = record(CountedNetwork(), [(images, torch.zeros(2).long())], timesteps=6, split="calibration")
    assert Silence().fit(recording).after == 5


def test_silence_needs_spike_counts():
    with pytest.raises(ValueError, match="spike counts"):
        DynamicInference.wrap(lambda images: images, lambda: None, Silence(after=1), 4)
