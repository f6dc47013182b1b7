"""Choosing anew on resampled calibration images: the fast ways against fitting again, image by image."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from recordings import drift, from_logits

from dynconf import Agreement, Conformal, DynamicConfidence, Entropy, FixedTime, Margin, Patience, RandomExit, Silence
from dynconf.names import POLICIES
from dynconf.policies import GIVEN, Policy
from dynconf.rechoosing import REFITS, draws, of_choosing_part, rechosen, resampled_sweeps
from dynconf.sweep import sweep_thresholds

RESAMPLES = 25


def settling(images=120, timesteps=10, split="test", seed=0):
    """Images that come to rest at some time and of which a few move once more later."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(images, timesteps, 4, generator=generator)
    rest = torch.randint(1, 7, (images,), generator=generator)
    moving = torch.arange(timesteps) < rest[:, None]
    late = torch.randint(0, images, (3,), generator=generator)
    moving[late, torch.tensor([7, 8, 6])] = True
    logits = (steps * moving[..., None]).double().cumsum(1).float()
    return from_logits(logits, torch.randint(0, 4, (images,), generator=generator), split, spikes=moving.long())


ALL = {
    "agreement": Agreement(),
    "agreement ltt": Agreement(selection="ltt", epsilon=0.05),
    "dynamic-confidence": DynamicConfidence(),
    "dynamic-confidence ltt": DynamicConfidence(selection="ltt", epsilon=0.05),
    "entropy crc": Entropy(selection="crc", epsilon=0.02),
    "margin": Margin(tolerance=0.02),
    "margin per step": Margin(per_step=True, epsilon=0.1),
    "patience": Patience(tolerance=0.05),
    "conformal": Conformal(target=0.7, max_set=2),
    "conformal, known scale": Conformal(target=0.8, checkpoints=3, scale=4.0),
    "fixed": FixedTime(),
    "fixed, tolerant": FixedTime(tolerance=0.034),
}


def anew(policy, calibration, test, counts):
    """What `rechosen` takes, for counts of all calibration images."""
    part, own = of_choosing_part(policy, calibration, counts)
    return part, test, own


def literally(policy: Policy, calibration, row) -> Policy:
    """The policy fitted again on the drawn images of its own part, every image as often as it was drawn."""
    part, counts = of_choosing_part(policy, calibration, row[None])
    images = [number for number, count in enumerate(counts[0].tolist()) for _ in range(count)]
    return policy.fit(part.take(torch.tensor(images)))


@pytest.mark.parametrize("name", ALL)
def test_what_is_chosen_anew_is_what_fitting_again_gives(name):
    calibration, test = drift(images=240, split="calibration"), drift(images=90, seed=1)
    policy = ALL[name].fit(calibration)
    counts = draws(len(calibration), RESAMPLES, torch.Generator().manual_seed(3))
    found = rechosen(policy, *anew(policy, calibration, test, counts))
    assert found.exits.dtype == torch.int16 and len(found.choice) == RESAMPLES
    for row, variant in zip(counts, found.choice, strict=True):
        assert torch.equal(found.exits[:, variant].long(), literally(policy, calibration, row).exit_steps(test))
    assert len({tuple(found.exits[:, variant].tolist()) for variant in found.choice}) > 1


def test_silence_is_chosen_anew():
    calibration, test = settling(split="calibration"), settling(seed=1)
    policy = Silence().fit(calibration)
    counts = draws(len(calibration), RESAMPLES, torch.Generator().manual_seed(3))
    found = rechosen(policy, calibration, test, counts)
    again = [literally(policy, calibration, row) for row in counts]
    assert len({policy.after for policy in again}) > 2
    for variant, policy in zip(found.choice, again, strict=True):
        assert torch.equal(found.exits[:, variant].long(), policy.exit_steps(test))


@pytest.mark.parametrize("reference", ["dynamic-confidence", "fixed", "conformal", "dynamic-confidence-reference"])
def test_random_exit_follows_its_reference(reference):
    calibration, test = drift(images=240, split="calibration"), drift(images=90, seed=1)
    policy = RandomExit(reference=reference).fit(calibration)
    counts = draws(len(calibration), RESAMPLES, torch.Generator().manual_seed(3))
    found = rechosen(policy, calibration, test, counts)
    entry = POLICIES[reference]
    classes = {"fixed": FixedTime, "conformal": Conformal}
    base = classes.get(reference, DynamicConfidence)(**entry.options).fit(calibration)
    for row, variant in zip(counts, found.choice, strict=True):
        exits = literally(base, calibration, row).exit_steps(calibration).repeat_interleave(row)
        rates = []
        for t in range(1, 13):
            there = int((exits >= t).sum())
            rates.append(int((exits == t).sum()) / there if there else 1.0)
        again = dataclasses.replace(policy, rates=tuple(rates), selection=GIVEN)
        assert torch.equal(found.exits[:, variant].long(), again.exit_steps(test))


@pytest.mark.parametrize(
    "policy",
    [
        DynamicConfidence(scale=30.0, threshold=0.6),
        FixedTime(timesteps=3),
        Patience(steps=2),
        Silence(after=3),
        Margin(selection="ltt", epsilon=0.0001),
        Conformal(target=0.9999),
        RandomExit(rates=(0.5,) * 12, selection="given"),
    ],
    ids=lambda policy: f"{policy.name} {policy.selection}",
)
def test_nothing_is_chosen_where_all_is_given_or_images_are_too_few(policy):
    calibration = drift(images=60, split="calibration")
    counts = draws(60, 5, torch.Generator().manual_seed(0))
    assert rechosen(policy.fit(calibration), calibration, drift(images=40, seed=1), counts) is None


def test_the_part_that_was_chosen_on_takes_its_own_counts():
    calibration = drift(images=7, split="calibration")
    counts = torch.arange(14).reshape(2, 7)
    halved = dataclasses.replace(Conformal(scale=2.0), images=3, timesteps=(12,), limits=(1.0,))
    part, own = of_choosing_part(halved, calibration, counts)
    assert own.tolist() == [[1, 3, 5], [8, 10, 12]]
    assert torch.equal(part.labels, calibration.labels[1::2])
    whole, own = of_choosing_part(FixedTime(), calibration, counts)
    assert whole is calibration and torch.equal(own, counts)


def test_sweeps_of_resamples_are_the_sweeps_of_their_images():
    calibration = drift(images=80, split="calibration")
    scores, grid = calibration.evidence.confidence(4.0), torch.linspace(0, 1, 40, dtype=torch.float64)
    counts = draws(80, 6, torch.Generator().manual_seed(0))
    counts[1, :40] = 0  # a resample of another size
    for row, found in zip(counts, resampled_sweeps(scores, calibration.correct, grid, counts), strict=True):
        images = torch.repeat_interleave(torch.arange(80), row)
        expected = sweep_thresholds(scores[images], calibration.correct[images], grid)
        assert found.images == expected.images == len(images)
        for name in ("timesteps", "accuracy", "lost", "lost_safer"):
            assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12), name


def test_a_policy_without_a_fast_way_is_fitted_again_on_fewer_resamples():
    calibration, test = drift(images=100, split="calibration"), drift(images=50, seed=1)
    policy = Margin(per_step=True, epsilon=0.1).fit(calibration)
    counts = draws(100, REFITS + 5, torch.Generator().manual_seed(0))
    found = rechosen(policy, calibration, test, counts)
    assert len(found.choice) == REFITS
