"""Folding what a spike is worth into the synapses behind it, against a simulation that multiplies every spike."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from dyadic import multiples
from torch import nn

from methods import base as base_module
from methods.base import ConversionMethod
from methods.clipped import ClippedReLU
from methods.errors import ConversionError
from methods.neurons import IFNeuron
from methods.pooling import SpikeMaxPool
from methods.rewrite import fold_batch_norms
from methods.tracing import trace


@dataclass(frozen=True)
class ByHand(ConversionMethod):
    """Integrate-and-fire neurons with the thresholds that somebody has set on the prepared network."""

    name: ClassVar[str] = "by-hand"

    def activation(self):
        return ClippedReLU()

    def neuron(self, activation):
        return IFNeuron(activation.calibrated())


class Multiplying(nn.Module):
    """An integrate-and-fire layer that sends on threshold * spike, per channel where the threshold says so."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold, self.v = threshold, None

    def forward(self, current):
        shape = [1, -1, *[1] * (current.dim() - 2)] if self.threshold.dim() else [1] * current.dim()
        threshold = self.threshold.reshape(shape)
        self.v = (threshold / 2 if self.v is None else self.v) + current
        spikes = (self.v >= threshold).to(current)
        self.v = self.v - threshold * spikes
        return threshold * spikes


class PoolOverTime(nn.Module):
    """The largest of the summed inputs, as differences."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.total, self.peak = pool, 0, 0

    def forward(self, x):
        self.total = self.total + x
        before, self.peak = self.peak, self.pool(self.total)
        return self.peak - before


def unfolded(prepared: nn.Module) -> nn.Module:
    network = copy.deepcopy(prepared)
    for name, module in list(network.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, ClippedReLU):
            setattr(network.get_submodule(parent), last, Multiplying(module.threshold))
        elif isinstance(module, nn.MaxPool2d):
            setattr(network.get_submodule(parent), last, PoolOverTime(module))
    return network


class Net(nn.Module):
    """Everything that can stand behind a spiking layer; 8x8 images of three channels."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.relu, self.second, self.third = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.stem, self.other, self.narrow = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1)
        self.conv, self.conv12, self.conv10 = (nn.Conv2d(n, 6, 3, padding=1) for n in (6, 12, 10))
        self.grouped = nn.Conv2d(6, 8, 3, groups=2)
        self.depthwise, self.multiplier = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 12, 3, groups=6)
        self.thirds = nn.Conv2d(6, 9, (1, 3), stride=2, groups=3)
        self.flat, self.pixels = nn.Linear(6 * 64, 5), nn.Linear(6 * 16, 5)
        self.head, self.head12 = nn.Linear(6, 5), nn.Linear(12, 5)
        self.average, self.largest = nn.AvgPool2d(2), nn.MaxPool2d(2)
        self.joined, self.long_norm = nn.Linear(2 * 6 * 16, 5), nn.BatchNorm1d(6 * 64)
        self.norm, self.dropout, self.identity = nn.BatchNorm2d(6), nn.Dropout2d(0.5), nn.Identity()

    def forward(self, x):
        return getattr(self, f"go_{self.kind}")(x)

    def spikes(self, x):
        return self.relu(self.stem(x))

    def go_conv(self, x):
        return self.conv(self.spikes(x)).flatten(1)

    def go_grouped(self, x):
        return self.grouped(self.spikes(x)).flatten(1)

    def go_depthwise(self, x):
        return self.depthwise(self.spikes(x)).flatten(1)

    def go_depthwise_with_multiplier(self, x):
        return self.multiplier(self.spikes(x)).flatten(1)

    def go_groups_of_two(self, x):
        return self.thirds(self.spikes(x)).flatten(1)

    def go_flatten_linear(self, x):
        return self.flat(torch.flatten(self.spikes(x), 1))

    def go_flatten_by_method(self, x):
        return self.flat(self.spikes(x).flatten(start_dim=1))

    def go_view_linear(self, x):
        return self.flat(self.spikes(x).view(x.size(0), -1))

    def go_average_linear(self, x):
        return self.pixels(self.average(self.spikes(x)).flatten(1))

    def go_average_function(self, x):
        return self.pixels(F.avg_pool2d(self.spikes(x), 2).flatten(1))

    def go_adaptive(self, x):
        return self.head(F.adaptive_avg_pool2d(self.spikes(x), 1).flatten(1))

    def go_mean(self, x):
        return self.head(self.spikes(x).mean((2, 3)))

    def go_mean_over_channels(self, x):
        return self.spikes(x).mean(1).flatten(1)

    def go_average_conv(self, x):
        return self.grouped(self.average(self.spikes(x))).flatten(1)

    def go_dropout_identity(self, x):
        return self.conv(self.dropout(self.identity(self.spikes(x)))).flatten(1)

    def go_permuted(self, x):
        return self.conv(self.spikes(x).permute(0, 1, 3, 2)).flatten(1)

    def go_channels_last(self, x):
        return self.head(self.spikes(x).permute(0, 2, 3, 1)).flatten(1)

    def go_concatenation(self, x):
        return self.conv12(torch.cat([self.spikes(x), self.second(self.other(x))], 1)).flatten(1)

    def go_uneven_concatenation(self, x):
        return self.conv10(torch.cat((self.second(self.narrow(x)), self.spikes(x)), dim=1)).flatten(1)

    def go_concatenation_with_a_current(self, x):
        y = self.spikes(x)
        return self.conv12(torch.cat([self.conv(y), y], 1)).flatten(1)

    def go_concatenation_along_rows(self, x):
        return self.conv(torch.cat([self.spikes(x), self.second(self.other(x))], 2)).flatten(1)

    def go_concatenation_flattened(self, x):
        joined = torch.cat([self.spikes(x), self.second(self.other(x))], 1)
        return self.head12(self.average(joined).mean((2, 3)))

    def go_nested_concatenation(self, x):
        y = self.spikes(x)
        return self.conv12(torch.cat([torch.cat([y], 1), self.second(self.conv(y))], 1)).flatten(1)

    def go_pooled(self, x):
        y = self.spikes(x)
        return (self.conv(self.largest(y)) + self.conv(self.average(y))).flatten(1)

    def go_pooled_concatenation(self, x):
        return self.conv12(self.largest(torch.cat([self.spikes(x), self.second(self.other(x))], 1))).flatten(1)

    def go_shortcut(self, x):
        y = self.spikes(x)
        return self.conv(self.second(self.conv(y) + y)).flatten(1)

    def go_shortcut_first(self, x):
        y = self.spikes(x)
        return self.conv(self.second(y + self.conv(y))).flatten(1)

    def go_two_spikes_added(self, x):
        y = self.spikes(x)
        return self.conv(self.third(y + self.second(self.conv(y)))).flatten(1)

    def go_added_with_a_factor(self, x):
        y = self.spikes(x)
        return torch.add(self.conv(y), y, alpha=3).flatten(1)

    def go_norm_on_spikes(self, x):
        return self.norm(self.spikes(x)).flatten(1)

    def go_norm_on_a_sum(self, x):
        y = self.spikes(x)
        return self.conv(self.second(self.norm(self.conv(y) + y))).flatten(1)

    def go_spikes_out(self, x):
        return self.spikes(x)

    def go_pooled_spikes_out(self, x):
        return self.average(self.spikes(x))

    def go_flattened_spikes_out(self, x):
        return self.spikes(x).flatten(1)

    def go_flattened_and_added(self, x):
        return self.flat(self.spikes(x).flatten(1) + self.second(self.other(x)).flatten(1))

    def go_flattened_and_joined(self, x):
        y, z = self.average(self.spikes(x)), self.average(self.second(self.other(x)))
        return self.joined(torch.cat([y.flatten(1), z.flatten(1)], 1))

    def go_flattened_and_normed(self, x):
        return self.flat(self.long_norm(self.spikes(x).flatten(1)))

    def go_shared_layer(self, x):
        return (self.conv(self.spikes(x)) + self.conv(self.second(self.other(x)))).flatten(1)

    def go_shared_layer_on_both(self, x):
        y = self.spikes(x)
        return self.conv(self.second(self.conv(y))).flatten(1)

    def go_spikes_into_neurons(self, x):
        return self.conv(self.second(self.spikes(x))).flatten(1)


