"""ST-BIF: the whole input at once, then unit spikes of either sign until nothing moves.

You et al.: "SpikeZIP-TF", ICML 2024, arXiv:2406.03470: bipolar integrate-and-fire neurons with a spike counter. Exactly the
quantised ANN once the network is silent.
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
class STBIF(QCFS):
    """The neuron of QFFS with the quantiser's step as threshold; image and biases act in the first timestep alone.

    Settled, the summed logits are the ANN's.

    Options:
        levels: Q of the quantised ANN.
        threshold: initial Q * step of its activations.
    """

    name: ClassVar[str] = "st-bif"
    signed: ClassVar[bool] = True

    levels: int = 3

    def activation(self) -> UniformQuantiser:
        return LSQActivation(self.levels, self.threshold)

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return SignedIFNeuron(self.threshold_of(activation) / self.levels, self.levels)

    def schedule(self, activations: Sequence[QuantisedActivation]) -> Schedule:
        return Schedule(drive=1)
