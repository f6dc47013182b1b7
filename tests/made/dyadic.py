"""Small networks of multiples of powers of two, on which no operation rounds, and what happens in them over time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import ConversionMethod
from methods.network import SpikingNetwork
from methods.quantisers import UniformQuantiser

# Thresholds at which every layer of the three-layer networks of `benchmark.conformance` spikes.
TINY_TOPS = (0.6, 0.3, 0.12)


def multiples(generator: torch.Generator, *shape: int, step: float = 1 / 16, size: float = 1.0) -> Tensor:
    """Uniform multiples of `step` in [-size, size], float64."""
    count = int(size / step)
    return torch.randint(-count, count + 1, shape, generator=generator).double() * step


def on_the_grid(network: nn.Module, seed: int = 0, step: float = 1 / 16, size: float = 0.5) -> nn.Module:
    """The network in float64 and eval mode with dyadic parameters, drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(multiples(generator, *parameter.shape, step=step, size=size))
    return network


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.relus = nn.ModuleList(nn.ReLU() for _ in widths[2:])

    def forward(self, x: Tensor) -> Tensor:
        for linear, relu in zip(self.linears, self.relus, strict=False):
            x = relu(linear(x))
        return self.linears[-1](x)


def perceptron(*widths: int, seed: int = 0) -> nn.Module:
    return on_the_grid(Perceptron(*widths), seed, step=1 / 16, size=0.5)


def matrices(network: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of the linear layers of a perceptron, hidden ones first."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return [(linear.weight.detach().numpy(), linear.bias.detach().numpy()) for linear in linears]


def prepared(method: ConversionMethod, ann: nn.Module, top: float | Iterable[float] = 2.0) -> nn.Module:
    """The quantised network with these thresholds, in the precision and mode of `ann`."""
    dtype = next(ann.parameters()).dtype
    network = method.prepare(ann).to(dtype).eval()
    quantisers = [module for module in network.modules() if isinstance(module, UniformQuantiser)]
    tops = [float(top)] * len(quantisers) if isinstance(top, (int, float)) else list(top)
    for quantiser, value in zip(quantisers, tops, strict=True):
        quantiser.set_top(value)
    return network


@dataclass
class Trace:
    """What a network did: logits [T, B, K], spikes and SynOps [T, B]; by layer currents, trains and potentials [T, B, ...]."""

    logits: Tensor
    spikes: Tensor
    synops: Tensor
    currents: dict[str, Tensor]
    trains: dict[str, Tensor]
    potentials: dict[str, Tensor]

    def counts(self) -> dict[str, Tensor]:
        return {name: train.sum(0) for name, train in self.trains.items()}


def follow(network: SpikingNetwork, images: Tensor, steps: int, *, prelude: bool = False) -> Trace:
    """Simulate and watch every layer; with `prelude`, the layers' records are those of the prelude alone."""
    seen: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in network.neurons}

    def watch(name):
        def hook(module, inputs, output):
            potential = getattr(module, "membrane", None)
            potential = torch.zeros(()) if potential is None else potential
            seen[name].append((inputs[0].clone(), output.clone(), potential.clone()))

        return hook

    def listen():
        return [neuron.register_forward_hook(watch(name)) for name, neuron in network.neurons.items()]

    network.account(images[:1])
    handles = listen() if prelude else []
    network.begin(images)
    if prelude:
        for handle in handles:
            handle.remove()
    else:
        handles = listen()
    steps_seen = [(network.step(), network.spikes, network.synops) for _ in range(steps)]
    for handle in handles:
        handle.remove()
    logits, spikes, synops = zip(*steps_seen, strict=True) if steps_seen else ([torch.zeros(0)],) * 3
    parts = {name: [torch.stack(part) for part in zip(*records, strict=True)] for name, records in seen.items()}
    return Trace(
        torch.stack(logits),
        torch.stack(spikes),
        torch.stack(synops),
        *({name: part[index] for name, part in parts.items()} for index in range(3)),
    )


def codes(quantised: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """By name of the activation, the integer level of every neuron of the quantised ANN."""
    found: dict[str, Tensor] = {}

    def note(name, module):
        return module.register_forward_hook(
            lambda module, inputs, output: found.__setitem__(name, torch.round(output * module.levels / module.top))
        )

    handles = [note(name, module) for name, module in quantised.named_modules() if isinstance(module, UniformQuantiser)]
    with torch.no_grad():
        quantised(images)
    for handle in handles:
        handle.remove()
    return found


def ann_reference(layers, x: np.ndarray, top: float, levels: int):
    """Per hidden layer the integer codes of a perceptron with uniform quantisers, rounding half up; and the logits."""
    step = top / levels
    found = []
    for weight, bias in layers[:-1]:
        found.append(np.clip(np.floor((x @ weight.T + bias) / step + 0.5), 0, levels))
        x = step * found[-1]
    return found, x @ layers[-1][0].T + layers[-1][1]
