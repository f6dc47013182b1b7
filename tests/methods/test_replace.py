"""Fresh images in the places of others: every image goes on as it would alone, whatever the age of its company."""

from __future__ import annotations

import pytest
import torch
from dyadic import perceptron, prepared
from pairs import pairs_in_turn

import methods
from benchmark import registry
from benchmark.conformance import TINY, calibration_images, quantised_network, random_images, simulate
from benchmark.training.thresholds import initialise_thresholds
from methods.biased import BiasedIFNeuron
from methods.cos import COS
from methods.ftbc import FTBC
from methods.local_balancing import LocalThresholdBalancing
from methods.neurons import IFNeuron
from methods.qcfs import QCFS
from methods.qffs import QFFS
from methods.srp import SRP
from methods.st_bif import STBIF

STEPS = 7
OTHERS = [QFFS(settle_steps=2), QFFS(levels=2, settle_steps=0), FTBC(steps=3), LocalThresholdBalancing(delay=2)]
METHODS = [registry.load("methods", name)() for name in sorted(methods.METHODS)] + OTHERS
every_method = pytest.mark.parametrize("method", METHODS, ids=str)


def converted(method, tiny="plain"):
    return method.convert(quantised_network(method, tiny), calibration_images(method))


def steps_by_image(network, images, batch_size, leave, seed=0):
    """Run all images in a batch whose places are refilled; yields (image, its timestep from 0, logits, spikes, SynOps)."""
    generator = torch.Generator().manual_seed(seed)
    network.begin(images[:batch_size])
    there, ages, fresh = list(range(batch_size)), [0] * batch_size, batch_size
    for image in there:
        yield image, -1, None, network.spikes[image], network.synops[image]
    while there:
        logits, spikes, synops = network.step(), network.spikes, network.synops
        done = []
        for row, image in enumerate(there):
            yield image, ages[row], logits[row], spikes[row], synops[row]
            ages[row] += 1
            if ages[row] == STEPS or float(torch.rand((), generator=generator)) < leave:
                done.append(row)
        places = torch.tensor(done, dtype=torch.long)[torch.randperm(len(done), generator=generator)]
        places, gone = places[: len(images) - fresh], places[len(images) - fresh :]
        network.replace(places, images[fresh : fresh + len(places)])
        for row in places.tolist():
            there[row], ages[row], fresh = fresh, 0, fresh + 1
            yield there[row], -1, None, network.spikes[row], network.synops[row]
        stays = torch.ones(len(there), dtype=torch.bool)
        stays[gone] = False
        network.keep(stays)
        there = [image for image, stay in zip(there, stays, strict=True) if stay]
        ages = [age for age, stay in zip(ages, stays, strict=True) if stay]


@pytest.mark.parametrize(("method", "tiny"), pairs_in_turn(METHODS, list(TINY)))
def test_images_of_different_age_share_a_batch(method, tiny):
    network = converted(method, tiny)
    images = random_images(24)
    logits, spikes, synops = simulate(network, images, STEPS)
    network.begin(images)
    prelude = network.spikes, network.synops
    seen = 0
    for image, step, own, fired, operations in steps_by_image(network, images, 5, leave=0.2):
        if step < 0:
            assert (int(fired), int(operations)) == (int(prelude[0][image]), int(prelude[1][image]))
            continue
        seen += 1
        assert torch.allclose(own, logits[step, image], rtol=1e-12, atol=1e-12)
        assert (int(fired), int(operations)) == (int(spikes[step, image]), int(synops[step, image]))
    assert seen > 24 * 2


