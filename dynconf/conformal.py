"""Early exit by the size of a conformal prediction set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence, LogitEvidence
from dynconf.policy import FITTED, FitError, Policy, default, unfitted
from dynconf.rechoosing import Rechosen, rechosen
from dynconf.recording import Recording
from dynconf.scaling import first_half, scale_by_nll, second_half


@dataclass(frozen=True)
class Conformal(Policy):
    """Stop at the first of a few timesteps at which at most `max_set` classes are still plausible.

    SpikeCP: Chen, Park, Simeone, arXiv:2305.11322. The score of class c after timestep t is
    s_c = -log softmax(sum of logits / scale)_c, and with the scores s_i of the true classes of n calibration images its
    p-value is p_c = (1 + #{i: s_c <= s_i}) / (n + 1). The set holds the classes with p_c > alpha',
    alpha' = (1 - target) / number of checkpoints. Whenever an image leaves, the right class is in its set with probability
    `target` at least, over draws of calibration and test images together: that is a statement about the set, not about its
    largest element.

    The checkpoints, four by default, are evenly spread over the timesteps and end with T. A class can be excluded only if
    n >= number of checkpoints / (1 - target) - 1; with fewer images nothing stops early, and `images_needed` says how many
    it takes. A scale that is not given is fitted by the negative log-likelihood on every second image, beginning with the
    first, and the scores come from the others; `images` is their number.

    Whether a set is small enough shows in the largest score that must be outside, so a recording of statistics will do as
    long as `max_set` is smaller than the number of largest sums in it (5); the sets themselves need the logits of all
    classes.
    """

    name: ClassVar[str] = "conformal"

    target: float = 0.9
    max_set: int = 1
    checkpoints: int = 4
    scale: float | None = None
    selection: str = ""
    timesteps: tuple[int, ...] | None = field(default=None, metadata=FITTED)
    limits: tuple[float, ...] | None = field(default=None, metadata=FITTED)
    images: int | None = field(default=None, metadata=FITTED)
    images_needed: int | None = field(default=None, metadata=FITTED)

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"target must lie between 0 and 1, got {self.target}")
        if self.max_set < 1 or self.checkpoints < 1:
            raise ValueError(f"max_set and checkpoints must be at least 1, got {self.max_set} and {self.checkpoints}")
        if self.scale is not None and not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive, got {self.scale}")
        default(self, selection="conformal")
        if self.selection != "conformal":
            raise ValueError(f"{self.name} knows no selection {self.selection!r}; there is: conformal")

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if self.timesteps is None:
            raise unfitted("the largest score of each checkpoint")
        if timestep not in self.timesteps or self.limits is None:
            return torch.zeros_like(evidence.prediction, dtype=torch.bool)
        return self._first_outside(evidence) > self.limits[self.timesteps.index(timestep)]

    def _first_outside(self, evidence: Evidence) -> Tensor:
        """Score of the most plausible class that a set of `max_set` does not hold, float64 [...]; infinite without one.

        A set has at most `max_set` classes if and only if this one is outside.
        """
        assert self.scale is not None
        if self.max_set >= evidence.num_classes:
            return torch.full(
                evidence.prediction.shape, math.inf, dtype=torch.float64, device=evidence.prediction.device
            )
        largest = evidence.top
        if self.max_set >= largest.shape[-1]:
            if not isinstance(evidence, LogitEvidence):
                raise FitError(
                    f"{self.name} with max_set={self.max_set} needs the logits of all classes, and this recording has only "
                    f'statistics of them; record with keep="logits", or take max_set below {largest.shape[-1]}'
                )
            largest = evidence.logits.topk(self.max_set + 1, dim=-1).values
        return evidence.log_sum_exp(self.scale) - largest[..., self.max_set].double() / self.scale

    def prediction_set(self, evidence: Evidence, timestep: int) -> Tensor:
        """Whether each class is in the set at a checkpoint, bool [..., K]; all are if there were too few images.

        Raises FitError before `fit`, and for evidence without the logits of all classes.
        """
        if self.timesteps is None:
            raise unfitted("the largest score of each checkpoint")
        if not isinstance(evidence, LogitEvidence):
            raise FitError(
                f"{self.name} needs the logits of all classes, and this recording has only statistics of them"
            )
        if self.limits is None:
            return torch.ones_like(evidence.logits, dtype=torch.bool)
        assert self.scale is not None
        limit = self.limits[self.timesteps.index(timestep)]
        return evidence.log_sum_exp(self.scale)[..., None] - evidence.logits.double() / self.scale <= limit

    def choosing_part(self, calibration: Recording) -> Recording:
        """Those calibration images that the scores come from: all, unless the scale took its share."""
        return calibration if self.images in (None, len(calibration)) else second_half(calibration)

    def _fit(self, recording: Recording) -> Conformal:
        scale, part = self.scale, recording
        if scale is None:
            scale, part = scale_by_nll(first_half(recording)), second_half(recording)
        total = recording.timesteps
        timesteps = sorted({math.ceil(total * number / self.checkpoints) for number in range(1, self.checkpoints + 1)})
        alpha = (1 - self.target) / len(timesteps)
        # p_c > alpha' means that at least floor(alpha' (n + 1)) calibration scores are not below s_c: that rank, counted from
        # the largest, is the largest score in the set. Rank 0 excludes nothing.
        rank = _rank(alpha, len(part))
        limits, needed = None, math.ceil(1 / alpha - 1 - 1e-9)
        if rank:
            scores = _true_scores(part, scale, timesteps)
            limits = tuple(scores.sort(0, descending=True).values[rank - 1].tolist())
        dataclasses.replace(self, scale=scale)._first_outside(recording.evidence[:1])  # raises where it cannot be known
        return dataclasses.replace(
            self,
            scale=scale,
            timesteps=tuple(timesteps),
            limits=limits,
            images=len(part),
            images_needed=None if rank else needed,
        )


def _rank(alpha: float, images: int) -> int:
    return math.floor(alpha * (images + 1) + 1e-9)


def _true_scores(recording: Recording, scale: float, timesteps: Sequence[int]) -> Tensor:
    """Scores of the true classes at some timesteps, float64 [N, number of timesteps]."""
    return recording.negative_log_likelihood(scale)[:, [t - 1 for t in timesteps]]


@rechosen.register
def _rechosen(policy: Conformal, part: Recording, test: Recording, counts: Tensor) -> Rechosen | None:
    """The limits of each resample are order statistics of the same scores."""
    if policy.limits is None:
        return None
    assert policy.timesteps is not None and policy.scale is not None
    alpha = (1 - policy.target) / len(policy.timesteps)
    ranks = torch.tensor([_rank(alpha, images) for images in counts.sum(1).tolist()])
    columns = [timestep - 1 for timestep in policy.timesteps]
    outside = policy._first_outside(test.evidence[:, columns])
    exits = torch.full((len(test), len(counts)), test.timesteps, dtype=torch.int16)
    own = _true_scores(part, policy.scale, policy.timesteps)
    for column in reversed(range(len(columns))):
        scores, order = own[:, column].sort(descending=True)
        position = torch.searchsorted(counts[:, order].cumsum(1), ranks[:, None])[:, 0]
        limits = torch.where(ranks > 0, scores[position], math.inf)
        exits[outside[:, column, None] > limits] = policy.timesteps[column]
    return Rechosen(exits, torch.arange(len(counts)))
