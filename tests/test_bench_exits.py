"""The comparison of fast simulation with plain torch code: it goes through all of it, and fails where an image differs."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest
from click.testing import CliRunner
from test_cifar10_data import parts, write_batches  # noqa: F401  (a fixture)

import benchmark.bench.early_exit_case as cases
from benchmark.bench import equal_exits as exits
from benchmark.bench import main
from methods.fused import neurons_are_eager
from methods.network import SpikingNetwork

WAYS = (
    "recording",
    "plain code, one timestep after the other",
    "early exit, shrinking batches",
    "early exit, refilled batch",
)


@pytest.fixture
def run(parts, tmp_path, monkeypatch):  # noqa: F811
    """`bench exits` on twenty images in CIFAR-10's own format."""
    write_batches(tmp_path / "cifar-10-batches-py", parts)
    monkeypatch.setattr(cases, "CALIBRATION_IMAGES", 5)

    def run(*options):
        small = ["exits", "--data-dir", str(tmp_path), "--images", "20", "--timesteps", "4", "--device", "cpu"]
        return CliRunner().invoke(main, [*small, *options])

    return run


def counts(output):
    """Which way at which batch size differs in how many images."""
    found = re.findall(r"^  batch (\d+), (.*): (\d+) of 20 differ$", output, re.MULTILINE)
    return {(int(size), way): int(count) for size, way, count in found}


def test_every_way_gives_the_answers_of_plain_code(run, monkeypatch):
    eager = []
    step, steps = SpikingNetwork.step, SpikingNetwork.steps
    monkeypatch.setattr(SpikingNetwork, "step", lambda self: eager.append(("step", neurons_are_eager())) or step(self))
    monkeypatch.setattr(
        SpikingNetwork, "steps", lambda self, count: eager.append(("steps", neurons_are_eager())) or steps(self, count)
    )
    answer = run("--batch-size", "4", "--batch-size", "20", "--method", "srp")
    assert answer.exit_code == 0, answer.output
    assert "srp, resnet20, CIFAR-10, dynamic-confidence, T = 4, 20 images, fp32" in answer.output
    assert counts(answer.output) == {(size, way): 0 for size in (4, 20) for way in WAYS}
    assert {("steps", True), ("steps", False), ("step", True)} <= set(eager)


def test_a_single_image_that_differs_is_told_and_fails(run, monkeypatch):
    steps, changed = SpikingNetwork.steps, []

    def wrong(self, count):
        for logits in steps(self, count):
            # The calibration images come first.
            if self._begun.count == 10 and not neurons_are_eager() and not changed:
                self._begun.synops[0] += 1
                changed.append(True)
            yield logits

    monkeypatch.setattr(SpikingNetwork, "steps", wrong)
    answer = run("--batch-size", "10")
    assert answer.exit_code == 1 and "fewer than 99.99% are equal" in answer.output
    found = counts(answer.output)
    assert found[10, WAYS[0]] == 1 and found[10, WAYS[1]] == 0


def test_on_a_gpu_only_as_many_rows_bind(run, monkeypatch):
    replayed = exits._replayed

    def shifted(case, network, timesteps, batch_size):
        return replayed(case, network, timesteps, batch_size) + isinstance(network, exits._StepByStep)

    monkeypatch.setattr(exits, "_replayed", shifted)
    answer = run("--batch-size", "20")
    assert answer.exit_code == 1 and counts(answer.output)[20, WAYS[1]] == 20

    class Gpu:
        """As far as the verdict can tell."""

        type = "cuda"

    real = exits.choose_device
    monkeypatch.setattr(exits, "choose_device", lambda name: Gpu)
    monkeypatch.setattr(exits, "machine", lambda place, packages: ["Machine: none"])
    monkeypatch.setattr(exits, "numerics", lambda precision, place: nullcontext())
    monkeypatch.setattr(exits, "cifar10", lambda *words: cases.cifar10(*words[:4], real("cpu"), *words[5:]))
    answer = run("--batch-size", "20")
    assert answer.exit_code == 0 and counts(answer.output)[20, WAYS[1]] == 20
