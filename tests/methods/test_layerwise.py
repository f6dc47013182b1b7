"""Simulation layer after layer gives what simulation timestep after timestep gives, and what a layer sends is what counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dyadic import TINY_TOPS, follow, multiples, on_the_grid, prepared
from torch import nn

from benchmark.conformance import random_images, simulate, tiny_network
from methods.ftbc import FTBC
from methods.layerwise import fire_all, simulate_layerwise
from methods.qcfs import QCFS
from methods.tracing import QuantisedActivation


class Everything(nn.Module):
    """Pools of spikes and of currents, a norm on a sum, bare parameters, sizes read, one layer called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((2, 4), (4, 4), (4, 4), (8, 4)))
        self.norm, self.relus = nn.BatchNorm2d(4), nn.ModuleList(nn.ReLU() for _ in range(5))
        self.shift, self.head = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.relus[0](x) + self.shift
        z = self.relus[1](self.norm(self.a(self.relus[2](y)) + x))
        joined = torch.cat([z, self.relus[3](self.b(z))], 1)
        y = self.relus[4](F.max_pool2d(self.c(F.max_pool2d(joined, 3, 2, 1)), 2))
        return self.head(y.view(x.size(0), -1)) + self.shift.sum()


def network_and_images(kind: str, method=None):
    method = method or QCFS()
    if kind == "everything":
        network = prepared(method, on_the_grid(Everything(), 4, step=1 / 8), 1.0)
        return network, multiples(torch.Generator().manual_seed(2), 5, 2, 8, 8, step=1 / 8)
    return prepared(method, tiny_network(kind), TINY_TOPS), random_images(5)


@pytest.mark.parametrize("kind", ["plain", "residual", "everything"])
@pytest.mark.parametrize("steps", [1, 6])
def test_both_orders_of_simulation_agree(kind, steps):
    network, x = network_and_images(kind)
    converted = QCFS().convert(network)
    trace = follow(converted, x, steps)
    visited = []

    def compare(name, neuron, currents):
        visited.append(name)
        assert torch.equal(torch.stack(currents), trace.currents[name])
        emitted = fire_all(neuron, currents)
        assert torch.equal(torch.stack(emitted), trace.trains[name])
        return emitted

    converted.simulate_layers(x, steps, compare)
    assert visited == list(trace.trains) == list(converted.neurons)
    converted.begin(x)
    logits = simulate_layerwise(
        converted._body, converted._begun.currents, steps, lambda name, neuron, currents: fire_all(neuron, currents)
    )
    assert torch.equal(torch.stack(logits), trace.logits)
    assert bool((trace.logits.std(1) > 0).all())


@pytest.mark.parametrize("kind", ["plain", "residual", "everything"])
def test_nothing_is_left_of_it(kind):
    network, x = network_and_images(kind)
    converted = QCFS().convert(network)
    expected = simulate(converted, x, 5)
    converted.simulate_layers(-x[:2], 3, lambda name, neuron, currents: fire_all(neuron, currents))
    assert all(map(torch.equal, simulate(converted, x, 5), expected))


def test_what_a_layer_is_made_to_send_is_what_the_next_one_gets():
    network, x = network_and_images("plain")
    converted = QCFS().convert(network)
    received = {}

    def silent(name, neuron, currents):
        received[name] = torch.stack(currents)
        return [torch.zeros_like(current) for current in currents]

    converted.simulate_layers(x, 3, silent)
    first, *deeper = received.values()
    assert first.std() > 0
    for currents in deeper:
        spread = currents - currents[:1, :1]
        assert bool((spread == 0).all())  # nothing but the bias, at every timestep and for every image


@pytest.mark.parametrize("kind", ["plain", "residual", "everything"])
def test_the_totals_of_a_layered_prelude(kind):
    network, x = network_and_images(kind)
    converted = QCFS().convert(network)
    _, spikes, synops = simulate(converted, x, 4)
    converted.begin(x)
    converted.calibrate_layers(4, lambda name, neuron, currents: fire_all(neuron, currents))
    assert torch.equal(converted.spikes, spikes.sum(0))
    assert torch.equal(converted.synops, synops.sum(0))


class MovedPools(nn.Module):
    """Pools behind activations, which unsigned methods move in front of them; a layer between them is shared."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 3),
        )
        self.relu, self.other, self.pool = nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.first(x)))
        y = self.other(self.second(x)) + x
        return self.head(self.pool(self.relu(self.second(y))).mean((2, 3)))


def test_every_layer_is_corrected_towards_its_own_activation(monkeypatch):
    """By the names of the layers, also where a pool has been moved in front of one or a ReLU was shared."""
    network = prepared(FTBC(), on_the_grid(MovedPools(), 4, step=1 / 8), 1.0)
    x = multiples(torch.Generator().manual_seed(2), 5, 2, 8, 8, step=1 / 8)
    outputs = {}
    for name, module in network.named_modules():
        if isinstance(module, QuantisedActivation):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: outputs.__setitem__(name, output.detach())
            )
    network(x)
    pooled = {"relu", "relu_1"}  # they stand behind their pool in the spiking network
    expected = {
        name: (F.max_pool2d(output, 2) if name in pooled else output).mean(0) for name, output in outputs.items()
    }
    assert set(expected) == {"relu", "other", "relu_1"}
    given = {}
    monkeypatch.setattr(
        FTBC, "_correct", lambda self, neuron, currents, activation: given.setdefault(neuron, activation)
    )
    converted = FTBC(steps=4).convert(network, x)
    assert {name: neuron in given for name, neuron in converted.neurons.items()} == dict.fromkeys(expected, True)
    for name, neuron in converted.neurons.items():
        assert torch.equal(given[neuron], expected[name])
        assert expected[name].std() > 0
