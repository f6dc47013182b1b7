"""Max-pools over time: exact sums, whole networks that settle on their ANN through them, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dyadic import codes, follow, multiples, on_the_grid, prepared
from torch import nn

from benchmark.conformance import simulate
from methods import base as base_module
from methods.cos import COS
from methods.errors import ConversionError
from methods.neurons import SpikingNeuron
from methods.pooling import CurrentMaxPool, SpikeMaxPool
from methods.qcfs import QCFS
from methods.qffs import QFFS
from methods.srp import SRP
from methods.st_bif import STBIF

POOLS = {
    "2x2": nn.MaxPool2d(2),
    "3x3, stride 2, padding 1": nn.MaxPool2d(3, 2, 1),
    "3x3, stride 1": nn.MaxPool2d(3, 1),
    "2x3, dilated": nn.MaxPool2d((2, 3), stride=(1, 2), dilation=(2, 1)),
    "ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
}


def pooled_by_hand(x: np.ndarray, pool: nn.MaxPool2d) -> np.ndarray:
    """[N, C, H, W] by a loop over windows; padding never wins."""

    def pair(value):
        return value if isinstance(value, tuple) else (value, value)

    kernel, stride, padding, dilation = (
        pair(each) for each in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    rows, columns = [], []
    for axis, starts in ((0, rows), (1, columns)):
        reach, size = dilation[axis] * (kernel[axis] - 1) + 1, x.shape[2 + axis]
        whole, rest = divmod(size + 2 * padding[axis] - reach, stride[axis])
        for window in range(whole + 1 + (pool.ceil_mode and rest > 0)):
            start = window * stride[axis] - padding[axis]
            starts.append([start + dilation[axis] * k for k in range(kernel[axis])])
    found = np.empty((*x.shape[:2], len(rows), len(columns)))
    for i, window_rows in enumerate(rows):
        for j, window_columns in enumerate(columns):
            inside = [
                x[:, :, r, c]
                for r in window_rows
                for c in window_columns
                if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]
            ]
            found[:, :, i, j] = np.max(inside, axis=0)
    return found


def binary_trains(steps: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2, (steps, 2, 3, 7, 8), generator=torch.Generator().manual_seed(seed)).double()


def signed_trains(steps: int, seed: int = 0) -> torch.Tensor:
    """Random -1, 0, +1 whose cumulative counts stay between 0 and 4."""
    generator = torch.Generator().manual_seed(seed)
    count, frames = torch.zeros(2, 3, 7, 8, dtype=torch.float64), []
    for _ in range(steps):
        move = torch.randint(-1, 2, count.shape, generator=generator).double()
        moved = (count + move).clamp(0, 4)
        frames.append(moved - count)
        count = moved
    return torch.stack(frames)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("kind", ["binary", "signed"])
def test_the_pool_of_spikes_sums_up_to_the_largest_count_at_every_timestep(kind, pool):
    trains = binary_trains(30) if kind == "binary" else signed_trains(60)
    neuron, total = SpikeMaxPool(pool, kind), 0
    allowed = {0.0, 1.0} if kind == "binary" else {-1.0, 0.0, 1.0}
    for step in range(len(trains)):
        spikes = neuron(trains[step].clone())
        total = total + spikes
        assert np.array_equal(total.numpy(), pooled_by_hand(trains[: step + 1].sum(0).numpy(), pool))
        assert set(spikes.unique().tolist()) <= allowed
    assert kind == "binary" or bool((signed_trains(60) < 0).any())


@pytest.mark.parametrize("kind", ["binary", "signed"])
def test_the_largest_of_instantaneous_spikes_is_something_else(kind):
    trains = binary_trains(30) if kind == "binary" else signed_trains(60)
    instantaneous = sum(F.max_pool2d(frame, 2) for frame in trains)
    assert not torch.equal(instantaneous, F.max_pool2d(trains.sum(0), 2))


def test_two_neurons_that_take_turns_by_hand():
    """Each spikes every other time: the maximum of rates is one half, of instantaneous spikes one."""
    pool = SpikeMaxPool(nn.MaxPool1d(2), "binary")
    frames = [torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])] * 3
    assert [pool(frame).item() for frame in frames] == [1, 0, 1, 0, 1, 0]
    signed = SpikeMaxPool(nn.MaxPool1d(2), "signed")
    frames = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]
    assert [signed(torch.tensor([[frame]])).item() for frame in frames] == [1, 0, 0, -1, 0]


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_the_pool_of_currents_sums_up_to_the_largest_sum(pool):
    currents = multiples(torch.Generator().manual_seed(0), 25, 2, 3, 7, 8)
    module, total = CurrentMaxPool(pool), 0
    for step in range(len(currents)):
        total = total + module(currents[step].clone())
        assert np.array_equal(total.numpy(), pooled_by_hand(currents[: step + 1].sum(0).numpy(), pool))
    assert not torch.equal(sum(pool(frame) for frame in currents), total)


@pytest.mark.parametrize("module", [SpikeMaxPool(nn.MaxPool2d(2), "binary"), CurrentMaxPool(nn.MaxPool2d(2))])
def test_pools_do_not_write_into_what_they_are_given_and_keep_and_forget_images(module):
    trains = binary_trains(6)
    untouched = trains.clone()
    expected = [module(frame).clone() for frame in trains]
    assert torch.equal(trains, untouched)
    module.reset()
    assert torch.equal(module(trains[0]), expected[0])
    assert torch.equal(module(trains[1]), expected[1])
    module.keep(torch.tensor([False, True]))
    for step in range(2, 6):
        assert torch.equal(module(trains[step][1:]), expected[step][1:])


class Net(nn.Module):
    """Convolutions on 8x8 images of two channels, with max-pools in the place that `kind` says."""

    def __init__(self, kind: str, pool: str = "overlapping"):
        super().__init__()
        self.kind = kind
        self.stem, self.a, self.b = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((2, 4), (4, 4), (4, 4)))
        self.c = nn.Conv2d(8 if kind.startswith("cat") else 4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))
        make = {"overlapping": lambda: nn.MaxPool2d(3, 2, 1), "2x2": lambda: nn.MaxPool2d(2)}[pool]
        self.pools = nn.ModuleList(make() for _ in range(2))

    def forward(self, x):
        relus, pools = self.relus, self.pools
        x = self.stem(x)
        if self.kind == "stem":
            x = pools[0](x)
        x = relus[0](x)
        if self.kind == "cat of branches":
            x = pools[0](torch.cat([relus[1](self.a(x)), relus[2](self.b(x))], 1))
        elif self.kind == "cat of one layer with itself":
            y = relus[1](self.a(x))
            x = pools[0](torch.cat([y, relus[2](self.b(y))], 1))
        elif self.kind == "relu, pool":
            x = pools[1](relus[2](self.b(pools[0](relus[1](self.a(x))))))
        elif self.kind == "pool, relu":
            x = relus[2](pools[1](self.b(relus[1](pools[0](self.a(x))))))
        elif self.kind == "two readers":
            y = relus[1](self.a(x))
            x = relus[2](pools[0](y) + pools[1](self.b(y)))
        elif self.kind == "two pools":
            x = pools[1](pools[0](relus[2](self.b(relus[1](self.a(x))))))
        elif self.kind == "functions":
            x = F.max_pool2d(F.relu(self.b(F.max_pool2d(relus[1](self.a(x)), 3, stride=2, padding=1))), (2, 1))
        elif self.kind == "shared":
            x = pools[0](relus[2](self.b(pools[0](relus[1](self.a(x))))))
        else:
            x = relus[2](self.b(relus[1](self.a(x))))
        return self.head(relus[3](self.c(x)).mean((2, 3)))


KINDS = (
    "stem",
    "relu, pool",
    "pool, relu",
    "cat of branches",
    "cat of one layer with itself",
    "two readers",
    "two pools",
    "functions",
    "shared",
)
TOPS = {"qffs": 1.5, "qcfs": 1.0}


def images(count: int = 5) -> torch.Tensor:
    return multiples(torch.Generator().manual_seed(7), count, 2, 8, 8, step=1 / 8, size=1.0)


def network_of(kind: str, method, top: float, pool: str = "overlapping") -> nn.Module:
    return prepared(method, on_the_grid(Net(kind, pool), 5, step=1 / 8, size=0.5), top)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["overlapping", "2x2"])
def test_qffs_settles_exactly_through_pools(kind, pool):
    network, x = network_of(kind, QFFS(), 1.5, pool), images()
    converted = QFFS().convert(network)
    steps = 3 * (converted.depth + 1)
    trace = follow(converted, x, steps + 5)
    assert torch.equal(trace.logits.sum(0), 3 * network(x).detach())
    expected = codes(network, x)
    counts = trace.counts()
    assert {name for name in counts if not isinstance(converted.neurons[name], SpikeMaxPool)} == set(expected)
    assert all(torch.equal(counts[name], expected[name]) for name in expected)
    assert trace.spikes[steps:].sum() == 0
    for name, train in trace.trains.items():
        assert bool((train.abs() <= 1).all())
        assert bool((train.cumsum(0) >= 0).all()) and bool((train.cumsum(0) <= 3).all())
        assert expected.get(name, train).unique().numel() > 1  # the layer has something to say
    pools = [neuron for neuron in converted.neurons.values() if isinstance(neuron, SpikeMaxPool)]
    assert all(neuron.kind == "signed" for neuron in pools)
    wanted = {"stem": 0, "pool, relu": 0, "cat of branches": 1, "cat of one layer with itself": 1, "two readers": 1}
    assert len(pools) == wanted.get(kind, 2)


@pytest.mark.parametrize("kind", ["relu, pool", "cat of branches", "pool, relu", "two readers"])
def test_st_bif_settles_exactly_through_pools(kind):
    network, x = network_of(kind, STBIF(), 1.5), images()
    logits, spikes, _ = simulate(STBIF().convert(network), x, 20)
    assert torch.equal(logits.sum(0), network(x).detach())
    assert spikes[-1].sum() == 0


class Instantaneous(SpikeMaxPool):
    """The maximum of this timestep's spikes."""

    def fire(self, current):
        return self.pool(current)


