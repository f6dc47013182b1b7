"""SRP: a first pass finds the neurons that fire too often, a second one runs without them.

Hao, Bu, Ding, Huang, Yu: "Reducing ANN-SNN Conversion Error through Residual Membrane Potential", AAAI 2023,
arXiv:2302.02091.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.fused import Rule
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, SpikingNeuron, tolerance_of
from methods.qcfs import QCFS
from methods.tracing import QuantisedActivation

EDGES = ("derived", "released")


class MaskedIFNeuron(IFNeuron):
    """Integrate-and-fire whose spikes are sent on where `mask` is 1; a masked neuron goes on integrating, silently."""

    state_names: ClassVar[tuple[str, ...]] = ("membrane", "mask")
    mask: Tensor | None

    def rule(self) -> Rule | None:
        return Rule(float(self.threshold), float(self.threshold)) if self.is_plain(MaskedIFNeuron) else None

    def fire(self, current: Tensor) -> Tensor:
        spikes = super().fire(current)
        return spikes if self.mask is None else spikes.mul_(self.mask)

    def mask_by_residual(self, edge: str) -> None:
        """Set the mask from the residual membrane, and start again.

        `derived`: silence where v < 0, the condition under which a neuron that fired has fired too often (up to
        rounding). `released`: silence where v <= 0.001 thresholds, as the published code does, which also silences
        neurons whose residual is exactly zero although their count is right.
        """
        assert self.membrane is not None
        residual = self.membrane / self.level(self.membrane)
        kept = residual > 1e-3 if edge == "released" else residual >= -tolerance_of(residual)
        self.mask = kept.to(self.membrane.dtype)
        self.membrane = None


@dataclass(frozen=True)
class SRP(QCFS):
    """QCFS neurons after a pre-pass of `prelude` timesteps through the whole network; membranes then start anew.

    Options:
        prelude_length: tau, timesteps of the pre-pass; they count in every latency, their spikes in every count.
        edge: what happens at a residual of zero, `derived` or `released` (see `MaskedIFNeuron.mask_by_residual`).
    """

    name: ClassVar[str] = "srp"

    prelude_length: int = 4
    edge: str = "derived"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prelude_length < 1:
            raise ValueError(f"prelude_length must be at least 1, got {self.prelude_length}")
        if self.edge not in EDGES:
            raise ValueError(f"edge must be one of {', '.join(EDGES)}, not {self.edge!r}")

    @property
    def prelude_steps(self) -> int:
        return self.prelude_length

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return MaskedIFNeuron(self.threshold_of(activation), initial=0.5)

    @torch.no_grad()
    def prelude(self, network: SpikingNetwork) -> None:
        network.presimulate(self.prelude_length)
        for neuron in network.neurons.values():
            if isinstance(neuron, MaskedIFNeuron):
                neuron.mask_by_residual(self.edge)
        network.restart_pools()
