"""QCFS against its mathematics, an independent numpy reference, and SpikingJelly.

Weights, images and thresholds are multiples of powers of two wherever "exact" is claimed, so no operation rounds and ties
(membrane exactly at the threshold) do occur.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import methods
from methods.errors import ConversionError
from methods.neurons import IFNeuron
from methods.qcfs import QCFSActivation

LEVELS = 4


def dyadic(generator: torch.Generator, *shape: int, step: float = 1 / 16, size: float = 1.0) -> torch.Tensor:
    """Uniform multiples of `step` in [-size, size], float64."""
    count = int(size / step)
    return torch.randint(-count, count + 1, shape, generator=generator).double() * step


class Perceptron(nn.Module):
    """Linear layers with ReLU between them; dyadic weights."""

    def __init__(self, widths: list[int], seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layer = nn.Linear(before, after).double()
            with torch.no_grad():
                layer.weight.copy_(dyadic(generator, after, before, size=0.5))
                layer.bias.copy_(dyadic(generator, after, step=1 / 8, size=0.5))
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def quantised(seed: int = 0, threshold: float = 2.0, widths: tuple[int, ...] = (12, 24, 24, 24, 5)) -> nn.Module:
    network = methods.get("qcfs")(levels=LEVELS).prepare(Perceptron(list(widths), seed)).double().eval()
    for activation in activations(network):
        activation.threshold.data.fill_(threshold)
    return network


def activations(network: nn.Module) -> list[QCFSActivation]:
    return [module for module in network.modules() if isinstance(module, QCFSActivation)]


def images(count: int = 50, seed: int = 3, width: int = 12) -> torch.Tensor:
    return dyadic(torch.Generator().manual_seed(seed), count, width, step=1 / 8, size=2.0)


def reference(network: nn.Module, x: np.ndarray, timesteps: int, threshold: float):
    """Plain numpy simulation: per layer the spike counts, summed currents and last membranes; and the summed logits."""
    linears = [
        (m.weight.detach().numpy(), m.bias.detach().numpy()) for m in network.modules() if isinstance(m, nn.Linear)
    ]
    hidden = linears[:-1]
    v = [np.full((len(x), w.shape[0]), threshold / 2) for w, _ in hidden]
    counts = [np.zeros_like(m) for m in v]
    charge = [np.zeros_like(m) for m in v]
    trains = [[] for _ in hidden]
    logits = 0
    for _ in range(timesteps):
        h = x
        for index, (w, b) in enumerate(hidden):
            current = h @ w.T + b
            charge[index] += current
            v[index] = v[index] + current
            spike = (v[index] >= threshold).astype(float)
            v[index] = v[index] - threshold * spike
            counts[index] += spike
            trains[index].append(spike)
            h = threshold * spike
        logits = logits + h @ linears[-1][0].T + linears[-1][1]
    return counts, charge, v, logits, [np.stack(train) for train in trains]


def neurons_of(network) -> list[IFNeuron]:
    return [module for module in network.modules() if isinstance(module, IFNeuron)]


def simulate(network, x: torch.Tensor, timesteps: int):
    """Summed logits, and per layer the spike counts, summed currents and spike trains."""
    layers = list(dict.fromkeys(neurons_of(network)))
    counts = [0.0] * len(layers)
    charge = [0.0] * len(layers)
    trains: list[list[torch.Tensor]] = [[] for _ in layers]

    def watch(index):
        def hook(module, inputs, output):
            counts[index] = counts[index] + output
            charge[index] = charge[index] + inputs[0]
            trains[index].append(output.clone())

        return hook

    network.begin(x)
    handles = [layer.register_forward_hook(watch(index)) for index, layer in enumerate(layers)]
    logits = sum(network.step() for _ in range(timesteps))
    for handle in handles:
        handle.remove()
    return logits, counts, charge, [torch.stack(train) for train in trains], layers


@pytest.mark.parametrize("timesteps", [1, 3, 4, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_numpy_reference_exactly(seed, timesteps):
    network, x = quantised(seed), images()
    expected_counts, expected_charge, expected_v, expected_logits, expected_trains = reference(
        network, x.numpy(), timesteps, 2.0
    )
    logits, counts, charge, trains, layers = simulate(methods.get("qcfs")(levels=LEVELS).convert(network), x, timesteps)
    assert np.array_equal(logits.numpy(), expected_logits)
    for index, layer in enumerate(layers):
        assert np.array_equal(trains[index].numpy(), expected_trains[index])
        assert np.array_equal(counts[index].numpy(), expected_counts[index])
        assert np.array_equal(charge[index].numpy(), expected_charge[index])
        assert np.array_equal(layer.membrane.numpy(), expected_v[index])


@pytest.mark.parametrize("timesteps", [1, 2, 4, 16])
def test_charge_identity_and_residual_rules(timesteps):
    """threshold * N = v0 + sum I - v(T); the sign of the residual tells the sign of the offset spikes."""
    network, x = quantised(), images(200)
    _, counts, charge, _, layers = simulate(methods.get("qcfs")(levels=LEVELS).convert(network), x, timesteps)
    seen = {"over": 0, "under": 0}
    for n, current, layer in zip(counts, charge, layers, strict=True):
        th, v = layer.threshold, layer.membrane
        assert torch.equal(th * n, th / 2 + current - v)
        assert bool(((n >= 0) & (n <= timesteps)).all())
        desired = torch.floor((th / 2 + current) / th).clamp(0, timesteps)
        offset = n - desired
        inside = (v >= 0) & (v < th)
        assert bool((offset[inside] == 0).all())
        assert bool((v[offset > 0] < 0).all())
        assert bool((v[offset < 0] >= th).all())
        seen["over"] += int((offset > 0).sum())
        seen["under"] += int((offset < 0).sum())
        mean = current / timesteps
        bounded = inside & (mean >= 0) & (mean < th)
        assert bool(((th * n / timesteps - mean.clamp(0, th)).abs()[bounded] <= th / (2 * timesteps)).all())
    if timesteps == 4:
        assert min(seen.values()) > 0  # the case is not empty: unevenness does happen from layer 2 on


@pytest.mark.parametrize("timesteps", [1, 2, 3, 4, 7, 32])
def test_first_layer_is_the_closed_form_and_at_t_equal_l_the_ann(timesteps):
    network, x = quantised(), images(300)
    linear = next(module for module in network.modules() if isinstance(module, nn.Linear))
    z = linear(x).detach()
    _, counts, _, _, layers = simulate(methods.get("qcfs")(levels=LEVELS).convert(network), x, timesteps)
    th = layers[0].threshold
    assert torch.equal(counts[0], torch.floor((z * timesteps + th / 2) / th).clamp(0, timesteps))
    if timesteps == LEVELS:
        assert torch.equal(th * counts[0] / LEVELS, activations(network)[0](z).detach())
    assert bool((counts[0] > 0).any()) and bool((counts[0] < timesteps).any())


def test_constant_current_into_every_layer_gives_the_quantised_network():
    """Without unevenness, T = L equals the quantised ANN in every layer: feed each layer its mean input."""
    network, x = quantised(), images(300)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    h = x
    for linear, activation in zip(linears, activations(network), strict=False):
        current = linear(h).detach()
        neuron = IFNeuron(float(activation.threshold.detach()))
        counts = sum(neuron(current) for _ in range(LEVELS))
        h = activation(current).detach()
        assert torch.equal(neuron.threshold * counts / LEVELS, h)


def test_long_simulation_approaches_the_clipped_relu_network():
    network, x = quantised(widths=(12, 24, 5)), images(100)
    logits, _, _, _, layers = simulate(methods.get("qcfs")(levels=LEVELS).convert(network), x, 4096)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    clipped = linears[1](linears[0](x).clamp(0, layers[0].threshold)).detach()
    assert (logits / 4096 - clipped).abs().max() < 24 * 0.5 * 2.0 / 4096
    assert (logits / 4096 - network(x).detach()).abs().max() > 0.1  # it is not the quantised network


def test_spikingjelly_soft_reset_gives_identical_spikes():
    neuron_module = pytest.importorskip("spikingjelly.activation_based.neuron", reason="test extra: spikingjelly")
    generator = torch.Generator().manual_seed(5)
    currents = dyadic(generator, 40, 8, 30, step=1 / 32, size=1.0).float()
    ours = IFNeuron(1.0, initial=0.5)
    theirs = neuron_module.IFNode(v_threshold=1.0, v_reset=None)
    theirs(torch.full((8, 30), 0.5))  # half the threshold, before the first timestep
    total = 0
    for current in currents:
        spikes = ours(current)
        assert torch.equal(spikes, theirs(current))
        assert torch.equal(ours.membrane, theirs.v)
        total += int(spikes.sum())
    assert total > 100


def test_snntorch_subtractive_reset_gives_identical_spikes():
    snntorch = pytest.importorskip("snntorch", reason="test extra: snntorch")
    currents = dyadic(torch.Generator().manual_seed(6), 40, 8, 30, step=1 / 32, size=1.0).float()
    # snnTorch fires on a strict >. With this threshold the membrane cannot lie exactly on it within 40 timesteps.
    threshold = 1.0 + 2.0**-12
    # Leaky without leak is an integrate-and-fire neuron.
    theirs = snntorch.Leaky(beta=1.0, threshold=threshold, reset_mechanism="subtract", reset_delay=False)
    ours = IFNeuron(threshold, initial=0.5)
    membrane = torch.full((8, 30), threshold / 2)
    total = 0
    for current in currents:
        spikes = ours(current)
        their_spikes, membrane = theirs(current, membrane)
        assert torch.equal(spikes, their_spikes)
        assert torch.equal(ours.membrane, membrane)
        total += int(spikes.sum())
    assert total > 100


def finite_slope(z: float, threshold: float) -> tuple[float, float]:
    """The gradients with respect to z and lambda that the declared pass band prescribes."""
    steps = np.floor(z * LEVELS / threshold + 0.5)
    if steps < 0:
        return 0.0, 0.0
    if steps > LEVELS:
        return 0.0, 1.0
    return 1.0, (steps / LEVELS * threshold - z) / threshold


LAM = 2.0
BIN = LAM / (2 * LEVELS)


@pytest.mark.parametrize(
    "z",
    [
        -BIN - 1 / 64,
        -BIN,
        -BIN / 2,
        0.0,
        BIN / 2,
        LAM / 2,
        LAM - BIN / 2,
        LAM,
        LAM + BIN / 2,
        LAM + BIN - 1 / 64,
        LAM + BIN,
        2 * LAM,
    ],
)
def test_gradients_follow_the_declared_band(z):
    """The whole zero bin and the whole top bin pass the gradient, whatever torch's clamp does at its edges."""
    activation = QCFSActivation(LEVELS, LAM).double()
    x = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    activation(x).sum().backward()
    slope_z, slope_threshold = finite_slope(z, LAM)
    assert x.grad.item() == slope_z
    assert activation.threshold.grad.item() == pytest.approx(slope_threshold, abs=1e-15)


def test_forward_values():
    activation = QCFSActivation(LEVELS, LAM).double()
    z = torch.tensor([-1.0, 0.2, 0.25, 0.74, 0.75, 1.9, 5.0], dtype=torch.float64)
    assert activation(z).tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_threshold_must_be_positive(threshold):
    network = quantised(threshold=threshold)
    with pytest.raises(ConversionError, match=r"layers\.1.*threshold.*positive"):
        methods.get("qcfs")(levels=LEVELS).convert(network)


def test_levels_must_agree():
    with pytest.raises(ConversionError, match="4 levels, the method was asked for 8"):
        methods.get("qcfs")(levels=8).convert(quantised())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(value):
    network = quantised()
    next(network.parameters()).data[0, 0] = value
    with pytest.raises(ConversionError, match=r"layers\.0\.weight has NaN or infinite"):
        methods.get("qcfs")(levels=LEVELS).convert(network)