class InstantaneousCurrent(CurrentMaxPool):
    """The maximum of this timestep's currents."""

    def forward(self, current):
        return self.pool(current)


@pytest.mark.parametrize("kind", ["relu, pool", "pool, relu", "cat of branches"])
def test_instantaneous_pools_do_not_settle_on_the_network(kind, monkeypatch):
    monkeypatch.setattr(base_module, "SpikeMaxPool", Instantaneous)
    monkeypatch.setattr(base_module, "CurrentMaxPool", InstantaneousCurrent)
    network, x = network_of(kind, QFFS(), 1.5), images()
    converted = QFFS().convert(network)
    assert any(isinstance(module, (Instantaneous, InstantaneousCurrent)) for module in converted.graph.modules())
    assert not torch.equal(simulate(converted, x, 20)[0].sum(0), 3 * network(x).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_cos_with_full_iteration_equals_its_network_through_pools(kind):
    network, x = network_of(kind, QCFS(), 1.0), images()
    converted = COS(iterations=4).convert(network)
    trace = follow(converted, x, 4)
    assert torch.equal(trace.logits.sum(0), 4 * network(x).detach())
    assert not torch.equal(simulate(QCFS().convert(network), x, 4)[0].sum(0), 4 * network(x).detach())


@pytest.mark.parametrize(
    ("kind", "spiking_pools", "current_pools", "constant_pools"),
    [
        ("stem", 0, 0, 1),
        ("relu, pool", 0, 2, 0),
        ("pool, relu", 0, 2, 0),
        ("cat of branches", 1, 0, 0),
        ("two readers", 1, 1, 0),
        ("two pools", 0, 2, 0),
        ("functions", 0, 2, 0),
        ("shared", 0, 2, 0),
    ],
)
def test_unsigned_methods_pool_before_their_neurons(kind, spiking_pools, current_pools, constant_pools):
    network, x = network_of(kind, QCFS(), 1.0), images()
    converted = QCFS().convert(network, x)
    modules = [
        converted.graph.get_submodule(node.target) for node in converted.graph.graph.nodes if node.op == "call_module"
    ]
    found = [sum(isinstance(each, kind) for each in modules) for kind in (SpikeMaxPool, CurrentMaxPool, nn.MaxPool2d)]
    assert found == [spiking_pools, current_pools, constant_pools]
    if kind == "relu, pool":
        assert [site.shape for site in converted.sites] == [(4, 8, 8), (4, 4, 4), (4, 2, 2), (4, 2, 2)]
    assert all(neuron.kind == "binary" for neuron in converted.neurons.values())
    signed = QFFS(levels=4).convert(network, x)
    if kind == "relu, pool":
        assert len(signed.sites) == len(converted.sites) + 2
        assert [site.shape for site in signed.sites][1:3] == [(4, 8, 8), (4, 4, 4)]


def test_a_pool_of_the_stem_runs_once_for_an_image():
    converted = QCFS().convert(network_of("stem", QCFS(), 1.0), images())
    calls = []
    for module in converted.modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(lambda module, inputs, output: calls.append(1))
    simulate(converted, images(), 6)
    assert len(calls) == 1


def test_qcfs_with_a_moved_pool_is_the_network_at_its_first_layer():
    """max(a(z)) = a(max z): with a constant current and T = L, exactly."""
    ann = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(64, 3))
    network, x = prepared(QCFS(), on_the_grid(ann, 1, step=1 / 8), 1.0), images()
    assert torch.equal(simulate(QCFS().convert(network), x, 4)[0].sum(0), 4 * network(x).detach())


