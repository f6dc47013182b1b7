"""Directly trained spiking networks: the unrolled training network and the stepwise one are the same network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import methods
from benchmark.conformance import TINY, quantised_network, random_images, simulate, tiny_network
from methods.errors import ConversionError
from methods.surrogate import LIFActivation, LIFNeuron, Surrogate


def currents(steps=6, shape=(5, 7), seed=0):
    return torch.randint(-24, 48, (steps, *shape), generator=torch.Generator().manual_seed(seed)).double() / 32


def reference(x, threshold, decay, hard):
    v, train = np.zeros(x.shape[1:]), []
    for current in x:
        m = decay * v + current
        s = (m >= threshold).astype(float)
        v = m * (1 - s) if hard else m - threshold * s
        train.append(s)
    return np.stack(train)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_both_forms_of_the_neuron_equal_numpy(decay, reset):
    x = currents()
    expected = reference(x.numpy(), 1.0, decay, reset == "hard")
    unrolled = LIFActivation(6, 1.0, decay, reset)(x.flatten(0, 1)).reshape(x.shape)
    neuron = LIFNeuron(1.0, decay, reset)
    stepwise = torch.stack([neuron(current) for current in x])
    assert np.array_equal(unrolled.numpy(), expected) and np.array_equal(stepwise.numpy(), expected)
    assert 0 < expected.mean() < 1


def test_hard_reset_equals_spikingjelly():
    neuron_module = pytest.importorskip("spikingjelly.activation_based.neuron", reason="test extra: spikingjelly")
    theirs = neuron_module.LIFNode(tau=2.0, decay_input=False, v_threshold=1.0, v_reset=0.0)
    ours = LIFNeuron(1.0, 0.5, "hard")
    for current in currents(20).float():
        assert torch.equal(ours(current), theirs(current))
        assert torch.equal(ours.membrane, theirs.v)


def test_soft_reset_equals_snntorch():
    snntorch = pytest.importorskip("snntorch", reason="test extra: snntorch")
    threshold = 1.0 + 2.0**-12  # snnTorch fires on a strict >; the membrane cannot lie exactly on this threshold
    theirs = snntorch.Leaky(beta=0.5, threshold=threshold, reset_mechanism="subtract", reset_delay=False)
    ours, membrane = LIFNeuron(threshold, 0.5, "soft"), torch.zeros(5, 7)
    for current in currents(8).float():
        their_spikes, membrane = theirs(current, membrane)
        assert torch.equal(ours(current), their_spikes)


@pytest.mark.parametrize("tiny", sorted(TINY))
def test_stepwise_simulation_is_the_trained_network(tiny):
    method = Surrogate(steps=5, threshold=0.75)
    network = quantised_network(method, tiny)
    images = random_images(6)
    logits, spikes, _ = simulate(method.convert(network), images, 5)
    assert torch.allclose(logits.mean(0), network(images), rtol=1e-12, atol=1e-12)
    assert bool((spikes.sum(0) > 0).all())
    shorter, _, _ = simulate(method.convert(network), images, 2)
    assert torch.equal(shorter, logits[:2])
    assert torch.equal(network(images), network(images))  # nothing is left over from the batch before


def test_in_training_mode_the_logits_of_every_timestep_come_out():
    method = Surrogate(steps=3)
    network = quantised_network(method, "plain").train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = random_images(4)
    steps = network(images)
    assert steps.shape == (3, 4, 5)
    network.eval()
    assert torch.equal(steps.mean(0), network(images))


def test_batch_norm_takes_its_statistics_over_time():
    network = Surrogate(steps=4).prepare(tiny_network("plain")).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    seen = {}
    norms[1].register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0].detach()))
    norms[1].reset_running_stats()
    network(random_images(3))
    assert seen["x"].shape[0] == 4 * 3
    assert torch.allclose(norms[1].running_mean, 0.1 * seen["x"].mean((0, 2, 3)))


def test_tdbn_starts_at_the_threshold_and_lower_where_branches_meet():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.first = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.conv, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = torch.relu(self.first(self.stem(x)))
            return torch.relu(self.second(self.conv(x)) + x).mean((2, 3))

    started = Surrogate(threshold=0.5).prepare(Two())
    weights = {name: module.weight for name, module in started.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert torch.equal(weights["first"], torch.full((4,), 0.5))
    assert torch.allclose(weights["second"], torch.full((4,), 0.5 * math.sqrt(0.5)))
    plain = Surrogate(threshold=0.5, norm="bn").prepare(Two())
    assert all(
        torch.equal(module.weight, torch.ones(4)) for module in plain.modules() if isinstance(module, nn.BatchNorm2d)
    )


def test_tet_loss():
    outputs = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(6) % 5
    assert Surrogate(tet=0.0).loss(outputs, labels) == F.cross_entropy(outputs[0], labels)
    three = torch.stack([outputs[0], 2 * outputs[0], -outputs[0]])
    expected = 0.75 * sum(F.cross_entropy(step, labels) for step in three) / 3 + 0.25 * ((three - 1) ** 2).mean()
    assert torch.allclose(Surrogate(tet=0.25).loss(three, labels), expected, rtol=1e-12)


@pytest.mark.parametrize("membrane", [-0.5, 0.25, 0.75, 1.0, 1.25, 2.5])
def test_the_surrogate_gradient_is_a_triangle(membrane):
    x = torch.tensor([[membrane]], dtype=torch.float64, requires_grad=True)
    LIFActivation(1, 0.75, 0.5, "hard")(x).sum().backward()
    assert x.grad.item() == pytest.approx(max(0.0, 1 - abs(membrane - 0.75) / 0.75) / 0.75, abs=1e-15)


def test_gradients_flow_through_time():
    """Only the second timestep fires; what reaches the first one came through the decaying membrane."""
    x = torch.tensor([[0.5], [0.6]], dtype=torch.float64, requires_grad=True)
    spikes = LIFActivation(2, 1.0, 0.5, "soft")(x)
    spikes[1].sum().backward()
    through_reset = 0.5 * (1 - 1.0 * (1 - abs(0.5 - 1)))  # decay * dv/dm, v = m - threshold * s(m)
    assert x.grad[1].item() == pytest.approx(1 - abs(0.85 - 1))
    assert x.grad[0].item() == pytest.approx((1 - abs(0.85 - 1)) * through_reset)


def test_what_is_not_lif_is_refused():
    with pytest.raises(ConversionError, match=r"layers?.*surrogate simulates LIF"):
        Surrogate().convert(methods.get("qcfs")().prepare(tiny_network("plain")))


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"threshold": 0.0}, {"decay": 1.5}, {"tet": 1.0}, {"reset": "none"}, {"norm": "layer"}]
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Surrogate(**options)
