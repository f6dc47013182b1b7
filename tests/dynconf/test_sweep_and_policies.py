"""Stopping rules against a literal loop, and how their parameters are chosen."""

from __future__ import annotations

import math

import pytest
import torch
from recordings import drift, from_predictions

from dynconf import DynamicConfidence, FixedTime
from dynconf.evidence import SCALES
from dynconf.judging import outcome, static_outcome
from dynconf.policies import CONFIDENCE_THRESHOLDS, FitError, pareto_choice, scale_by_nll
from dynconf.sweep import Sweep, exit_table, sweep_thresholds


def literal_exits(logits: torch.Tensor, scale: float, threshold: float) -> list[int]:
    """As the reference's forward pass does it: softmax of the running sum over a scale, stop on a strict >."""
    exits = []
    for image in logits.double():
        timesteps = len(image)
        for t in range(timesteps):
            exponentials = [math.exp(value / scale) for value in (image[t] - image[t].max()).tolist()]
            if max(exponentials) / sum(exponentials) > threshold or t == timesteps - 1:
                exits.append(t + 1)
                break
    return exits


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(("scale", "threshold"), [(30.0, 0.6), (4.0, 0.9), (1.0, 0.35), (12.0, 0.2)])
def test_dynamic_confidence_equals_a_literal_loop(scale, threshold, statistics):
    plain = drift()
    recording = drift(statistics=statistics)
    exits = DynamicConfidence(scale=scale, threshold=threshold).exit_steps(recording)
    assert exits.tolist() == literal_exits(plain.evidence.logits, scale, threshold)


def test_sweep_equals_the_policy_at_every_threshold():
    recording = drift(images=150)
    policy = DynamicConfidence(scale=6.0, threshold=0.5)
    scores = policy.score(recording.evidence)
    grid = CONFIDENCE_THRESHOLDS[::37].contiguous()
    sweep, table = sweep_thresholds(scores, recording.correct, grid), exit_table(scores, grid)
    for index, threshold in enumerate(grid.tolist()):
        exits = DynamicConfidence(scale=6.0, threshold=threshold).exit_steps(recording)
        result = outcome(recording, exits)
        assert torch.equal(table[:, index].long(), exits)
        assert sweep.timesteps[index].item() == pytest.approx(result.mean("timesteps"), abs=1e-12)
        assert sweep.accuracy[index].item() == pytest.approx(result.accuracy, abs=1e-12)
        lost = recording.correct[:, -1] & ~result.correct
        assert sweep.lost[index].item() == pytest.approx(lost.double().mean().item(), abs=1e-12)


def test_a_score_equal_to_the_threshold_does_not_stop():
    scores = torch.tensor([[0.5, 0.6, 0.7]])
    assert exit_table(scores, torch.tensor([0.4, 0.5, 0.6, 0.7])).tolist() == [[1, 2, 3, 3]]
    sweep = sweep_thresholds(scores, torch.tensor([[True, False, True]]), torch.tensor([0.4, 0.5, 0.6, 0.7]))
    assert sweep.accuracy.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_thresholds_beyond_the_range_of_confidence():
    recording = drift()
    assert DynamicConfidence(scale=1.0, threshold=1.0).exit_steps(recording).unique().tolist() == [12]
    assert DynamicConfidence(scale=1.0, threshold=1 / 6 - 1e-9).exit_steps(recording).unique().tolist() == [1]


def test_mean_time_never_rises_as_the_threshold_falls():
    recording = drift()
    sweep = sweep_thresholds(
        DynamicConfidence(scale=3.0, threshold=0.5).score(recording.evidence), recording.correct, CONFIDENCE_THRESHOLDS
    )
    assert bool((sweep.timesteps.diff() >= 0).all())
    assert sweep.timesteps[-1].item() == pytest.approx(12)
    assert sweep.accuracy[-1].item() == static_outcome(recording).accuracy
    assert bool((sweep.accuracy.diff() < 0).any())  # accuracy need not be monotone, and here it is not


@pytest.mark.parametrize("policy", [DynamicConfidence(), DynamicConfidence(scale=30.0, threshold=0.6), FixedTime()])
def test_fitting_on_test_images_is_refused(policy):
    with pytest.raises(FitError, match="must not be fitted on the test split"):
        policy.fit(drift(split="test"))


