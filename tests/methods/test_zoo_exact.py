"""The shipped ResNet-20s in float64: settled QFFS and ST-BIF, and COS with enough iterations, are the quantised network."""

from __future__ import annotations

import pytest
import torch

import methods
from benchmark import backbones
from benchmark.card import read_card
from benchmark.checkpoints import load_into, read_weights
from benchmark.locating import zoo

CHECKPOINTS = ["cifar10-resnet20-lsq-2bit", "cifar10-resnet20-qcfs-l4"]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def trained(request):
    """The network with its levels, images of its input range, and its logits for them."""
    path = zoo()[request.param]
    card = read_card(path)
    levels = int(card.method_options["levels"])
    network = methods.get(card.method)(levels=levels).prepare(backbones.build("resnet20", 3, 10, 32))
    load_into(network, read_weights(path), path, "resnet20")
    network = network.double().eval()
    blurred = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.nn.functional.interpolate(blurred, scale_factor=4, mode="bilinear")
    with torch.no_grad():
        return network, levels, images, network(images)


@pytest.mark.parametrize("name", ["qffs", "st-bif"])
def test_settled_networks_are_their_ann(trained, name):
    network, levels, images, expected = trained
    converted = methods.get(name)(levels=levels).convert(network, images)
    converted.begin(images)
    total, silent, steps = torch.zeros_like(expected), 0, 0
    while silent < 2 and steps < levels * (converted.depth + 1):
        total += converted.step()
        silent = silent + 1 if not bool(converted.spikes.any()) else 0
        steps += 1
    assert silent == 2
    worth = levels if name == "qffs" else 1
    assert torch.allclose(total / worth, expected, rtol=0, atol=1e-12)
    assert len(expected.argmax(1).unique()) > 1


def test_cos_is_its_ann_at_t_equal_to_rho_and_levels(trained):
    network, levels, images, expected = trained

    def simulated(iterations):
        method = methods.get("cos")(levels=levels, prelude_length=levels, iterations=iterations)
        converted = method.convert(network, images)
        converted.begin(images)
        return sum(converted.step() for _ in range(levels)) / levels

    assert torch.allclose(simulated(4), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(simulated(1), expected, rtol=0, atol=1e-3)  # one spike a neuron is not enough


def test_the_surrogate_network_is_simulated_as_it_was_trained():
    """Unrolled over its timesteps, with batch norms, and step by step without them."""
    path = zoo()["cifar10-resnet20-surrogate-t4"]
    card = read_card(path)
    method = methods.get(card.method)(**card.method_options)
    network = method.prepare(backbones.build("resnet20", 3, 10, 32))
    load_into(network, read_weights(path), path, "resnet20")
    network = network.double().eval()
    blurred = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.nn.functional.interpolate(blurred, scale_factor=4, mode="bilinear")
    converted = method.convert(network, images)
    converted.begin(images)
    steps = [converted.step() for _ in range(method.steps)]
    with torch.no_grad():
        expected = network(images)
    assert torch.allclose(sum(steps) / method.steps, expected, rtol=0, atol=1e-12)
    assert not torch.equal(steps[0], steps[-1]) and len(expected.argmax(1).unique()) > 1
