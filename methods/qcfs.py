"""QCFS: integrate-and-fire neurons for a network trained with quantisation clip-floor-shift activations.

Bu, Fang, Ding, Dai, Yu, Huang: "Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural
Networks", ICLR 2022, arXiv:2303.04347.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from methods.base import ConversionMethod
from methods.errors import ConversionError
from methods.neurons import IFNeuron, SpikingNeuron
from methods.quantisers import QCFSActivation, UniformQuantiser, checked_top
from methods.tracing import QuantisedActivation


@dataclass(frozen=True)
class QCFS(ConversionMethod):
    """Integrate-and-fire neurons with threshold lambda, soft reset and initial membrane lambda/2.

    Options:
        levels: L of the quantised ANN.
        threshold: initial lambda of its activations.
    """

    name: ClassVar[str] = "qcfs"

    levels: int = 4
    threshold: float = 8.0

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {self.levels}")
        if not (self.threshold > 0 and math.isfinite(self.threshold)):
            raise ValueError(f"threshold must be positive, got {self.threshold:g}")

    def activation(self) -> UniformQuantiser:
        return QCFSActivation(self.levels, self.threshold)

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return IFNeuron(self.threshold_of(activation), initial=0.5)

    def threshold_of(self, activation: QuantisedActivation) -> float:
        """The trained threshold. Raises ConversionError if it is not positive or the levels are not those asked for."""
        threshold = checked_top(activation, self.name)
        assert isinstance(activation, UniformQuantiser)
        if activation.levels != self.levels:
            raise ConversionError(
                f"the network has {activation.levels} levels, the method was asked for {self.levels}."
            )
        return threshold
