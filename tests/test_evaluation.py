"""From recordings to record sections: every figure against its definition, with a prelude."""

from __future__ import annotations

import statistics

import pytest
import torch
from recordings import drift

from benchmark import evaluation
from benchmark.cli.tables import what_is_promised
from benchmark.energy import PRESETS, energy
from benchmark.errors import UsageError
from benchmark.spec import PolicySpec


@pytest.fixture(scope="module")
def recordings():
    return drift(split="calibration", prelude_steps=2, seed=5), drift(split="test", prelude_steps=2, seed=6)


@pytest.fixture(scope="module")
def judged(recordings):
    return evaluation.evaluate(evaluation.parse_policy("dynamic-confidence[tolerance=0.01]"), *recordings)


def test_every_figure_of_a_policy(recordings, judged):
    result, policy = judged
    _, test = recordings
    exits = policy.exit_steps(test)
    latency = exits + 2
    right = test.correct[torch.arange(len(test)), exits - 1]
    assert result.accuracy.value == right.double().mean().item()
    assert result.latency.mean == latency.double().mean().item()
    assert result.latency.median == statistics.median(latency.tolist())
    assert result.latency.share_at_cap == (exits == 12).double().mean().item()
    assert result.saving.latency == pytest.approx(1 - latency.double().mean().item() / 14)
    assert result.spikes_per_image == pytest.approx(latency.double().mean().item() - 2 + 10)
    assert result.losers == int((test.correct[:, -1] & ~right).sum())
    assert result.winners == int((~test.correct[:, -1] & right).sum())
    assert result.exit_histogram == tuple(int((exits == t).sum()) for t in range(1, 13))
    assert result.energy["int8-45nm"] == pytest.approx(0.23 * result.macs_per_image + 0.03 * result.synops_per_image)
    assert result.macs_per_image == pytest.approx(100 + 10 * result.latency.mean)
    assert result.latency.ci95[0] < result.latency.mean < result.latency.ci95[1]
    equal = result.equal_fixed
    assert equal.latency == equal.timesteps + 2
    assert equal.accuracy >= result.accuracy.value
    assert all(test.correct[:, t].double().mean() < result.accuracy.value for t in range(equal.timesteps - 1))
    assert equal.saving_latency == pytest.approx(1 - result.latency.mean / equal.latency)


def test_curve_and_static_agree_and_include_the_prelude(recordings):
    _, test = recordings
    curve, static = evaluation.curve(test), evaluation.static(test)
    assert curve.accuracy[-1] == static.accuracy.value
    assert curve.spikes_per_image[-1] == static.spikes_per_image == 12 + 10
    assert curve.spikes_per_image[0] == 1 + 10
    assert (static.latency, static.prelude) == (14, 2)
    assert static.macs_per_image == 100 + 10 * 14


def test_oracles_are_ordered(recordings):
    oracle = evaluation.oracle(recordings[1])
    assert oracle.any_time_correct.accuracy >= oracle.stable_correct.accuracy == oracle.consistency.accuracy
    assert 3 <= oracle.any_time_correct.latency <= oracle.stable_correct.latency <= 14


def test_energy_presets():
    assert energy(1000, 0) == {"fp32-45nm": 4600, "fp16-45nm": 1500, "int8-45nm": 230}
    assert energy(0, 1000) == pytest.approx({"fp32-45nm": 900, "fp16-45nm": 400, "int8-45nm": 30})
    assert sorted(mac / ac for mac, ac in PRESETS.values()) == pytest.approx([3.75, 4.6 / 0.9, 0.23 / 0.03])


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("dynamic-confidence", {"tolerance": 0.0, "selection": "pareto"}),
        (
            "dynamic-confidence[scale=30,threshold=0.6]",
            {"scale": 30.0, "threshold": 0.6, "tolerance": 0.0, "selection": "given"},
        ),
        ("fixed[timesteps=4]", {"timesteps": 4, "tolerance": 0.0, "selection": "given"}),
    ],
)
def test_policy_texts(text, options):
    assert evaluation.parse_policy(text) == PolicySpec(name=text.partition("[")[0], options=options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dynamic-confidense", "unknown policy 'dynamic-confidense'.\nDid you mean 'dynamic-confidence'"),
        ("fixed[timestep=4]", "no option 'timestep'.\nDid you mean 'timesteps'?"),
        ("fixed[timesteps=four]", "must be int, not 'four'"),
        ("fixed[timesteps=4", "closing bracket"),
        ("fixed[4]", "'4' is not KEY=VALUE"),
        ("fixed[timesteps=0]", "at least 1"),
        ("dynamic-confidence[scale=-1]", "scale must be positive"),
    ],
)
def test_wrong_policy_texts(text, message):
    with pytest.raises(UsageError) as caught:
        evaluation.parse_policy(text)
    assert message in str(caught.value)


