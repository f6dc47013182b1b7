"""What tf32 and bf16 change: currents by no more than their bits allow, answers of a real network within measured bounds."""

from __future__ import annotations

import copy

import pytest
import torch
from real_tiles import real_tiles

import methods
from benchmark import backbones
from benchmark.card import read_card
from benchmark.checkpoints import load_into, read_weights
from benchmark.data.cifar10 import Cifar10
from benchmark.loading import normalise
from benchmark.locating import zoo
from benchmark.numerics import numerics
from dynconf import DynamicConfidence, record
from methods.tracing import SYNAPSES

CPU = torch.device("cpu")
CHECKPOINT = "cifar10-resnet20-qcfs-l4"
UNIT = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # half the distance of two numbers beside 1
TIMESTEPS = 16


@pytest.fixture(scope="module")
def network():
    path = zoo()[CHECKPOINT]
    levels = int(read_card(path).method_options["levels"])
    quantised = methods.get("qcfs")(levels=levels).prepare(backbones.build("resnet20", 3, 10, 32))
    load_into(quantised, read_weights(path), path, "resnet20")
    return methods.get("qcfs")(levels=levels).convert(quantised.eval())


def as_tf32(values):
    """float32 rounded to the ten bits behind the point that tensor cores read; to nearest, ties to even."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def in_tf32(network):
    """Its synapses as a GPU has them with TF32: the weights rounded; spikes are exact, sums in float32."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for module in rounded.graph.modules():
            if isinstance(module, SYNAPSES):
                module.weight.copy_(as_tf32(module.weight))
    return rounded


def test_rounding_to_tf32():
    values = torch.tensor([1.0, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-10, -(1 + 2**-11 + 2**-20), 3e38, 0.0])
    expected = torch.tensor([1.0, 1.0, 1 + 2**-9, 1 + 2**-10, -(1 + 2**-10), 3e38, 0.0])
    found = as_tf32(values)
    assert torch.equal(found[[0, 1, 2, 3, 4, 6]], expected[[0, 1, 2, 3, 4, 6]])
    assert float((found[5] / 3e38 - 1).abs()) <= UNIT["tf32"]


@torch.no_grad()
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_currents_are_off_by_no_more_than_the_bits_of_the_precision(network, precision):
    """Weights, inputs and what comes out are rounded once each, sums are not: u (3 |w| |x| + 2 |b|), and little more."""
    layers = {id(module): module for module in network.graph.modules() if isinstance(module, SYNAPSES)}
    seen = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.setdefault(id(layer), []).append(inputs[0].clone()))
        for layer in layers.values()
    ]
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with numerics(precision, CPU):  # also tells the layers how they are to compute from now on
        network.begin(images)
        for _ in range(4):
            network.step()
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(layers) == 22
    used = []
    for key, layer in layers.items():
        inputs = seen[key][-1].contiguous()
        plain = copy.deepcopy(layer).double()
        exact = plain(inputs.double())
        sizes = copy.deepcopy(plain)
        for parameter in sizes.parameters():
            parameter.abs_()
        if sizes.bias is not None:
            sizes.bias.mul_(2 / 3)
        allowed = 3.01 * UNIT[precision] * sizes(inputs.double().abs()) + 1e-12
        if precision == "bf16":
            with numerics("bf16", CPU):
                found = layer(inputs)
            assert found.dtype == torch.bfloat16
        else:
            rounded = copy.deepcopy(plain)
            rounded.weight.copy_(as_tf32(layer.weight))
            found = rounded(as_tf32(inputs).double())
        used.append(float(((found.double() - exact).abs() / allowed).max()))
    assert max(used) <= 1
    assert min(used) > 0.02  # it is rounded, indeed


@torch.no_grad()
def test_membranes_stay_in_float32_and_counts_exact(network):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fired = {}
    hooks = [
        neuron.register_forward_hook(lambda _, __, spikes, name=name: fired.update({name: spikes}))
        for name, neuron in network.neurons.items()
    ]
    with numerics("bf16", CPU):
        network.begin(images)
        network.step()
    for hook in hooks:
        hook.remove()
    for neuron in network.neurons.values():
        assert neuron.membrane.dtype == torch.float32
        # bf16 could not even hold these: sums of its numbers have eight bits, membranes have more.
        assert not torch.equal(neuron.membrane, neuron.membrane.bfloat16().float())
    sent = [fired[site.name] for site in network.sites]
    assert torch.equal(network.spikes, sum(spikes.double().flatten(1).sum(1) for spikes in sent).long())
    operations = sum(
        (spikes.double() * neuron.tally._fan_out.double()).flatten(1).sum(1)
        for spikes, neuron in zip(sent, network.neurons.values(), strict=True)
    )
    assert torch.equal(network.synops, operations.long())


# Without AVX-512 a processor imitates bf16, which takes it a minute.
@pytest.mark.parametrize("precision", ["tf32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_answers_of_a_real_network_hardly_change(network, shared, precision):
    """200 images. Of 2,000, T = 32, bf16 changed 1.1% of the last answers (README)."""
    pixels, labels = real_tiles(shared, rows=2)
    images = normalise(pixels, Cifar10.preprocessing)
    with numerics("fp32", CPU):
        exact = record(network, [(images, labels)], timesteps=TIMESTEPS, split="calibration")
    with numerics("fp32" if precision == "tf32" else precision, CPU):
        own, shown = (in_tf32(network), as_tf32(images)) if precision == "tf32" else (network, images)
        rounded = record(own, [(shown, labels)], timesteps=TIMESTEPS, split="calibration")
    accuracy = [float(each.correct[:, -1].double().mean()) for each in (exact, rounded)]
    assert accuracy[0] > 0.85
    changed = (exact.predictions[:, -1] != rounded.predictions[:, -1]).double().mean()
    assert 0 < (exact.predictions != rounded.predictions).double().mean() < 0.10
    assert changed <= 0.05
    assert abs(accuracy[0] - accuracy[1]) <= 0.03
    spikes = [float(each.spikes.sum()) for each in (exact, rounded)]
    assert spikes[1] == pytest.approx(spikes[0], rel=2e-3)
    policy = DynamicConfidence().fit(exact)
    exits = [float(policy.exit_steps(each).double().mean()) for each in (exact, rounded)]
    assert exits[1] == pytest.approx(exits[0], rel=0.05)
