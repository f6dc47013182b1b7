"""A network without a network, so that recordings of any size cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class RandomWalk:
    """A stepwise network: every timestep adds noise to all logits, and a push to that of the label."""

    prelude_steps = streaming_prelude_steps = 0
    report = "no network: every timestep adds noise to all logits, and a push to that of the label"

    def __init__(self, classes: int, start: Callable[[Tensor], tuple[Tensor, torch.Generator]]):
        """`start` tells from a batch of images their labels, int64 [B], and where its noise comes from."""
        self._classes, self._start = classes, start

    def begin(self, images: Tensor) -> None:
        """See `StepwiseNetwork`."""
        self._labels, self._generator = self._start(images)
        # Some images are pushed so little that they stay wrong.
        self._push = torch.randn(len(images), generator=self._generator).mul_(0.6).add_(1.0)
        self.spikes = self.synops = torch.ones(len(images), dtype=torch.long)

    def step(self) -> Tensor:
        """See `StepwiseNetwork`."""
        logits = torch.randn(len(self._labels), self._classes, generator=self._generator)
        logits[torch.arange(len(logits)), self._labels] += self._push
        return logits

    def keep(self, mask: Tensor) -> None:
        """See `StepwiseNetwork`."""
        self._labels, self._push = self._labels[mask], self._push[mask]
        self.spikes = self.synops = self.spikes[mask]