def test_a_scale_that_was_not_recorded_is_a_usage_error():
    recordings = [drift(split=split, statistics=True) for split in ("calibration", "test")]
    with pytest.raises(UsageError, match="scale 5 was not recorded"):
        evaluation.evaluate(evaluation.parse_policy("dynamic-confidence[scale=5]"), *recordings)


def test_a_guarantee_is_in_the_result_and_printed(recordings):
    calibration, test = drift(images=2000, split="calibration", seed=5), recordings[1]
    spec = evaluation.parse_policy("dynamic-confidence[selection=ltt,epsilon=0.02]")
    assert spec.options == {"tolerance": 0.0, "selection": "ltt", "epsilon": 0.02, "delta": 0.05}
    result, policy = evaluation.evaluate(spec, calibration, test)
    assert result.guarantee is not None
    assert (result.guarantee.epsilon, result.guarantee.delta) == (0.02, 0.05)
    assert "right after all timesteps but wrong at their exit" in result.guarantee.risk
    assert (result.selection, result.params["images"]) == ("ltt", 1000)
    assert result.params == policy.params()
    assert result.latency.ci95[0] < result.latency.mean < result.latency.ci95[1]
    (promise,) = what_is_promised(result)
    assert "at most 2% with probability 95% over draws of the calibration images" in promise


def test_too_few_images_are_said(recordings):
    result, _ = evaluation.evaluate(evaluation.parse_policy("margin[selection=ltt]"), *recordings)
    assert result.latency.mean == 14 and result.latency.ci95 == (14, 14)
    assert (result.params["images"], result.params["images_needed"]) == (400, 598)
    assert what_is_promised(result)[1:] == [
        "margin: nothing stops early; its choice is on 400 calibration images and takes 598 or more"
    ]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("dynamic-confidence-reference", {"scale": 30.0, "threshold": 0.6, "tolerance": 0.0, "selection": "given"}),
        ("fixed", {"tolerance": 0.0, "selection": "no-loss"}),
        ("dynamic-confidence[scale_by=nll]", {"tolerance": 0.0, "selection": "pareto"}),
        ("entropy[scale_by=ece]", {"tolerance": 0.0, "selection": "pareto", "scale_by": "ece"}),
        ("margin[per_step=false]", {"tolerance": 0.0, "selection": "pareto"}),
        ("margin[per_step=true]", {"tolerance": 0.0, "selection": "cutoff", "epsilon": 0.01, "per_step": True}),
        ("margin[selection=crc]", {"tolerance": 0.0, "selection": "crc", "epsilon": 0.005}),
        ("conformal", {"target": 0.9, "max_set": 1, "checkpoints": 4, "selection": "conformal"}),
        ("random", {"reference": "dynamic-confidence", "seed": 0, "selection": "reference"}),
        ("patience[steps=3]", {"steps": 3, "tolerance": 0.0, "selection": "given"}),
        ("silence", {"selection": "calibration"}),
    ],
)
def test_one_rule_has_one_spelling(text, options):
    spec = evaluation.parse_policy(text)
    assert spec.options == options
    assert evaluation.normalised(spec) == spec


def test_conformal_needs_logits():
    recordings = [drift(split=split, statistics=True) for split in ("calibration", "test")]
    with pytest.raises(UsageError, match="needs the logits of all classes"):
        evaluation.evaluate(evaluation.parse_policy("conformal"), *recordings)
