"""Packed convolutions in channels_last, and timesteps computed together: nothing is rounded differently for it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from pairs import pairs_in_turn
from torch import Tensor, nn

import methods
from benchmark import registry
from benchmark.conformance import CLASSES, quantised_network
from benchmark.training.thresholds import initialise_thresholds
from dynconf import DynamicInference, Patience
from methods.ahead import Ahead
from methods.limits import AT_ONCE
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, SignedIFNeuron, firing_slack_of
from methods.packed import PackedConvolution, PackedLinear
from methods.qcfs import QCFS
from methods.qffs import QFFS
from methods.tally import SpikeTally

IMAGES, TIMESTEPS = 64, 7
TINY = ("plain", "residual", "pooled")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def tiny(name: str, kind: str) -> SpikingNetwork:
    method = registry.load("methods", name)()
    return method.convert(quantised_network(method, kind).float(), noise(8, 3, 8, 8))


def backbone(name: str) -> SpikingNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantised = QCFS(threshold=1.0).prepare(registry.load("models", name)(3, 10)).eval()
    initialise_thresholds(quantised, noise(8, 3, 32, 32))
    return QCFS().convert(quantised)


def convolutions(network: SpikingNetwork) -> list[PackedConvolution]:
    return [module for module in network.modules() if isinstance(module, PackedConvolution)]


def timesteps(network: SpikingNetwork, count: int, together: bool) -> Iterator[Tensor]:
    return network.steps(count) if together else (network.step() for _ in range(count))


def all_of(network: SpikingNetwork, images: Tensor, count: int = TIMESTEPS, together: bool = False) -> list[Tensor]:
    """Logits, spikes per layer and SynOps at every timestep after those of the prelude, images first."""
    network.begin(images)
    shown = [(torch.zeros(()).expand(len(images), 1), network.site_spikes, network.synops)]
    shown += [(each, network.site_spikes, network.synops) for each in timesteps(network, count, together)]
    logits, sites, synops = zip(*shown, strict=True)
    return [torch.stack(logits[1:], 1), torch.stack(sites, 1), torch.stack(synops, 1)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)  # to the last bit


@pytest.mark.parametrize(("name", "kind"), pairs_in_turn(sorted(methods.METHODS), TINY))
def test_company_and_timesteps_at_once_change_no_bit(name, kind):
    network, images = tiny(name, kind), noise(IMAGES, 3, 8, 8)
    expected = all_of(network, images)
    assert all(layer.active for layer in convolutions(network))
    assert expected[1][:, 1:].any()
    for size in (1, 2, 3):
        for together in (False, True):
            parts = [all_of(network, part, together=together) for part in images[:6].split(size)]
            assert_same([torch.cat(part) for part in zip(*parts, strict=True)], [each[:6] for each in expected])
    assert_same(all_of(network, images, together=True), expected)


@pytest.mark.parametrize("name", ["resnet20", "vgg16-slim"])
def test_a_backbone_gives_each_image_the_same_in_every_company(name):
    network, images = backbone(name), noise(16, 3, 32, 32)
    expected = all_of(network, images, 5)
    for size in (1, 2, 3, 5):
        found = all_of(network, images[:size], 5, together=True)
        assert_same(found, [each[:size] for each in expected])
        assert_same(all_of(network, images[16 - size :], 5), [each[16 - size :] for each in expected])


def test_a_packed_network_equals_the_plain_one_in_channels_last():
    """The graph with its stem in every timestep, by convolutions that know of no packing."""
    network, images = backbone("resnet20"), noise(8, 3, 32, 32)
    plain = copy.deepcopy(network.graph).to(memory_format=torch.channels_last)
    assert not any(layer.active for layer in plain.modules() if isinstance(layer, PackedConvolution))
    for layer in plain.modules():
        if isinstance(layer, PackedLinear):
            layer.activate(True)  # the same kernel: MKL may round differently
    neurons = [module for module in plain.modules() if isinstance(module, IFNeuron)]
    for neuron in neurons:
        neuron.reset()
    network.begin(images)
    with torch.no_grad():
        for _ in range(5):
            assert torch.equal(plain(images.contiguous(memory_format=torch.channels_last)), network.step())
    for neuron, own in zip(neurons, network.neurons.values(), strict=True):
        assert torch.equal(neuron.membrane, own.membrane)
        assert own.membrane.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", TINY)
def test_settling_goes_on_at_once_up_to_the_next_phase(kind):
    method = QFFS(levels=3, settle_steps=4)
    network = method.convert(quantised_network(method, kind).float(), noise(8, 3, 8, 8))
    images = noise(5, 3, 8, 8)
    expected = all_of(network, images, 12)
    assert_same(all_of(network, images, 12, together=True), expected)
    assert expected[1][:, 4:].any()
    assert not expected[1][:, 8:].any()
    # Images of different age are in phases of their own.
    network.begin(images)
    list(network.steps(2))
    network.replace(torch.tensor([1, 3]), images[[1, 3]])
    late = torch.stack(list(network.steps(8)), 1)
    assert torch.equal(late[[1, 3]], expected[0][[1, 3], :8])
    assert torch.equal(late[[0, 2, 4]], expected[0][[0, 2, 4], 2:10])


class TwiceRead(nn.Module):
    """A current that a neuron, another sum and a layer of its own read, as in networks that normalise before they add."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.fourth = (
            nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8, 8)
        )
        self.out = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.first(images)
        current = self.second(F.relu(stem))
        total = current + self.third(F.relu(current)) + stem
        return self.out((self.fourth(F.relu(total)) + total + current).mean((2, 3)))


