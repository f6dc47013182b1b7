"""Timesteps recorded once and replayed: the same bits as those that are run, whoever comes and goes in between.

A processor has no CUDA graphs. A stand-in keeps their contract: recording computes nothing, and a replay works on the very
tensors that were there at the recording.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from pairs import pairs_in_turn
from test_replace import METHODS, converted, steps_by_image

import methods.network
import methods.replaying
from benchmark.conformance import TINY, random_images, simulate
from methods.cos import COS
from methods.fused import eager_neurons
from methods.qcfs import QCFS
from methods.replaying import MOST_GRAPHS, Replaying
from methods.srp import SRP


class Recorder:
    """Stands in for CUDA graphs, and counts."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.touched = []

    def __call__(self, work, pool):
        assert pool == "pool"
        before = [value.clone() for value in self.touched]
        outputs = work()
        for value, own in zip(self.touched, before, strict=True):
            value.copy_(own)
        for output in outputs:
            output.fill_(float("nan"))
        self.recorded += 1

        def replay():
            self.replayed += 1
            for output, value in zip(outputs, work(), strict=True):
                output.copy_(value)

        return outputs, replay


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    add = Replaying._add

    def watched(self, key, currents, simulate):
        states = [value for module in self._stateful for value in module.set_aside().values() if value is not None]
        recorder.touched = states
        add(self, key, currents, simulate)

    monkeypatch.setattr(Replaying, "_add", watched)
    monkeypatch.setattr(methods.replaying, "cuda_graph", recorder)
    monkeypatch.setattr(methods.replaying, "new_pool", lambda: "pool")
    monkeypatch.setattr(methods.network, "replays", lambda device: True)
    return recorder


def all_of(network, batch_size):
    """All that a stream of images leaves, in the order in which it comes."""
    found = []
    for image, step, logits, spikes, synops in steps_by_image(network, random_images(24), batch_size, leave=0.1):
        found.append((image, step, None if logits is None else logits.tolist(), int(spikes), int(synops)))
    return found


@pytest.mark.parametrize(("method", "tiny"), pairs_in_turn(METHODS, list(TINY)))
def test_a_replayed_network_is_the_same_to_the_last_bit(method, tiny, recorder, monkeypatch):
    network = converted(method, tiny)
    monkeypatch.setattr(methods.network, "replays", lambda device: False)
    expected = [all_of(network, batch_size) for batch_size in (5, 1)]
    assert recorder.replayed == 0
    monkeypatch.setattr(methods.network, "replays", lambda device: True)
    assert [all_of(network, batch_size) for batch_size in (5, 1)] == expected
    plain = all(module.replayable for module in network._stateful)
    assert (recorder.recorded > 0 and recorder.replayed > 20) == plain
    assert recorder.recorded <= MOST_GRAPHS


@dataclass(frozen=True)
class WarmUp(QCFS):
    """A prelude whose states are those that the answer goes on with."""

    prelude_steps = 3

    def prelude(self, network):
        network.presimulate(3)


@pytest.mark.parametrize("method", [WarmUp(), SRP(), COS()], ids=lambda method: type(method).__name__)
def test_all_places_may_be_taken_in_another_order(method, recorder, monkeypatch):
    """Old and fresh images then meet in the very tensors of a recorded timestep."""

    def run():
        network, images = converted(method), random_images(8)
        for _ in range(4):
            network.begin(images[:4])
            given = [network.step() for _ in range(3)]
        network.replace(torch.tensor([2, 0, 3, 1]), images[4:])
        return torch.stack([*given, *(network.step() for _ in range(4))])

    found = run()
    assert recorder.replayed > 5
    monkeypatch.setattr(methods.network, "replays", lambda device: False)
    assert torch.equal(found, run())


def test_what_a_replay_gave_stays_as_it_was(recorder):
    network = converted(QCFS())
    network.begin(random_images(3))
    given = [(logits, logits.clone()) for logits in (network.step() for _ in range(20))]
    assert recorder.replayed > 5
    assert all(torch.equal(logits, before) for logits, before in given)
    assert not torch.equal(given[-1][0], given[-2][0])


def test_the_methods_of_the_paper_are_replayed(recorder):
    replayed = {method.name for method in METHODS if converted(method)._replaying is not None}
    assert {"qcfs", "srp", "cos", "qffs"} <= replayed


def test_a_copy_and_a_network_that_moved_begin_anew(recorder):
    network = converted(QCFS())
    images = random_images(3)
    expected = simulate(network, images, 20)
    assert recorder.recorded == 1
    for other in (copy.deepcopy(network), network.to("cpu")):
        before = recorder.recorded
        assert all(torch.equal(one, two) for one, two in zip(simulate(other, images, 20), expected, strict=True))
        assert recorder.recorded == before + 1


def test_a_network_that_cannot_be_recorded_says_so_and_runs(recorder, monkeypatch):
    network = converted(QCFS())
    images = random_images(3)
    expected = simulate(network, images, 3)

    def refuse(work, pool):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(methods.replaying, "cuda_graph", refuse)
    monkeypatch.setattr(methods.replaying, "STEPS_BEFORE", 100)
    assert all(torch.equal(one, two) for one, two in zip(simulate(network, images, 3), expected, strict=True))
    monkeypatch.setattr(methods.replaying, "STEPS_BEFORE", 1)
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph: operation not permitted"):
        network.begin(images)
        network.step()
    assert network._replaying._refused


def test_timesteps_are_recorded_on_gpus_alone_and_not_where_all_is_to_be_plain():
    gpu = torch.device("cuda")
    assert methods.replaying.replays(gpu) and not methods.replaying.replays(torch.device("cpu"))
    with eager_neurons():
        assert not methods.replaying.replays(gpu)
    assert methods.replaying.replays(gpu)
