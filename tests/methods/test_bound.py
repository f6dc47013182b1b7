"""The error of a converted network is bounded by what its layers do wrong, each times the weights behind it.

Bu, Li, Yu 2025 (arXiv:2409.03368), theorem 1: |out_SNN - out_ANN| <= sum_l prod_{k>l} |W_k| |S(z_l) - A(z_l)|, where z_l is
the mean input of layer l in the spiking network, S(z_l) its mean output, and A the activation of the ANN.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import methods
from methods.neurons import IFNeuron

WIDTHS = (10, 30, 30, 30, 5)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [part for pair in itertools.pairwise(WIDTHS) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1]).double()


@pytest.mark.parametrize("timesteps", [1, 2, 8, 64])
@pytest.mark.parametrize("name", ["threshold-balancing", "qcfs"])
@torch.no_grad()
def test_the_error_stays_within_the_bound(name, timesteps):
    ann = network(0)
    images = torch.randn(40, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    method = methods.get(name)()
    prepared = method.prepare(ann)
    if name == "qcfs":
        for activation in prepared.modules():
            if hasattr(activation, "set_top"):
                activation.set_top(0.7)
    converted = method.convert(prepared, images)
    neurons = [neuron for neuron in converted.neurons.values() if isinstance(neuron, IFNeuron)]
    inputs, outputs = [0.0] * len(neurons), [0.0] * len(neurons)

    def watch(index):
        def add(module, arguments, spikes):
            inputs[index] = inputs[index] + arguments[0] / timesteps
            outputs[index] = outputs[index] + module.threshold * spikes / timesteps

        return add

    converted.begin(images)
    for index, neuron in enumerate(neurons):
        neuron.register_forward_hook(watch(index))
    mean = sum(converted.step() for _ in range(timesteps)) / timesteps

    linears = [module for module in ann if isinstance(module, nn.Linear)]
    exact = images
    for linear, neuron in zip(linears, neurons, strict=False):
        exact = linear(exact).clamp(0, neuron.threshold)  # the network that both approach
    exact = linears[-1](exact)
    norms = [torch.linalg.matrix_norm(linear.weight, 2) for linear in linears]
    bound = torch.zeros(len(images), dtype=torch.float64)
    for index, neuron in enumerate(neurons):
        own = (outputs[index] - inputs[index].clamp(0, neuron.threshold)).norm(dim=1)
        bound += own * torch.stack(norms[index + 1 :]).prod()
    error = (mean - exact).norm(dim=1)
    assert bool((error <= bound + 1e-12).all())
    assert bool((error > 0.02 * bound).any())  # it says something