def test_a_current_that_others_read_too_is_not_written_over():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantised = QCFS(threshold=1.0).prepare(TwiceRead()).eval()
    network, images = QCFS().convert(quantised), noise(4, 3, 8, 8)
    found = [all_of(network, images, together=together) for together in (False, True)]
    assert all(layer.active for layer in convolutions(network))
    logits, spikes, _ = all_of(network.double(), images.double())
    for own in found:
        assert torch.equal(own[1], spikes) and spikes[:, 1:].any(0).all()
        assert torch.allclose(own[0].double(), logits, atol=1e-5)


def test_hooks_of_neurons_see_every_timestep():
    network, images = tiny("qcfs", "residual"), noise(2, 3, 8, 8)
    expected = all_of(network, images)
    seen: dict[str, list[Tensor]] = {name: [] for name in network.neurons}
    for name, neuron in network.neurons.items():
        neuron.register_forward_hook(lambda _, __, spikes, name=name: seen[name].append(spikes.flatten(1).sum(1)))
    for together in (False, True):
        assert_same(all_of(network, images, together=together), expected)
    for layer, counted in enumerate(seen.values()):
        assert torch.equal(torch.stack(counted[:TIMESTEPS], 1).long(), expected[1][:, 1:, layer])
        assert torch.equal(torch.stack(counted[TIMESTEPS:], 1).long(), expected[1][:, 1:, layer])


def test_neurons_that_are_ahead_must_be_caught_up_with():
    network, images = tiny("qcfs", "residual"), noise(3, 3, 8, 8)
    expected = torch.stack([*all_of(network, images, 6)[0].unbind(1)], 1)
    network.begin(images)
    coming = network.steps(4)
    first = next(coming)
    for refused in (
        network.step,
        lambda: network.keep(torch.tensor([True, False, True])),
        lambda: next(network.steps(1)),
    ):
        with pytest.raises(RuntimeError, match="3 timesteps"):
            refused()
    with pytest.raises(RuntimeError, match="3 timesteps"):
        network.replace(torch.tensor([0]), images[:1])
    rest = [*coming]
    network.keep(torch.tensor([True, False, True]))
    last = [network.step(), *network.steps(1)]
    assert torch.equal(torch.stack([first, *rest], 1), expected[:, :4])
    assert torch.equal(torch.stack(last, 1), expected[[0, 2], 4:])
    network.begin(images)
    next(network.steps(4))
    network.begin(images)
    assert torch.equal(network.step(), expected[:, 0])
    with pytest.raises(RuntimeError, match="begin"):
        next(tiny("qcfs", "residual").steps(1))


