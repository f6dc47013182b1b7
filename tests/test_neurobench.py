"""NeuroBench's own metrics on our networks give our numbers.

Float64, weights and pixels that are not zero: wherever both count the same things, they must get the same integers.
"""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import methods
from benchmark.conformance import quantised_network, random_images
from benchmark.errors import UsageError
from methods.network import SpikingNetwork

pytest.importorskip("neurobench", reason="extra: neurobench")
adapter = importlib.import_module("benchmark.neurobench_adapter")
benchmarks = importlib.import_module("neurobench.benchmarks")
static = importlib.import_module("neurobench.metrics.static")
workload = importlib.import_module("neurobench.metrics.workload")
processors = importlib.import_module("neurobench.processors.postprocessors")

TIMESTEPS = 7
IMAGES = 6


def without_pools(method, bias: bool = True) -> nn.Module:
    """Every spike goes into convolutions and linear layers alone; padded, strided and in groups."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ann = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=bias),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 16, bias=bias),
            nn.ReLU(),
            nn.Linear(16, 5, bias=bias),
        )
    quantised = method.prepare(ann).double().eval()
    for name, parameter in quantised.named_parameters():
        if name.endswith(("threshold", "step")):
            parameter.data.fill_(1.0 if name.endswith("threshold") else 0.125)
        elif name in ("2.weight", "5.weight", "7.weight"):
            parameter.data.mul_(4.0)  # currents of several thresholds, so that signed spikes have something to settle
    return quantised


def converted(name: str, method: str = "qcfs", **options) -> SpikingNetwork:
    chosen = methods.get(method)(**options)
    quantised = without_pools(chosen) if name == "without pools" else quantised_network(chosen, name)
    return chosen.convert(quantised, random_images(1))


def operations(network: SpikingNetwork, images: torch.Tensor, timesteps: int = TIMESTEPS) -> dict[str, float]:
    """What NeuroBench's metric says, per image."""
    model = adapter.NeuroBenchNetwork(network, timesteps)
    model.register_hooks()
    metric = workload.SynapticOperations()
    result = metric(model, model(images), (images, torch.zeros(len(images))))
    model.cleanup_hooks()
    return result


class OurCount:
    """Our own totals over all images: spikes and SynOps per layer, and what reaches each convolution and linear layer."""

    def __init__(self, network: SpikingNetwork, images: torch.Tensor, timesteps: int = TIMESTEPS):
        self.spikes = dict.fromkeys(network.neurons, 0)
        self.synops = dict.fromkeys(network.neurons, 0)
        self.inputs: dict[str, list[torch.Tensor]] = {}
        network.account(images[:1])
        hooks = [
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: self.inputs.setdefault(name, []).append(inputs[0])
            )
            for name, module in network.graph.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear))
        ]
        network.begin(images)
        self.total = int(network.synops.sum())
        for _ in range(timesteps):
            network.step()
            self.total += int(network.synops.sum())
            for name, neuron in network.neurons.items():
                assert neuron.counts is not None
                self.spikes[name] += int(neuron.counts[0].sum())
                self.synops[name] += int(neuron.counts[1].sum())
        for hook in hooks:
            hook.remove()


def reached(layer: nn.Module, inputs: torch.Tensor) -> int:
    """Synapses of a layer behind all inputs that are not zero."""
    active = (inputs != 0).double()
    if isinstance(layer, nn.Linear):
        return int(active.sum()) * layer.out_features
    assert isinstance(layer, nn.Conv2d)
    ones = torch.ones_like(layer.weight)
    return int(F.conv2d(active, ones, None, layer.stride, layer.padding, layer.dilation, layer.groups).sum())


def test_without_pools_the_numbers_are_ours():
    network, images = converted("without pools"), random_images(IMAGES)
    theirs, ours = operations(network, images), OurCount(network, images)
    assert theirs["Effective_ACs"] * IMAGES == ours.total > 0
    assert theirs["Effective_MACs"] == network.macs_once == 3 * 22 * 22 * 6
    synapses = sum(site.synapses for site in network.sites)
    assert theirs["Dense"] == network.macs_once + TIMESTEPS * synapses
    assert network.macs_per_timestep == 0


