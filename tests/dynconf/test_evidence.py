"""Scores: conventions, ranges, ties, and the same numbers from logits and from compact statistics."""

from __future__ import annotations

import math

import pytest
import torch
from recordings import drift

from dynconf.evidence import (
    SCALES,
    LogitEvidence,
    RunningSum,
    StatisticEvidence,
    expected_logit,
    log_sum_exp,
    statistics_of,
)
from dynconf.leads import Leads
from dynconf.over_time import statistics_over_time


def test_sum_convention():
    """softmax(sum / alpha) is softmax(mean * t / alpha): not a temperature on the mean."""
    logits = drift().evidence.logits
    t = torch.arange(1, 13)[None, :, None]
    mean = logits.double() / t
    expected = torch.softmax(mean * t / 30, -1).amax(-1)
    assert torch.allclose(LogitEvidence(logits).confidence(30.0), expected, atol=1e-12)
    assert not torch.allclose(torch.softmax(mean / 30, -1).amax(-1), expected, atol=1e-2)


@pytest.mark.parametrize("scale", SCALES)
def test_statistics_give_the_same_numbers_as_logits(scale):
    logits = drift(classes=20).evidence.logits
    kept, compact = LogitEvidence(logits), StatisticEvidence(statistics_of(logits, SCALES), SCALES, 20)
    assert torch.equal(kept.confidence(scale), compact.confidence(scale))
    assert torch.equal(kept.entropy(scale), compact.entropy(scale))
    assert torch.equal(kept.margin, compact.margin)
    assert torch.equal(kept.prediction, compact.prediction)


def test_entropy_and_confidence_against_their_definition():
    logits = drift().evidence.logits
    p = torch.softmax(logits.double() / 4, -1)
    evidence = LogitEvidence(logits)
    assert torch.allclose(evidence.entropy(4.0), -(p * p.log()).sum(-1) / math.log(6), atol=1e-5)
    assert torch.allclose(evidence.confidence(4.0), p.amax(-1), atol=1e-12)
    assert torch.equal(evidence.margin, logits.topk(2).values[..., 0] - logits.topk(2).values[..., 1])


def test_extreme_logits_stay_in_range():
    evidence = LogitEvidence(torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0], [3e38, 0.0, 0.0]]))
    confidence = evidence.confidence(1.0)
    assert bool(((confidence > 0) & (confidence <= 1)).all())
    assert confidence[1].item() == pytest.approx(1 / 3)
    assert evidence.prediction.tolist() == [0, 0, 0]  # the lowest index among equals


def test_two_classes_and_a_scale_that_was_not_recorded():
    evidence = StatisticEvidence(statistics_of(torch.randn(3, 4, 2), (1.0, 2.0)), (1.0, 2.0), 2)
    assert evidence.top.shape == (3, 4, 2)
    with pytest.raises(KeyError, match="scale 5 was not recorded; recorded: 1, 2"):
        evidence.confidence(5.0)


def test_running_sum_is_accumulated_in_float64():
    running = RunningSum()
    running.add(torch.tensor([[2.0**24]]))
    for _ in range(4):
        total = running.add(torch.tensor([[1.0]]))  # each 1 alone would be lost in float32
    assert total.dtype == torch.float32
    assert total.item() == 2.0**24 + 4


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 8, 10), (5, 7, 3), (70, 9, 10), (3, 12, 1000), (0, 4, 10)])
def test_all_timesteps_at_once_give_the_bits_of_each_one_alone(shape):
    sums = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(3).cumsum(1)
    sums[..., 0] = sums[..., -1]  # a tie now and then
    together, leads = statistics_over_time(sums, SCALES), Leads()
    for timestep in range(shape[1]):
        total = sums[:, timestep].contiguous()
        assert torch.equal(together["leads"][:, timestep], leads.advance(total))
        assert torch.equal(together["prediction"][:, timestep], total.argmax(-1).int())
        assert torch.equal(together["top"][:, timestep], total.topk(min(5, shape[2])).values)
        for position, scale in enumerate(SCALES):
            for name, plain in (("log_sum_exp", log_sum_exp), ("expected_logit", expected_logit)):
                assert torch.equal(together[name][:, timestep, position], plain(total, scale)), name


def test_images_that_begin_later_are_summed_from_their_own_first_timestep():
    steps = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    late, running = RunningSum(), RunningSum()
    for timestep, logits in enumerate(steps):
        found = running.add(logits if timestep > 1 else logits[:2])
        if timestep > 1:
            assert torch.equal(found[2:], late.add(logits[2:]))
    assert torch.equal(found[:2], sum(steps[:, :2].double()).float())
    running.keep(torch.tensor([3, 0]))
    assert torch.equal(running.add(torch.zeros(2, 3)), found[[3, 0]])
