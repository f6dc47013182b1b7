"""Neurons whose current and starting membrane are corrected, and the calibration of such corrections layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, fx

from methods.layerwise import fire_all
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, SpikingNeuron, State
from methods.tracing import QuantisedActivation, module_of


class BiasedIFNeuron(IFNeuron):
    """Integrate-and-fire with a correction of its current per channel and timestep, and of v(0) per neuron.

    `bias` [S, C] is subtracted from the membrane in the timesteps 1..S, and with `lasting` its last row ever after;
    `offset` [C, ...] is added to v(0). Both in the units of the current. `elapsed` is how many timesteps each image has
    seen, int64 [B].
    """

    state_names: ClassVar[tuple[str, ...]] = ("membrane", "elapsed")
    elapsed: Tensor | None
    bias: Tensor | None
    offset: Tensor | None

    def __init__(self, threshold: float | Tensor, initial: float = 0.5, lasting: bool = False):
        super().__init__(threshold, initial)
        self.lasting = lasting
        self.register_buffer("bias", None)
        self.register_buffer("offset", None)

    def reset(self) -> None:
        super().reset()
        self._seen_by_all = 0

    def restore(self, state: State) -> None:
        super().restore(state)
        self._seen_by_all = 0

    def initial_state(self, name: str, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if name == "elapsed" else super().initial_state(name, like)

    def start(self, current: Tensor) -> Tensor:
        membrane = super().start(current)
        return membrane if self.offset is None else membrane + self.offset.to(membrane.dtype)

    def charge(self, current: Tensor) -> Tensor:
        membrane = super().charge(current)
        if self.elapsed is None:
            self.elapsed = torch.zeros(len(current), dtype=torch.long, device=current.device)
        # `_seen_by_all` is a lower bound of `elapsed` that is known without asking the device.
        if self.bias is not None and (self.lasting or self._seen_by_all < len(self.bias)):
            rows = self.bias.to(membrane.dtype)[self.elapsed.clamp(max=len(self.bias) - 1)]
            if not self.lasting:
                rows = rows * (self.elapsed < len(self.bias))[:, None]
            membrane.sub_(rows.reshape(*rows.shape, *[1] * (membrane.dim() - 2)))
        self.elapsed.add_(1)
        self._seen_by_all += 1
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