def test_a_pool_of_unit_spikes_in_qcfs_by_an_independent_simulation():
    """Two branches joined and pooled, timestep by timestep, with thresholds that differ."""
    network, x = network_of("cat of branches", QCFS(), 1.0), images()
    for name, top in (("relus.1", 0.5), ("relus.2", 2.0)):
        network.get_submodule(name).set_top(top)
    converted = QCFS().convert(network, x)
    trace = follow(converted, x, 9)
    stem, a, b, c = (network.get_submodule(name) for name in ("stem", "a", "b", "c"))

    class IF:
        def __init__(self, threshold):
            self.threshold, self.v = threshold, threshold / 2

        def __call__(self, current):
            m = self.v + current
            spikes = (m >= self.threshold).double()
            self.v = m - self.threshold * spikes
            return self.threshold * spikes

    neurons = [IF(1.0), IF(0.5), IF(2.0), IF(1.0)]
    arrived, peak = 0, 0
    for step in range(9):
        y = neurons[0](stem(x))
        # What a spike is worth takes part in the maximum: a count of four small ones is beaten by two large ones.
        arrived = arrived + torch.cat([neurons[1](a(y)), neurons[2](b(y))], 1)
        now = F.max_pool2d(arrived, 3, 2, 1)
        expected = network.head(neurons[3](c(now - peak)).mean((2, 3)))
        peak = now
        assert torch.equal(trace.logits[step], expected.detach())