def test_using_an_unfitted_policy_says_so():
    for policy in (DynamicConfidence(), DynamicConfidence(scale=2.0), FixedTime()):
        with pytest.raises(FitError, match="call fit"):
            policy.exit_steps(drift())


def test_the_preset_is_not_touched_by_fit():
    policy = DynamicConfidence(scale=30.0, threshold=0.6).fit(drift(split="calibration"))
    assert (policy.scale, policy.threshold, policy.selection) == (30.0, 0.6, "given")
    assert policy.params() == {"scale": 30.0, "threshold": 0.6, "tolerance": 0.0}


def test_scale_has_the_smallest_likelihood_loss():
    calibration = drift(split="calibration")
    logits = calibration.evidence.logits.double()
    losses = {}
    for scale in SCALES:
        log_p = torch.log_softmax(logits / scale, -1)
        losses[scale] = -log_p.gather(2, calibration.labels[:, None, None].expand(-1, 12, 1)).mean().item()
    assert scale_by_nll(calibration) == min(losses, key=losses.__getitem__)
    assert 1.0 < scale_by_nll(calibration) < 256.0


def test_fitted_threshold_loses_no_calibration_image_nor_does_any_safer_one():
    calibration = drift(images=1500, split="calibration")
    fitted = DynamicConfidence().fit(calibration)
    assert fitted.selection == "pareto"
    static = static_outcome(calibration)
    safer = [threshold for threshold in CONFIDENCE_THRESHOLDS.tolist() if threshold >= fitted.threshold]
    for threshold in safer[::20] + safer[:2]:
        policy = DynamicConfidence(scale=fitted.scale, threshold=threshold)
        result = outcome(calibration, policy.exit_steps(calibration))
        assert not bool((static.correct & ~result.correct).any())
    assert outcome(calibration, fitted.exit_steps(calibration)).mean("timesteps") < 12
    tolerant = DynamicConfidence(tolerance=0.02).fit(calibration)
    assert tolerant.threshold < fitted.threshold


def test_pareto_choice_does_not_jump_over_a_loss():
    """The fastest threshold of all loses nothing by luck, but safer ones on the way do."""
    sweep = Sweep(
        torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]),
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double(),
        torch.tensor([0.9, 0.8, 0.91, 0.92, 0.9]).double(),
        torch.tensor([0.0, 0.1, 0.0, 0.0, 0.0]).double(),
    )
    assert pareto_choice(sweep, 0.0) == 2
    assert pareto_choice(sweep, 0.2) == 0


def test_pareto_choice_among_equally_fast_takes_the_safest_of_the_most_accurate():
    sweep = Sweep(
        torch.arange(4.0),
        torch.tensor([2.0, 2.0, 2.0, 3.0]).double(),
        torch.tensor([0.9, 0.95, 0.95, 0.9]).double(),
        torch.zeros(4).double(),
    )
    assert pareto_choice(sweep, 0.0) == 2


def test_fixed_time_takes_the_shortest_without_loss():
    recording = from_predictions([[0, 1, 1, 1], [2, 2, 2, 2], [3, 3, 0, 3]], [1, 2, 3], split="calibration")
    assert FixedTime().fit(recording).timesteps == 2
    assert FixedTime(tolerance=0.5).fit(recording).timesteps == 1
    assert FixedTime(timesteps=3).fit(recording).exit_steps(recording).tolist() == [3, 3, 3]
    assert FixedTime(timesteps=9).exit_steps(recording).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicConfidence(scale=0.0), "scale must be positive"),
        (lambda: DynamicConfidence(scale=float("nan")), "scale must be positive"),
        (lambda: DynamicConfidence(tolerance=-0.1), "tolerance"),
        (lambda: FixedTime(timesteps=0), "at least 1"),
    ],
)
def test_impossible_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "recording",
    [
        drift(timesteps=1, split="calibration"),
        drift(classes=2, split="calibration"),
        drift(images=1, split="calibration"),
    ],
)
def test_edges_do_not_crash(recording):
    for policy in (DynamicConfidence(), FixedTime()):
        exits = policy.fit(recording).exit_steps(recording)
        assert bool(((exits >= 1) & (exits <= recording.timesteps)).all())


def test_single_class_batch():
    recording = from_predictions([[1, 1], [1, 1]], [1, 1], split="calibration")
    assert DynamicConfidence().fit(recording).exit_steps(recording).tolist() == [1, 1]
