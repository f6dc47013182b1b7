"""Our converted network with another package's neurons in it."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from methods.constant_part import split_constant_part
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, Stateful


class NotAvailable(Exception):
    """This contestant cannot take part here: its package is missing, or it has no counterpart of a layer."""


def with_neurons(network: SpikingNetwork, make: Callable[[float], nn.Module]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The part that depends on the image alone, and the rest, with `make(threshold)` for each neuron.

    Weights are shared with `network`, which is left as it is. What a spike is worth is folded into the weights behind it, and
    the stem's current is computed once, as in our own simulation: so nothing but the simulation of the neurons differs. A
    neuron's membrane must start at half its threshold. Raises NotAvailable for a network with other layers that remember.
    """
    before, body = split_constant_part(network.graph)
    for name, module in list(body.named_modules()):
        if type(module) is IFNeuron and isinstance(module.threshold, float):
            assert module.initial == 0.5
            body.add_submodule(name, make(module.threshold))
        elif isinstance(module, Stateful):
            raise NotAvailable(f"no counterpart of {type(module).__name__}")
    return before, body
