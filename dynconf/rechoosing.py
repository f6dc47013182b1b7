"""What a fitted policy would do had other calibration images been drawn: its last stage, chosen anew on resamples of them.

The last stage is the threshold, the number of steps, the limits: what is chosen on the images of `choosing_part`. What was
learned before it, like a smoothing scale, stays; so do parameters that were given. `rechosen` is open: a policy with a fast
way registers it with `rechosen.register`; any other is fitted again, on fewer resamples. That needs `fit` of a fitted policy
to repeat the last stage alone, which it does for every policy here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from dynconf.evidence import LogitEvidence
from dynconf.fixed import FixedTime
from dynconf.policy import GIVEN, Policy
from dynconf.recording import Recording, RecordingInfo
from dynconf.silence import Silence, last_false_rest
from dynconf.sweep import Sweep, exit_table
from dynconf.threshold import ThresholdPolicy

REFITS = 100
# Resamples that are summed up together, which bounds the memory.
BLOCK = 250


@dataclass(frozen=True)
class Rechosen:
    """What the resamples led to.

    Attributes:
        exits: timesteps (from 1) of N images under each of U variants of a policy, int16 [N, U].
        choice: the variant of each resample, int64 [R]; R is smaller than asked for where a policy is slow to fit.
    """

    exits: Tensor
    choice: Tensor


def draws(images: int, resamples: int, generator: torch.Generator, size: int | None = None) -> Tensor:
    """How often each image is drawn in each resample, int64 [resamples, images]; see `draw`."""
    return torch.stack([torch.bincount(draw(images, generator, size), minlength=images) for _ in range(resamples)])


def draw(images: int, generator: torch.Generator, size: int | None = None) -> Tensor:
    """One resample with replacement, of as many images or of `size`: image numbers, int64 [size]."""
    return torch.randint(0, images, (images if size is None else size,), generator=generator)


@singledispatch
def rechosen(policy: Policy, part: Recording, test: Recording, counts: Tensor) -> Rechosen | None:
    """The exits on `test` after choosing anew on each resample of the images that were chosen on.

    Args:
        policy: fitted.
        part: the N calibration images that its last stage was chosen on; see `choosing_part`.
        test: on which the exits are wanted.
        counts: how often each of the N images is in each resample, int64 [R, N].

    Returns None where nothing was chosen: every parameter of the policy is given.
    """
    if policy.selection == GIVEN:
        return None
    variants: dict[str, int] = {}
    exits: list[Tensor] = []
    choice: list[int] = []
    for row in counts[:REFITS]:
        again = policy.fit(part.take(torch.repeat_interleave(torch.arange(len(part)), row)))
        key = repr(again.params())
        if key not in variants:
            variants[key] = len(exits)
            exits.append(again.exit_steps(test))
        choice.append(variants[key])
    return Rechosen(torch.stack(exits, 1).short(), torch.tensor(choice))


def choosing_part(policy: Policy, calibration: Recording) -> Recording:
    """Those of the calibration images that the last stage is chosen on: what the policy says, or all."""
    own = getattr(policy, "choosing_part", None)
    return calibration if own is None else own(calibration)


def of_choosing_part(policy: Policy, calibration: Recording, counts: Tensor) -> tuple[Recording, Tensor]:
    """The images that the last stage is chosen on, and their counts, for counts [R, N] of all calibration images.

    In a resample of all calibration images this part has more or fewer images than in the original, as it would in a draw
    of new ones.
    """
    part = choosing_part(policy, calibration)
    if part is calibration:
        return part, counts
    return part, counts[:, choosing_part(policy, _numbered(len(calibration))).labels]


def _numbered(images: int) -> Recording:
    """A recording whose labels are the numbers of the images: what a policy takes of it tells which images it takes."""
    nothing = torch.zeros(images, 1, dtype=torch.long)
    return Recording(
        RecordingInfo("calibration", 1, images),
        torch.arange(images),
        LogitEvidence(torch.zeros(images, 1, 1)),
        torch.zeros(images, 1),
        nothing,
        nothing,
        nothing[:, 0],
        nothing[:, 0],
    )


@rechosen.register
def _threshold(policy: ThresholdPolicy, part: Recording, test: Recording, counts: Tensor) -> Rechosen | None:
    grid = policy.thresholds
    if grid is None:
        given = policy.selection == GIVEN or getattr(policy, "images_needed", None) is not None
        return None if given else rechosen.dispatch(Policy)(policy, part, test, counts)
    sweeps = resampled_sweeps(policy.scores(part), part.correct, grid, counts)
    used, choice = torch.tensor([policy.choose(sweep) for sweep in sweeps]).unique(return_inverse=True)
    return Rechosen(exit_table(policy.scores(test), grid[used]), choice)


def resampled_sweeps(scores: Tensor, correct: Tensor, thresholds: Tensor, counts: Tensor) -> Iterator[Sweep]:
    """`dynconf.sweep.sweep_thresholds` of each resample.

    Args:
        scores, correct, thresholds: as there, [N, T], [N, T] and [M].
        counts: how often each image is in each resample, int64 [R, N].
    """
    table = exit_table(scores, thresholds)
    right = correct.gather(1, table.long() - 1)
    lost = correct[:, -1:] & ~right
    lost_safer = lost.flip(1).cummax(1).values.flip(1)
    changes = [_changes(values) for values in (table, right, lost, lost_safer)]
    for block in counts.split(BLOCK):
        images = block.sum(1)
        weights = block.T.double().contiguous().numpy()
        # Sums of whole numbers, exact in float64 in whatever order they are added.
        means = [torch.from_numpy(each @ weights).cumsum(0).T / images[:, None] for each in changes]
        for count, timesteps, accuracy, share, safer in zip(images.tolist(), *means, strict=True):
            yield Sweep(thresholds, timesteps, accuracy, share, images=count, lost_safer=safer)


def _changes(values: Tensor) -> Any:
    """From threshold to threshold what changes in values [N, M], as a sparse matrix [M, N].

    An image changes its exit at a few of a thousand thresholds, so this takes a small part of the work of the product with
    the values themselves.
    """
    from scipy.sparse import csr_array

    steps = torch.diff(values.short(), dim=1, prepend=torch.zeros(len(values), 1, dtype=torch.short))
    image, threshold = (index.numpy() for index in steps.nonzero(as_tuple=True))
    data = steps[steps != 0].double().numpy()
    return csr_array((data, (threshold, image)), shape=(values.shape[1], len(values)))


@rechosen.register
def _fixed(policy: FixedTime, part: Recording, test: Recording, counts: Tensor) -> Rechosen | None:
    if policy.selection == GIVEN:
        return None
    right = counts.double() @ part.correct.double()
    enough = right >= right[:, -1:] - policy.tolerance * counts.sum(1, keepdim=True)
    used, choice = (enough.int().argmax(1) + 1).unique(return_inverse=True)
    return Rechosen(used.short().expand(len(test), -1), choice)


@rechosen.register
def _silence(policy: Silence, part: Recording, test: Recording, counts: Tensor) -> Rechosen | None:
    if policy.selection == GIVEN:
        return None
    after, choice = ((counts > 0) * last_false_rest(part)).amax(1).unique(return_inverse=True)
    exits = [dataclasses.replace(policy, after=value).exit_steps(test) for value in after.tolist()]
    return Rechosen(torch.stack(exits, 1).short(), choice)
