"""Threshold balancing: every threshold is the largest activation, or a high percentile, on calibration images.

Diehl et al., IJCNN 2015; robust normalisation by percentiles: Rueckauer et al., Frontiers in Neuroscience 2017. Starting
membranes at half a threshold: Bu et al., AAAI 2022, arXiv:2202.01440.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, fx

from methods.base import ConversionMethod
from methods.clipped import ClippedReLU, by_channel, observed, set_thresholds, uncalibrated
from methods.errors import ConversionError
from methods.neurons import IFNeuron, SpikingNeuron
from methods.tracing import QuantisedActivation


@dataclass(frozen=True)
class TrainingFree(ConversionMethod):
    """What conversions of plain ReLU networks share.

    Options:
        per_channel: a threshold for each channel instead of one for each layer.
        initial: v(0) in thresholds.
        images: how many calibration images to use, at most.
    """

    per_channel: bool = False
    initial: float = 0.5
    images: int = 500

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}")

    @property
    def calibration_images(self) -> int:
        return self.images

    def activation(self) -> QuantisedActivation:
        return ClippedReLU()

    def clipped_activation(self, ceiling: float) -> QuantisedActivation:
        return ClippedReLU(ceiling)

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return IFNeuron(self.threshold_of(activation), self.initial)

    def threshold_of(self, activation: QuantisedActivation) -> float | Tensor:
        """The calibrated threshold, one or [C]. Raises ConversionError if there is none."""
        if not isinstance(activation, ClippedReLU):
            raise ConversionError(f"{self.name} converts ReLUs, not {type(activation).__name__}.")
        return activation.calibrated()


@dataclass(frozen=True)
class ThresholdBalancing(TrainingFree):
    """Thresholds from percentiles of the activations, zeros included.

    Options:
        percentile: 100 is the maximum.
    """

    name: ClassVar[str] = "threshold-balancing"

    percentile: float = 99.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, got {self.percentile:g}")

    def calibrate(self, graph: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        activations = uncalibrated(graph)
        largest: dict[ClippedReLU, Tensor] = {}
        images = sum(len(batch) for batch in batches)

        def keep_largest(activation: ClippedReLU, z: Tensor) -> None:
            # The n-th largest of all values is among the n largest of each part, so little has to be kept.
            values = by_channel(z, self.per_channel)
            total = values.shape[1] // len(z) * images
            wanted = total - math.ceil(Fraction(repr(self.percentile)) * total / 100) + 1
            if activation in largest:
                values = torch.cat([largest[activation], values], 1)
            largest[activation] = values.topk(min(wanted, values.shape[1]), 1).values

        with observed(activations, keep_largest):
            for batch in batches:
                graph(batch)
        for activation in activations:
            set_thresholds(activation, largest[activation][:, -1].clamp_min(0))
