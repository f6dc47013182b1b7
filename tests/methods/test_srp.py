"""SRP: two passes, the mask between them, and what may not leak from one to the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dyadic import TINY_TOPS, follow, matrices, multiples, on_the_grid, perceptron, prepared
from torch import nn

from benchmark.conformance import random_images, simulate, tiny_network
from dynconf.judging import outcome
from dynconf.online import DynamicInference
from dynconf.policies import FixedTime
from dynconf.recorder import record
from methods.network import SpikingNetwork
from methods.pooling import CurrentMaxPool, SpikeMaxPool
from methods.qcfs import QCFS
from methods.srp import SRP, MaskedIFNeuron

WIDTHS = (10, 24, 24, 24, 5)
TOP = 2.0


def images(count: int = 120, seed: int = 3) -> torch.Tensor:
    return multiples(torch.Generator().manual_seed(seed), count, WIDTHS[0], step=1 / 8, size=2.0)


def quantised(seed: int = 0) -> nn.Module:
    return prepared(QCFS(), perceptron(*WIDTHS, seed=seed), TOP)


def reference(layers, x: np.ndarray, tau: int, steps: int, edge: str):
    """Both passes in numpy: pass-1 counts, inputs and residuals by layer, masks, and the logits of pass 2."""
    hidden = layers[:-1]

    def one_pass(steps, masks):
        v = [np.full((len(x), weight.shape[0]), TOP / 2) for weight, _ in hidden]
        counts, charge = [np.zeros_like(each) for each in v], [np.zeros_like(each) for each in v]
        logits = []
        for _ in range(steps):
            h = x
            for index, (weight, bias) in enumerate(hidden):
                current = h @ weight.T + bias
                charge[index] = charge[index] + current
                v[index] = v[index] + current
                spike = (v[index] >= TOP) * 1.0
                v[index] = v[index] - TOP * spike
                counts[index] = counts[index] + spike
                h = TOP * spike * masks[index]
            logits.append(h @ layers[-1][0].T + layers[-1][1])
        return v, counts, charge, np.stack(logits)

    residual, counts, charge, _ = one_pass(tau, [1.0] * len(hidden))
    masks = [(each >= 0) * 1.0 if edge == "derived" else (each / TOP > 1e-3) * 1.0 for each in residual]
    return residual, counts, charge, masks, one_pass(steps, masks)[3]


def masks_of(network: SpikingNetwork) -> list[torch.Tensor]:
    return [neuron.mask.clone() for neuron in network.neurons.values() if isinstance(neuron, MaskedIFNeuron)]


@pytest.mark.parametrize("edge", ["derived", "released"])
@pytest.mark.parametrize("tau", [1, 4, 7])
def test_equals_the_reference_exactly(tau, edge):
    network, x = quantised(), images()
    _, _, _, masks, logits = reference(matrices(network), x.numpy(), tau, 9, edge)
    converted = SRP(prelude_length=tau, edge=edge).convert(network)
    found = simulate(converted, x, 9)[0]
    assert np.array_equal(found.numpy(), logits)
    for found_mask, expected in zip(masks_of(converted), masks, strict=True):
        assert np.array_equal(found_mask.numpy(), expected)
        assert 0 < expected.mean() < 1
    assert not torch.equal(found, simulate(QCFS().convert(network), x, 9)[0])


def test_the_edges_differ_at_a_residual_of_zero_alone():
    network, x = quantised(), images()
    residual, *_, derived, _ = reference(matrices(network), x.numpy(), 4, 1, "derived")
    *_, released, _ = reference(matrices(network), x.numpy(), 4, 1, "released")
    for v, kept, narrower in zip(residual, derived, released, strict=True):
        assert np.array_equal(kept != narrower, v == 0)
        assert (v == 0).any()


@pytest.fixture
def open_masks(monkeypatch):
    def pass_everything(self, edge):
        self.mask = torch.ones_like(self.membrane)
        self.membrane = None

    monkeypatch.setattr(MaskedIFNeuron, "mask_by_residual", pass_everything)


class Pooled(nn.Module):
    """Every way a max-pool can stand: behind the stem, behind neurons with two readers, and on changing currents."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((2, 4), (4, 4), (4, 4), (8, 6)))
        self.head = nn.Linear(6, 3)
        self.pools = nn.ModuleList(nn.MaxPool2d(3, 2, 1) for _ in range(3))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x):
        x = self.relus[0](self.pools[0](self.stem(x)))
        y = self.relus[1](self.a(x))
        z = self.relus[2](self.b(x))
        joined = self.pools[1](torch.cat([y, z], 1))
        return self.head(self.relus[3](self.pools[2](self.c(joined))).mean((2, 3)))


def pooled() -> tuple[nn.Module, torch.Tensor]:
    network = prepared(QCFS(), on_the_grid(Pooled(), 1, step=1 / 8, size=0.5), 1.0)
    return network, multiples(torch.Generator().manual_seed(2), 6, 2, 12, 12, step=1 / 8, size=1.0)