def test_behind_an_average_acs_become_macs():
    """`plain`: the spikes of the first layer are averaged. Their windows are SynOps here, and no operation there."""
    network, images = converted("plain"), random_images(IMAGES)
    theirs, ours = operations(network, images), OurCount(network, images)
    assert list(ours.synops) == ["body.2", "body.6", "body.9"]
    assert ours.synops["body.2"] == ours.spikes["body.2"]  # each pixel lies in one window
    assert theirs["Effective_ACs"] * IMAGES == ours.synops["body.6"] + ours.synops["body.9"]
    assert theirs["Effective_ACs"] * IMAGES == ours.total - ours.spikes["body.2"]
    averaged = sum(reached(network.graph.get_submodule("body.4"), average) for average in ours.inputs["body.4"])
    assert theirs["Effective_MACs"] * IMAGES == network.macs_once * IMAGES + averaged
    assert averaged < network.macs_per_timestep * TIMESTEPS * IMAGES
    behind_spikes = sum(site.synapses for site in network.sites if site.name != "body.2")
    assert theirs["Dense"] == network.macs_once + TIMESTEPS * (network.macs_per_timestep + behind_spikes)


def test_identity_shortcuts_are_no_operations_there():
    network, images = converted("residual"), random_images(IMAGES)
    theirs, ours = operations(network, images), OurCount(network, images)
    assert list(ours.synops) == ["activation_relu", "relu_1", "relu"]
    shortcut, averaged = ours.spikes["activation_relu"], ours.spikes["relu"]
    assert ours.synops["relu"] == averaged  # the mean over all pixels is one window
    assert theirs["Effective_ACs"] * IMAGES == ours.total - shortcut - averaged
    readout = sum(reached(network.graph.get_submodule("head"), mean) for mean in ours.inputs["head"])
    assert theirs["Effective_MACs"] * IMAGES == network.macs_once * IMAGES + readout


def test_averages_that_all_are_zero_or_one_are_acs_there():
    """Averages over one pixel, to make it sure: their values decide there, the structure decides here."""
    chosen = methods.get("qcfs")()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        ann = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(256, 5)).double()
    network, images = chosen.convert(chosen.prepare(ann), random_images(1)), random_images(IMAGES)
    theirs, ours = operations(network, images), OurCount(network, images)
    assert theirs["Effective_MACs"] == network.macs_once
    assert theirs["Effective_ACs"] * IMAGES == 5 * ours.spikes["1"] > 0
    assert network.macs_per_timestep == 256 * 5


def test_pixels_that_are_zero_cost_nothing_there():
    network, images = converted("without pools"), random_images(IMAGES)
    images[:, :, 2:5, 1] = 0
    stem = network.graph.get_submodule("0")
    theirs = operations(network, images)
    assert theirs["Effective_MACs"] * IMAGES == reached(stem, images) < network.macs_once * IMAGES
    # Column 1 is seen by three kernel positions, each of the rows too: 27 positions, 3 channels in, 6 out.
    assert network.macs_once - theirs["Effective_MACs"] == 3 * 9 * 3 * 6


def test_a_weight_that_is_zero_is_no_synapse_there():
    network, images = converted("without pools"), random_images(IMAGES)
    readout = network.graph.get_submodule("7")
    assert isinstance(readout, nn.Linear)
    with torch.no_grad():
        readout.weight[2] = 0
    theirs, ours = operations(network, images), OurCount(network, images)
    assert theirs["Effective_ACs"] * IMAGES == ours.total - ours.spikes["6"]
    assert theirs["Dense"] == network.macs_once + TIMESTEPS * sum(site.synapses for site in network.sites)


@pytest.mark.parametrize(("method", "options"), [("srp", {}), ("cos", {}), ("qffs", {"levels": 5}), ("snm", {})])
def test_preludes_negative_spikes_and_drive_windows_count_the_same(method, options):
    network, images = converted("without pools", method, **options), random_images(IMAGES)
    theirs, ours = operations(network, images), OurCount(network, images)
    assert theirs["Effective_ACs"] * IMAGES == ours.total > 0
    assert theirs["Effective_MACs"] == network.macs_once
    network.begin(images)
    assert bool(network.synops.any()) == (network.prelude_steps > 0)
    outside = [int((network.step(), network.synops.sum())[1]) for _ in range(TIMESTEPS)][-1]
    assert outside > 0, "after the drive window, where there is one"


