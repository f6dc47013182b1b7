"""What a policy achieves on a test recording, image by image and in sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.intervals import drop_upper_bound, mcnemar, wilson
from dynconf.policies import Policy
from dynconf.rechoosing import BLOCK, Rechosen, draw, draws, of_choosing_part, rechosen
from dynconf.recording import Recording


@dataclass(frozen=True)
class Outcome:
    """One stopping time per image, and what follows from it. All tensors are [N].

    `timesteps` excludes, `latency` includes the prelude; spikes and SynOps are summed up to the exit and include the
    prelude's.
    """

    timesteps: Tensor
    latency: Tensor
    prediction: Tensor
    correct: Tensor
    spikes: Tensor
    synops: Tensor
    macs: Tensor

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.double().mean())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson 95% interval."""
        return wilson(int(self.correct.sum()), len(self.correct))

    def mean(self, quantity: str) -> float:
        """Mean over images of `latency`, `spikes`, `synops`, `macs` or `timesteps`."""
        return float(getattr(self, quantity).double().mean())


def outcome(recording: Recording, exit_steps: Tensor) -> Outcome:
    """What happens if image n stops after `exit_steps[n]` timesteps (from 1 to T)."""
    rows = torch.arange(len(recording))
    column = exit_steps - 1
    prediction = recording.predictions[rows, column]
    info = recording.info
    latency = exit_steps + info.prelude_steps
    return Outcome(
        timesteps=exit_steps,
        latency=latency,
        prediction=prediction,
        correct=prediction == recording.labels,
        spikes=recording.spikes.cumsum(1)[rows, column] + recording.prelude_spikes,
        synops=recording.synops.cumsum(1)[rows, column] + recording.prelude_synops,
        macs=info.macs_once + info.macs_per_timestep * latency,
    )


def static_outcome(recording: Recording, timesteps: int | None = None) -> Outcome:
    """Fixed-time inference for `timesteps` (all by default)."""
    return outcome(recording, torch.full((len(recording),), timesteps or recording.timesteps))


@dataclass(frozen=True)
class Comparison:
    """Early exit against all timesteps on the same images: a loser was right at T and is wrong at its exit."""

    losers: int
    winners: int
    mcnemar_p: float
    drop_upper95: float


def compare(early: Outcome, static: Outcome) -> Comparison:
    """Paired comparison of two outcomes of the same recording."""
    losers = int((static.correct & ~early.correct).sum())
    winners = int((early.correct & ~static.correct).sum())
    return Comparison(losers, winners, mcnemar(losers, winners), drop_upper_bound(losers, winners, len(static.correct)))


def shortest_equal_fixed(recording: Recording, accuracy: float) -> int | None:
    """The first fixed number of timesteps whose accuracy on this recording is at least `accuracy`; None if there is none.

    It is chosen on the test images themselves, which favours the fixed time: an honest early exit has to beat it.
    """
    reached = recording.correct.double().mean(0) >= accuracy - 1e-12
    return int(reached.int().argmax()) + 1 if bool(reached.any()) else None


def bootstrap_latency(
    policy: Policy, part: Recording, test: Recording, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean latency (prelude included), selection noise included.

    Calibration and test images are resampled independently, with replacement, and what the policy chose is chosen anew in
    every resample (see `dynconf.rechoosing`; fewer resamples where that is slow). What it learned before, like a scale, and
    what was given is kept.

    Args:
        policy: fitted.
        part: the calibration images that its last stage was chosen on: `dynconf.rechoosing.choosing_part`.
        test: the images that it is judged on.
        resamples: at most so many.
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    found = rechosen(policy, part, test, draws(len(part), resamples, generator))
    if found is None:
        return bootstrap_mean(policy.exit_steps(test) + test.info.prelude_steps, resamples=resamples, seed=seed)
    ((means, _),) = _resampled([found], test.correct, generator)
    return _percentiles(means + test.info.prelude_steps)


@dataclass(frozen=True)
class PairedComparison:
    """One fitted policy against another on the same test images, each with a 95% interval.

    `latency_ratio` is mean latency over mean latency of the other, prelude included (below 1: faster), `latency_difference`
    in timesteps and `accuracy_difference` are this one minus the other.
    """

    latency_ratio: float
    latency_ratio_ci95: tuple[float, float]
    latency_difference: float
    latency_difference_ci95: tuple[float, float]
    accuracy_difference: float
    accuracy_difference_ci95: tuple[float, float]


def compare_policies(
    policy: Policy,
    against: Policy,
    calibration: Recording,
    test: Recording,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedComparison:
    """Paired percentile bootstrap of two policies, selection noise included.

    Every resample draws calibration and test images independently of each other, with replacement; both policies see the
    same draws and choose anew, each on those of the drawn calibration images that are its own (`choosing_part`). Where one
    of them is slow to fit, both get fewer resamples.

    Args:
        policy, against: fitted on `calibration`.
        calibration: all images that they were fitted on.
        test: the images that they are judged on.
        resamples: at most so many.
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = draws(len(calibration), resamples, generator)
    found = []
    for each in (policy, against):
        part, own = of_choosing_part(each, calibration, counts)
        found.append(rechosen(each, part, test, own) or _kept(each, test, resamples))
    (steps, right), (other_steps, other_right) = _resampled(found, test.correct, generator)
    latency, other_latency = steps + test.info.prelude_steps, other_steps + test.info.prelude_steps
    ours, theirs = (outcome(test, each.exit_steps(test)) for each in (policy, against))
    return PairedComparison(
        ours.mean("latency") / theirs.mean("latency"),
        _percentiles(latency / other_latency),
        ours.mean("latency") - theirs.mean("latency"),
        _percentiles(latency - other_latency),
        ours.accuracy - theirs.accuracy,
        _percentiles(right - other_right),
    )


def _kept(policy: Policy, test: Recording, resamples: int) -> Rechosen:
    """A policy that chose nothing, as if it had chosen the same in every resample."""
    return Rechosen(policy.exit_steps(test)[:, None].short(), torch.zeros(resamples, dtype=torch.long))


def _resampled(found: Sequence[Rechosen], correct: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Mean timesteps and accuracy of each resample of the test images under the variants that it led to, float64 [R] each.

    The same test images are drawn for all of `found`. Sums of whole numbers, divided at the end. A few large steps: with many
    small ones, threads wait for each other longest.
    """
    exits = [each.exits.T.contiguous() for each in found]
    sums: list[list[tuple[Tensor, Tensor]]] = [[] for _ in found]
    for start in range(0, min(len(each.choice) for each in found), BLOCK):
        choices = [each.choice[start : start + BLOCK] for each in found]
        drawn = draws(len(correct), min(map(len, choices)), generator)
        for own, each, choice in zip(sums, exits, choices, strict=True):
            chosen = each[choice[: len(drawn)]]
            right = correct.gather(1, chosen.T.long() - 1).T
            own.append(((drawn * chosen).sum(1), (drawn * right).sum(1)))
    return [
        (
            torch.cat([steps for steps, _ in own]).double() / len(correct),
            torch.cat([right for _, right in own]).double() / len(correct),
        )
        for own in sums
    ]


def bootstrap_mean(values: Tensor, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of a mean over images."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    means = []
    for start in range(0, resamples, BLOCK):
        images = torch.stack([draw(len(values), generator) for _ in range(min(BLOCK, resamples - start))])
        means.append(values[images].mean(1))
    return _percentiles(torch.cat(means))


def _percentiles(means: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high
