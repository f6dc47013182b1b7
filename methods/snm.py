"""SNM: negative spikes without a drive window, so that corrections go on for as long as the image is shown.

Wang, Zhang, Chen, Qu: "Signed Neuron with Memory: Towards Simple, Accurate and High-Efficient ANN-SNN Conversion", IJCAI
2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.neurons import SignedIFNeuron, SpikingNeuron
from methods.qcfs import QCFS
from methods.tracing import QuantisedActivation


@dataclass(frozen=True)
class SNM(QCFS):
    """Neurons that also fire at minus their threshold, as long as they have sent more than they have retracted.

    There is no upper guard and biases act in every timestep, so a network with few levels does not become its
    quantised ANN: it approaches the clipped one.

    Options:
        initial: v(0) in thresholds; 0 in the paper.
        floor: potential of a negative spike, in thresholds.
    """

    name: ClassVar[str] = "snm"
    signed: ClassVar[bool] = True

    initial: float = 0.0
    floor: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor > 0:
            raise ValueError(f"floor must not be positive, got {self.floor:g}")

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return SignedIFNeuron(self.threshold_of(activation), None, self.initial, self.floor, at_floor=True)
