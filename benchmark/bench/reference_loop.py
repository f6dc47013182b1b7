"""The simulation as papers' demonstrations write it: plain, and one image at a time.

Each timestep runs the whole network, the stem and its batch norms too; a dictionary holds the membrane of each layer under its
name; a spike carries the threshold as its value. This is our own code in that spirit, no one's in particular.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, fx

from benchmark.bench.source_network import SourceNetwork
from methods.pooling import move_max_pools_before_activations
from methods.quantisers import UniformQuantiser
from methods.tracing import QuantisedActivation, Untraced, module_of, replace_nodes, trace


def reference_loop(source: SourceNetwork) -> Callable[[Tensor, int], Tensor]:
    """The sum of the logits of so many timesteps, image after image."""
    membranes: dict[str, Tensor] = {}
    graph = trace(copy.deepcopy(source.quantised))
    # A maximum of spikes is no spike of a maximum: the pool takes currents, as in the network that this is compared with.
    move_max_pools_before_activations(graph)

    def neuron_for(node: fx.Node) -> _Neuron:
        activation = module_of(graph, node)
        assert isinstance(activation, UniformQuantiser)
        return _Neuron(node.name, activation.top, membranes)

    replace_nodes(graph, lambda node: isinstance(module_of(graph, node), QuantisedActivation), neuron_for)

    def run(images: Tensor, timesteps: int) -> Tensor:
        totals = []
        for image in images.split(1):
            membranes.clear()
            total = graph(image)
            for _ in range(timesteps - 1):
                total = total + graph(image)
            totals.append(total)
        membranes.clear()
        return torch.cat(totals)

    return run


class _Neuron(Untraced):
    """Integrate and fire, reset by subtraction, the membrane in a dictionary that all layers share."""

    def __init__(self, name: str, threshold: float, membranes: dict[str, Tensor]):
        super().__init__()
        self.name = name
        self.threshold = threshold
        self.membranes = membranes

    def forward(self, current: Tensor) -> Tensor:
        membrane = self.membranes.get(self.name)
        if membrane is None:
            membrane = torch.full_like(current, self.threshold / 2)
        membrane = membrane + current
        spikes = (membrane >= self.threshold).to(current.dtype) * self.threshold
        self.membranes[self.name] = membrane - spikes
        return spikes