def effect_of_single_spikes(graph, node, spikes: torch.Tensor) -> torch.Tensor:
    """SynOps per image, by sending every spike alone into what reads it."""
    total = torch.zeros(len(spikes), dtype=torch.long)
    for image, *position in spikes.nonzero().tolist():
        alone = torch.zeros(1, *spikes.shape[1:], dtype=torch.float64)
        alone[(0, *position)] = 1
        total[image] += sum(reached(graph, user, alone) for user in node.users)
    return total


def reached(graph, user, alone: torch.Tensor) -> int:
    module = graph.get_submodule(user.target) if user.op == "call_module" else None
    if isinstance(module, SpikeMaxPool):
        return int((module.pool(alone) > 0).sum())  # a lone one is the largest in every window that sees it
    if isinstance(module, nn.Conv2d):
        ones = nn.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, bias=False
        )
        nn.init.ones_(ones.double().weight)
        return int((ones(alone) != 0).sum())
    if user.target is torch.cat:
        joined = torch.cat([alone] + [torch.zeros_like(alone)] * (len(user.args[0]) - 1), 1)  # pools mix no channels
        return sum(reached(graph, each, joined) for each in user.users)
    assert user.target in (torch.add, "mean"), user
    return 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [QCFS(levels=3), QFFS()], ids=["qcfs", "qffs"])
def test_synops_through_pools_by_brute_force(kind, method):
    network, x = network_of(kind, method, 1.5), images(2)
    converted = method.convert(network, x)
    trace = follow(converted, x, 4)
    graph = converted.graph
    for step in (0, 2):
        spikes, synops = torch.zeros(2).long(), torch.zeros(2).long()
        for node in graph.graph.nodes:
            if node.op == "call_module" and isinstance(graph.get_submodule(node.target), SpikingNeuron):
                train = trace.trains[str(node.target)][step]
                spikes += train.abs().flatten(1).sum(1).long()
                synops += effect_of_single_spikes(graph, node, train)
        assert torch.equal(trace.spikes[step], spikes)
        assert torch.equal(trace.synops[step], synops)
        assert bool((synops > 0).all())


