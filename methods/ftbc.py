"""FTBC: a correction of the current for every channel and timestep, found by forward passes over calibration images.

Wu et al.: "FTBC: Forward Temporal Bias Correction for Optimizing ANN-SNN Conversion", ECCV 2024, arXiv:2403.18388.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from methods.biased import BiasedIFNeuron, channel_mean, concatenated, correct_layers
from methods.network import SpikingNetwork
from methods.neurons import SpikingNeuron
from methods.qcfs import QCFS
from methods.tracing import QuantisedActivation


@dataclass(frozen=True)
class FTBC(QCFS):
    """QCFS neurons whose mean output is brought to the ANN's mean activation in each of the first timesteps.

    Layer by layer, b_t += rate * mean(threshold * s(t) - a) per channel, over images and pixels, several times.

    Options:
        steps: timesteps that get a correction of their own; later ones have none.
        iterations: passes over a layer.
        rate: of each correction.
        images: how many calibration images to use, at most.
    """

    name: ClassVar[str] = "ftbc"

    steps: int = 8
    iterations: int = 20
    rate: float = 0.5
    images: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("steps", "iterations", "images"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, got {getattr(self, option)}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {self.rate:g}")

    @property
    def calibration_images(self) -> int:
        return self.images

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return BiasedIFNeuron(self.threshold_of(activation), initial=0.5)

    def correct(self, network: SpikingNetwork, reference: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        correct_layers(network, reference, concatenated(batches), self.steps, self._correct)

    def _correct(self, neuron: BiasedIFNeuron, currents: list[Tensor], activation: Tensor) -> None:
        wanted = channel_mean(activation[None])
        neuron.bias = torch.zeros(len(currents), len(wanted), dtype=wanted.dtype, device=wanted.device)
        for _ in range(self.iterations):
            neuron.reset()
            errors = [channel_mean(neuron.fire(current) * neuron.level(current)) - wanted for current in currents]
            neuron.bias = neuron.bias + self.rate * torch.stack(errors).to(neuron.bias.dtype)
