"""Conversion of plain ReLU networks: every calibrated number against an independent computation in numpy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dyadic import Perceptron, follow, matrices
from torch import nn

import methods
from benchmark.conformance import random_images, simulate, tiny_network
from methods.clipped import ClippedReLU
from methods.errors import ConversionError
from methods.local_balancing import LocalThresholdBalancing
from methods.snn_calibration import SNNCalibration
from methods.threshold_balancing import ThresholdBalancing

ALL = (ThresholdBalancing, LocalThresholdBalancing, SNNCalibration)


def ready(method, ann: nn.Module) -> nn.Module:
    return method.prepare(ann).double().eval()


def thresholds_of(network) -> list[np.ndarray]:
    return [np.atleast_1d(np.asarray(neuron.threshold)) for neuron in network.neurons.values()]


def hooked(ann: nn.Module, x: torch.Tensor, per_channel: bool) -> list[np.ndarray]:
    """Inputs of the ReLU modules, [C, n] or [1, n], in the order of the forward pass."""
    found: list[np.ndarray] = []

    def note(module, inputs):
        z = inputs[0].detach().numpy()
        found.append(np.moveaxis(z, 1, 0).reshape(z.shape[1] if per_channel else 1, -1).copy())

    handles = [module.register_forward_pre_hook(note) for module in ann.modules() if isinstance(module, nn.ReLU)]
    with torch.no_grad():
        ann(x)
    for handle in handles:
        handle.remove()
    return found


def percentile_by_sorting(values: np.ndarray, percentile: float) -> np.ndarray:
    """The smallest value that at least so many percent of all values do not exceed; never below zero."""
    rank = math.ceil(Fraction(str(percentile)) * values.shape[1] / 100)
    return np.maximum(np.partition(values, rank - 1, axis=1)[:, rank - 1], 0)


def filled(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, values.max())


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("percentile", [100.0, 99.0, 90.0, 63.7])
def test_thresholds_are_percentiles(percentile, per_channel):
    ann, x = tiny_network("plain"), random_images(30)
    expected = [filled(percentile_by_sorting(z, percentile)) for z in hooked(ann, x, per_channel)]
    method = ThresholdBalancing(percentile=percentile, per_channel=per_channel)
    found = thresholds_of(method.convert(ready(method, ann), x))
    assert len(found) == 3
    for each, wanted in zip(found, expected, strict=True):
        assert np.allclose(each, wanted, rtol=1e-12, atol=1e-14)  # batch norms have been folded


@pytest.mark.parametrize("count", [500, 1000, 2000])
@pytest.mark.parametrize("percentile", [99.9, 99.0, 50.0])
def test_a_percentile_of_a_round_number_of_values_is_not_rounded_up(percentile, count):
    """Of 1000 different values, 99.9 percent do not exceed the 999th."""
    ann = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(1, 2)).double().eval()
    x = torch.arange(1, count + 1, dtype=torch.float64).reshape(-1, 1)
    method = ThresholdBalancing(percentile=percentile, images=count)
    (found,) = thresholds_of(method.convert(ready(method, ann), x))
    assert found.tolist() == [math.ceil(Fraction(str(percentile)) * count / 100)]


@pytest.mark.parametrize("method", [ThresholdBalancing(), ThresholdBalancing(per_channel=True, percentile=80.0)])
@pytest.mark.parametrize("sizes", [[24], [1] * 24, [7, 1, 16], [23, 1], [5, 5, 5, 5, 4]])
def test_any_split_into_batches_gives_the_same_thresholds(method, sizes):
    ann, x = tiny_network("residual"), random_images(24)
    whole = thresholds_of(method.convert(ready(method, ann), x))
    split = thresholds_of(method.convert(ready(method, ann), list(x.split(sizes))))
    assert all(np.allclose(a, b, rtol=1e-13, atol=0) for a, b in zip(whole, split, strict=True))


@pytest.mark.parametrize("sizes", [[24], [7, 1, 16], [1] * 24])
@pytest.mark.parametrize("per_channel", [False, True])
def test_any_split_gives_the_same_least_squares_thresholds(sizes, per_channel):
    method = SNNCalibration(steps=4, correction="none", per_channel=per_channel)
    ann, x = tiny_network("residual"), random_images(24)
    whole = thresholds_of(method.convert(ready(method, ann), x))
    split = thresholds_of(method.convert(ready(method, ann), [(part, None) for part in x.split(sizes)]))
    assert all(np.allclose(a, b, rtol=1e-13, atol=0) for a, b in zip(whole, split, strict=True))


def test_no_more_images_are_used_than_asked_for():
    ann, x = tiny_network("plain"), random_images(24)
    method = ThresholdBalancing(percentile=100.0, images=10)
    expected = thresholds_of(method.convert(ready(method, ann), x[:10]))
    assert all(map(np.array_equal, thresholds_of(method.convert(ready(method, ann), x)), expected))
    # Smaller batches may be rounded differently, in the last digit.
    for given in (list(x.split(4)), list(x.split(1)), (part for part in x.split(7))):
        found = thresholds_of(method.convert(ready(method, ann), given))
        assert all(np.allclose(a, b, rtol=1e-13, atol=0) for a, b in zip(found, expected, strict=True))
    more = thresholds_of(ThresholdBalancing(percentile=100.0).convert(ready(method, ann), x))
    assert not all(np.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(more, expected, strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_without_calibration_images_it_refuses(kind):
    with pytest.raises(ConversionError, match="needs calibration images"):
        kind().convert(kind().prepare(tiny_network("plain")))
    with pytest.raises(ConversionError, match="calibration holds no images"):
        kind().convert(kind().prepare(tiny_network("plain")), [])


class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 4, 1) for i in (3, 4, 4, 4))
        self.six, self.hard, self.relu = nn.ReLU6(), nn.Hardtanh(0.0, 6.0), nn.ReLU()

    def forward(self, x):
        x = self.hard(self.b(self.six(self.a(x))))
        return F.hardtanh(self.d(F.relu6(self.relu(self.c(x)))), 0.0, 2.5).mean((2, 3))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_clipped_relu_brings_its_threshold(kind, per_channel):
    options = {"iterations": 5} if kind is LocalThresholdBalancing else {}
    method = kind(per_channel=per_channel, **options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ann = Clipped().double().eval()
    network = method.convert(ready(method, ann), random_images(8))
    found = {name: neuron.threshold for name, neuron in network.neurons.items()}
    assert {found["six"], found["hard"]} == {6.0}
    assert sorted(value for name, value in found.items() if name.startswith("activation")) == [2.5, 6.0]
    relu = found["relu"]
    assert (isinstance(relu, torch.Tensor) and relu.shape == (4,)) == per_channel
    assert bool((torch.as_tensor(relu) < 6).all())


def dead(channels: list[int], everywhere: bool = False) -> nn.Module:
    ann = tiny_network("plain")
    with torch.no_grad():
        rows = slice(None) if everywhere else channels
        ann.body[4].weight[rows] = 0
        ann.body[4].bias[rows] = -5
        ann.body[5].running_mean[rows] = 0
        ann.body[5].weight[rows] = 1
        ann.body[5].bias[rows] = 0
    return ann


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_layer_that_never_spoke_is_named(kind, per_channel):
    options = {"iterations": 5} if kind is LocalThresholdBalancing else {}
    method = kind(per_channel=per_channel, **options)
    with pytest.raises(ConversionError, match=r"layer 'body\.6': it was never active"):
        method.convert(ready(method, dead([], everywhere=True)), random_images(5))


@pytest.mark.parametrize("kind", ALL)
def test_a_channel_that_never_spoke_gets_the_layers_largest(kind):
    options = {"iterations": 50} if kind is LocalThresholdBalancing else {}
    method = kind(per_channel=True, **options)
    network = method.convert(ready(method, dead([2, 5])), random_images(9))
    threshold = network.neurons["body.6"].threshold
    alive = [0, 1, 3, 4, 6, 7]
    assert bool((threshold[[2, 5]] == threshold[alive].max()).all())
    assert threshold[alive].unique().numel() >= 5


def balanced(layers, batches: list[np.ndarray], iterations: int, rate: float, per_channel: bool) -> list[np.ndarray]:
    """theta += 2 rate mean((z - theta)+), not beyond the mean of what lies above it; the layers below clip already."""
    thetas = [np.zeros(weight.shape[0] if per_channel else 1) for weight, _ in layers[:-1]]
    for iteration in range(iterations):
        h = batches[iteration % len(batches)]
        for index, (weight, bias) in enumerate(layers[:-1]):
            z = h @ weight.T + bias
            for channel, values in enumerate(z.T if per_channel else [z.ravel()]):
                excess = [value - thetas[index][channel] for value in values if value > thetas[index][channel]]
                if excess:
                    gradient = 2 * rate * sum(excess) / len(values)
                    thetas[index][channel] += min(gradient, sum(excess) / len(excess))
            h = np.minimum(np.maximum(z, 0), thetas[index])
    return [filled(theta) for theta in thetas]


def perceptron_and_images(count: int = 12):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ann = Perceptron(5, 7, 6, 3).double().eval()
        x = torch.randn(count, 5, dtype=torch.float64) * 2
    return ann, x


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("iterations", "rate", "sizes"), [(1, 1.0, [12]), (7, 0.5, [12]), (40, 0.2, [5, 7]), (9, 6.0, [12])]
)
def test_local_balancing_equals_the_reference(iterations, rate, sizes, per_channel):
    ann, x = perceptron_and_images()
    batches = list(x.split(sizes))
    expected = balanced(matrices(ann), [part.numpy() for part in batches], iterations, rate, per_channel)
    method = LocalThresholdBalancing(iterations=iterations, rate=rate, per_channel=per_channel)
    found = thresholds_of(method.convert(ready(method, ann), batches))
    assert all(np.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(found, expected, strict=True))
    largest = [z.max(1) for z in hooked(ann, x, per_channel)]
    assert bool((found[0] <= filled(np.maximum(largest[0], 0)) + 1e-12).all())


def test_local_balancing_ends_at_the_largest_activation():
    """With one image per channel there is nothing to trade: the threshold tends to what the neuron says."""
    ann, x = perceptron_and_images(1)
    method = LocalThresholdBalancing(iterations=200, rate=0.25)
    first = thresholds_of(method.convert(ready(method, ann), x))[0]
    z = torch.relu(ann.linears[0](x))[0].detach().numpy()
    assert np.allclose(first, filled(z), rtol=1e-9)
    assert bool((first <= z.max()).all())


@pytest.mark.parametrize("delay", [1, 5])
def test_delayed_evaluation_is_a_prelude(delay):
    ann, x = tiny_network("residual"), random_images(6)
    plain, late = (LocalThresholdBalancing(iterations=20, delay=n) for n in (0, delay))
    logits, spikes, synops = simulate(plain.convert(ready(plain, ann), x), x, 9 + delay)
    network = late.convert(ready(late, ann), x)
    network.begin(x)
    assert torch.equal(network.spikes, spikes[:delay].sum(0))
    assert torch.equal(network.synops, synops[:delay].sum(0))
    assert (network.prelude_steps, network.streaming_prelude_steps) == (delay, delay)
    assert torch.equal(torch.stack([network.step() for _ in range(9)]), logits[delay:])
    assert plain.prelude_steps == 0


def least_squares(values: np.ndarray, steps: int, initial: float) -> np.ndarray:
    """[C, n] to the best of 95 thresholds by brute force, each error computed for itself."""
    found = []
    for row in np.maximum(values, 0):
        errors = []
        for index in range(95):
            threshold = row.max() * (1 - 0.01 * index)
            counts = np.clip(np.floor(row * steps / threshold + initial), 0, steps) if threshold > 0 else 0 * row
            errors.append((((counts * threshold / steps) - row) ** 2).sum())
        found.append(row.max() * (1 - 0.01 * int(np.argmin(errors))))
    return np.array(found)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("steps", "initial"), [(1, 0.5), (4, 0.5), (32, 0.5), (4, 0.0)])
def test_thresholds_of_least_squared_error(steps, initial, per_channel):
    ann, x = tiny_network("plain"), random_images(20)
    method = SNNCalibration(steps=steps, initial=initial, per_channel=per_channel, correction="none")
    found = thresholds_of(method.convert(ready(method, ann), x))
    expected = [filled(least_squares(z, steps, initial)) for z in hooked(ann, x, per_channel)]
    for each, wanted in zip(found, expected, strict=True):
        assert np.allclose(each, wanted, rtol=1e-12)
    assert steps > 4 or any(
        (each < z.max(1) * 0.99).any() for each, z in zip(found, hooked(ann, x, per_channel), strict=True)
    )


def rates(network, x: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """By layer, threshold times mean spikes: [B, C, ...]."""
    trace = follow(network, x, steps)
    return {name: train.mean(0) * network.neurons[name].level(train[0]) for name, train in trace.trains.items()}


def activations(method, ann: nn.Module, network, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """By layer, what the clipped ReLU network computes with the thresholds that were found."""
    prepared = ready(method, ann)
    found = {}
    for name, module in prepared.named_modules():
        if isinstance(module, ClippedReLU):
            module.threshold = torch.as_tensor(network.neurons[name].threshold, dtype=x.dtype)
            module.register_forward_hook(lambda module, inputs, output, name=name: found.__setitem__(name, output))
    with torch.no_grad():
        prepared(x)
    return found


@pytest.mark.parametrize("correction", ["bias", "potential"])
@pytest.mark.parametrize("tiny", ["plain", "residual"])
@pytest.mark.parametrize("sign", [1, -1])
def test_corrections_reduce_the_mean_error_of_rates(correction, tiny, sign):
    """And enlarge it if they are applied the wrong way."""
    ann, x, steps = tiny_network(tiny), random_images(40), 8
    errors = {}
    for kind in ("none", correction):
        method = SNNCalibration(steps=steps, correction=kind)
        network = method.convert(ready(method, ann), x)
        for buffer in network.buffers() if sign < 0 else ():
            buffer.neg_()
        wanted = activations(method, ann, network, x)
        found = rates(network, x, steps)
        assert found.keys() == wanted.keys()
        # By channel for the bias, by neuron for the potential: that is what each of them can set right.
        errors[kind] = {
            name: (found[name] - wanted[name]).mean(0).flatten(1).mean(1).abs()
            if correction == "bias" and found[name].dim() > 2
            else (found[name] - wanted[name]).mean(0).abs().flatten()
            for name in found
        }
    for name, before in errors["none"].items():
        after = errors[correction][name]
        assert after.mean() < 0.8 * before.mean() if sign > 0 else after.mean() > before.mean(), name


def corrected(layers, x: np.ndarray, thresholds: list[np.ndarray], steps: int, correction: str):
    """Corrections of a perceptron, layer after layer, each on the spikes of corrected layers."""
    h_ann, trains, found = x, [x] * steps, []
    for (weight, bias), threshold in zip(layers[:-1], thresholds, strict=True):
        h_ann = np.clip(h_ann @ weight.T + bias, 0, threshold)
        currents = [frame @ weight.T + bias for frame in trains]

        def fire(shift, start, currents=currents, threshold=threshold):
            v, out = np.zeros_like(currents[0]) + threshold / 2 + start, []
            for current in currents:
                v = v + current - shift
                out.append((v >= threshold) * threshold)
                v = v - out[-1]
            return out

        error = np.mean(fire(0, 0), axis=(0, 1)) - h_ann.mean(0)
        found.append(error if correction == "bias" else -error * steps)
        trains = fire(found[-1], 0) if correction == "bias" else fire(0, found[-1])
    return found


@pytest.mark.parametrize("correction", ["bias", "potential"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_corrections_equal_the_reference(correction, per_channel):
    ann, x = perceptron_and_images(40)
    method = SNNCalibration(steps=6, correction=correction, per_channel=per_channel)
    network = method.convert(ready(method, ann), list(x.split(9)))
    thresholds = thresholds_of(network)
    expected = corrected(matrices(ann), x.numpy(), thresholds, 6, correction)
    for neuron, wanted in zip(network.neurons.values(), expected, strict=True):
        found = neuron.bias[0] if correction == "bias" else neuron.offset
        assert np.allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-12)
        assert np.abs(wanted).max() > 1e-3


@pytest.mark.parametrize(("method", "lasting"), [("bias", True), ("potential", False)])
def test_a_bias_acts_for_ever_and_a_potential_once(method, lasting):
    ann, x = perceptron_and_images(30)
    calibration = SNNCalibration(steps=4, correction=method)
    network = calibration.convert(ready(calibration, ann), x)
    neuron = next(iter(network.neurons.values()))
    trace = follow(network, x, 10)
    name = next(iter(trace.trains))
    threshold = torch.as_tensor(neuron.threshold, dtype=torch.float64)
    charge = trace.currents[name].sum(0) + threshold / 2 - threshold * trace.trains[name].sum(0)
    shift = 10 * neuron.bias[0] if lasting else -neuron.offset
    assert torch.allclose(trace.potentials[name][-1], charge - shift, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["snn-calibration", "ftbc"])
@pytest.mark.parametrize("when", [1, 3, 5])
def test_corrections_survive_keep(name, when):
    options = {"steps": 3, "correction": "potential"} if name == "snn-calibration" else {"steps": 3, "threshold": 0.4}
    method = methods.get(name)(**options)
    x = random_images(8)
    network = method.convert(ready(method, tiny_network("residual")), x)
    mask = torch.tensor([True, False, True, True, False, False, True, True])
    logits, spikes, _ = simulate(network, x, 8)
    network.begin(x)
    for _ in range(when):
        network.step()
    network.keep(mask)
    for step in range(when, 8):
        assert torch.allclose(network.step(), logits[step][mask], rtol=1e-12, atol=1e-12)
        assert torch.equal(network.spikes, spikes[step][mask])
    corrected_layers = [
        neuron for neuron in network.neurons.values() if neuron.bias is not None or neuron.offset is not None
    ]
    assert len(corrected_layers) == 3


@pytest.mark.parametrize("kind", ALL)
def test_the_prepared_network_is_the_source_and_takes_its_weights(kind):
    ann, x = tiny_network("residual"), random_images(4)
    prepared = kind().prepare(ann)
    assert torch.allclose(prepared(x), ann(x), rtol=1e-12, atol=1e-12)
    prepared.load_state_dict(ann.state_dict())


@pytest.mark.parametrize("kind", [ThresholdBalancing, SNNCalibration])
def test_a_long_simulation_approaches_the_source_network(kind):
    ann, x = tiny_network("plain"), random_images(6)
    method = kind(per_channel=True, **({"percentile": 100.0} if kind is ThresholdBalancing else {"correction": "none"}))
    if kind is SNNCalibration:
        method = SNNCalibration(per_channel=True, correction="none", steps=512)
    logits = simulate(method.convert(ready(method, ann), x), x, 1500)[0].mean(0)
    assert (logits - ann(x)).abs().max() < 0.01 * ann(x).abs().max()


def test_the_options_are_checked():
    for kind, options, message in (
        (ThresholdBalancing, {"percentile": 0.0}, "percentile"),
        (ThresholdBalancing, {"percentile": 100.5}, "percentile"),
        (ThresholdBalancing, {"images": 0}, "images"),
        (LocalThresholdBalancing, {"iterations": 0}, "iterations"),
        (LocalThresholdBalancing, {"rate": 0.0}, "rate"),
        (LocalThresholdBalancing, {"delay": -1}, "delay"),
        (SNNCalibration, {"steps": 0}, "steps"),
        (SNNCalibration, {"correction": "both"}, "correction"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(**options)