def test_a_lone_image_in_float32_is_counted_once():
    chosen = methods.get("qcfs")()
    network = chosen.convert(without_pools(chosen).float())  # no shape known: accounting runs while hooks listen
    image = random_images(1).float()
    theirs = operations(network, image)
    network.begin(image)
    assert theirs["Effective_ACs"] == sum(int((network.step(), network.synops)[1]) for _ in range(TIMESTEPS))
    assert theirs["Effective_MACs"] == network.macs_once


def test_biases_are_no_operations():
    chosen = methods.get("qcfs")()
    for bias in (True, False):
        network = chosen.convert(without_pools(chosen, bias), random_images(1))
        assert operations(network, random_images(IMAGES))["Dense"] == network.macs_once + TIMESTEPS * sum(
            site.synapses for site in network.sites
        )


def test_a_whole_benchmark_of_neurobench():
    """Through its Benchmark, in batches of 4, 4 and 3: accuracy, sparsity, operations and parameters."""
    network = converted("without pools")
    images, labels = random_images(11), torch.arange(11) % 5
    model = adapter.NeuroBenchNetwork(network, TIMESTEPS)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    metrics = [workload.SynapticOperations, workload.ActivationSparsity, workload.ClassificationAccuracy]
    metrics += [workload.MembraneUpdates, workload.NeuronOperations]
    bench = benchmarks.Benchmark(model, loader, [], [processors.ChooseMaxCount()], [[static.ParameterCount], metrics])
    found = bench.run(quiet=True)
    ours = OurCount(network, images)
    neurons = sum(site.neurons for site in network.sites)
    assert found["SynapticOperations"]["Effective_ACs"] == ours.total / 11
    assert found["ActivationSparsity"] == pytest.approx(
        1 - sum(ours.spikes.values()) / (neurons * TIMESTEPS * 11), abs=1e-12
    )
    network.begin(images)
    predictions = sum(network.step() for _ in range(TIMESTEPS)).argmax(1)
    assert found["ClassificationAccuracy"] == pytest.approx((predictions == labels).double().mean().item(), abs=1e-6)
    assert found["MembraneUpdates"] == found["NeuronOperations"] == 0, "they know the neurons of snnTorch alone"
    assert found["ParameterCount"] == sum(parameter.numel() for parameter in network.graph.parameters())


def test_sparsity_by_layer_is_the_spikes_of_every_layer():
    network, images = converted("residual"), random_images(IMAGES)
    model = adapter.NeuroBenchNetwork(network, TIMESTEPS)
    model.register_hooks()
    sparsity = workload.ActivationSparsityByLayer()(model, model(images), (images,))
    ours = OurCount(network, images)
    for site in network.sites:
        total = site.neurons * TIMESTEPS * IMAGES
        assert sparsity[site.name] == (total - ours.spikes[site.name]) / total
    model(images)
    assert all(len(hook.activation_outputs) == TIMESTEPS for hook in model.activation_hooks), "one batch at a time"
    model.cleanup_hooks()


def test_predictions_are_the_logits_of_every_timestep():
    network, images = converted("plain"), random_images(IMAGES)
    logits = adapter.NeuroBenchNetwork(network, TIMESTEPS)(images)
    network.begin(images)
    assert torch.equal(logits, torch.stack([network.step() for _ in range(TIMESTEPS)], 1))
    assert logits.shape == (IMAGES, TIMESTEPS, 5)


def test_without_neurobench_the_error_names_the_extra(monkeypatch):
    for name in ("neurobench", "neurobench.models"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "benchmark.neurobench_adapter")
    with pytest.raises(UsageError, match=r"dynconf-bench\[neurobench\]"):
        importlib.import_module("benchmark.neurobench_adapter")