@pytest.mark.parametrize("name", ["qcfs", "qffs", "srp", "cos"])
def test_early_exit_looks_ahead_and_answers_the_same(name, monkeypatch):
    network, images = tiny(name, "residual"), noise(12, 3, 8, 8)
    run, computed = DynamicInference(network, Patience(steps=3), 9), []
    forward = Ahead.forward
    monkeypatch.setattr(
        Ahead, "forward", lambda self, currents, steps: computed.append(steps) or forward(self, currents, steps)
    )
    for size in (1, 2, 5, 12):
        found = run.stream([images], size)
        assert max(computed) > 1
        computed.clear()
        with monkeypatch.context() as alone:
            alone.setattr(SpikingNetwork, "lookahead", 1)
            expected = run.stream([images], size)
        assert set(computed) == {1}
        computed.clear()
        for field in dataclasses.fields(expected):
            assert torch.equal(getattr(found, field.name), getattr(expected, field.name))
    assert len(expected.timesteps.unique()) > 2


@pytest.mark.parametrize("threads", [1, 2])
def test_how_many_timesteps_are_computed_at_once(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    network = backbone("resnet20")
    for images, steps, lookahead in ((1, 16, 6), (4, 8, 4), (8, 4, 2), (16, 2, 1), (32, 1, 1), (64, 1, 1)):
        network.begin(noise(threads * images, 3, 32, 32))
        assert network.lookahead == lookahead
        assert network._fitting(AT_ONCE) == steps
    # Larger images fill the cache on their own.
    network.begin(noise(threads, 3, 256, 256))
    assert network.lookahead == 1
    assert network._fitting(AT_ONCE) == 8
    network.double().begin(noise(1, 3, 32, 32).double())
    assert network.lookahead == 1


def test_how_many_images_are_best_simulated_together(monkeypatch):
    network = backbone("resnet20")
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert network.batch_size_for(noise(100, 3, 32, 32)) == 16 * threads
        assert network.places_for(noise(100, 3, 32, 32)) == max(32, 16 * threads)
    assert network.batch_size_for(noise(5, 3, 32, 32)) == 5
    assert network.batch_size_for(noise(64, 3, 32, 32).double()) == 64
    assert network.places_for(noise(64, 3, 32, 32).double()) == 64


def test_the_graph_can_be_differentiated_after_a_simulation():
    network, images = tiny("qcfs", "plain"), noise(2, 3, 8, 8)
    all_of(network, images)
    stem = next(module for module in network.graph.modules() if isinstance(module, nn.Conv2d))
    assert isinstance(stem, PackedConvolution) and stem.active
    images.requires_grad_(True)
    stem(images).sum().backward()
    assert images.grad.any()
    assert stem.double()(images.detach().double()).dtype == torch.float64


def test_weights_that_change_are_packed_anew():
    network, images = tiny("qcfs", "residual"), noise(4, 3, 8, 8)
    before = all_of(network, images)
    packed = [layer._packed for layer in convolutions(network)]
    assert all(each is not None for each in packed)
    assert_same(all_of(network, images), before)
    assert all(layer._packed is each for layer, each in zip(convolutions(network), packed, strict=True))
    layer = next(module for module in network.graph.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        layer.weight.mul_(2.0)
        layer.bias.mul_(2.0)
    doubled = all_of(copy.deepcopy(network), images)
    assert_same(all_of(network, images), doubled)
    assert not torch.equal(doubled[1], before[1])


def test_states_stay_in_channels_last_and_may_run_out_of_images():
    network, images = tiny("qcfs", "residual"), noise(6, 3, 8, 8)
    network.begin(images)
    network.step()
    network.replace(torch.tensor([2]), images[:1])
    for mask in ([True] * 5 + [False], [True, False, True, False, True]):
        network.keep(torch.tensor(mask))
        network.step()
        for neuron in network.neurons.values():
            assert neuron.membrane.is_contiguous(memory_format=torch.channels_last)
    network.keep(torch.tensor([False] * 3))
    assert network.step().shape == (0, CLASSES)
    assert [each.shape for each in network.steps(2)] == [(0, CLASSES)] * 2
    assert network.spikes.shape == (0,)


def test_a_copy_in_the_middle_of_a_batch_goes_on_alike():
    network, images = tiny("qcfs", "residual"), noise(1, 3, 8, 8)
    expected = all_of(network, images)[0]
    network.begin(images)
    network.step()
    other = copy.deepcopy(network)
    assert torch.equal(torch.stack([other.step() for _ in range(TIMESTEPS - 1)], 1), expected[:, 1:])


def test_other_precisions_and_switches_are_respected(monkeypatch):
    network, images = tiny("qcfs", "residual"), noise(4, 3, 8, 8)
    single = all_of(network, images)
    double = all_of(network.double(), images.double())
    assert not any(layer.active for layer in convolutions(network))
    assert double[0].dtype == torch.float64
    assert_same(all_of(network.float(), images), single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.begin(images)
        network.step()
    assert not any(layer.active for layer in convolutions(network))
    monkeypatch.setattr(torch._C, "_get_mkldnn_enabled", lambda: False)
    all_of(network, images)
    assert not any(layer.active for layer in convolutions(network))


def test_one_convolution_that_cannot_be_packed_leaves_all_as_they_are():
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()
    )
    ann.extend([nn.Flatten(), nn.Linear(4 * 64, 5)])
    network, images = convert(ann), noise(3, 3, 8, 8)
    together = all_of(network, images)
    assert not any(layer.active for layer in convolutions(network))
    assert_same(all_of(network, images[:1]), [each[:1] for each in together])


def convert(ann: nn.Module) -> SpikingNetwork:
    return QCFS().convert(QCFS(threshold=2.0).prepare(ann).eval())


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 1, "stride": 2, "bias": False},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
        {"kernel_size": 5, "padding": (2, 0), "groups": 16},
    ],
)
def test_a_packed_convolution_gives_what_the_plain_one_gives_many_images(settings):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 32, **settings)
    packed = PackedConvolution.sharing(plain)
    images = noise(32, 16, 9, 9).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(packed(images), expected)
        packed.activate(True)
        for size in (1, 2, 3, 7, 32):
            assert torch.equal(packed(images[:size]), expected[:size])
            assert torch.equal(packed(images[32 - size :]), expected[32 - size :])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "pixels", "settings"),
    [
        ((512, 512), 4, {"padding": 1}),
        ((256, 512), 8, {"stride": 2, "padding": 1}),
        ((512, 512), 2, {"padding": 1}),
        ((512, 16), 1, {"padding": 1}),
        ((64, 96), 6, {}),
        ((16, 32), 4, {"padding": 2, "dilation": 2}),
    ],
)
def test_a_convolution_to_few_pixels_gives_each_image_the_same_in_every_company(channels, pixels, settings, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(*channels, 3, bias=bias, **settings)
    layer, images = PackedConvolution.sharing(plain), noise(65, channels[0], pixels, pixels)
    layer.activate(True)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = layer(images)
        assert layer._packed is None
        assert expected.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(expected, plain(images), atol=1e-4)
        for size in (1, 2, 3, 5, 8, 16, 33):
            assert torch.equal(layer(images[:size]), expected[:size])
            assert torch.equal(layer(images[65 - size :]), expected[65 - size :])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 10), (512, 4096), (2048, 1000), (33, 7), (25088, 64)])
