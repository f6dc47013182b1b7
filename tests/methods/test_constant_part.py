"""What depends on the image or on parameters alone: split off, read for its size, gated, and counted where it multiplies."""

from __future__ import annotations

import pytest
import torch
from dyadic import multiples, on_the_grid, prepared
from torch import nn

from benchmark.conformance import simulate
from methods.errors import ConversionError
from methods.qcfs import QCFS
from methods.qffs import QFFS
from methods.st_bif import STBIF


class Reshaping(nn.Module):
    """A multilayer perceptron that flattens the image itself; `flatten` says how."""

    def __init__(self, flatten):
        super().__init__()
        self.flatten, self.first, self.relu, self.second = flatten, nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(self.relu(self.first(self.flatten(x))))


FLATTENINGS = {
    "flatten": lambda x: x.flatten(1),
    "view(-1, n)": lambda x: x.view(-1, 12),
    "view(x.size(0), -1)": lambda x: x.view(x.size(0), -1),
    "view(x.size()[0], -1)": lambda x: x.view(x.size()[0], -1),
    "reshape(x.shape[0], -1)": lambda x: x.reshape(x.shape[0], -1),
    "view(len by method)": lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2]),
}


@pytest.mark.parametrize("flatten", FLATTENINGS.values(), ids=FLATTENINGS)
def test_the_size_of_the_image_may_be_read_in_the_stem(flatten):
    network = prepared(QFFS(), on_the_grid(Reshaping(flatten), step=1 / 8), 1.5)
    x = multiples(torch.Generator().manual_seed(0), 5, 3, 4, step=1 / 8)
    converted = QFFS().convert(network, x)
    assert torch.equal(simulate(converted, x, 6)[0].sum(0), 3 * network(x).detach())
    converted.begin(x)
    converted.step()
    converted.keep(torch.tensor([True, False, True, True, False]))
    assert converted.step().shape == (3, 3)


class ReshapingSpikes(nn.Module):
    """The same with spikes."""

    def __init__(self, flatten):
        super().__init__()
        self.flatten, self.first, self.relu, self.second = flatten, nn.Linear(4, 4), nn.ReLU(), nn.Linear(12, 3)

    def forward(self, x):
        return self.second(self.flatten(self.relu(self.first(x))))


@pytest.mark.parametrize("flatten", FLATTENINGS.values(), ids=FLATTENINGS)
def test_the_size_of_spikes_may_be_read(flatten):
    network = prepared(QFFS(), on_the_grid(ReshapingSpikes(flatten), step=1 / 8), 1.5)
    x = multiples(torch.Generator().manual_seed(0), 5, 3, 4, step=1 / 8)
    converted = QFFS().convert(network, x)
    assert torch.equal(simulate(converted, x, 6)[0].sum(0), 3 * network(x).detach())
    assert converted.sites[0].synapses == 12 * 3
    converted.begin(x)
    converted.step()
    converted.keep(torch.tensor([True, False, True, True, False]))
    assert converted.step().shape == (3, 3)


class WithParameter(nn.Module):
    """Adds something made of a parameter to changing currents."""

    def __init__(self, made):
        super().__init__()
        self.made, self.p = made, nn.Parameter(torch.tensor([-1.0, -0.5, 0.5, 1.0]))
        self.first, self.second, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(2))

    def forward(self, x):
        y = self.second(self.relus[0](self.first(x))) + self.made(self.p)
        return self.head(self.relus[1](y))


MADE = {
    "p": lambda p: p,
    "2 p": lambda p: p * 2,
    "p + 1": lambda p: p + 1,
    "exp p": lambda p: p.exp(),
    "softplus p": nn.functional.softplus,
    "p + 1, reshaped": lambda p: (p + 1).reshape(1, 4),
}


@pytest.mark.parametrize("method", [QFFS(), STBIF()], ids=["qffs", "st-bif"])
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_whatever_is_made_of_a_parameter_stops_with_the_drive(made, method):
    network = prepared(method, on_the_grid(WithParameter(made), 1, step=1 / 8), 1.5)
    x = multiples(torch.Generator().manual_seed(0), 20, 5, step=1 / 8)
    logits, spikes, _ = simulate(method.convert(network), x, 15)
    times = 3 if isinstance(method, QFFS) else 1
    assert torch.allclose(logits.sum(0), times * network(x).detach(), rtol=1e-12, atol=1e-12)
    assert spikes[-1].sum() == 0


class Joined(nn.Module):
    """A convolution on spikes and, beside them, on what is not spikes: the image, its current or averages."""

    def __init__(self, beside: str):
        super().__init__()
        self.beside = beside
        self.stem, self.join = nn.Conv2d(2, 4, 1), nn.Conv2d(8 if beside == "averages" else 6, 5, 1)
        self.current, self.average = nn.Conv2d(2, 2, 1), nn.AvgPool2d(1)
        self.relus, self.head = nn.ModuleList(nn.ReLU() for _ in range(2)), nn.Linear(5, 3)

    def forward(self, x):
        y = self.relus[0](self.stem(x))
        other = {"image": lambda: x, "current": lambda: self.current(x), "averages": lambda: self.average(y)}[
            self.beside
        ]()
        return self.head(self.relus[1](self.join(torch.cat([other, y], 1))).mean((2, 3)))


@pytest.mark.parametrize("beside", ["image", "current"])
def test_what_is_joined_with_spikes_is_gated_too(beside):
    network = prepared(QFFS(), on_the_grid(Joined(beside), 1, step=1 / 8), 1.5)
    x = multiples(torch.Generator().manual_seed(0), 4, 2, 4, 4, step=1 / 8)
    logits, spikes, _ = simulate(QFFS().convert(network), x, 12)
    assert torch.equal(logits.sum(0), 3 * network(x).detach())
    assert spikes[-1].sum() == 0


@pytest.mark.parametrize("beside", ["image", "current", "averages"])
def test_what_is_joined_with_spikes_multiplies_and_is_counted(beside):
    """The multiplications of the joined layer are synapses behind spikes or MACs; none may be forgotten."""
    network = QCFS().convert(QCFS().prepare(Joined(beside)), torch.zeros(1, 2, 4, 4))
    spiking = 16 * 4 * 5  # four channels of spikes into five
    analog = 16 * (4 if beside == "averages" else 2) * 5
    first = network.sites[0]
    behind_the_join = first.synapses - (16 * 4 if beside == "averages" else 0)  # an average is a synapse too
    counted = sum(layer.macs for layer in network.analog_layers if layer.name == "join")
    assert behind_the_join + counted >= spiking + analog


def test_a_norm_of_the_batch_itself_is_refused():
    """Without statistics an image's answer would depend on the others."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()
    )
    for method in (QCFS(), QFFS()):
        with pytest.raises(ConversionError):
            method.convert(method.prepare(network))
