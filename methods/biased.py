"""Neurons whose current and starting membrane are corrected, and the calibration of such corrections layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from methods.layerwise import fire_all
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, SpikingNeuron
from methods.tracing import QuantisedActivation, module_of


class BiasedIFNeuron(IFNeuron):
    """Integrate-and-fire with a correction of its current per channel and timestep, and of v(0) per neuron.

    `bias` [S, C] is subtracted from the membrane in the timesteps 1..S, and with `lasting` its last row ever after;
    `offset` [C, ...] is added to v(0). Both in the units of the current.
    """

    bias: Tensor | None
    offset: Tensor | None

    def __init__(self, threshold: float | Tensor, initial: float = 0.5, lasting: bool = False):
        super().__init__(threshold, initial)
        self.lasting = lasting
        self.register_buffer("bias", None)
        self.register_buffer("offset", None)

    def reset(self) -> None:
        super().reset()
        self.elapsed = 0

    def start(self, current: Tensor) -> Tensor:
        membrane = super().start(current)
        return membrane if self.offset is None else membrane + self.offset.to(membrane.dtype)

    def charge(self, current: Tensor) -> Tensor:
        membrane = super().charge(current)
        if self.bias is not None and (self.elapsed < len(self.bias) or self.lasting):
            row = self.bias[min(self.elapsed, len(self.bias) - 1)].to(membrane.dtype)
            membrane.sub_(row.reshape(-1, *[1] * (membrane.dim() - 2)))
        self.elapsed += 1
        return membrane


def channel_mean(x: Tensor) -> Tensor:
    """[B, C, ...] to [C]."""
    return x.transpose(0, 1).flatten(1).mean(1)


# neuron, currents of every timestep, mean activation of the ANN [C, ...] over the images: sets the neuron's corrections
Corrector = Callable[[BiasedIFNeuron, list[Tensor], Tensor], None]


def correct_layers(
    network: SpikingNetwork, reference: fx.GraphModule, images: Tensor, steps: int, corrector: Corrector
) -> None:
    """Correct every layer of `network` in the order of the forward pass, each on the spikes of corrected layers.

    Args:
        network: with `BiasedIFNeuron` layers.
        reference: the same network with activations; its nodes have the names of those of `network.graph`.
        images: calibration images [B, ...].
        steps: timesteps to simulate.
        corrector: sets the corrections of one layer.
    """
    activations = _mean_activations(reference, images)
    node_of = {str(node.target): node.name for node in network.graph.graph.nodes}

    def corrected(name: str, neuron: SpikingNeuron, currents: list[Tensor]) -> list[Tensor]:
        if isinstance(neuron, BiasedIFNeuron):
            corrector(neuron, currents, activations[node_of[name]])
            neuron.reset()
        return fire_all(neuron, currents)

    network.simulate_layers(images, steps, corrected)


def _mean_activations(reference: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Mean activation over the images, [C, ...], by node name."""
    means: dict[str, Tensor] = {}

    class Listener(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(module_of(reference, n), QuantisedActivation):
                means[n.name] = value.mean(0)
            return value

    with torch.no_grad():
        Listener(reference).run(images)
    return means


def concatenated(batches: Sequence[Tensor]) -> Tensor:
    """All calibration images as one batch."""
    return torch.cat(list(batches))