@pytest.mark.parametrize("tiny", ["plain", "residual", "pooled"])
@pytest.mark.parametrize("tau", [1, 4])
def test_with_all_masks_open_the_second_pass_is_qcfs_bit_for_bit(tiny, tau, open_masks):
    network, x = pooled() if tiny == "pooled" else (prepared(QCFS(), tiny_network(tiny), TINY_TOPS), random_images(8))
    found = simulate(SRP(prelude_length=tau).convert(network), x, 9)
    assert all(map(torch.equal, found, simulate(QCFS().convert(network), x, 9)))


@pytest.mark.parametrize("tiny", ["plain", "residual", "pooled"])
def test_with_real_masks_it_is_not(tiny):
    network, x = pooled() if tiny == "pooled" else (prepared(QCFS(), tiny_network(tiny), TINY_TOPS), random_images(8))
    logits, spikes, _ = simulate(SRP().convert(network), x, 9)
    expected, expected_spikes, _ = simulate(QCFS().convert(network), x, 9)
    assert not torch.equal(logits, expected)
    assert spikes.sum() < expected_spikes.sum()


@pytest.mark.parametrize("forgotten", [SpikeMaxPool, CurrentMaxPool])
def test_pools_must_forget_the_first_pass(forgotten, open_masks, monkeypatch):
    network, x = pooled()
    converted = SRP().convert(network)
    assert any(isinstance(module, forgotten) for module in converted.graph.modules())
    restarted = [module for module in converted.graph.modules() if isinstance(module, (SpikeMaxPool, CurrentMaxPool))]
    monkeypatch.setattr(
        converted,
        "restart_pools",
        lambda: [pool.reset() for pool in restarted if not isinstance(pool, forgotten)],
    )
    assert not torch.equal(simulate(converted, x, 9)[0], simulate(QCFS().convert(network), x, 9)[0])


@pytest.mark.parametrize("tiny", ["plain", "residual", "pooled"])
@pytest.mark.parametrize("tau", [1, 4, 6])
def test_the_first_pass_is_qcfs_and_is_counted(tiny, tau):
    network, x = pooled() if tiny == "pooled" else (prepared(QCFS(), tiny_network(tiny), TINY_TOPS), random_images(8))
    plain = follow(QCFS().convert(network), x, tau)
    converted = SRP(prelude_length=tau).convert(network)
    first = follow(converted, x, 0, prelude=True)
    converted.begin(x)
    assert torch.equal(converted.spikes, plain.spikes.sum(0))
    assert torch.equal(converted.synops, plain.synops.sum(0))
    for name, train in plain.trains.items():
        assert torch.equal(first.trains[name], train)
        assert torch.equal(first.currents[name], plain.currents[name])


@pytest.mark.parametrize("edge", ["derived", "released"])
@pytest.mark.parametrize("wrong", [False, True])
def test_who_fired_without_any_reason_is_silenced(edge, wrong, monkeypatch):
    if wrong:
        usual = MaskedIFNeuron.mask_by_residual

        def other_side(self, edge):
            usual(self, edge)
            self.mask = 1 - self.mask

        monkeypatch.setattr(MaskedIFNeuron, "mask_by_residual", other_side)
    network, x, tau = quantised(), images(300), 4
    converted = SRP(prelude_length=tau, edge=edge).convert(network)
    first = follow(converted, x, 0, prelude=True)
    cases, missed = 0, 0
    for (name, currents), mask in zip(first.currents.items(), masks_of(converted), strict=True):
        desired = torch.floor((TOP / 2 + currents.sum(0)) / TOP).clamp(0, tau)
        fired = first.trains[name].sum(0)
        without_reason = (desired == 0) & (fired > 0)
        cases += int(without_reason.sum())
        missed += int(mask[without_reason].sum())
        if edge == "derived" and not wrong:
            # What keeps its right to spike never fired too often.
            assert bool((fired <= desired)[mask == 1].all())
    assert cases > 50
    assert (missed == 0) != wrong


