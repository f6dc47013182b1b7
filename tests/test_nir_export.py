"""NIR files: written, read back by nir itself, and run by a small interpreter that knows nothing of our code.

Where weights, images and thresholds are multiples of powers of two nothing rounds, membranes do land exactly on their
threshold, and spikes and outputs must be the same numbers whatever the order of additions.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import methods
from benchmark.backbones.resnet import resnet20
from benchmark.conformance import quantised_network, random_images
from benchmark.errors import UsageError
from methods.errors import ConversionError
from methods.network import Schedule, SpikingNetwork
from methods.quantisers import UniformQuantiser

nir = pytest.importorskip("nir", reason="extra: nir")
nir_export = importlib.import_module("benchmark.nir_export")

TIMESTEPS = 12


def qcfs():
    return methods.get("qcfs")(levels=4)


def converted(*layers: nn.Module, image: tuple[int, ...] = (2, 8, 8), method=None) -> SpikingNetwork:
    method = method or qcfs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(*layers).double().eval()
    return method.convert(method.prepare(model), torch.zeros(1, *image, dtype=torch.float64))


def at_threshold(quantised, threshold=1.25):
    """The network with one threshold, which additions of multiples of powers of two do not round."""
    for module in quantised.modules():
        if isinstance(module, UniformQuantiser):
            module.set_top(threshold)
    return quantised


def make_dyadic(model: nn.Module) -> nn.Module:
    """Every number a multiple of 1/16, and batch norm without a square root."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
                module.running_var.fill_(1.0)
                module.running_mean.mul_(16).round_().div_(16)
        for name, parameter in model.named_parameters():
            if not name.endswith("threshold"):
                parameter.mul_(16).round_().div_(16)
    return model


def dyadic_images(count: int) -> torch.Tensor:
    return (random_images(count) * 8).round() / 8


def recorded(network: SpikingNetwork, images: torch.Tensor):
    """Spikes of every layer [T, B, ...] by name, and outputs [T, B, K]."""
    spikes: dict[str, list[np.ndarray]] = {name: [] for name in network.neurons}
    hooks = [
        neuron.register_forward_hook(lambda _, __, out, name=name: spikes[name].append(out.clone().numpy()))
        for name, neuron in network.neurons.items()
    ]
    network.begin(images)
    outputs = [network.step().numpy() for _ in range(TIMESTEPS)]
    for hook in hooks:
        hook.remove()
    return {name: np.stack(train) for name, train in spikes.items()}, np.stack(outputs)


