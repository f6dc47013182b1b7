"""What torch.compile makes of our network and of its floor: shown beside them, to tell what it would gain."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.bench.foreign_neurons import NotAvailable, with_neurons
from benchmark.bench.source_network import SourceNetwork
from methods.packed import PackedConvolution

Run = Callable[[Tensor, int], Tensor]


def compiled_steps(source: SourceNetwork) -> Run:
    """Timestep after timestep; synapses and neurons of a timestep are compiled as one function, which counts nothing.

    Raises NotAvailable where nothing can be compiled.
    """
    _check(source)
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

    compiled = torch.compile(timestep, dynamic=False)

    def run(images: Tensor, timesteps: int) -> Tensor:
        currents = before(images.contiguous(memory_format=torch.channels_last))
        for neuron in neurons:
            neuron.start()
        total, membranes = timestep(currents, [neuron.membrane for neuron in neurons])
        for _ in range(timesteps - 1):
            logits, membranes = compiled(currents, membranes)
            total = total + logits
        return total

    return run


def compiled_passes(source: SourceNetwork) -> Run:
    """Forward passes of the network with ReLU in channels_last. Raises NotAvailable where nothing can be compiled."""
    _check(source)
    analog = copy.deepcopy(source.analog).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(analog, dynamic=False)

    def run(images: Tensor, timesteps: int) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        total: Tensor = compiled(images)
        for _ in range(timesteps - 1):
            total = total + compiled(images)
        return total

    return run


class _Neuron(nn.Module):
    """Integrate and fire, reset by subtraction, from half the threshold, without a change in place."""

    membrane: Tensor

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.start()

    def start(self) -> None:
        """Forget the images."""
        self.membrane = torch.tensor(0.5 * self.threshold, dtype=torch.float64)

    def forward(self, current: Tensor) -> Tensor:
        charged = self.membrane.to(current) + current
        spikes = (charged >= self.threshold).to(current.dtype)
        self.membrane = charged - self.threshold * spikes
        return spikes


def _check(source: SourceNetwork) -> None:
    """Forgets what was compiled before, of which torch keeps only so much."""
    torch._dynamo.reset()
    place = next(source.analog.parameters()).device
    try:
        torch.compile(lambda values: values + 1)(torch.ones(2, device=place))
    except Exception as error:  # whatever a missing compiler raises
        raise NotAvailable(f"cannot be compiled here: {type(error).__name__}") from error
