"""Local threshold balancing: thresholds that trade what they clip against what they quantise, by local gradient steps.

Bu, Li, Yu: "Inference-Scale Complexity in ANN-SNN Conversion for High-Performance and Low-Power Applications", CVPR 2025,
arXiv:2409.03368.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from methods.clipped import ClippedReLU, by_channel, observed, set_thresholds, uncalibrated
from methods.network import SpikingNetwork
from methods.threshold_balancing import TrainingFree


@dataclass(frozen=True)
class LocalThresholdBalancing(TrainingFree):
    """Thresholds grow from zero along the gradient of what they clip away, for a fixed number of forward passes.

    theta += 2 * rate * mean((z - theta)+) over images and pixels, per channel or layer, while the layers below are
    already clipped; eq. 14-17 of the paper. A step never goes beyond the mean of the values above theta, which the
    paper's rate of 1 can only do while more than half of them are; so a higher rate with fewer iterations is safe.

    Options:
        iterations: forward passes, over the calibration images again and again.
        rate: of the gradient step; 1 in the paper.
        delay: the paper's delayed evaluation: the first timesteps' logits do not count. They are a prelude: latency,
            spikes and SynOps include them.
    """

    name: ClassVar[str] = "ltb"

    per_channel: bool = True
    iterations: int = 1000
    rate: float = 1.0
    delay: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.delay < 0:
            raise ValueError(f"delay must not be negative, got {self.delay}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate:g}")

    @property
    def prelude_steps(self) -> int:
        return self.delay

    def prelude(self, network: SpikingNetwork) -> None:
        network.presimulate(self.delay)

    def calibrate(self, graph: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        activations = uncalibrated(graph)
        for activation in activations:
            activation.threshold = torch.zeros_like(activation.threshold)

        def grow(activation: ClippedReLU, z: Tensor) -> None:
            excess = by_channel((z - activation.broadcast(activation.threshold, z)).clamp_min(0), self.per_channel)
            share = (excess > 0).to(excess.dtype).mean(1).clamp_min(torch.finfo(excess.dtype).tiny)
            step = excess.mean(1) * (1 / share).clamp_max(2 * self.rate)
            activation.threshold = activation.threshold + (step if self.per_channel else step[0])

        with observed(activations, grow):
            for iteration in range(self.iterations):
                graph(batches[iteration % len(batches)])
        for activation in activations:
            set_thresholds(activation, activation.threshold.reshape(-1))
