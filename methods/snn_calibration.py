"""SNN calibration: thresholds of least squared error, then bias or initial membrane corrected layer by layer.

Li, Deng, Dong, Gong, Gu: "A Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration", ICML
2021, arXiv:2106.06984.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from methods.biased import BiasedIFNeuron, channel_mean, concatenated, correct_layers
from methods.clipped import ClippedReLU, by_channel, observed, set_thresholds, uncalibrated
from methods.network import SpikingNetwork
from methods.neurons import SpikingNeuron
from methods.threshold_balancing import TrainingFree
from methods.tracing import QuantisedActivation

CORRECTIONS = ("none", "bias", "potential")
GRID = 95  # candidate thresholds: 100%, 99%, ..., 6% of the largest activation


@dataclass(frozen=True)
class SNNCalibration(TrainingFree):
    """Thresholds that quantise to `steps` levels with the least squared error, and a correction of what is left.

    Options:
        steps: T that thresholds and corrections are made for.
        correction: `bias` (the light pipeline: mean error per channel, subtracted from the current), `potential` (mean
            error per neuron, added to v(0)) or `none`.
    """

    name: ClassVar[str] = "snn-calibration"

    images: int = 64
    steps: int = 32
    correction: str = "bias"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.correction not in CORRECTIONS:
            raise ValueError(f"correction must be one of {', '.join(CORRECTIONS)}, not {self.correction!r}")

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return BiasedIFNeuron(self.threshold_of(activation), self.initial, lasting=True)

    def calibrate(self, graph: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        activations = uncalibrated(graph)
        tops: dict[ClippedReLU, Tensor] = {}
        errors: dict[ClippedReLU, Tensor] = {}

        def find_top(activation: ClippedReLU, z: Tensor) -> None:
            top = by_channel(z, self.per_channel).amax(1).clamp_min(0)
            tops[activation] = torch.maximum(tops[activation], top) if activation in tops else top

        def add_errors(activation: ClippedReLU, z: Tensor) -> None:
            values = by_channel(z, self.per_channel).clamp_min(0)
            added = torch.stack([self._error(values, candidate) for candidate in _candidates(tops[activation])])
            errors[activation] = errors[activation] + added if activation in errors else added

        for observer in (find_top, add_errors):
            with observed(activations, observer):
                for batch in batches:
                    graph(batch)
        for activation in activations:
            best = errors[activation].argmin(0)
            set_thresholds(activation, _candidates(tops[activation]).gather(0, best[None])[0])

    def _error(self, values: Tensor, threshold: Tensor) -> Tensor:
        """Squared error of `steps` spikes at `threshold` [C] for activations [C, n]: [C]."""
        step = (threshold / self.steps).clamp_min(torch.finfo(values.dtype).tiny)[:, None]
        quantised = (values / step).add_(self.initial).floor_().clamp_(0, self.steps).mul_(step)
        return quantised.sub_(values).square_().sum(1)

    def correct(self, network: SpikingNetwork, reference: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        if self.correction != "none":
            correct_layers(network, reference, concatenated(batches), self.steps, self._correct)

    def _correct(self, neuron: BiasedIFNeuron, currents: list[Tensor], activation: Tensor) -> None:
        neuron.reset()
        total = torch.zeros_like(activation)
        for current in currents:
            total += (neuron.fire(current) * neuron.level(current)).mean(0)
        error = total / len(currents) - activation
        if self.correction == "bias":
            neuron.bias = channel_mean(error[None])[None]
        else:
            neuron.offset = -error * len(currents)


def _candidates(tops: Tensor) -> Tensor:
    """[GRID, C] thresholds below the largest activations [C]."""
    shares = 1 - 0.01 * torch.arange(GRID, dtype=tops.dtype, device=tops.device)
    return shares[:, None] * tops