def test_a_linear_layer_gives_few_rows_what_they_get_among_many(inputs, outputs, active):
    torch.manual_seed(0)
    plain, rows = nn.Linear(inputs, outputs), noise(513, inputs)
    layer = PackedLinear.sharing(plain)
    layer.activate(active)
    with torch.no_grad():
        expected = layer(rows)
        assert torch.allclose(expected, F.linear(rows, plain.weight, plain.bias), atol=1e-4)
        for size in (*range(34), 64, 65, 129):
            assert torch.equal(layer(rows[:size]), expected[:size])
            assert torch.equal(layer(rows[3 : 3 + size]), expected[3 : 3 + size])


@pytest.mark.parametrize("active", [False, True])
def test_a_linear_layer_takes_rows_of_any_shape_and_none(active):
    layer = PackedLinear.sharing(nn.Linear(6, 4, bias=False))
    layer.activate(active)
    rows = noise(2, 35, 3, 6)
    with torch.no_grad():
        found = layer(rows)
        assert torch.equal(found, layer(rows.reshape(-1, 6)).reshape(2, 35, 3, 4))
        assert torch.equal(layer(rows[1:]), found[1:])
        assert layer(rows[:0]).shape == (0, 35, 3, 4)
    assert layer(rows.requires_grad_()).requires_grad


