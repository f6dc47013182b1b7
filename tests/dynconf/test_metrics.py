"""Calibration, proper scores and selective risk: against torchmetrics, against loops, and by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from recordings import drift, from_predictions

from dynconf import DynamicConfidence
from dynconf.metrics import (
    area_under_risk_coverage,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    reliability_diagrams,
    risk_coverage,
)

RECORDING = drift(images=700)
EXITS = DynamicConfidence(scale=4.0, threshold=0.8).exit_steps(RECORDING)


def probabilities(recording, scale):
    scaled = recording.evidence.logits.double().numpy() / scale
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def slow_error(confidence, correct, bins):
    total = 0.0
    for b in range(bins):
        inside = [n for n, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins]
        if inside:
            total += abs(sum(confidence[n] for n in inside) - sum(correct[n] for n in inside))
    return total / len(confidence)


def slow_adaptive_error(confidence, correct, bins):
    order = sorted(range(len(confidence)), key=lambda n: confidence[n])
    total = 0.0
    for b in range(bins):
        inside = [n for rank, n in enumerate(order) if rank * bins // len(order) == b]
        total += abs(sum(confidence[n] for n in inside) - sum(correct[n] for n in inside))
    return total / len(confidence)


@pytest.mark.parametrize("scale", [1.0, 4.0, 30.0])
def test_calibration_error_against_torchmetrics(scale):
    with warnings.catch_warnings():
        # what it imports may be deprecated by what that imports in turn; not ours to mend
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchmetrics.functional.classification import multiclass_calibration_error

    p = torch.from_numpy(probabilities(RECORDING, scale))
    found = expected_calibration_error(RECORDING, scale)
    assert found.shape == (12,)
    for t in range(12):
        expected = multiclass_calibration_error(p[:, t], RECORDING.labels, num_classes=6, n_bins=15, norm="l1")
        assert found[t].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_errors_against_loops(statistics, bins):
    recording = drift(images=200, statistics=statistics)
    p = probabilities(drift(images=200), 4.0)
    equal_width = expected_calibration_error(recording, 4.0, bins=bins)
    equal_mass = expected_calibration_error(recording, 4.0, bins=bins, equal_mass=True)
    for t in range(12):
        confidence = p[:, t].max(-1).tolist()
        correct = (p[:, t].argmax(-1) == recording.labels.numpy()).tolist()
        assert equal_width[t].item() == pytest.approx(slow_error(confidence, correct, bins), abs=1e-9)
        assert equal_mass[t].item() == pytest.approx(slow_adaptive_error(confidence, correct, bins), abs=1e-9)


@pytest.mark.parametrize("statistics", [False, True])
def test_proper_scores_against_loops(statistics):
    recording = drift(images=200, statistics=statistics)
    p = probabilities(drift(images=200), 4.0)
    labels = recording.labels.tolist()
    for t in range(12):
        surprise = np.mean([-math.log(p[n, t, y]) for n, y in enumerate(labels)])
        distance = np.mean([sum((p[n, t, k] - (k == y)) ** 2 for k in range(6)) for n, y in enumerate(labels)])
        assert negative_log_likelihood(recording, 4.0)[t].item() == pytest.approx(surprise, abs=1e-6)
        assert brier_score(recording, 4.0)[t].item() == pytest.approx(distance, abs=1e-6)


def test_likelihood_against_torch():
    logits = RECORDING.evidence.logits.double() / 4
    for t in range(12):
        expected = torch.nn.functional.cross_entropy(logits[:, t], RECORDING.labels)
        assert negative_log_likelihood(RECORDING, 4.0)[t].item() == pytest.approx(expected.item(), abs=1e-6)


def test_at_exit_every_image_counts_at_its_own_time():
    assert 1 < len(EXITS.unique()) <= 12
    p = probabilities(RECORDING, 4.0)[np.arange(700), EXITS.numpy() - 1]
    labels = RECORDING.labels.numpy()
    confidence, correct = p.max(-1).tolist(), (p.argmax(-1) == labels).tolist()
    found = expected_calibration_error(RECORDING, 4.0, EXITS)
    assert found.shape == ()
    assert found.item() == pytest.approx(slow_error(confidence, correct, 15), abs=1e-9)
    adaptive = expected_calibration_error(RECORDING, 4.0, EXITS, equal_mass=True)
    assert adaptive.item() == pytest.approx(slow_adaptive_error(confidence, correct, 15), abs=1e-9)
    true = p[np.arange(700), labels]
    assert negative_log_likelihood(RECORDING, 4.0, EXITS).item() == pytest.approx(-np.log(true).mean(), abs=1e-6)
    distance = ((p - np.eye(6)[labels]) ** 2).sum(-1).mean()
    assert brier_score(RECORDING, 4.0, EXITS).item() == pytest.approx(distance, abs=1e-6)
    surest = area_under_risk_coverage(RECORDING, RECORDING.evidence.confidence(4.0), EXITS)
    assert surest.item() == pytest.approx(risk_coverage(torch.tensor(confidence), torch.tensor(correct)).area)
    (diagram,) = reliability_diagrams(RECORDING, 4.0, EXITS)
    assert diagram.count.sum() == 700
    # the rule lets nothing out below its threshold before the cap
    assert diagram.count[:11].sum() <= (EXITS == 12).sum()


def test_what_statistics_cannot_give_is_refused_by_name():
    recording = drift(images=20, statistics=True)
    assert brier_score(recording, 48.0).shape == (12,)
    with pytest.raises(KeyError, match="Brier score at scale 30 needs the recorded scales 30 and 15"):
        brier_score(recording, 30.0)
    for metric in (expected_calibration_error, negative_log_likelihood):
        with pytest.raises(KeyError, match="scale 5 was not recorded"):
            metric(recording, 5.0)


def test_diagram_by_hand():
    confidence = torch.tensor([0.5, 0.25, 1.0, 0.9, 0.0])
    correct = torch.tensor([True, False, True, False, False])
    diagram = reliability(confidence, correct, bins=2)
    assert diagram.count.tolist() == [3, 2]  # the upper edge belongs to a bin, and 0 to the first
    assert diagram.confidence.tolist() == pytest.approx([0.25, 0.95])
    assert diagram.accuracy.tolist() == pytest.approx([1 / 3, 0.5])
    assert diagram.calibration_error == pytest.approx((3 * (1 / 3 - 0.25) + 2 * 0.45) / 5)
    sparse = reliability(torch.tensor([0.95]), torch.tensor([True]))
    assert bool(sparse.accuracy[:14].isnan().all())
    assert sparse.calibration_error == pytest.approx(0.05)


def test_a_calibrated_source_has_little_error_and_a_boaster_has_its_excess():
    generator = torch.Generator().manual_seed(0)
    confidence = 0.2 + 0.8 * torch.rand(100_000, generator=generator)
    correct = torch.rand(100_000, generator=generator) < confidence
    for equal_mass in (False, True):
        assert reliability(confidence, correct, equal_mass=equal_mass).calibration_error < 0.01
    assert reliability(torch.full((100,), 0.9), torch.arange(100) < 60).calibration_error == pytest.approx(0.3)


def test_equal_confidences_share_a_bin_whatever_the_order():
    confidence = torch.tensor([0.9] * 10 + [0.3] * 3 + [0.6] * 7)
    correct = torch.arange(20) % 3 == 0
    first = reliability(confidence, correct, bins=4, equal_mass=True)
    assert sorted(first.count.tolist(), reverse=True)[:3] == [10, 7, 3]
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    second = reliability(confidence[shuffled], correct[shuffled], bins=4, equal_mass=True)
    assert second.calibration_error == pytest.approx(first.calibration_error)
    distinct = reliability(torch.linspace(0.1, 0.9, 100), torch.arange(100) > 50, equal_mass=True)
    assert set(distinct.count.tolist()) == {6, 7}


@pytest.mark.parametrize(
    ("confidence", "bins", "message"),
    [
        ([1.5], 15, "in \\[0, 1\\]"),
        ([float("nan")], 15, "in \\[0, 1\\]"),
        ([], 15, "no answers"),
        ([0.5], 0, "one bin"),
    ],
)
def test_impossible_diagrams(confidence, bins, message):
    with pytest.raises(ValueError, match=message):
        reliability(torch.tensor(confidence), torch.ones(len(confidence), dtype=torch.bool), bins=bins)


def test_risk_coverage_by_hand():
    curve = risk_coverage(torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([False, True, True, False]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    with pytest.raises(ValueError, match="no answers"):
        risk_coverage(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_equal_scores_count_as_in_random_order():
    score = torch.tensor([0.8, 0.8, 0.8, 0.2])
    correct = torch.tensor([False, True, True, False])
    generator = torch.Generator().manual_seed(0)
    drawn = [risk_coverage(score + 1e-3 * torch.rand(4, generator=generator), correct).risk for _ in range(4000)]
    expected = torch.stack(drawn).mean(0)
    assert torch.allclose(risk_coverage(score, correct).risk, expected, atol=0.02)
    assert risk_coverage(score, correct).risk.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2])


def test_area_under_risk_coverage_against_a_loop_and_any_monotone_score():
    score = RECORDING.evidence.confidence(4.0)
    found = area_under_risk_coverage(RECORDING, score)
    for t in range(12):
        order = sorted(range(700), key=lambda n: -score[n, t].item())
        wrong, risks = 0, []
        for answered, n in enumerate(order, 1):
            wrong += not RECORDING.correct[n, t]
            risks.append(wrong / answered)
        assert found[t].item() == pytest.approx(sum(risks) / 700, abs=1e-9)
    assert torch.allclose(area_under_risk_coverage(RECORDING, score.log() * 3 - 1), found)
    generator = torch.Generator().manual_seed(0)
    assert bool((found < area_under_risk_coverage(RECORDING, torch.rand(700, 12, generator=generator))).all())


def test_one_image_and_two_classes():
    recording = from_predictions([[1, 0]], [1])
    assert expected_calibration_error(recording, 1.0).shape == (2,)
    assert area_under_risk_coverage(recording, recording.evidence.confidence(1.0)).tolist() == [0.0, 1.0]
    two = drift(images=5, classes=2)
    assert bool(((brier_score(two, 1.0) >= 0) & (brier_score(two, 1.0) <= 2)).all())