@pytest.mark.parametrize("kind", ["cat of branches", "cat of one layer with itself"])
def test_counts_do_not_depend_on_whether_images_were_given_to_convert(kind):
    """Joined branches whose spikes are worth different amounts are pooled as unit spikes either way."""
    network, x = network_of(kind, QCFS(), 1.0), images()
    for name, top in (("relus.1", 0.5), ("relus.2", 2.0)):
        network.get_submodule(name).set_top(top)
    with_images, without = (follow(QCFS().convert(network, given), x, 5) for given in (x, None))
    assert torch.equal(with_images.logits, without.logits)
    for trace in (with_images, without):
        assert all(set(train.unique().tolist()) == {0.0, 1.0} for train in trace.trains.values())
    assert torch.equal(with_images.spikes, without.spikes)
    assert torch.equal(with_images.synops, without.synops)


@pytest.mark.parametrize(
    ("pool", "windows"),
    [
        # On 4x4, rows (and columns) lie in this many windows each.
        (nn.MaxPool2d(2), 4 * 4),
        (nn.MaxPool2d(3, 1), 6 * 6),
        (nn.MaxPool2d(3, 2, 1), 5 * 5),  # windows begin at -1 and 1: 1, 2, 1, 1
        (nn.MaxPool2d(3, 2), 3 * 3),
        (nn.MaxPool2d(3, 2, ceil_mode=True), 5 * 5),  # begin at 0 and 2: 1, 1, 2, 1
        (nn.MaxPool2d((2, 4), (2, 1)), 4 * 4),
        (nn.MaxPool2d(2, 1, dilation=2), 4 * 4),  # 0 and 2, 1 and 3: 1, 1, 1, 1
    ],
)
def test_synapses_of_a_pool_of_spikes_by_hand(pool, windows):
    layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), pool, nn.Conv2d(2, 5, 1))
    network = QFFS().convert(QFFS().prepare(layers), torch.zeros(1, 1, 4, 4))
    first, second = network.sites
    assert first.synapses == 2 * windows
    assert second.synapses == second.neurons * 5
    assert (first.kind, second.kind) == ("signed", "signed")
    assert network.depth == 1


@pytest.mark.parametrize("method", [QCFS(levels=3), SRP(levels=3), COS(levels=3), QFFS()])
@pytest.mark.parametrize("kind", ["cat of branches", "pool, relu"])
def test_keep_with_pools(method, kind):
    network, x = method.convert(network_of(kind, method, 1.5)), images(6)
    mask = torch.tensor([True, False, True, True, False, False])
    expected = simulate(network, x, 8)
    network.begin(x)
    for step in range(8):
        if step == 2:
            network.keep(mask)
        rows = mask if step >= 2 else slice(None)
        assert torch.equal(network.step(), expected[0][step][rows])
        assert torch.equal(network.spikes, expected[1][step][rows])
        assert torch.equal(network.synops, expected[2][step][rows])


def test_pools_in_one_and_three_dimensions():
    for dims in (1, 3):
        conv, pool = (getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "MaxPool"))
        size = (6,) * dims
        ann = nn.Sequential(
            conv(2, 3, 3, padding=1),
            nn.ReLU(),
            pool(2),
            conv(3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * 3**dims, 3),
        )
        network = prepared(QFFS(), on_the_grid(ann, 2, step=1 / 8), 1.5)
        x = multiples(torch.Generator().manual_seed(7), 4, 2, *size, step=1 / 8)
        assert torch.equal(simulate(QFFS().convert(network), x, 12)[0].sum(0), 3 * network(x).detach())


def test_what_cannot_be_pooled_is_refused():
    def converting(*behind):
        return QCFS().convert(QCFS().prepare(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), *behind)))

    with pytest.raises(ConversionError, match="averages of spikes"):
        converting(nn.AvgPool2d(2), nn.MaxPool2d(2))
    with pytest.raises(ConversionError, match="has no spiking counterpart"):
        converting(nn.AdaptiveMaxPool2d(1))
