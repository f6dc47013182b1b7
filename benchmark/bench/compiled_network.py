"""What torch.compile makes of our network and of its floor: shown beside them, to tell what it would gain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from benchmark.bench.foreign_neurons import NotAvailable, with_neurons
from benchmark.bench.source_network import SourceNetwork
from methods.packed import PackedConvolution

Given = ParamSpec("Given")
Result = TypeVar("Result")


def compiled(function: Callable[Given, Result], source: SourceNetwork) -> Callable[Given, Result]:
    """`function` for the device of `source`; forgets what was compiled before, of which torch keeps only so much.

    Raises NotAvailable where nothing can be compiled.
    """
    torch._dynamo.reset()
    place = next(source.analog.parameters()).device
    try:
        torch.compile(lambda values: values + 1)(torch.ones(2, device=place))
    except Exception as error:  # whatever a missing compiler raises
        raise NotAvailable(f"cannot be compiled here: {type(error).__name__}") from error
    return torch.compile(function, dynamic=False)


def compiled_steps(source: SourceNetwork) -> Callable[[Tensor, int], Tensor]:
    """Timestep after timestep; synapses and neurons of a timestep are compiled as one function, which counts nothing.

    Raises NotAvailable where nothing can be compiled.
    """
    before, body = (copy.deepcopy(part) for part in with_neurons(source.network, _Neuron))
    for module in (*before.modules(), *body.modules()):
        if isinstance(module, PackedConvolution):
            module.activate(False)  # the compiler has convolutions of its own
    before, body = (part.to(memory_format=torch.channels_last) for part in (before, body))  # type: ignore[call-overload]
    neurons = [module for module in body.modules() if isinstance(module, _Neuron)]

    def timestep(currents: tuple[Tensor, ...], membranes: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        for neuron, membrane in zip(neurons, membranes, strict=True):
            neuron.membrane = membrane
        logits: Tensor = body(*currents)
        return logits, [neuron.membrane for neuron in neurons]

    step = compiled(timestep, source)

    def run(images: Tensor, timesteps: int) -> Tensor:
        currents = before(images.contiguous(memory_format=torch.channels_last))
        total, membranes = step(currents, [neuron.start for neuron in neurons])
        for _ in range(timesteps - 1):
            logits, membranes = step(currents, membranes)
            total = total + logits
        return total

    return run


class _Neuron(nn.Module):
    """Integrate and fire, reset by subtraction, from half the threshold, without a change in place."""

    membrane: Tensor

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.start = torch.tensor(0.5 * threshold, dtype=torch.float64)

    def forward(self, current: Tensor) -> Tensor:
        charged = self.membrane.to(current) + current
        spikes = (charged >= self.threshold).to(current.dtype)
        self.membrane = charged - self.threshold * spikes
        return spikes
