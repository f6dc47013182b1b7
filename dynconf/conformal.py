"""Early exit by the size of a conformal prediction set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence, LogitEvidence
from dynconf.policy import FITTED, FitError, Policy, default, unfitted
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
    first, and the scores come from the others; `images` is their number. It needs the logits of all classes.
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
        return self.prediction_set(evidence, timestep).sum(-1) <= self.max_set

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
        return -torch.log_softmax(evidence.logits.double() / self.scale, -1) <= limit

    def _fit(self, recording: Recording) -> Conformal:
        if not isinstance(recording.evidence, LogitEvidence):
            raise FitError(
                f"{self.name} needs the logits of all classes, and this recording has only statistics of them; "
                'record with keep="logits"'
            )
        scale, part = self.scale, recording
        if scale is None:
            scale, part = scale_by_nll(first_half(recording)), second_half(recording)
        total = recording.timesteps
        timesteps = sorted({math.ceil(total * number / self.checkpoints) for number in range(1, self.checkpoints + 1)})
        alpha = (1 - self.target) / len(timesteps)
        # p_c > alpha' means that at least floor(alpha' (n + 1)) calibration scores are not below s_c: that rank, counted from
        # the largest, is the largest score in the set. Rank 0 excludes nothing.
        rank = math.floor(alpha * (len(part) + 1) + 1e-9)
        limits, needed = None, math.ceil(1 / alpha - 1 - 1e-9)
        if rank:
            logits = part.evidence.logits[:, [t - 1 for t in timesteps]]  # type: ignore[union-attr]
            classes = part.labels[:, None, None].expand(-1, len(timesteps), 1)
            scores = -torch.log_softmax(logits.double() / scale, -1).gather(2, classes)[..., 0]
            limits = tuple(scores.sort(0, descending=True).values[rank - 1].tolist())
        return dataclasses.replace(
            self,
            scale=scale,
            timesteps=tuple(timesteps),
            limits=limits,
            images=len(part),
            images_needed=None if rank else needed,
        )
