"""What a policy achieves on a test recording, image by image and in sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.intervals import drop_upper_bound, mcnemar, wilson
from dynconf.policies import ThresholdPolicy
from dynconf.recording import Recording
from dynconf.sweep import Sweep, exit_table


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
    policy: ThresholdPolicy, calibration: Recording, test: Recording, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean latency (prelude included), selection noise included.

    Calibration and test images are resampled independently, and the threshold is chosen anew in every resample; a given
    threshold is kept.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = policy.thresholds
    if grid is None:
        return bootstrap_mean(policy.exit_steps(test) + test.info.prelude_steps, resamples=resamples, seed=seed)
    table = exit_table(policy.score(calibration.evidence), grid)
    right = calibration.correct.gather(1, table.long() - 1)
    weights = torch.stack(
        [torch.bincount(_draw(len(calibration), generator), minlength=len(calibration)) for _ in range(resamples)]
    ).double() / len(calibration)
    lost = (calibration.correct[:, -1:] & ~right).double()
    lost_safer = lost.flip(1).cummax(1).values.flip(1)
    means_of = [weights @ table.double(), weights @ right.double(), weights @ lost]
    safer = weights @ lost_safer
    chosen = [
        policy.choose(
            Sweep(
                grid,
                *(mean[resample] for mean in means_of),
                images=len(calibration),
                lost_safer=safer[resample],
            )
        )
        for resample in range(resamples)
    ]
    used = sorted(set(chosen))
    test_table = exit_table(policy.score(test.evidence), grid[used]).double()
    means = [test_table[_draw(len(test), generator), used.index(index)].mean() for index in chosen]
    return _percentiles(torch.stack(means) + test.info.prelude_steps)


def bootstrap_mean(values: Tensor, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of a mean over images."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    return _percentiles(torch.stack([values[_draw(len(values), generator)].mean() for _ in range(resamples)]))


def _draw(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, count, (count,), generator=generator)


def _percentiles(means: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high