def test_packed_weights_of_a_linear_layer_follow_the_weights():
    layer, rows = PackedLinear.sharing(nn.Linear(6, 4, bias=False)), noise(5, 6)
    layer.activate(True)
    with torch.no_grad():
        before = layer(rows)
        layer.weight.mul_(2.0)
        layer.activate(True)
        assert torch.equal(layer(rows), 2 * before)
        assert torch.equal(copy.deepcopy(layer)(rows), 2 * before)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("images", "channels"), [(7, 6), (8, 64)], ids=["few", "many"])
def test_counting_in_float32_is_exact_in_both_memory_formats(images, channels, memory_format, signed):
    generator = torch.Generator().manual_seed(0)
    fan_out = torch.randint(0, 10, (channels, 5, 4), generator=generator) * 32.0
    spikes = torch.randint(-1 if signed else 0, 2, (images, channels, 5, 4), generator=generator).float()
    for shape in (fan_out, fan_out[:1].expand_as(fan_out), torch.full_like(fan_out, 96.0)):
        tally = SpikeTally(shape, signed)
        found = tally(spikes.contiguous(memory_format=memory_format))
        assert torch.equal(found[0], spikes.abs().double().flatten(1).sum(1))
        assert torch.equal(found[1], (spikes.abs().double() * shape.double()).flatten(1).sum(1))
        for own, other in zip(found, tally(spikes.double()), strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize("outputs", [8, 16])  # in channels_last, and in blocks of 16 channels
def test_silent_images_are_not_computed_and_come_out_alike(outputs):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, outputs, 3, stride=2, padding=1, bias=False)
    layer = PackedConvolution.sharing(plain)
    layer.activate(True)
    images = (torch.rand(9, 16, 8, 8) < 0.1).float() - (torch.rand(9, 16, 8, 8) < 0.1).float()
    images = images.contiguous(memory_format=torch.channels_last)
    for silent in ([], [0, 4, 5], [*range(8)], [*range(9)]):
        images[silent] = 0.0
        with torch.no_grad():
            layer.expects_silence = False
            expected = layer(images)
            layer.expects_silence = True
            found = layer(images)
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)
    images[3, 0, 0, 0] = torch.nan
    with torch.no_grad():
        assert layer(images)[3].isnan().any()


def by_conditions(neuron: SignedIFNeuron, current: Tensor) -> Tensor:
    """Fire as the equations say, with booleans."""
    membrane, count = neuron.membrane.add_(current), neuron.count
    threshold, slack = neuron.level(membrane), firing_slack_of(membrane)
    up = membrane >= threshold * (1.0 - slack)
    if neuron.levels is not None:
        up = up & (count < neuron.levels - 0.5)
    floor = neuron.floor + slack if neuron.at_floor else neuron.floor - 2.0 * slack
    down = (membrane < threshold * floor) & (count > 0.5)
    spikes = up.to(membrane.dtype) - down.to(membrane.dtype)
    membrane.sub_(spikes * threshold)
    count.add_(spikes)
    return spikes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.37, torch.tensor([0.2, 0.9, 1.3])])
@pytest.mark.parametrize(
    "options", [{}, {"levels": 2}, {"levels": 2, "at_floor": True}, {"floor": -0.5}, {"levels": 3, "initial": 0.0}]
)
def test_signed_neurons_compute_with_numbers_what_conditions_say(dtype, threshold, options):
    neuron, plain = SignedIFNeuron(threshold, **options), SignedIFNeuron(threshold, **options)
    generator = torch.Generator().manual_seed(0)
    plain.membrane, plain.count = (
        plain.start(torch.zeros(6, 3, 4, 4, dtype=dtype)),
        torch.zeros(6, 3, 4, 4, dtype=dtype),
    )
    seen = set()
    for timestep in range(30):
        current = torch.randn(6, 3, 4, 4, dtype=dtype, generator=generator) * (timestep % 3 > 0)
        expected = by_conditions(plain, current.clone())
        assert torch.equal(neuron.fire(current), expected)
        assert torch.equal(neuron.membrane, plain.membrane)
        assert torch.equal(neuron.count, plain.count)
        seen |= set(expected.flatten().tolist())
    assert seen == {-1.0, 0.0, 1.0}
