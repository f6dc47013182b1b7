"""QFFS settles exactly on its quantised network, needs every one of its parts for that, and does not depend on order."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from dyadic import (
    TINY_TOPS,
    Perceptron,
    codes,
    follow,
    matrices,
    multiples,
    perceptron,
    prepared,
)
from torch import nn

import methods
from benchmark.conformance import random_images, simulate, tiny_network
from methods import network as network_module
from methods import neurons as neurons_module
from methods.errors import ConversionError
from methods.network import Schedule
from methods.neurons import SignedIFNeuron
from methods.qcfs import QCFS
from methods.qffs import QFFS
from methods.quantisers import LSQActivation

WIDTHS = (10, 24, 24, 24, 24, 5)
HIDDEN = len(WIDTHS) - 2


def images(count: int = 40, seed: int = 3) -> torch.Tensor:
    return multiples(torch.Generator().manual_seed(seed), count, WIDTHS[0], step=1 / 8, size=2.0)


def quantised(levels: int, seed: int = 0) -> nn.Module:
    """Thresholds of `levels` halves, one of them of `levels` quarters: dyadic steps, and layers that differ."""
    tops = [levels / 2, levels / 4, levels / 2, levels / 2]
    return prepared(QFFS(levels=levels), perceptron(*WIDTHS, seed=seed), tops)


def reference(network: nn.Module, x: np.ndarray):
    """The codes of every layer and the logits, in numpy and in exact arithmetic."""
    h, found = x, []
    quantisers = [module for module in network.modules() if isinstance(module, LSQActivation)]
    layers = matrices(network)
    for (weight, bias), quantiser in zip(layers, quantisers, strict=False):
        step = float(quantiser.step.detach())
        found.append(np.clip(np.floor((h @ weight.T + bias) / step + 0.5), 0, quantiser.levels))
        h = step * found[-1]
    return found, h @ layers[-1][0].T + layers[-1][1]


@pytest.mark.parametrize("levels", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_settles_exactly_on_the_quantised_network_and_falls_silent(levels, seed):
    network, x = quantised(levels, seed), images()
    expected_codes, expected_logits = reference(network, x.numpy())
    steps = levels * (HIDDEN + 1)
    trace = follow(QFFS(levels=levels).convert(network), x, steps + 25)
    assert np.array_equal(trace.logits[:steps].sum(0).numpy(), levels * expected_logits)
    assert np.array_equal(expected_logits, network(x).detach().numpy())
    for (name, train), expected in zip(trace.trains.items(), expected_codes, strict=True):
        counts = train.cumsum(0)
        assert np.array_equal(counts[steps - 1].numpy(), expected)
        assert bool(((train == 0) | (train.abs() == 1)).all())
        assert bool(((counts >= 0) & (counts <= levels)).all())
        final, rest = counts[-1], trace.potentials[name][-1]
        threshold = network.get_submodule(name).top
        assert bool((final[rest < 0] == 0).all())
        assert bool((final[rest >= threshold] == levels).all())
    # Silence: no spike of either sign, no operation, no logit.
    assert trace.spikes[steps:].sum() == trace.synops[steps:].sum() == 0
    assert bool((trace.logits[steps:] == 0).all())
    first, *deeper = trace.trains.values()
    assert bool((first >= 0).all())
    if levels > 1:
        assert any(bool((train < 0).any()) for train in deeper)


def test_every_step_of_the_transient_is_the_published_neuron():
    """An independent simulation with gated image and biases, spike for spike."""
    levels, x = 3, images()
    network = quantised(levels)
    quantisers = [module for module in network.modules() if isinstance(module, LSQActivation)]
    tops = [levels * float(quantiser.step.detach()) for quantiser in quantisers]
    layers = matrices(network)
    v = [np.full((len(x), weight.shape[0]), top / 2) for (weight, _), top in zip(layers, tops, strict=False)]
    c = [np.zeros_like(each) for each in v]
    trace = follow(QFFS(levels=levels).convert(network), x, 14)
    for step in range(14):
        driven = step < levels
        h = x.numpy() * driven
        for index, ((weight, bias), top) in enumerate(zip(layers, tops, strict=False)):
            m = v[index] + h @ weight.T + bias * driven
            spike = ((m >= top) & (c[index] <= levels - 1)) * 1.0 - ((m < 0) & (c[index] >= 1)) * 1.0
            v[index], c[index] = m - top * spike, c[index] + spike
            h = top * spike
            assert np.array_equal(list(trace.trains.values())[index][step].numpy(), spike)
            assert np.array_equal(list(trace.potentials.values())[index][step].numpy(), v[index])
        assert np.array_equal(trace.logits[step].numpy(), h @ layers[-1][0].T + layers[-1][1] * driven)


class NothingHoldsBelow(SignedIFNeuron):
    """Retracts what it has never sent."""

    def fire(self, current):
        membrane = self.charge(current)
        if self.count is None:
            self.count = torch.zeros_like(membrane)
        up = (membrane >= self.threshold) & (self.count < self.levels - 0.5)
        spikes = up.to(membrane.dtype) - (membrane < 0).to(membrane.dtype)
        membrane.sub_(spikes * self.threshold)
        self.count.add_(spikes)
        return spikes


@dataclass(frozen=True)
class Broken(QFFS):
    """QFFS with one part missing."""

    part: str = ""

    def neuron(self, activation):
        threshold = self.threshold_of(activation)
        if self.part == "upper guard":
            return SignedIFNeuron(threshold, None)
        if self.part == "lower guard":
            return NothingHoldsBelow(threshold, self.levels)
        if self.part == "negative spikes":
            return SignedIFNeuron(threshold, self.levels, floor=-math.inf)
        if self.part == "half a threshold":
            return SignedIFNeuron(threshold, self.levels, initial=0.0)
        return super().neuron(activation)

    def schedule(self, activations):
        drive = {"drive window": None, "last driven step": self.levels - 1}.get(self.part, self.levels)
        return Schedule(drive=drive)


PARTS = ("upper guard", "lower guard", "negative spikes", "half a threshold", "drive window", "last driven step")


@pytest.mark.parametrize("part", ["", *PARTS, "gate of the biases"])
def test_without_any_of_its_parts_it_is_not_exact(part, monkeypatch):
    if part == "gate of the biases":
        monkeypatch.setattr(network_module, "without_shifts", lambda graph: graph)
    network, x = quantised(3), images(200)
    expected_codes, expected_logits = reference(network, x.numpy())
    trace = follow(Broken(levels=3, part=part).convert(network), x, 3 * (HIDDEN + 1))
    counts_agree = all(
        np.array_equal(counts.numpy(), expected)
        for counts, expected in zip(trace.counts().values(), expected_codes, strict=True)
    )
    assert counts_agree == (part == "")
    assert np.array_equal(trace.logits.sum(0).numpy(), 3 * expected_logits) == (part == "")


@pytest.mark.parametrize("tiny", ["plain", "residual"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_convolutions_with_batch_norm_settle_on_their_network(tiny, seed):
    levels, x = 3, random_images(12, seed=seed + 5)
    network = prepared(QFFS(levels=levels), tiny_network(tiny, seed), TINY_TOPS)
    converted = QFFS(levels=levels).convert(network)
    trace = follow(converted, x, levels * (converted.depth + 1))
    assert torch.allclose(trace.logits.sum(0) / levels, network(x).detach(), rtol=1e-12, atol=1e-12)
    expected = codes(network, x)
    assert trace.trains.keys() == expected.keys()
    assert all(torch.equal(count, expected[name]) for name, count in trace.counts().items())
    assert converted.depth == 3
    assert trace.spikes[-1].sum() == 0


class ManyShifts(nn.Module):
    """Whatever adds a constant: a norm after an addition, a bare parameter, a biased shortcut of the image."""

    def __init__(self, parts: tuple[str, ...] = ("norm", "parameter", "image", "logits")):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 4), (4, 4), (4, 4)))
        self.norm = nn.BatchNorm2d(4)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 4).reshape(4, 1, 1))
        self.image = nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 3)
        self.last = nn.Parameter(torch.linspace(1, 2, 3))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.parts = parts

    def forward(self, x):
        y = self.relus[0](self.first(x))
        z = self.second(y) + y
        y = self.relus[1](self.norm(z) if "norm" in self.parts else z)
        z = self.third(y)
        z = z + self.shift if "parameter" in self.parts else z
        z = z + self.image(x) if "image" in self.parts else z
        z = self.head(self.relus[2](z).mean((2, 3)))
        return z + self.last if "logits" in self.parts else z


def shifted(*parts: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = (ManyShifts(parts) if parts else ManyShifts()).double().eval()
        network.norm.running_mean.normal_(0, 0.5)
        network.norm.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(network.norm.bias, 0, 0.5)
        nn.init.uniform_(network.norm.weight, 0.5, 1.5)
    return network


def shifted_images() -> torch.Tensor:
    return torch.randn(10, 2, 5, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


@pytest.mark.parametrize("parts", [(), ("norm",), ("parameter",), ("image",), ("logits",)])
@pytest.mark.parametrize("gated", [True, False])
def test_every_kind_of_constant_stops_after_the_drive_window(parts, gated, monkeypatch):
    if not gated:
        monkeypatch.setattr(network_module, "without_shifts", lambda graph: graph)
    network, x = prepared(QFFS(levels=3), shifted(*parts), 1.0), shifted_images()
    converted = QFFS(levels=3).convert(network)
    assert converted.report.remaining_batch_norms == (not parts or "norm" in parts)
    trace = follow(converted, x, 3 * (3 + 1) + 3)
    exact = torch.allclose(trace.logits.sum(0) / 3, network(x).detach(), rtol=1e-12, atol=1e-12)
    assert exact == gated
    assert bool((trace.spikes[-3:] == 0).all()) == gated


def test_the_drive_phase_still_has_all_constants():
    network, x = prepared(QFFS(levels=3), shifted(), 1.0), shifted_images()
    plain = simulate(QCFS(levels=3).convert(network), x, 1)[0]
    assert torch.equal(simulate(QFFS(levels=3).convert(network), x, 1)[0], plain)


def test_a_constant_that_could_not_be_gated_is_refused():
    class Half(Perceptron):
        def forward(self, x):
            return self.linears[1](self.relus[0](self.linears[0](x)) + 0.5)

    with pytest.raises(ConversionError, match=r"add.* has no spiking counterpart"):
        QFFS().convert(prepared(QFFS(), Half(4, 6, 2).double()))


def settled_count(currents, threshold: float, levels: int | None, floor: float = 0.0) -> torch.Tensor:
    neuron = SignedIFNeuron(threshold, levels, floor=floor)
    counts = sum(neuron(current.clone()) for current in currents)
    for _ in range(20):
        counts = counts + neuron(torch.zeros_like(currents[0]))
    return counts


def test_the_order_of_input_spikes_does_not_matter():
    """All 720 orders of six currents into 300 neurons end at the same count; without negative spikes they do not."""
    currents = multiples(torch.Generator().manual_seed(1), 6, 1, 300, step=1 / 8, size=1.5)
    expected = torch.floor(currents.sum(0) + 0.5).clamp(0, 3)
    assert set(expected.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    differing = 0
    for order in itertools.permutations(range(6)):
        moved = currents[list(order)]
        assert torch.equal(settled_count(moved, 1.0, 3), expected)
        differing += not torch.equal(settled_count(moved, 1.0, 3, floor=-math.inf), expected)
    assert differing == 720


TINY_ERROR = {torch.float32: 1e-8, torch.float64: 1e-11}


@pytest.mark.parametrize("threshold", [1.0, 0.3, 6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("forgiving", [True, False])
def test_rounding_at_either_threshold_is_forgiven(dtype, threshold, forgiving, monkeypatch):
    if not forgiving:
        monkeypatch.setattr(neurons_module, "firing_slack_of", lambda membrane: 0.0)
    neuron = SignedIFNeuron(threshold, 3)
    neuron.reset()
    error = TINY_ERROR[dtype]
    assert neuron(torch.full((1, 1), threshold, dtype=dtype)).item() == 1
    neuron.membrane = torch.full((1, 1), -error * threshold, dtype=dtype)
    assert neuron(torch.zeros(1, 1, dtype=dtype)).item() == (0 if forgiving else -1)
    # Just below the threshold, by an error that this precision can express.
    neuron.reset()
    neuron.membrane = torch.full((1, 1), threshold * (1 - max(error, 1e-7 * (dtype == torch.float32))), dtype=dtype)
    assert neuron.membrane.item() < torch.tensor(threshold, dtype=dtype).item()
    assert neuron(torch.zeros(1, 1, dtype=dtype)).item() == (1 if forgiving else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_real_deficit_is_not_forgiven(dtype):
    error = 1e-5 if dtype == torch.float32 else 1e-8
    neuron = SignedIFNeuron(1.0, 3)
    neuron(torch.full((1, 1), 1.0, dtype=dtype))
    neuron.membrane = torch.full((1, 1), -error, dtype=dtype)
    assert neuron(torch.zeros(1, 1, dtype=dtype)).item() == -1
    neuron.reset()
    neuron.membrane = torch.full((1, 1), 1 - error, dtype=dtype)
    assert neuron(torch.zeros(1, 1, dtype=dtype)).item() == 0


class SameSlackBelow(SignedIFNeuron):
    """Retracts already at one tolerance below zero."""

    def fire(self, current):
        membrane = self.charge(current)
        if self.count is None:
            self.count = torch.zeros_like(membrane)
        slack = neurons_module.firing_slack_of(membrane)
        up = (membrane >= self.threshold * (1 - slack)) & (self.count < self.levels - 0.5)
        down = (membrane < -slack * self.threshold) & (self.count > 0.5)
        spikes = up.to(membrane.dtype) - down.to(membrane.dtype)
        membrane.sub_(spikes * self.threshold)
        self.count.add_(spikes)
        return spikes


@pytest.mark.parametrize(("kind", "silent"), [(SignedIFNeuron, True), (SameSlackBelow, False)])
def test_no_membrane_near_a_threshold_is_moved_to_and_fro(kind, silent):
    """Every float32 within 100 units of rounding of a tolerance above or below either threshold, several thresholds."""
    moving = 0
    for threshold in (1.0, 0.7, 1.7, 3.3):
        neuron = kind(threshold, 3)
        centres = torch.tensor([0.0, 1.0, 1 - 1e-6, -1e-6, -2e-6, 1 + 1e-6, 1 - 2e-6]) * threshold
        near = (centres[:, None] + torch.arange(-100, 101) * threshold * 2.0**-24).reshape(1, -1)
        for standing in (0.0, 1.0, 2.0, 3.0):
            neuron.reset()
            neuron.membrane, neuron.count = near.clone(), torch.full_like(near, standing)
            nothing = torch.zeros_like(near)
            for _ in range(3):
                neuron.fire(nothing)
            moving += sum(int(neuron.fire(nothing).abs().sum()) for _ in range(20))
    assert (moving == 0) == silent


@pytest.mark.parametrize("kind", ["perceptron", "residual"])
def test_in_float32_it_falls_silent_for_good(kind):
    if kind == "residual":
        ann, x, top = tiny_network("residual", 3).float(), random_images(6).float(), TINY_TOPS
    else:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            ann = Perceptron(20, 64, 64, 64, 5)
        x, top = torch.randn(100, 20, generator=torch.Generator().manual_seed(0)), 0.2
    converted = QFFS(levels=7).convert(prepared(QFFS(levels=7), ann, top))
    spikes = simulate(converted, x, 7 * (converted.depth + 1))[1]
    assert spikes.dtype == torch.int64 and spikes[7:].sum() > 0
    for _ in range(2000 if kind == "perceptron" else 300):
        converted.step()
        assert converted.spikes.sum() == 0


@pytest.mark.parametrize("levels", [1, 3, 7])
def test_ties_round_up_in_the_quantiser_and_in_the_neuron(levels):
    step = 0.5
    activation = LSQActivation(levels, levels * step).double()
    z = (torch.arange(-2, levels + 2).double() + 0.5) * step
    expected = torch.floor(z / step + 0.5).clamp(0, levels)
    assert torch.equal(activation(z).detach(), step * expected)
    assert not torch.equal(torch.round(z / step).clamp(0, levels), expected)  # half to even is something else
    neuron = SignedIFNeuron(levels * step, levels)
    assert torch.equal(sum(neuron(z[None].clone()) for _ in range(levels))[0], expected)


@pytest.mark.parametrize("settle", [0, 1, 2])
def test_after_its_settling_steps_nothing_moves(settle):
    network, x = quantised(3), images(200)
    endless = simulate(QFFS(levels=3).convert(network), x, 10)
    limited = simulate(QFFS(levels=3, settle_steps=settle).convert(network), x, 10)
    last = 3 + settle
    for every, some in zip(endless, limited, strict=True):
        assert torch.equal(every[:last], some[:last])
        assert bool((some[last:] == 0).all()) and some.shape == every.shape and some.dtype == every.dtype
    assert bool((endless[1][last : last + 1] > 0).any())  # it does cut something off


def fast_snn(layers, x: np.ndarray, tops: list[float], levels: int):
    """Hu et al.: T = levels timesteps, a negative spike after the positive reset where v <= -0.001 and something stands."""
    v = [np.full((len(x), weight.shape[0]), top / 2) for (weight, _), top in zip(layers, tops, strict=False)]
    sent = [np.zeros_like(each) for each in v]
    logits, trains = [], []
    for _ in range(levels):
        h, now = x, []
        for index, ((weight, bias), top) in enumerate(zip(layers, tops, strict=False)):
            v[index] = v[index] + h @ weight.T + bias
            spike = np.where(v[index] >= top, 1.0, 0.0)
            v[index] = v[index] - top * spike
            negative = np.where((v[index] <= -1e-3) & (sent[index] > 0.5), 1.0, 0.0)
            v[index] = v[index] + top * negative
            now.append(spike - negative)
            sent[index] = sent[index] + now[-1]
            h = top * now[-1]
        logits.append(h @ layers[-1][0].T + layers[-1][1])
        trains.append(now)
    return np.stack(logits), trains


@pytest.mark.parametrize("levels", [3, 7])
def test_without_settling_it_is_fast_snn(levels):
    network, x = quantised(levels), images()
    tops = [module.top for module in network.modules() if isinstance(module, LSQActivation)]
    logits, trains = fast_snn(matrices(network), x.numpy(), tops, levels)
    trace = follow(QFFS(levels=levels, settle_steps=0).convert(network), x, levels + 3)
    assert np.array_equal(trace.logits[:levels].numpy(), logits)
    for index, train in enumerate(trace.trains.values()):
        assert np.array_equal(train[:levels].numpy(), np.stack([now[index] for now in trains]))
    assert not np.array_equal(trace.logits.sum(0).numpy(), levels * network(x).detach().numpy())


@dataclass(frozen=True)
class Unguarded(QFFS):
    """Signed neurons that never fire negatively, with image and biases at every timestep."""

    floor: float = -math.inf

    def neuron(self, activation):
        return SignedIFNeuron(self.threshold_of(activation), None, floor=self.floor)

    def schedule(self, activations):
        return Schedule()


@pytest.mark.parametrize("tiny", ["plain", "residual"])
@pytest.mark.parametrize(("floor", "same"), [(-math.inf, True), (0.0, False)])
def test_without_negative_spikes_guards_and_window_it_is_qcfs_bit_for_bit(tiny, floor, same):
    network, x = prepared(QFFS(levels=3), tiny_network(tiny), TINY_TOPS), random_images(8)
    expected = simulate(QCFS(levels=3).convert(network), x, 12)
    found = simulate(Unguarded(levels=3, floor=floor).convert(network), x, 12)
    assert all(map(torch.equal, found, expected)) == same


@pytest.mark.parametrize("last", [1, 2, 3, 4, 6])
def test_keep_in_the_drive_window_and_while_settling(last):
    """Images leave after one timestep and after `last`; the drive window is three timesteps long."""
    network = QFFS(levels=3).convert(prepared(QFFS(levels=3), tiny_network("residual"), TINY_TOPS))
    x = random_images(9)
    expected = simulate(network, x, 12)
    masks = {1: torch.arange(9) != 2, last + 1: torch.arange(8) % 3 != 1}
    left = torch.arange(9)
    network.begin(x)
    for step in range(12):
        if step in masks:
            network.keep(masks[step])
            left = left[masks[step]]
        assert torch.allclose(network.step(), expected[0][step][left], rtol=1e-12, atol=1e-12)
        assert torch.equal(network.spikes, expected[1][step][left])
        assert torch.equal(network.synops, expected[2][step][left])
    assert len(left) == 5
    assert bool((expected[1][3:, left] > 0).any())


def test_keep_after_the_end_of_settling():
    network = QFFS(levels=3, settle_steps=1).convert(prepared(QFFS(levels=3), tiny_network("plain"), TINY_TOPS))
    network.begin(random_images(4))
    for _ in range(5):
        network.step()
    network.keep(torch.tensor([True, False, True, True]))
    assert torch.equal(network.step(), torch.zeros(3, 5, dtype=torch.float64))
    assert network.spikes.tolist() == network.synops.tolist() == [0, 0, 0]


def test_the_next_images_are_driven_again():
    network = QFFS(levels=3).convert(prepared(QFFS(levels=3), tiny_network("plain"), TINY_TOPS))
    x = random_images(4)
    first = simulate(network, x, 12)
    simulate(network, random_images(7, seed=3), 5)
    assert all(map(torch.equal, simulate(network, x, 12), first))


def test_the_drive_window_opens_after_a_prelude():
    class Rehearsed(QFFS):
        @property
        def prelude_steps(self):
            return 2

        def prelude(self, network):
            network.presimulate(2)
            for neuron in network.neurons.values():
                neuron.reset()

    network, x = quantised(3), images()
    expected = simulate(QFFS(levels=3).convert(network), x, 12)
    assert all(map(torch.equal, simulate(Rehearsed(levels=3).convert(network), x, 12), expected))


def lsq_gradients(z: np.ndarray, step: float, levels: int, upstream: np.ndarray) -> tuple[np.ndarray, float]:
    """Esser et al.: by element in plain Python; rounding half up."""
    to_z, to_step = np.zeros_like(z), 0.0
    for index, value in np.ndenumerate(z):
        ratio = value / step
        if ratio <= 0:
            slope = 0.0
        elif ratio >= levels:
            slope = float(levels)
        else:
            to_z[index] = upstream[index]
            slope = math.floor(ratio + 0.5) - ratio
        to_step += upstream[index] * slope
    return to_z, to_step / math.sqrt(z[0].size * levels)


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 4, 2), (1, 7)])
@pytest.mark.parametrize(("levels", "step"), [(1, 0.5), (3, 0.5), (7, 0.3)])
def test_gradients_of_the_learned_step(levels, step, shape):
    generator = torch.Generator().manual_seed(0)
    z = multiples(generator, *shape, step=step / 4, size=step * (levels + 2)).requires_grad_(True)
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    activation = LSQActivation(levels, levels * step).double()
    activation.set_top(levels * step)
    (activation(z) * upstream).sum().backward()
    to_z, to_step = lsq_gradients(z.detach().numpy(), float(activation.step.detach()), levels, upstream.numpy())
    assert np.array_equal(z.grad.numpy(), to_z)
    assert activation.step.grad.item() == pytest.approx(to_step, rel=1e-12, abs=1e-14)
    assert 0 < np.count_nonzero(to_z) < to_z.size


@pytest.mark.parametrize(
    ("ratio", "to_z", "to_step"),
    [(-0.25, 0, 0.0), (0.0, 0, 0.0), (0.25, 1, -0.25), (0.5, 1, 0.5), (2.75, 1, 0.25), (3.0, 0, 3.0), (9.0, 0, 3.0)],
)
def test_gradients_of_the_learned_step_by_hand(ratio, to_z, to_step):
    activation = LSQActivation(3, 1.5).double()
    z = torch.full((1, 12), ratio * 0.5, dtype=torch.float64, requires_grad=True)
    activation(z)[0, 0].backward()
    assert z.grad[0, 0].item() == to_z
    assert activation.step.grad.item() == pytest.approx(to_step / 6.0, abs=1e-15)  # sqrt(12 * 3) = 6


def test_the_methods_options_are_checked():
    for options in ({"levels": 0}, {"threshold": 0.0}, {"settle_steps": -2}):
        with pytest.raises(ValueError, match=next(iter(options)).split("_")[0]):
            QFFS(**options)
    with pytest.raises(ConversionError, match="3 levels, the method was asked for 7"):
        QFFS(levels=7).convert(quantised(3))
    assert methods.get("qffs") is QFFS


def test_a_threshold_that_training_drove_below_zero_is_refused():
    network = quantised(3)
    network.get_submodule("relus.1").set_top(-1.0)
    with pytest.raises(ConversionError, match=r"relus\.1.*positive"):
        QFFS(levels=3).convert(network)


def test_an_if_neuron_is_not_enough():
    network, x = quantised(3), images(100)
    logits = simulate(QCFS(levels=3).convert(network), x, 3)[0].sum(0)
    assert not torch.equal(logits, 3 * network(x).detach())
