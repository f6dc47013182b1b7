"""FTBC: the correction of every channel and timestep against numpy, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dyadic import TINY_TOPS, Perceptron, follow, matrices, multiples, perceptron, prepared
from torch import nn

from benchmark.conformance import random_images, simulate, tiny_network
from methods.ftbc import FTBC
from methods.qcfs import QCFS

WIDTHS = (6, 12, 10, 4)
TOP = 1.0


def images(count: int = 30, seed: int = 3) -> torch.Tensor:
    return multiples(torch.Generator().manual_seed(seed), count, WIDTHS[0], step=1 / 8, size=2.0)


def reference(layers, x: np.ndarray, steps: int, iterations: int, rate: float, levels: int = 4) -> list[np.ndarray]:
    """b_t += rate * mean(threshold s(t) - a) by channel, several passes a layer, on the spikes of corrected layers."""
    h, frames, found = x, [x] * steps, []
    for weight, bias in layers[:-1]:
        z = h @ weight.T + bias
        h = np.clip(np.floor(z * levels / TOP + 0.5), 0, levels) * TOP / levels
        currents = [frame @ weight.T + bias for frame in frames]
        correction = np.zeros((steps, weight.shape[0]))

        def fire(correction, currents=currents):
            v, out = np.full_like(currents[0], TOP / 2), []
            for current, shift in zip(currents, correction, strict=True):
                v = v + current - shift
                out.append(TOP * (v >= TOP))
                v = v - out[-1]
            return np.stack(out)

        for _ in range(iterations):
            correction = correction + rate * (fire(correction) - h).mean(1)
        found.append(correction)
        frames = list(fire(correction))
    return found


@pytest.mark.parametrize(("steps", "iterations", "rate"), [(1, 1, 1.0), (4, 1, 0.5), (4, 3, 0.5), (7, 20, 0.25)])
def test_corrections_equal_the_reference(steps, iterations, rate):
    network, x = prepared(QCFS(), perceptron(*WIDTHS), TOP), images(32)
    method = FTBC(steps=steps, iterations=iterations, rate=rate)
    converted = method.convert(network, list(x.split(10)))
    expected = reference(matrices(network), x.numpy(), steps, iterations, rate)
    for neuron, wanted in zip(converted.neurons.values(), expected, strict=True):
        assert neuron.bias.shape == wanted.shape
        assert np.allclose(neuron.bias.numpy(), wanted, rtol=1e-10, atol=1e-12)
        assert np.abs(wanted).max() > 0.01


def errors_by_timestep(network, quantised: nn.Module, x: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """|mean over images and pixels of threshold * s(t) - a|: [T, C]."""
    wanted = {}
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: wanted.__setitem__(name, output))
        for name, module in quantised.named_modules()
        if hasattr(module, "levels")
    ]
    with torch.no_grad():
        quantised(x)
    for handle in handles:
        handle.remove()
    trace = follow(network, x, steps)
    found = {}
    for name, train in trace.trains.items():
        difference = train * network.neurons[name].threshold - wanted[name]
        found[name] = difference.transpose(1, 2).flatten(2).mean(2).abs()
    return found


@pytest.mark.parametrize("tiny", ["plain", "residual"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_error_of_every_timestep_shrinks(tiny, sign):
    """And grows if every correction is applied the wrong way."""
    network, x = prepared(QCFS(), tiny_network(tiny), TINY_TOPS), random_images(50)
    before = errors_by_timestep(QCFS().convert(network), network, x, 6)
    converted = FTBC(steps=6, iterations=20).convert(network, x)
    for neuron in converted.neurons.values():
        neuron.bias *= sign
    after = errors_by_timestep(converted, network, x, 6)
    shrinks = [bool((after[name].mean(1) < before[name].mean(1)).all()) for name in before]
    assert all(shrinks) if sign == 1 else not any(shrinks)
    if sign == 1:
        assert all(after[name].mean() < 0.5 * before[name].mean() for name in before)


def test_without_any_error_it_is_qcfs_bit_for_bit():
    """Currents of exactly nothing or a threshold and more in every layer: each spike is right at every timestep."""
    ann = Perceptron(4, 4, 4, 3).double().eval()
    with torch.no_grad():
        for linear in list(ann.linears)[:-1]:
            linear.weight.copy_(torch.eye(4))
            linear.bias.zero_()
    network = prepared(QCFS(), ann, 2.0)
    x = torch.tensor([[2.0, 0.0, 2.0, -2.0], [0.0, 2.0, -4.0, 2.0], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    converted = FTBC(steps=5).convert(network, x)
    assert all(bool((neuron.bias == 0).all()) for neuron in converted.neurons.values())
    other = multiples(torch.Generator().manual_seed(0), 20, 4, step=1 / 8, size=3.0)
    assert all(map(torch.equal, simulate(converted, other, 9), simulate(QCFS().convert(network), other, 9)))


def test_with_errors_it_is_not_qcfs():
    network, x = prepared(QCFS(), perceptron(*WIDTHS), TOP), images()
    assert not torch.equal(
        simulate(FTBC(steps=5).convert(network, x), x, 5)[0], simulate(QCFS().convert(network), x, 5)[0]
    )


def test_later_timesteps_have_no_correction():
    network, x = prepared(QCFS(), perceptron(*WIDTHS), TOP), images()
    converted = FTBC(steps=3).convert(network, x)
    name, neuron = next(iter(converted.neurons.items()))
    trace = follow(converted, x, 9)
    charge = trace.currents[name].sum(0) + TOP / 2 - TOP * trace.trains[name].sum(0)
    assert torch.allclose(trace.potentials[name][-1], charge - neuron.bias.sum(0), rtol=1e-12, atol=1e-12)


def test_the_next_images_start_with_the_first_correction():
    network, x = prepared(QCFS(), perceptron(*WIDTHS), TOP), images()
    converted = FTBC(steps=4).convert(network, x)
    first = simulate(converted, x, 7)
    simulate(converted, x[:5], 2)
    assert all(map(torch.equal, simulate(converted, x, 7), first))


def test_no_more_images_are_used_than_asked_for():
    network, x = prepared(QCFS(), perceptron(*WIDTHS), TOP), images()
    few = [neuron.bias for neuron in FTBC(images=8).convert(network, x[:8]).neurons.values()]
    same = [neuron.bias for neuron in FTBC(images=8).convert(network, list(x.split(3))).neurons.values()]
    more = [neuron.bias for neuron in FTBC(images=16).convert(network, x).neurons.values()]
    assert all(map(torch.equal, few, same))
    assert not any(map(torch.equal, few, more))


def test_the_options_are_checked():
    for options in ({"steps": 0}, {"iterations": 0}, {"images": 0}, {"rate": 0.0}, {"rate": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FTBC(**options)