class Interpreter:
    """Runs a NIR graph one timestep at a time; a spike arrives in the timestep in which it is fired.

    `reset`, `fires` and `v_init` replace what the metadata says, as by a reader that ignores it.
    """

    def __init__(self, graph, **ignoring):
        self.graph, self.ignoring = graph, ignoring
        self.sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self.order: list[str] = []
        while len(self.order) < len(graph.nodes):
            ready = [
                name
                for name in graph.nodes
                if name not in self.order and all(source in self.order for source in self.sources[name])
            ]
            assert ready, "a cycle"
            self.order += ready
        self.membranes: dict[str, np.ndarray] = {}

    def step(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values: dict[str, np.ndarray] = {}
        for name in self.order:
            node = self.graph.nodes[name]
            total = images if isinstance(node, nir.Input) else sum(values[source] for source in self.sources[name])
            values[name] = self.value(name, node, total)
        return values

    def value(self, name: str, node, x: np.ndarray) -> np.ndarray:
        if isinstance(node, (nir.Input, nir.Output)):
            return x
        if isinstance(node, nir.Conv2d):
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            padding = node.padding if isinstance(node.padding, str) else tuple(map(int, node.padding))
            stride, dilation = tuple(map(int, node.stride)), tuple(map(int, node.dilation))
            return F.conv2d(torch.from_numpy(x), weight, bias, stride, padding, dilation, int(node.groups)).numpy()
        if isinstance(node, nir.Affine):
            return x @ node.weight.T + node.bias
        if isinstance(node, nir.Linear):
            return x @ node.weight.T
        if isinstance(node, nir.Scale):
            return x * node.scale
        if isinstance(node, nir.Flatten):
            assert (node.start_dim, node.end_dim) == (0, -1)
            return x.reshape(len(x), -1)
        if isinstance(node, nir.AvgPool2d):
            assert not node.padding.any()
            windows = np.lib.stride_tricks.sliding_window_view(x, tuple(node.kernel_size), (2, 3))
            return windows[:, :, :: node.stride[0], :: node.stride[1]].mean((-2, -1))
        assert isinstance(node, nir.IF), node
        return self.fire(name, node, x)

    def fire(self, name: str, node, current: np.ndarray) -> np.ndarray:
        says = {**node.metadata, **self.ignoring}
        if name not in self.membranes:
            self.membranes[name] = np.broadcast_to(says["v_init"], current.shape).astype(current.dtype)
        membrane = self.membranes[name] + node.r * current
        spikes = membrane >= node.v_threshold if says["fires"] == "v >= v_threshold" else membrane > node.v_threshold
        reset = membrane - node.v_threshold if says["reset"] == "subtract" else node.v_reset
        self.membranes[name] = np.where(spikes, reset, membrane)
        return spikes.astype(current.dtype)


def interpreted(graph, images: torch.Tensor, **ignoring):
    run = Interpreter(graph, **ignoring)
    steps = [run.step(images.numpy()) for _ in range(TIMESTEPS)]
    layers = [name for name, node in graph.nodes.items() if isinstance(node, nir.IF)]
    return {name: np.stack([step[name] for step in steps]) for name in layers}, np.stack(
        [step["output"] for step in steps]
    )


def read_back(network: SpikingNetwork, folder):
    nir_export.write_nir(network, folder / "network.nir")
    return nir.read(folder / "network.nir")


@pytest.mark.parametrize("tiny", ["plain", "residual"])
def test_a_file_holds_the_same_network(tiny, tmp_path):
    """Random weights: every spike the same, outputs up to the rounding of another order of additions."""
    network = qcfs().convert(quantised_network(qcfs(), tiny), random_images(1))
    graph = read_back(network, tmp_path)
    images = random_images(20)
    ours, logits = recorded(network, images)
    theirs, outputs = interpreted(graph, images)
    assert list(ours) == list(network.neurons) and set(ours) == set(theirs)
    for name, spikes in ours.items():
        assert np.array_equal(spikes, theirs[name]), name
        assert 0 < spikes.mean() < 1
    np.testing.assert_allclose(outputs, logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tiny", ["plain", "residual"])
def test_a_file_holds_the_same_network_bit_for_bit(tiny, tmp_path):
    network = qcfs().convert(make_dyadic(at_threshold(quantised_network(qcfs(), tiny))), random_images(1))
    graph = read_back(network, tmp_path)
    images = dyadic_images(20)
    ours, logits = recorded(network, images)
    theirs, outputs = interpreted(graph, images)
    assert all(np.array_equal(spikes, theirs[name]) for name, spikes in ours.items())
    assert np.array_equal(logits, outputs)
    assert outputs.dtype == np.float64


@pytest.mark.parametrize("ignored", [{"reset": "zero"}, {"fires": "v > v_threshold"}, {"v_init": 0.0}])
@pytest.mark.parametrize("tiny", ["plain", "residual"])
def test_a_reader_that_ignores_the_metadata_runs_another_network(tiny, ignored, tmp_path):
    network = qcfs().convert(make_dyadic(at_threshold(quantised_network(qcfs(), tiny))), random_images(1))
    ours, _ = recorded(network, dyadic_images(20))
    theirs, _ = interpreted(read_back(network, tmp_path), dyadic_images(20), **ignored)
    assert any(not np.array_equal(spikes, theirs[name]) for name, spikes in ours.items())


def test_what_the_file_says(tmp_path):
    network = qcfs().convert(at_threshold(quantised_network(qcfs(), "residual")), random_images(1))
    graph = read_back(network, tmp_path)
    assert graph.metadata == {**nir_export.RUN, "method": "qcfs", "neurons": 2 * 6 * 64 + 8 * 16}
    for name, neuron in network.neurons.items():
        node = graph.nodes[name]
        assert np.all(node.v_threshold == neuron.threshold) and np.all(node.r == 1) and not node.v_reset.any()
        assert node.metadata["reset"] == "subtract"
        assert np.all(node.metadata["v_init"] == 0.5 * neuron.threshold)
    shortcut = graph.nodes["add.alpha"]
    assert isinstance(shortcut, nir.Scale) and np.all(shortcut.scale == 1.25)
    assert sorted(a for a, b in graph.edges if b == "relu_1") == ["add.alpha", "first"]
    assert sorted(a for a, b in graph.edges if b == "relu") == ["projection", "second"]
    assert graph.input_type["input"].tolist() == [3, 8, 8] and graph.output_type["output"].tolist() == [5]
    assert graph.nodes["mean"].output_type["output"].tolist() == [8, 1, 1]
    assert graph.nodes["stem"].weight.dtype == graph.nodes["relu"].v_threshold.dtype == np.float64


def test_float32_stays_float32(tmp_path):
    network = qcfs().convert(quantised_network(qcfs(), "residual").float(), random_images(1).float())
    graph = read_back(network, tmp_path)
    kept = [
        value
        for node in graph.nodes.values()
        for name, value in vars(node).items()
        if name in ("weight", "bias", "scale")
    ] + [graph.nodes["relu"].v_threshold, graph.nodes["relu"].metadata["v_init"]]
    assert {value.dtype for value in kept} == {np.dtype(np.float32)}


def test_thresholds_per_channel(tmp_path):
    """What a spike is worth then differs per channel, and on a shortcut it is a scale of its own."""
    method = methods.get("threshold-balancing")(per_channel=True)
    network = method.convert(quantised_network(method, "residual"), random_images(8, seed=3))
    graph = read_back(network, tmp_path)
    images = random_images(20)
    ours, logits = recorded(network, images)
    theirs, outputs = interpreted(graph, images)
    assert all(np.array_equal(spikes, theirs[name]) for name, spikes in ours.items())
    np.testing.assert_allclose(outputs, logits, rtol=0, atol=1e-12)
    node, neuron = graph.nodes["relu_1"], network.neurons["relu_1"]
    assert node.v_threshold.shape == node.metadata["v_init"].shape == (6, 8, 8)
    assert node.v_threshold[:, 4, 2].tolist() == neuron.threshold.tolist()
    assert np.array_equal(node.metadata["v_init"], node.v_threshold / 2)
    scales = [node.scale for node in graph.nodes.values() if isinstance(node, nir.Scale)]
    assert any(scale.shape == (6, 8, 8) and len(np.unique(scale)) == 6 for scale in scales)


class Nested(nn.Module):
    """The same spikes reach one sum on two ways; flattened by a view of a size that is read."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 4, 3, padding="same", bias=False), nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(4 * 9, 5, bias=False)

    def forward(self, x):
        x = self.first(self.stem(x))
        x = self.second((self.inner(x) + x) + x)
        x = F.adaptive_avg_pool2d(F.avg_pool2d(x, 2, 1), 3)
        return self.head(x.view(x.size(0), -1))


def test_functions_views_and_nested_sums(tmp_path):
    method = qcfs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        quantised = make_dyadic(method.prepare(Nested().double().eval()))
    for name, parameter in quantised.named_parameters():
        if name.endswith("threshold"):
            parameter.data.fill_(1.0)  # no weight on the shortcuts: they would be two edges between the same nodes
    images = torch.randint(-16, 17, (9, 2, 7, 7), generator=torch.Generator().manual_seed(2)).double() / 8
    network = method.convert(quantised, images)
    graph = read_back(network, tmp_path)
    ours, logits = recorded(network, images)
    theirs, outputs = interpreted(graph, images)
    assert all(np.array_equal(spikes, theirs[name]) for name, spikes in ours.items())
    assert all(spikes.any() for spikes in ours.values())
    assert np.array_equal(logits, outputs)
    assert sum(isinstance(node, nir.Scale) for node in graph.nodes.values()) == 1
    assert isinstance(graph.nodes["head"], nir.Linear)


def test_resnet20_passes_the_type_check_of_nir(tmp_path):
    method = qcfs()
    network = method.convert(method.prepare(resnet20(3, 10).eval()), torch.zeros(1, 3, 32, 32))
    graph = read_back(network, tmp_path)
    assert graph.check_types()
    assert len(graph.inputs) == len(graph.outputs) == 1
    assert sum(isinstance(node, nir.IF) for node in graph.nodes.values()) == 19
    for site in network.sites:
        assert tuple(graph.nodes[site.name].output_type["output"]) == site.shape
    assert graph.nodes["pool"].kernel_size.tolist() == [8, 8]
    assert graph.output_type["output"].tolist() == [10]


class Forward(nn.Module):
    """A network whose forward pass is a function of itself and the image."""

    def __init__(self, run):
        super().__init__()
        self.stem, self.relu, self.wide, self.head = nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(2, 8, 8, dtype=torch.float64))
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def test_an_image_scaled_by_a_constant(tmp_path):
    network = converted(Forward(lambda net, x: net.head(net.relu(net.stem(0.5 * x)).mean((3, -2)))))
    graph = read_back(network, tmp_path)
    (scale,) = (node.scale for node in graph.nodes.values() if isinstance(node, nir.Scale))
    assert scale.shape == (2, 8, 8) and np.all(scale == 0.5)
    images = random_images(5)[:, :2]
    ours, logits = recorded(network, images)
    theirs, outputs = interpreted(graph, images)
    assert all(np.array_equal(spikes, theirs[name]) for name, spikes in ours.items())
    np.testing.assert_allclose(outputs, logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("run", "named"),
    [
        (lambda net, x: net.head(net.relu(net.stem(x + net.shift)).mean((2, 3))), "shift.*constant that is added"),
        (lambda net, x: net.head(net.relu(net.stem(x)).mean(2).mean(2)), "mean over dimensions 2"),
        (lambda net, x: net.head(net.relu(net.stem(x) + net.wide(x)).mean((2, 3))), "sum of shapes"),
        (lambda net, x: net.head(net.relu(net.stem(x)).transpose(2, 3).mean((2, 3))), "transpose.*change of shape"),
        (lambda net, x: net.head(net.relu(net.stem(x)).permute(0, 2, 3, 1)).flatten(1), "permute.*change of shape"),
    ],
)
def test_forward_passes_that_nir_cannot_say(run, named):
    with pytest.raises(ConversionError, match=named):
        nir_export.to_nir(converted(Forward(run)))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.relu = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.ReLU()
        self.head = nn.Conv2d(6, 2, 8)

    def forward(self, x):
        return self.head(torch.cat([self.relu(self.left(x)), self.relu(self.right(x))], 1)).flatten(1)


def head(*layers: nn.Module, channels: int = 4, size: int = 8) -> tuple[nn.Module, ...]:
    return nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), *layers, nn.Conv2d(channels, 2, size), nn.Flatten()


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (head(nn.Conv2d(4, 4, 3, padding=1, groups=4)), r"Conv2d '2'.*4 groups"),
        (head(nn.Conv2d(4, 4, (1, 3), padding=(0, 1))), r"Conv2d '2'.*\(1, 3\)"),
        (head(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")), "Conv2d '2'.*circular padding"),
        (head(nn.AvgPool2d(2, padding=1), size=5), "AvgPool2d '2'.*whether padding counts"),
        (head(nn.AvgPool2d(2, divisor_override=3), size=4), "AvgPool2d '2'.*another divisor"),
        (head(nn.AvgPool2d(3, ceil_mode=True), size=3), "AvgPool2d '2'.*over the edge"),
        (head(nn.AdaptiveAvgPool2d(3), size=3), "AdaptiveAvgPool2d '2'.*different sizes"),
        (head(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.ReLU(), size=4), "CurrentMaxPool '3'"),
        ((nn.MaxPool2d(2), *head(size=4)), "MaxPool2d '0'"),
        (head(nn.Unflatten(1, (2, 2)), nn.Flatten(1, 2)), "Unflatten '2'.*change of shape"),
        ((Joined(),), "cat"),
        (head(nn.BatchNorm2d(4)), "BatchNorm2d '2'"),
    ],
)
def test_what_nir_cannot_say_is_refused_by_name(layers, named):
    with pytest.raises(ConversionError, match=named):
        nir_export.to_nir(converted(*layers))


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("qffs", "qffs.*some timesteps only"),
        ("snm", "signed neurons like SignedIFNeuron"),
        ("srp", "prelude of"),
        ("ftbc", "BiasedIFNeuron"),
    ],
)
def test_methods_that_nir_cannot_say_are_refused(method, named):
    chosen = methods.get(method)()
    network = chosen.convert(quantised_network(chosen, "plain"), random_images(40))
    with pytest.raises(ConversionError, match=named):
        nir_export.to_nir(network)


def test_a_drive_window_is_refused():
    network = converted(*head())
    network.schedule = Schedule(drive=3)
    with pytest.raises(ConversionError, match="some timesteps only"):
        nir_export.to_nir(network)


def test_shapes_must_be_known():
    method = qcfs()
    network = method.convert(quantised_network(method, "plain"))
    with pytest.raises(RuntimeError, match="no image shape known"):
        nir_export.to_nir(network)
    network.begin(random_images(2))
    assert nir_export.to_nir(network).nodes


def test_without_nir_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    monkeypatch.delitem(sys.modules, "benchmark.nir_export")
    with pytest.raises(UsageError, match=r"dynconf-bench\[nir\]"):
        importlib.import_module("benchmark.nir_export")
