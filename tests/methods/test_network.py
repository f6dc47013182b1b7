"""The spiking network: state, compaction, the stem that is computed once, and what a conversion refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import methods
from benchmark import registry
from benchmark.conformance import check_method, quantised_network, random_images, simulate, tiny_network
from benchmark.training.thresholds import initialise_thresholds
from methods.cos import COS
from methods.errors import ConversionError
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron
from methods.qcfs import QCFS, QCFSActivation
from methods.qffs import QFFS
from methods.rewrite import fold_batch_norms
from methods.srp import SRP
from methods.st_bif import STBIF
from methods.tracing import trace

TINY = ("plain", "residual", "pooled")


@pytest.mark.parametrize("tiny", TINY)
@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_keeps_its_promises(name, tiny):
    broken = [promise for promise, kept in check_method(name, tiny) if not kept]
    assert not broken


@pytest.mark.parametrize("tiny", TINY)
def test_folding_batch_norm_changes_nothing(tiny):
    network = tiny_network(tiny)
    graph = trace(network)
    images = random_images(9)
    expected = network(images)
    assert fold_batch_norms(graph) == sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
    assert torch.allclose(graph(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tiny", TINY)
def test_prepared_network_with_fine_levels_is_the_clipped_relu_network(tiny):
    """prepare replaces exactly the ReLUs: with very many levels and a high threshold nothing else has changed."""
    ann = tiny_network(tiny)
    fine = QCFS(levels=1 << 40, threshold=1 << 10).prepare(ann)
    images = random_images(4)
    assert torch.allclose(fine(images), ann(images), atol=1e-6)


def test_stem_runs_once_per_image():
    network = QCFS().convert(quantised_network(QCFS(), "residual"))
    calls = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: calls.append(module.in_channels))
    network.account(random_images(1))
    calls.clear()
    simulate(network, random_images(3), 5)
    assert calls.count(3) == 1  # the stem, the only one with 3 channels
    assert calls.count(6) == 3 * 5


def test_keep_in_several_rounds_equals_running_alone():
    network = QCFS().convert(quantised_network(QCFS(), "residual"))
    images = random_images(8)
    expected, expected_spikes, expected_synops = simulate(network, images, 6)
    network.begin(images)
    left = torch.arange(8)
    for step, mask in enumerate([[1, 1, 1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1], [0, 1, 1]]):
        assert torch.allclose(network.step(), expected[step][left], rtol=1e-12, atol=1e-12)
        assert torch.equal(network.spikes, expected_spikes[step][left])
        assert torch.equal(network.synops, expected_synops[step][left])
        keep = torch.tensor(mask).bool()
        network.keep(keep)
        left = left[keep]
    assert torch.allclose(network.step(), expected[5][left], rtol=1e-12, atol=1e-12)
    assert len(left) == 2


def test_a_bare_parameter_survives_compaction():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
            self.shift = nn.Parameter(torch.linspace(-1, 1, 4))

        def forward(self, x):
            return self.b(self.relu(self.a(x) + self.shift)) + self.shift[:2]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantised = QCFS(threshold=1.0).prepare(Shifted())
    images = torch.linspace(-2, 2, 18).reshape(6, 3)
    network = QCFS().convert(quantised)
    mask = torch.tensor([True, False, False, True, False, True])
    network.begin(images)
    network.step()
    network.keep(mask)
    kept = network.step()
    network.begin(images)
    network.step()
    assert torch.equal(kept, network.step()[mask])


def test_state_belongs_to_the_instance():
    first, second = (QCFS().convert(quantised_network(QCFS(), "plain")) for _ in range(2))
    images = random_images(4)
    alone = simulate(first, images, 4)[0]
    first.begin(images)
    interleaved = []
    second.begin(random_images(4, seed=9))
    for _ in range(4):
        interleaved.append(first.step())
        second.step()
    assert torch.equal(torch.stack(interleaved), alone)


def test_a_prelude_runs_in_begin_and_is_counted():
    plain = QCFS().convert(quantised_network(QCFS(), "plain"))
    images = random_images(3)
    expected_logits, expected_spikes, _ = simulate(plain, images, 5)

    late = SpikingNetwork(plain._graph, plain.report, prelude_steps=2, prelude=lambda network: network.presimulate(2))
    late.begin(images)
    assert torch.equal(late.spikes, expected_spikes[:2].sum(0))
    assert torch.equal(late.step(), expected_logits[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [QCFS(), QFFS(), SRP(prelude_length=2)], ids=lambda m: m.name)
def test_images_may_have_another_size_than_those_before(method, dtype):
    quantised = quantised_network(method, "residual").to(dtype)
    small, large = (torch.rand(3, 3, pixels, pixels, dtype=dtype) for pixels in (8, 12))

    def shown(network, images):
        network.begin(images)
        return torch.stack([network.step() for _ in range(4)]), network.spikes, network.synops, network.sites

    network = method.convert(quantised, small)
    for images in (small, large, small):
        for found, expected in zip(
            shown(network, images), shown(method.convert(quantised, small), images), strict=True
        ):
            assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected


@pytest.mark.parametrize("tiny", TINY)
@pytest.mark.parametrize(
    "method",
    [QCFS(), QFFS(settle_steps=1), SRP(prelude_length=2), COS(prelude_length=2), STBIF()],
    ids=lambda m: m.name,
)
def test_spikes_of_every_site(method, tiny):
    """What hooks see go out of every spiking layer, in the order of the sites, prelude, compaction and frozen end included."""
    network = method.convert(quantised_network(method, tiny), random_images(1))
    network.account(random_images(1))
    fired = {}

    def watch(name):
        def hook(module, inputs, output):
            fired[name] = output.abs().flatten(1).sum(1).long()

        return hook

    for name, neuron in network.neurons.items():
        neuron.register_forward_hook(watch(name))
    network.begin(random_images(6))
    assert network.site_spikes.shape == (6, len(network.sites)) and network.site_spikes.dtype == torch.long
    assert torch.equal(network.site_spikes.sum(1), network.spikes)
    if not network.prelude_steps:
        assert not network.site_spikes.any()
    elif method.name == "srp":
        assert bool(network.site_spikes.sum(0).all())
    for step in range(6):
        fired.clear()
        network.step()
        frozen = isinstance(method, QFFS) and step >= method.levels + 1
        expected = [torch.zeros(6) if frozen else fired[site.name] for site in network.sites]
        assert torch.equal(network.site_spikes, torch.stack(expected, 1).long())
        assert torch.equal(network.site_spikes.sum(1), network.spikes)
    before = network.site_spikes
    mask = torch.tensor([True, False, False, True, True, False])
    network.keep(mask)
    assert torch.equal(network.site_spikes, before[mask])


def test_spikes_of_every_site_in_the_prelude_of_cos():
    method = COS(prelude_length=3)
    network = method.convert(quantised_network(method, "pooled"), random_images(1))
    images = random_images(4)
    # The trial runs of a calibration are no spikes; what each layer sends on are the last `prelude_length` calls of `fire`.
    calls = {name: [] for name in network.neurons}
    for name, neuron in network.neurons.items():
        plain = neuron.fire
        neuron.fire = lambda current, plain=plain, name=name: calls[name].append(plain(current)) or calls[name][-1]
    network.begin(images)
    expected = [torch.stack(calls[site.name][-3:]).flatten(2).sum((0, 2)).long() for site in network.sites]
    assert torch.equal(network.site_spikes, torch.stack(expected, 1))


def test_using_it_in_the_wrong_order_says_so():
    network = QCFS().convert(quantised_network(QCFS(), "plain"))
    for call in (
        network.step,
        lambda: network.keep(torch.ones(1).bool()),
        lambda: network.spikes,
        lambda: network.site_spikes,
        lambda: network.sites,
    ):
        with pytest.raises(RuntimeError, match="begin"):
            call()
    with pytest.raises(RuntimeError, match="eval mode"):
        network.train()


class WithFunction(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.second(self.relu(self.first(x)))).flatten(1)


@pytest.mark.parametrize(
    "function", [F.relu, torch.relu, lambda x: x.relu(), lambda x: F.relu(x, inplace=True), lambda x: x.relu_()]
)
def test_functional_relus_are_replaced(function):
    prepared = QCFS().prepare(WithFunction(function))
    assert sum(isinstance(module, QCFSActivation) for module in prepared.modules()) == 2
    network = QCFS().convert(prepared, torch.zeros(1, 3, 8, 8))
    assert len(network.sites) == 2


def test_a_shared_relu_becomes_two_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.relu(self.b(self.relu(self.a(x))))

    prepared = QCFS().prepare(Shared())
    assert len({id(module) for module in prepared.modules() if isinstance(module, QCFSActivation)}) == 2
    network = QCFS().convert(prepared, torch.zeros(1, 4))
    assert {site.name for site in network.sites} == {"relu", "relu_1"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (F.gelu, "gelu.* has no spiking counterpart"),
        (torch.sigmoid, "sigmoid.* has no spiking counterpart"),
        (lambda x: F.max_pool2d(F.avg_pool2d(F.relu(x), 2), 2), "averages of spikes"),
        (lambda x: F.max_pool2d(F.relu(x), 2, return_indices=True)[0], "no spiking counterpart|indices"),
    ],
)
def test_what_cannot_spike_is_refused_by_name(function, message):
    prepared = QCFS().prepare(WithFunction(function))
    with pytest.raises(ConversionError, match=message):
        QCFS().convert(prepared)


def test_a_relu_that_was_left_is_refused():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(4, 4), QCFSActivation(4), nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.b(self.act(self.a(x))))

    with pytest.raises(ConversionError, match=r"relu.*was left"):
        QCFS().convert(Half())


def test_nothing_to_convert_is_refused():
    with pytest.raises(ConversionError, match="nothing to convert"):
        QCFS().convert(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ConversionError, match="no ReLU"):
        QCFS().prepare(nn.Sequential(nn.Linear(2, 2)))


def test_an_untraceable_network_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConversionError, match=r"cannot be traced by torch\.fx"):
        QCFS().prepare(Branching())


def test_preparing_leaves_the_source_network_alone():
    ann = tiny_network("residual")
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    images = random_images(2)
    expected = ann(images)
    QCFS().prepare(ann)
    assert torch.equal(ann(images), expected)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert any(isinstance(module, nn.ReLU) for module in ann.modules())


def test_a_lone_image_is_rounded_like_in_company():
    """In float32 on a CPU a single image would take another path through the convolutions, and spikes would flip."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantised = QCFS(threshold=1.0).prepare(registry.load("models", "resnet20")(3, 10)).eval()
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    initialise_thresholds(quantised, images)
    network = QCFS().convert(quantised)
    neurons = [module for module in network.modules() if isinstance(module, IFNeuron)]
    together, spikes, synops = simulate(network, images, 12)
    membranes = [neuron.membrane.clone() for neuron in neurons]
    for index in range(12):
        logits, own_spikes, own_synops = simulate(network, images[index : index + 1], 12)
        assert logits.shape == (12, 1, 10)
        assert torch.equal(own_spikes[:, 0], spikes[:, index])
        assert torch.equal(own_synops[:, 0], synops[:, index])
        for neuron, membrane in zip(neurons, membranes, strict=True):
            assert torch.equal(neuron.membrane[0], membrane[index])  # to the last bit
        assert torch.allclose(logits[:, 0], together[:, index], rtol=1e-4, atol=1e-5)  # the readout is no convolution
    # The same for the last image that is left of a batch.
    network.begin(images)
    network.step()
    network.keep(torch.arange(12) == 7)
    left = [(network.step(), network.spikes) for _ in range(11)]
    assert all(logits.shape == (1, 10) for logits, _ in left)
    assert torch.equal(torch.stack([count for _, count in left])[:, 0], spikes[1:, 7])
    assert all(
        torch.equal(neuron.membrane[0], membrane[7]) for neuron, membrane in zip(neurons, membranes, strict=True)
    )
    network.keep(torch.tensor([True]))
    assert network.step().shape == (1, 10)
    network.keep(torch.tensor([False]))
    assert network.spikes.shape == (0,)
