"""The two relatives of QFFS: the whole input at once, and no drive window at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dyadic import (
    TINY_TOPS,
    Perceptron,
    ann_reference,
    codes,
    follow,
    matrices,
    multiples,
    perceptron,
    prepared,
)
from torch import nn

from benchmark.conformance import random_images, simulate, tiny_network
from methods import network as network_module
from methods.neurons import SignedIFNeuron
from methods.qcfs import QCFS
from methods.qffs import QFFS
from methods.quantisers import LSQActivation, QCFSActivation
from methods.snm import SNM
from methods.st_bif import STBIF

WIDTHS = (10, 24, 24, 24, 5)
HIDDEN = len(WIDTHS) - 2


def images(count: int = 60, seed: int = 3) -> torch.Tensor:
    return multiples(torch.Generator().manual_seed(seed), count, WIDTHS[0], step=1 / 8, size=2.0)


def signed_reference(layers, x: np.ndarray, steps: int, *, threshold, initial, floor, upper, drive, inclusive=False):
    """Spikes of every layer and logits by timestep, of neurons that retract below (or at) `floor`."""
    hidden = layers[:-1]
    v = [np.full((len(x), weight.shape[0]), initial * threshold) for weight, _ in hidden]
    c = [np.zeros_like(each) for each in v]
    logits, trains = [], [[] for _ in hidden]
    for step in range(steps):
        driven = 1.0 if drive is None or step < drive else 0.0
        h = x * driven
        for index, (weight, bias) in enumerate(hidden):
            m = v[index] + h @ weight.T + bias * driven
            below = m <= floor * threshold if inclusive else m < floor * threshold
            spike = ((m >= threshold) & (c[index] < upper)) * 1.0 - (below & (c[index] > 0)) * 1.0
            v[index], c[index] = m - threshold * spike, c[index] + spike
            trains[index].append(spike)
            h = threshold * spike
        logits.append(h @ layers[-1][0].T + layers[-1][1] * driven)
    return np.stack(logits), [np.stack(train) for train in trains]


@pytest.mark.parametrize("levels", [1, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_st_bif_settles_exactly_on_the_quantised_network(levels, seed):
    network = prepared(STBIF(levels=levels), perceptron(*WIDTHS, seed=seed), levels / 4)
    x = images()
    expected_codes, expected_logits = ann_reference(matrices(network), x.numpy(), levels / 4, levels)
    converted = STBIF(levels=levels).convert(network)
    steps = levels * (HIDDEN + 1)
    trace = follow(converted, x, steps + 10)
    assert np.array_equal(trace.logits.sum(0).numpy(), expected_logits)
    for train, expected in zip(trace.trains.values(), expected_codes, strict=True):
        counts = train.cumsum(0)
        assert np.array_equal(counts[-1].numpy(), expected)
        assert bool(((counts >= 0) & (counts <= levels)).all())
        assert bool((train.abs() <= 1).all())
    assert trace.spikes[steps:].sum() == 0
    assert bool((trace.logits[steps:] == 0).all())
    first, *deeper = trace.trains.values()
    assert bool((first >= 0).all())
    assert levels == 1 or any(bool((train < 0).any()) for train in deeper)


def test_st_bif_equals_the_reference_step_by_step():
    network, x = prepared(STBIF(levels=3), perceptron(*WIDTHS), 0.75), images()
    logits, trains = signed_reference(
        matrices(network), x.numpy(), 9, threshold=0.25, initial=0.5, floor=0.0, upper=3, drive=1
    )
    trace = follow(STBIF(levels=3).convert(network), x, 9)
    assert np.array_equal(trace.logits.numpy(), logits)
    for train, expected in zip(trace.trains.values(), trains, strict=True):
        assert np.array_equal(train.numpy(), expected)


@pytest.mark.parametrize("tiny", ["plain", "residual"])
def test_st_bif_on_random_convolutions(tiny):
    network, x = prepared(STBIF(levels=3), tiny_network(tiny), TINY_TOPS), random_images(10)
    converted = STBIF(levels=3).convert(network)
    trace = follow(converted, x, 3 * (converted.depth + 1))
    assert torch.allclose(trace.logits.sum(0), network(x).detach(), rtol=1e-12, atol=1e-12)
    expected = codes(network, x)
    assert all(torch.equal(counts, expected[name]) for name, counts in trace.counts().items())


@pytest.mark.parametrize("broken", ["", "biases", "upper guard", "negative spikes", "threshold of QFFS"])
def test_what_st_bif_depends_on(broken, monkeypatch):
    if broken == "biases":
        monkeypatch.setattr(network_module, "without_shifts", lambda graph: graph)

    class Broken(STBIF):
        def neuron(self, activation):
            step = self.threshold_of(activation) / self.levels
            return {
                "upper guard": SignedIFNeuron(step, None),
                "negative spikes": SignedIFNeuron(step, self.levels, floor=-float("inf")),
                "threshold of QFFS": SignedIFNeuron(step * self.levels, self.levels),
            }.get(broken) or super().neuron(activation)

    network, x = prepared(STBIF(levels=3), perceptron(*WIDTHS), 0.75), images()
    logits = simulate(Broken(levels=3).convert(network), x, 30)[0].sum(0)
    assert torch.equal(logits, network(x).detach()) == (broken == "")


def test_one_quantised_network_under_three_neurons():
    """The same weights, one settled answer: what a summed spike is worth differs, the codes do not."""
    network, x = prepared(STBIF(levels=3), perceptron(*WIDTHS), 0.75), images()
    settled = [follow(method(levels=3).convert(network), x, 20) for method in (STBIF, QFFS)]
    assert torch.equal(3 * settled[0].logits.sum(0), settled[1].logits.sum(0))
    for name, counts in settled[0].counts().items():
        assert torch.equal(counts, settled[1].counts()[name])
    assert not torch.equal(settled[0].spikes, settled[1].spikes)


@pytest.mark.parametrize("when", [1, 3])
def test_st_bif_keeps_images_while_it_settles(when):
    network = STBIF(levels=3).convert(prepared(STBIF(levels=3), tiny_network("residual"), TINY_TOPS))
    x, mask = random_images(6), torch.tensor([False, True, True, False, True, False])
    logits, spikes, _ = simulate(network, x, 9)
    network.begin(x)
    for _ in range(when):
        network.step()
    network.keep(mask)
    for step in range(when, 9):
        assert torch.allclose(network.step(), logits[step][mask], rtol=1e-12, atol=1e-12)
        assert torch.equal(network.spikes, spikes[step][mask])


@pytest.mark.parametrize(("initial", "floor"), [(0.0, -0.99), (0.5, -0.99), (0.5, 0.0), (0.0, -1.01)])
def test_snm_equals_the_reference(initial, floor):
    network, x = prepared(SNM(), perceptron(*WIDTHS), 1.0), images()
    logits, trains = signed_reference(
        matrices(network),
        x.numpy(),
        12,
        threshold=1.0,
        initial=initial,
        floor=floor,
        upper=np.inf,
        drive=None,
        inclusive=True,
    )
    trace = follow(SNM(initial=initial, floor=floor).convert(network), x, 12)
    assert np.array_equal(trace.logits.numpy(), logits)
    for train, expected in zip(trace.trains.values(), trains, strict=True):
        assert np.array_equal(train.numpy(), expected)
    assert any((train < 0).any() for train in trains)
    assert max(train.sum(0).max() for train in trains) > 4  # beyond the quantiser's levels


def test_snm_retracts_at_minus_its_threshold_too():
    """As published: a negative spike where the potential is at most minus the threshold."""
    network, x = prepared(SNM(), perceptron(*WIDTHS), 1.0), images()
    logits, trains = signed_reference(
        matrices(network),
        x.numpy(),
        12,
        threshold=1.0,
        initial=0.0,
        floor=-1.0,
        upper=np.inf,
        drive=None,
        inclusive=True,
    )
    trace = follow(SNM().convert(network), x, 12)
    assert np.array_equal(trace.logits.numpy(), logits)
    for train, expected in zip(trace.trains.values(), trains, strict=True):
        assert np.array_equal(train.numpy(), expected)


def test_snm_approaches_the_clipped_network_and_not_the_quantised_one():
    """Without a guard nothing clips but one spike a timestep, so the rates end at those of the clipped ReLU network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ann = Perceptron(10, 24, 24, 5).double()
    network, x = prepared(SNM(), ann, 2.0), images()
    assert any(isinstance(module, QCFSActivation) for module in network.modules())
    steps = 4000
    logits = simulate(SNM().convert(network), x, steps)[0].sum(0) / steps
    h = x
    for linear in list(ann.linears)[:-1]:
        h = linear(h).clamp(0, 2.0)
    clipped = ann.linears[-1](h).detach()
    assert (logits - clipped).abs().max() < 5e-3
    assert (network(x).detach() - clipped).abs().max() > 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_snm_counts_never_fall_below_zero(seed):
    network, x = prepared(SNM(floor=0.0), perceptron(*WIDTHS, seed=seed), 1.0), images()
    trace = follow(SNM(floor=0.0).convert(network), x, 30)
    for train in trace.trains.values():
        assert bool((train.cumsum(0) >= 0).all())
    assert not torch.equal(trace.logits, simulate(QCFS().convert(network), x, 30)[0])


def test_both_train_what_they_convert():
    ann: nn.Module = perceptron(*WIDTHS)
    assert {type(each) for each in STBIF().prepare(ann).modules()} & {LSQActivation, QCFSActivation} == {LSQActivation}
    assert {type(each) for each in SNM().prepare(ann).modules()} & {LSQActivation, QCFSActivation} == {QCFSActivation}
    with pytest.raises(ValueError, match="floor must not be positive"):
        SNM(floor=0.5)