@pytest.mark.parametrize("edge", ["derived", "released"])
@pytest.mark.parametrize("tau", [2, 4])
def test_masking_the_first_layer_is_harmless_at_the_derived_edge(edge, tau):
    """Its input is constant, so its counts were right already; the released edge kills those with nothing left over."""
    network, x = quantised(), images(300)
    plain = follow(QCFS().convert(network), x, tau)
    masked = follow(SRP(prelude_length=tau, edge=edge).convert(network), x, tau)
    name = next(iter(plain.trains))
    changed = masked.trains[name].sum(0) != plain.trains[name].sum(0)
    assert bool(changed.any()) == (edge == "released")
    assert bool((plain.potentials[name][-1][changed] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("residual", "derived", "released"),
    [(-0.5, 0, 0), (-1e-5, 0, 0), (-1e-11, 1, 0), (0.0, 1, 0), (5e-4, 1, 0), (2e-3, 1, 1), (0.5, 1, 1), (3.0, 1, 1)],
)
@pytest.mark.parametrize("threshold", [1.0, 4.0])
def test_the_mask_by_hand(residual, derived, released, dtype, threshold):
    for edge, expected in (("derived", derived), ("released", released)):
        neuron = MaskedIFNeuron(threshold)
        neuron.membrane = torch.full((1, 1), residual * threshold, dtype=dtype)
        neuron.mask_by_residual(edge)
        assert neuron.mask.item() == expected
        assert neuron.membrane is None
        assert neuron(torch.full((1, 1), threshold, dtype=dtype)).item() == expected
        assert neuron.membrane.item() == threshold / 2  # it integrates and resets all the same


def test_a_neuron_with_nothing_left_over_by_hand():
    """Half a threshold, twice: exactly one spike, residual 1/2; then a current that ends at exactly zero."""
    for edge, expected in (("derived", [1, 0]), ("released", [0, 0])):
        neuron = MaskedIFNeuron(1.0)
        counts = sum(neuron(torch.full((1, 1), 0.25, dtype=torch.float64)) for _ in range(2))
        assert (counts.item(), neuron.membrane.item()) == (1, 0.0)
        neuron.mask_by_residual(edge)
        spikes = [neuron(torch.tensor([[current]], dtype=torch.float64)).item() for current in (0.5, 0.25)]
        assert spikes == expected


@pytest.mark.parametrize("tiny", ["plain", "pooled"])
def test_nothing_is_left_from_one_batch_to_the_next(tiny):
    network, x = pooled() if tiny == "pooled" else (prepared(QCFS(), tiny_network(tiny), TINY_TOPS), random_images(6))
    converted = SRP().convert(network)
    first = simulate(converted, x, 7)
    assert all(map(torch.equal, simulate(converted, x, 7), first))
    converted.begin(-x[:3])
    converted.step()  # left early
    assert all(map(torch.equal, simulate(converted, x, 7), first))


def test_a_masked_neuron_never_speaks_again():
    network, x = quantised(), images(60)
    converted = SRP().convert(network)
    trace = follow(converted, x, 200)
    spoken = 0
    for train, mask in zip(trace.trains.values(), masks_of(converted), strict=True):
        assert train[:, mask == 0].sum() == 0
        spoken += int(train[:, mask == 1].sum())
    assert spoken > 0
    silenced = [mask == 0 for mask in masks_of(converted)]
    plain = follow(QCFS().convert(network), x, 200)
    for train, silent in list(zip(plain.trains.values(), silenced, strict=True))[1:]:
        assert train[:, silent].sum() > 0  # it would have


def test_the_first_pass_is_part_of_latency_and_spikes():
    network, x = SRP(prelude_length=5).convert(quantised()), images(8)
    assert (network.prelude_steps, network.streaming_prelude_steps) == (5, 5)
    _, spikes, synops = simulate(network, x, 3)
    network.begin(x)
    total_spikes, total_synops = network.spikes + spikes.sum(0), network.synops + synops.sum(0)
    answers = DynamicInference(network, FixedTime(timesteps=3), 6)(x)
    assert answers.latency.tolist() == [8] * 8
    assert torch.equal(answers.spikes, total_spikes)
    assert torch.equal(answers.synops, total_synops)
    recording = record(network, [(x, torch.zeros(8, dtype=torch.long))], timesteps=6, split="test")
    replayed = outcome(recording, torch.full((8,), 3))
    assert replayed.latency.tolist() == [8] * 8
    assert torch.equal(replayed.spikes, total_spikes)
    assert torch.equal(replayed.synops, total_synops)


@pytest.mark.parametrize("tiny", ["residual", "pooled"])
@pytest.mark.parametrize("when", [0, 1, 3])
def test_keep_after_the_first_pass(tiny, when):
    network, x = pooled() if tiny == "pooled" else (prepared(QCFS(), tiny_network(tiny), TINY_TOPS), random_images(6))
    converted = SRP().convert(network)
    expected = simulate(converted, x, 7)
    mask = torch.tensor([True, False, False, True, True, False])
    converted.begin(x)
    before = converted.spikes.clone()
    for _ in range(when):
        converted.step()
    converted.keep(mask)
    if when == 0:
        assert torch.equal(converted.spikes, before[mask])
    for step in range(when, 7):
        assert torch.allclose(converted.step(), expected[0][step][mask], rtol=1e-12, atol=1e-12)
        assert torch.equal(converted.spikes, expected[1][step][mask])
        assert torch.equal(converted.synops, expected[2][step][mask])


def test_the_options_are_checked():
    with pytest.raises(ValueError, match="prelude_length must be at least 1"):
        SRP(prelude_length=0)
    with pytest.raises(ValueError, match="edge must be one of derived, released"):
        SRP(edge="left")
