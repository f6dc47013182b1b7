"""snnTorch's way to simulate the network: Leaky neurons without leak, reset by subtraction.

Jason K. Eshraghian et al., "Training spiking neural networks using lessons from deep learning", Proceedings of the IEEE 111(9),
2023. A neuron there subtracts the threshold at the timestep after the spike, before it compares again (`reset_delay=True`, the
default). That is the same sequence of spikes as ours: only the membrane that is shown between two timesteps differs. Its own
comparison is strict and gives float32; `spike_grad` puts the same one in its place as everywhere, at the same cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.bench.foreign_neurons import NotAvailable, with_neurons
from benchmark.bench.source_network import SourceNetwork


def leaky_network(source: SourceNetwork) -> Callable[[Tensor, int], Tensor]:
    """One call per timestep. Raises NotAvailable without the package."""
    try:
        from snntorch import Leaky
    except ImportError as error:
        raise NotAvailable("not installed") from error

    dtype = next(source.network.parameters()).dtype

    def make(threshold: float) -> nn.Module:
        # A plain number would be rounded to float32 there, also for a network in float64.
        level = torch.tensor(threshold, dtype=dtype)
        return _HalfCharged(Leaky(1.0, threshold=level, reset_mechanism="subtract", spike_grad=_reached), threshold)

    before, body = with_neurons(source.network, make)
    body.to(next(body.parameters()).device)  # the neurons' own constants
    neurons = [module for module in body.modules() if isinstance(module, _HalfCharged)]

    def run(images: Tensor, timesteps: int) -> Tensor:
        currents = before(images)
        total = body(*currents)
        for _ in range(timesteps - 1):
            total = total + body(*currents)
        for neuron in neurons:
            neuron.reset()
        return total  # type: ignore[no-any-return]

    return run


def _reached(above: Tensor) -> Tensor:
    """Spikes of membranes from which the threshold has been subtracted."""
    return (above >= 0).to(above.dtype)


class _HalfCharged(nn.Module):
    """Carries the membrane of a neuron from one timestep to the next; it starts at half the threshold."""

    def __init__(self, neuron: Any, threshold: float):
        super().__init__()
        self.neuron = neuron
        self.start = threshold / 2
        self.membrane: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        if self.membrane is None:
            self.membrane = torch.full_like(current, self.start)
        spikes, self.membrane = self.neuron(current, self.membrane)
        return spikes  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Forget the images, in the neuron too, which holds on to the membrane."""
        self.membrane = None
        self.neuron.mem = self.neuron.mem.new_zeros(0)