KINDS = [name.removeprefix("go_") for name in vars(Net) if name.startswith("go_")]


def network_of(kind: str, thresholds: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        ann = Net(kind).double().eval()
        ann.norm.running_mean.normal_()
        ann.norm.running_var.uniform_(0.5, 1.5)
    prepared = ByHand().prepare(ann)
    generator = torch.Generator().manual_seed(3)
    channels = {"relu": 6, "second": 4 if kind == "uneven_concatenation" else 6, "third": 6}
    for name, module in prepared.named_modules():
        if not isinstance(module, ClippedReLU):
            continue
        own = 0.1 + 0.6 * torch.rand(channels[name.split("_")[0]], generator=generator, dtype=torch.float64)
        per_channel = thresholds == "per channel" or (thresholds == "mixed" and name == "second")
        module.threshold = own if per_channel else own[0]
    return prepared


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def summed(step, steps: int) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([step() for _ in range(steps)]).cumsum(0)


@pytest.mark.parametrize("thresholds", ["per channel", "per layer", "mixed"])
@pytest.mark.parametrize("with_shapes", [True, False], ids=["with shapes", "without shapes"])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_equals_multiplied(kind, thresholds, with_shapes):
    prepared, x = network_of(kind, thresholds), images()
    reference = unfolded(prepared)
    expected = summed(lambda: reference(x), 9)
    converted = ByHand().convert(prepared, x if with_shapes else None)
    emitted = []
    converted.begin(x)
    for name, neuron in converted.neurons.items():
        neuron.register_forward_hook(lambda module, inputs, output, name=name: emitted.append((name, output.clone())))
    found = summed(converted.step, 9)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert expected.abs().max() > 0.1
    for name in converted.neurons:
        trains = torch.stack([spikes for other, spikes in emitted if other == name])
        assert set(trains.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", ["conv", "grouped", "flatten_linear", "shortcut", "concatenation", "spikes_out"])
def test_without_folding_it_would_be_wrong(kind, monkeypatch):
    monkeypatch.setattr(base_module, "fold_amplitudes", lambda graph: 0)
    prepared, x = network_of(kind, "per channel"), images()
    reference = unfolded(prepared)
    converted = ByHand().convert(prepared, x)
    converted.begin(x)
    assert not torch.allclose(summed(converted.step, 9), summed(lambda: reference(x), 9), rtol=1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        "conv",
        "grouped",
        "depthwise",
        "flatten_linear",
        "average_linear",
        "adaptive",
        "concatenation",
        "uneven_concatenation",
        "pooled_concatenation",
        "dropout_identity",
    ],
)
def test_no_multiplication_is_left_where_synapses_follow(kind):
    graph = ByHand().convert(network_of(kind, "per channel"), images()).graph
    names = [str(node.target) for node in graph.graph.nodes]
    assert not [name for name in names if "worth" in name or "mul" in name]
    assert kind != "pooled_concatenation" or any(isinstance(module, SpikeMaxPool) for module in graph.modules())


def test_a_scaled_layer_leaves_the_source_alone():
    prepared = network_of("shared_layer", "per channel")
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    for _ in range(2):
        ByHand().convert(prepared, images())
        assert all(torch.equal(value, before[name]) for name, value in prepared.state_dict().items())


class Tokens(nn.Module):
    """A linear layer behind a spiking layer whose channels are not its inputs, though their numbers divide."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.first, self.relu, self.second = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)
        self.along, self.after = nn.Conv1d(6, 4, 1), nn.Linear(8, 3)

    def forward(self, x):
        if self.kind == "tokens":  # [B, 4 tokens, 6] -> [B, 4, 8]: four "channels", eight inputs
            return self.second(self.relu(self.first(x))).flatten(1)
        return self.after(self.relu(self.along(x))).flatten(1)  # [B, 4 channels, 8 positions]


@pytest.mark.parametrize("kind", ["tokens", "positions"])
def test_a_linear_layer_along_another_axis_is_computed_or_refused(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prepared = ByHand().prepare(Tokens(kind).double().eval())
    prepared.get_submodule("relu").threshold = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    shape = (3, 4, 6) if kind == "tokens" else (3, 6, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference = unfolded(prepared)
    expected = summed(lambda: reference(x), 6)
    try:
        converted = ByHand().convert(prepared, x)
    except ConversionError:
        return
    converted.begin(x)
    assert torch.allclose(summed(converted.step, 6), expected, rtol=1e-12, atol=1e-12)


class Norms(nn.Module):
    """Batch norms that can be folded, and some that cannot."""

    def __init__(self):
        super().__init__()
        self.conv, self.shared = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4, affine=index != 1) for index in range(6))
        self.linear, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        n = self.norms
        x = n[0](self.conv(x))  # folded
        x = n[1](self.shared(x))  # folded into a copy: this layer is called again
        y = n[2](self.shared(torch.relu(x)))  # folded into another copy
        z = self.shared(y)
        z = n[3](z) + z  # its convolution is read twice
        z = n[4](n[5](z))  # nothing to fold into
        return self.norm(self.linear(z.mean((2, 3))))  # folded


def test_batch_norms_are_folded_where_they_can_be_and_nothing_changes():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Norms().double().eval()
        for norm in (*network.norms, network.norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    x = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = network(x)
    graph = trace(network)
    assert fold_batch_norms(graph) == 4
    assert torch.allclose(graph(x), expected, rtol=1e-12, atol=1e-12)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in graph.modules()) == 3


def test_a_network_without_statistics_is_not_folded():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)).double().eval()
    graph = trace(network)
    x = multiples(torch.Generator().manual_seed(0), 4, 1, 3, 3)
    assert fold_batch_norms(graph) == 0
    assert torch.equal(graph(x), network(x))