@pytest.mark.parametrize(
    "method", [QCFS(levels=4), QFFS(levels=4), QFFS(levels=4, settle_steps=2), STBIF(levels=4)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_rounds_they_are_the_same_to_the_last_bit(method, dtype):
    network = method.convert(prepared(method, perceptron(8, 16, 16, 5)).to(dtype))
    images = (torch.randint(-16, 17, (30, 8), generator=torch.Generator().manual_seed(1)) / 16).to(dtype)
    logits, spikes, _ = simulate(network, images, STEPS)
    assert spikes.sum() > 0
    for batch_size in (1, 2, 9):
        for image, step, own, fired, _ in steps_by_image(network, images, batch_size, leave=0.3, seed=batch_size):
            assert step < 0 or (torch.equal(own, logits[step, image]) and int(fired) == int(spikes[step, image]))


@every_method
def test_before_the_first_timestep(method):
    network = converted(method)
    images = random_images(6)
    expected = simulate(network, images[[0, 4, 2, 5]], 4)
    network.begin(images[:4])
    network.replace(torch.tensor([3, 1]), images[[5, 4]])
    found = [(network.step(), network.spikes, network.synops) for _ in range(4)]
    for step, (logits, spikes, synops) in enumerate(found):
        assert torch.allclose(logits, expected[0][step], rtol=1e-12, atol=1e-12)
        assert torch.equal(spikes, expected[1][step]) and torch.equal(synops, expected[2][step])


@pytest.mark.parametrize("method", [QCFS(), SRP(), COS(), STBIF()], ids=str)
def test_spikes_of_the_prelude_stand_at_the_places_and_the_others_stay(method):
    network = converted(method, "pooled")
    images = random_images(7)
    network.begin(images[5:])
    prelude = network.site_spikes, network.spikes, network.synops
    network.begin(images[:5])
    network.step()
    before = network.site_spikes, network.spikes, network.synops
    network.replace(torch.tensor([4, 0]), images[5:])
    for now, old, fresh in zip((network.site_spikes, network.spikes, network.synops), before, prelude, strict=True):
        assert torch.equal(now[[4, 0]], fresh) and torch.equal(now[1:4], old[1:4])


@pytest.mark.parametrize("method", [QCFS(), SRP(prelude_length=2)], ids=str)
def test_only_the_fresh_images_are_computed(method):
    network = converted(method, "residual")
    network.begin(random_images(6))
    network.step()
    calls = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: calls.append((module.in_channels, len(output))))
    network.replace(torch.tensor([1, 2]), random_images(2, seed=3))
    assert calls.count((3, 2)) == 1 and {rows for _, rows in calls} == {2}
    assert len(calls) == 1 + 3 * network.prelude_steps


def test_the_images_of_the_caller_are_left_alone():
    class Bare(torch.nn.Module):
        """Its first spiking layer takes the image itself."""

        def __init__(self):
            super().__init__()
            self.relu, self.last = torch.nn.ReLU(), torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.relu(x) + x)

    network = QCFS().convert(prepared(QCFS(), Bare()))
    images, fresh = torch.rand(5, 4), torch.rand(2, 4)
    before = images.clone(), fresh.clone()
    network.begin(images)
    network.step()
    network.replace(torch.tensor([0, 3]), fresh)
    network.step()
    assert torch.equal(images, before[0]) and torch.equal(fresh, before[1])


