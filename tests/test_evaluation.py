"""From recordings to record sections: every figure against its definition, with a prelude."""

from __future__ import annotations

import dataclasses
import json
import statistics

import pytest
import torch
from recordings import drift, from_logits

from benchmark import evaluation
from benchmark.cli.tables import HEADERS, policy_name, policy_row, what_is_promised
from benchmark.energy import PRESETS, energy
from benchmark.errors import UsageError
from benchmark.spec import PolicySpec
from dynconf.judging import bootstrap_mean, compare_policies


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


def test_large_conformal_sets_need_logits():
    recordings = [drift(split=split, statistics=True, classes=8) for split in ("calibration", "test")]
    with pytest.raises(UsageError, match="needs the logits of all classes"):
        evaluation.evaluate(evaluation.parse_policy("conformal[max_set=5]"), *recordings)


def test_the_share_of_the_gap(recordings):
    """From the shortest fixed time that is as accurate as all timesteps to the consistency oracle, latency with prelude."""
    pair = recordings[0], drift(split="test", prelude_steps=2, seed=9)
    result, policy = evaluation.evaluate(evaluation.parse_policy("dynamic-confidence[tolerance=0.01]"), *pair)
    curve, oracle = evaluation.curve(pair[1]), evaluation.oracle(pair[1])
    shortest = next(t for t, right in zip(curve.timestep, curve.accuracy, strict=True) if right >= curve.accuracy[-1])
    assert shortest == 9  # of 12: from all timesteps the share would look larger
    start, end = shortest + 2, oracle.consistency.latency
    assert result.gap_closed == pytest.approx(
        (start - policy.exit_steps(pair[1]).double().mean().item() - 2) / (start - end)
    )
    shares = [
        evaluation.evaluate(evaluation.parse_policy(f"fixed[timesteps={steps}]"), *pair)[0].gap_closed
        for steps in (9, 12)
    ]
    assert shares[0] == 0.0 and shares[1] == pytest.approx(-3 / (start - end))


def test_no_gap_no_share():
    right = torch.nn.functional.one_hot(torch.tensor([[1, 1], [2, 2]]), 3).float()
    pair = [
        from_logits(right + shift, torch.tensor([1, 2]), split) for shift, split in ((0, "calibration"), (1, "test"))
    ]
    result, _ = evaluation.evaluate(evaluation.parse_policy("fixed[timesteps=1]"), *pair)
    assert result.gap_closed is None
    assert "gap_closed" not in result.model_dump() and policy_row(result)[HEADERS.index("gap closed")] == "-"


@pytest.mark.parametrize(
    "text", ["fixed", "conformal[target=0.7]", "random", "patience", "margin[per_step=true,epsilon=0.1]"]
)
def test_intervals_of_all_policies_have_selection_noise(text):
    """Few calibration images, many test images: nearly all the noise is that of the choice."""
    calibration, test = drift(images=80, split="calibration", seed=5), drift(images=2000, seed=6)
    result, policy = evaluation.evaluate(evaluation.parse_policy(text), calibration, test)
    low, high = bootstrap_mean(policy.exit_steps(test))
    assert result.latency.ci95[1] - result.latency.ci95[0] > 2 * (high - low)


def uncounting(**flags):
    pair = drift(split="calibration", seed=5), drift(seed=6)
    return [dataclasses.replace(each, info=dataclasses.replace(each.info, **flags)) for each in pair]


def test_what_was_not_counted_is_null_and_unknown():
    result, _ = evaluation.evaluate(
        evaluation.parse_policy("dynamic-confidence"), *uncounting(counts_spikes=False, counts_synops=False)
    )
    document = json.loads(result.model_dump_json())
    assert document["uncounted"] == ["spikes", "synops"]
    assert document["spikes_per_image"] is document["synops_per_image"] is document["energy"] is None
    assert document["saving"] == {"latency": result.saving.latency, "spikes": None, "synops": None}
    assert policy_row(result)[-2:] == ["unknown", "unknown"]
    result, _ = evaluation.evaluate(evaluation.parse_policy("dynamic-confidence"), *uncounting(counts_synops=False))
    document = json.loads(result.model_dump_json())
    assert document["spikes_per_image"] == result.spikes_per_image > 0
    assert document["synops_per_image"] is document["energy"] is document["saving"]["synops"] is None
    assert policy_row(result)[-1] == "unknown" != policy_row(result)[-2]


def test_a_rule_that_needs_spikes_refuses_a_recording_without():
    with pytest.raises(UsageError, match=r"policy silence.*does not count them"):
        evaluation.evaluate(evaluation.parse_policy("silence"), *uncounting(counts_spikes=False))
    evaluation.evaluate(evaluation.parse_policy("silence"), *uncounting(counts_synops=False))


def test_one_rule_against_another(recordings):
    fitted = [evaluation.fit(evaluation.parse_policy(text), recordings[0]) for text in ("margin", "fixed")]
    found = evaluation.compare_with(*fitted, *recordings, seed=3)
    paired = compare_policies(*fitted, *recordings, seed=3)
    assert (found.policy, found.params) == ("fixed", fitted[1].params())
    assert found.saving_latency == 1 - paired.latency_ratio
    assert found.saving_latency_ci95 == (1 - paired.latency_ratio_ci95[1], 1 - paired.latency_ratio_ci95[0])
    assert found.latency_difference_ci95 == paired.latency_difference_ci95
    assert found.accuracy_difference == paired.accuracy_difference
    assert found.saving_latency_ci95[0] <= found.saving_latency <= found.saving_latency_ci95[1]


def test_a_rule_is_named_with_its_numbers_and_switches():
    params = {
        "epsilon": 0.01,
        "per_step": True,
        "scale": 12.0,
        "limits": [0.5, 0.25],
        "tolerance": 0.0,
        "strict": False,
        "model": None,
    }
    assert policy_name("entropy", params, "ltt") == "entropy (scale 12, epsilon 0.01, per_step; ltt)"
