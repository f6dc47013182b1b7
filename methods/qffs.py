"""QFFS: signed spikes that retract what was sent too early; exactly the quantised ANN once they have settled.

Li, Ma, Furber: "Quantization Framework for Fast Spiking Neural Networks", Frontiers in Neuroscience 2022, 918793. Without
settling it is the neuron of Fast-SNN (Hu et al., TPAMI 2023, arXiv:2305.19868).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from methods.network import Schedule
from methods.neurons import SignedIFNeuron, SpikingNeuron
from methods.qcfs import QCFS
from methods.quantisers import LSQActivation, UniformQuantiser
from methods.tracing import QuantisedActivation


@dataclass(frozen=True)
class QFFS(QCFS):
    """Signed integrate-and-fire neurons with threshold Q * step whose count stays between 0 and Q.

    Image and biases act for Q timesteps, so that v(0) plus all charge, divided by the threshold, rounds like the
    quantiser. Afterwards spikes of either sign correct what came in the wrong order, until the network is silent: after
    at most Q * (D + 1) timesteps with D layers. Logits can be used at every timestep; settled, their sum is Q times the
    ANN's.

    Options:
        levels: Q = 2^b - 1 for b bits (2 bits: 3).
        threshold: initial Q * step of the activations.
        settle_steps: timesteps after the drive window, after which nothing moves any more; -1: no end. 0 is Fast-SNN.
    """

    name: ClassVar[str] = "qffs"
    signed: ClassVar[bool] = True

    levels: int = 3
    threshold: float = 8.0
    settle_steps: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settle_steps < -1:
            raise ValueError(f"settle_steps must be -1 (no end) or more, got {self.settle_steps}")

    def activation(self) -> UniformQuantiser:
        return LSQActivation(self.levels, self.threshold)

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return SignedIFNeuron(self.threshold_of(activation), self.levels)

    def schedule(self, activations: Sequence[QuantisedActivation]) -> Schedule:
        return Schedule(drive=self.levels, settle=None if self.settle_steps < 0 else self.settle_steps)
