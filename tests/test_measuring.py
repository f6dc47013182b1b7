"""The clock: what is timed, and how a finished record gets it."""

from __future__ import annotations

import json

import pytest
import torch

from benchmark.backbones.small_cnn import small_cnn
from benchmark.measuring import fixed_time, plain_network
from dynconf import DynamicInference
from methods.qcfs import QCFS

QUICK = ("--limit", "40", "--timesteps", "4")


def test_the_floor_is_the_network_with_relu_and_folded_batch_norms():
    torch.manual_seed(0)
    ann = small_cnn().double().eval()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    for module in ann.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    floor = plain_network(QCFS().prepare(ann).eval())
    assert floor is not None
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in floor.modules())
    assert torch.allclose(floor(images), ann(images), rtol=1e-12, atol=1e-12)


def test_a_finished_record_gets_the_batch_sizes_that_it_lacks_and_nothing_else(tmp_path, call):
    def run(*more):
        return call("run", *QUICK, "--results", tmp_path, "--json", *more)

    plain = json.loads(run().out)
    measured = ("--measure", "--measure-images", "10")
    some = json.loads(run(*measured, "--measure-batch-size", "4").out)
    more = json.loads(run(*measured, "--measure-batch-size", "1", "--measure-batch-size", "4").out)
    assert [each["batch_size"] for each in (more["measured"], *more["measured_also"])] == [4, 1]
    assert more["measured"] == some["measured"]
    for each in (more["measured"], *more["measured_also"]):
        assert each["images"] == 10 and each["differing_images"] == 0
        assert each["git_sha"] == plain["provenance"]["git_sha"]
        assert min(each["static_seconds"], each["dynamic_seconds"], each["stream_seconds"], each["floor_seconds"]) > 0
    for record in (some, more):
        assert {**record, "measured": None, "measured_also": []} == plain
    shown = call("run", *QUICK, "--results", tmp_path, *measured, "--measure-batch-size", "1")
    assert "was in the store already" in shown.err
    assert shown.out.count("on the clock (batch") == 2 and "as many forward passes" in shown.out


def test_another_device_is_timed_too(tmp_path, call, monkeypatch):
    first = call("run", *QUICK, "--results", tmp_path, "--measure", "--json")
    monkeypatch.setattr("benchmark.runner.device_name", lambda device: "another")
    monkeypatch.setattr("benchmark.measuring.device_name", lambda device: "another")
    second = json.loads(call("run", *QUICK, "--results", tmp_path, "--measure", "--json").out)
    assert second["measured"] == json.loads(first.out)["measured"]
    assert [each["device"] for each in second["measured_also"]] == ["another"]


def test_when_places_are_refilled_is_left_to_the_method(small_run, call, monkeypatch):
    asked, stream = [], DynamicInference.stream

    def watched(self, batches, *given, **more):
        asked.append((given, more))
        return stream(self, batches, *given, **more)

    monkeypatch.setattr(DynamicInference, "stream", watched)
    assert call(*small_run, "--measure").code == 0
    assert asked and set(map(str, asked)) == {"((16,), {})"}  # the batch size and no more


def test_fixed_time_is_compared_at_its_fastest(monkeypatch):
    """One image: several timesteps at once are faster than one after the other, which must not flatter early exit."""
    torch.manual_seed(0)
    network = QCFS().convert(QCFS().prepare(small_cnn()).eval())
    images = torch.rand(1, 1, 8, 8)
    calls = []
    fitting = type(network)._fitting
    monkeypatch.setattr(
        type(network), "_fitting", lambda self, limits: calls.append(fitting(self, limits)) or calls[-1]
    )
    answers = fixed_time(network, images, 16)
    assert max(calls) > 1
    network.begin(images)
    assert torch.equal(answers, torch.stack([network.step().double() for _ in range(16)]).sum(0).float().argmax(1))


def test_fixed_time_takes_as_many_images_at_a_time_as_are_fastest(monkeypatch):
    torch.manual_seed(0)
    network = QCFS().convert(QCFS().prepare(small_cnn()).eval())
    images = torch.rand(11, 1, 8, 8)
    expected = fixed_time(network, images, 4)
    monkeypatch.setattr(type(network), "batch_size_for", lambda self, images: min(len(images), 4))
    begin, begun = type(network).begin, []
    monkeypatch.setattr(type(network), "begin", lambda self, part: begun.append(len(part)) or begin(self, part))
    assert torch.equal(fixed_time(network, images, 4), expected)
    assert begun == [4, 4, 3]


@pytest.mark.parametrize("option", ["--measure-batch-size", "--measure-images"])
def test_options_of_the_clock_ask_for_it(tmp_path, call, option):
    answer = call("run", *QUICK, "--results", tmp_path, option, "3")
    assert answer.code == 2 and "go with --measure" in answer.err