def test_lone_images_in_float32_round_like_in_company():
    """A lone fresh image is computed in duplicate, and so is the last one of a batch, whichever it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantised = QCFS(threshold=1.0).prepare(registry.load("models", "resnet20")(3, 10)).eval()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    initialise_thresholds(quantised, images)
    network = QCFS().convert(quantised)
    neurons = [module for module in network.modules() if isinstance(module, IFNeuron)]
    _, spikes, _ = simulate(network, images, 4)
    membranes = [neuron.membrane.clone() for neuron in neurons]

    def last_timestep_equals(row, image):
        return int(network.spikes[row]) == int(spikes[3, image]) and all(
            torch.equal(neuron.membrane[row], membrane[image])
            for neuron, membrane in zip(neurons, membranes, strict=True)
        )

    network.begin(images[:4])
    network.step()
    network.replace(torch.tensor([2]), images[4:5])
    for _ in range(4):
        assert network.step().shape == (4, 10)
    assert last_timestep_equals(2, 4)
    network.keep(torch.tensor([False, True, False, False]))
    network.replace(torch.tensor([0]), images[5:])
    for _ in range(4):
        assert network.step().shape == (1, 10)
    assert last_timestep_equals(0, 5)


@pytest.mark.parametrize(("packed", "computed"), [(True, 1), (False, 2)])
def test_phases_of_one_image_in_float32_round_like_in_company(packed, computed, monkeypatch):
    monkeypatch.setattr(torch._C, "_get_mkldnn_enabled", lambda: packed)
    method = QFFS(levels=4)
    network = method.convert(prepared(method, torch.nn.Sequential(*conv_layers()), top=0.5))
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    logits, spikes, _ = simulate(network, images, 6)
    network.begin(images[:5])
    for _ in range(5):
        network.step()
    rows = []
    neuron = next(iter(network.neurons.values()))
    charge = neuron.charge
    monkeypatch.setattr(neuron, "charge", lambda current: rows.append(len(current)) or charge(current))
    network.replace(torch.tensor([1]), images[5:])
    for step in range(4):
        found = network.step()
        assert torch.equal(found[1], logits[step, 5])
        assert int(network.spikes[1]) == int(spikes[step, 5])
    # Of each timestep the fresh image first, in its own phase, then the four that settle.
    assert rows == [computed, 4] * 4


def conv_layers():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return [
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(128, 5),
        ]


def test_what_does_not_fit_is_refused_and_changes_nothing():
    network = converted(QCFS())
    with pytest.raises(RuntimeError, match="begin"):
        network.replace(torch.tensor([0]), random_images(1))
    images = random_images(4)
    expected = simulate(network, images, 2)[0]
    network.begin(images)
    assert torch.equal(network.step(), expected[0])
    for places, fresh, message in (
        ([0, 1], random_images(1), "1 images for 2 places"),
        ([0], random_images(1)[..., :6], r"alike.*\[3, 8, 6\]"),
        ([0], random_images(1).float(), "alike.*float32"),
    ):
        with pytest.raises(ValueError, match=message):
            network.replace(torch.tensor(places), fresh)
    network.replace(torch.tensor([], dtype=torch.long), images[:0])
    assert torch.equal(network.step(), expected[1])


def test_a_state_whose_beginning_nobody_knows_is_refused():
    class Tired(IFNeuron):
        state_names = ("membrane", "fatigue")

        def fire(self, current):
            self.fatigue = torch.ones_like(current) if self.fatigue is None else self.fatigue * 0.5
            return super().fire(current)

    class Method(QCFS):
        def neuron(self, activation):
            return Tired(self.threshold_of(activation))

    network = converted(Method())
    network.begin(random_images(3))
    network.step()
    with pytest.raises(NotImplementedError, match=r"Tired.*'fatigue'.*initial_state"):
        network.replace(torch.tensor([1]), random_images(1))


def test_a_bias_is_not_skipped_for_images_that_were_set_aside():
    neuron = BiasedIFNeuron(threshold=8.0, initial=0.0)
    neuron.bias = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    current = torch.zeros(1, 2)
    neuron.fire(current)
    state = neuron.set_aside()
    neuron.reset()
    for _ in range(4):  # another image, which has all its corrections behind it
        neuron.fire(current)
    assert neuron.membrane.tolist() == [[-9.0, -12.0]]
    neuron.restore(state)
    for expected in ([-4.0, -6.0], [-9.0, -12.0], [-9.0, -12.0]):
        neuron.fire(current)
        assert neuron.membrane.tolist() == [expected]
    assert neuron.elapsed.tolist() == [4]


def test_only_schedules_part_ages():
    assert {type(method) for method in METHODS if converted(method).parts_ages} == {QFFS, STBIF}
