"""COS: every neuron's initial membrane is shifted so that it fires as often as its input asks for.

Hao, Ding, Bu, Huang, Yu: "Bridging the Gap between ANNs and SNNs by Calibrating Offset Spikes", ICLR 2023,
arXiv:2302.10685.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.layerwise import fire_all
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, SpikingNeuron, tolerance_of
from methods.qcfs import QCFS
from methods.tracing import QuantisedActivation

MARGIN = 1e-3  # how far beyond the threshold a shift moves a spike, in thresholds


class ShiftedIFNeuron(IFNeuron):
    """Integrate-and-fire whose membrane starts, per image and neuron, where calibration has put it."""

    state_names: ClassVar[tuple[str, ...]] = ("membrane", "shifted")
    shifted: Tensor | None

    def start(self, current: Tensor) -> Tensor:
        return super().start(current) if self.shifted is None else self.shifted.clone()

    def calibrate(self, currents: list[Tensor], iterations: int) -> None:
        """Shift the initial membrane until the count over these timesteps is right, one spike an iteration.

        N spikes are one too many where N >= 1 and the residual, seen from the unshifted start, is negative; one too few
        where it is at least a threshold and N is not yet the number of timesteps. The start moves by one threshold or by
        what the cheapest spike needs to go or to come, whichever is more; each shift changes N by exactly one. (The
        released code judges the residual of the shifted run, which shifts the same neuron again and again.)
        """
        usual = super().start(currents[0])
        threshold, slack = self.level(usual), tolerance_of(usual)
        self.shifted = usual.clone()
        for _ in range(iterations):
            count, lowest, highest = self._run(currents)
            assert self.membrane is not None
            residual = (self.membrane + (usual - self.shifted)) / threshold
            over = (residual < -slack) & (count > 0.5)
            # No allowance here: a neuron that rounding kept just below its threshold would gain two spikes, then lose two.
            under = (residual >= 1.0) & (count < len(currents) - 0.5)
            down = (lowest - 1.0 + MARGIN).clamp_min(1.0)
            up = (1.0 - highest + MARGIN).clamp_min(1.0)
            self.shifted.sub_(torch.where(over, down, torch.zeros_like(down)) * threshold)
            self.shifted.add_(torch.where(under, up, torch.zeros_like(up)) * threshold)
        self.membrane = None

    def _run(self, currents: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Spike count, lowest potential with a spike, highest without one; potentials before the reset, in thresholds."""
        self.membrane = None
        count = lowest = highest = torch.zeros(())
        for timestep, current in enumerate(currents):
            spikes = self.fire(current)
            assert self.membrane is not None
            before = self.membrane / self.level(self.membrane) + spikes
            if timestep == 0:
                count = torch.zeros_like(before)
                lowest, highest = torch.full_like(before, torch.inf), torch.full_like(before, -torch.inf)
            fired = spikes > 0.5
            count += spikes
            lowest = torch.where(fired, torch.minimum(lowest, before), lowest)
            highest = torch.where(fired, highest, torch.maximum(highest, before))
        return count, lowest, highest


@dataclass(frozen=True)
class COS(QCFS):
    """QCFS neurons with calibrated initial membranes, set layer after layer in a pre-pass of rho timesteps.

    The pre-pass costs rho timesteps as the literature counts, and depth * rho where layers wait for one another. The
    calibrated spikes that each layer sends on during it are counted.

    Options:
        prelude_length: rho.
        iterations: spikes that may be corrected per neuron; the released code corrects one.
    """

    name: ClassVar[str] = "cos"

    prelude_length: int = 4
    iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("prelude_length", "iterations"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, got {getattr(self, option)}")

    @property
    def prelude_steps(self) -> int:
        return self.prelude_length

    def streaming_prelude_steps(self, depth: int) -> int:
        return depth * self.prelude_length

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        return ShiftedIFNeuron(self.threshold_of(activation), initial=0.5)

    @torch.no_grad()
    def prelude(self, network: SpikingNetwork) -> None:
        network.calibrate_layers(self.prelude_length, self._calibrated)
        for neuron in network.neurons.values():
            if isinstance(neuron, ShiftedIFNeuron):
                neuron.membrane = None
        network.restart_pools()

    def _calibrated(self, name: str, neuron: SpikingNeuron, currents: list[Tensor]) -> list[Tensor]:
        if isinstance(neuron, ShiftedIFNeuron):
            neuron.calibrate(currents, self.iterations)
        return fire_all(neuron, currents)
