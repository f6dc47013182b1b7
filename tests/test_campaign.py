"""campaign/reference_setting.sh: its commands are ones that the programs understand, in the order that they need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click
import pytest

from benchmark.bench import main as bench
from benchmark.cli import cli

SCRIPT = Path(__file__).resolve().parent.parent / "campaign" / "reference_setting.sh"
STEPS = [
    "train-relu",
    "train-2bit",
    "judge-2bit",
    "clock-2bit",
    "train-l4",
    "judge-l4",
    "train-vgg",
    "judge-vgg",
    "speed",
]


def ran(*steps: str, python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with another command in the place of Python."""
    return subprocess.run(
        ["bash", SCRIPT, "the data", "results", *steps],
        env={"PATH": os.environ["PATH"], "PYTHON": python, "EPOCHS": "3", "TUNING": "2", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(*steps: str, **environment: str) -> tuple[list[list[str]], str]:
    """The words of each command that the script would run, and what it says."""
    script = ran(*steps, python="printf %s\\x1f", **environment)
    assert script.returncode == 0, script.stderr
    words = script.stdout.split("\x1f")[:-1]
    starts = [place for place, word in enumerate(words) if word == "-m"]
    return [words[a:b] for a, b in zip(starts, [*starts[1:], len(words)], strict=True)], script.stderr


def parsed(words: list[str]) -> tuple[str, dict[str, object]]:
    """A command's name and its options, as click understands them."""
    group = {"benchmark": cli, "benchmark.bench": bench}[words[1]]
    name, *arguments = words[2:]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return name, command.make_context(name, arguments).params


def test_all_steps_are_understood_and_each_network_is_trained_before_it_is_used():
    found, said = commands()
    assert [line.removeprefix("== ") for line in said.splitlines()] == STEPS
    there: set[str] = set()
    methods = []
    for name, options in map(parsed, found):
        if name == "train":
            assert options["init"] is None or options["init"] in there
            there.add(str(options["output"]))
        elif name == "run":
            assert options["checkpoint"] in there and str(options["data_dir"]) == "the data"
            methods.append((options["method"], options["timesteps"], options["measure"]))
    assert methods[:5] == [("qcfs", 27, False), *((name, 32, False) for name in ("qcfs", "qffs", "srp", "cos"))]
    assert methods[5:7] == [("qcfs", 27, True)] * 2 and len(methods) == 15
    sizes = [
        options["measure_batch_sizes"] for name, options in map(parsed, found) if name == "run" and options["measure"]
    ]
    assert sizes == [(64, 512), (1,)]


def test_a_rehearsal_is_smaller():
    found, _ = commands("train-2bit", "judge-2bit", LIMIT="300", CALIBRATION="200", COMPILE="", MODEL="resnet20")
    (_, training), *judged = map(parsed, found)
    assert (training["limit"], training["compiled"], training["model"], training["epochs"]) == (
        300,
        False,
        "resnet20",
        2,
    )
    assert {(options["limit"], options["calibration_size"]) for _, options in judged} == {(300, 200)}


@pytest.mark.parametrize(("device", "pages"), [("cpu", 1), ("cuda", 2)])
def test_speed_is_measured_with_tensor_cores_too_where_there_are_any(device, pages):
    found, _ = commands("speed", DEVICE=device)
    parsed_ones = [parsed(words) for words in found]
    assert [name for name, _ in parsed_ones] == ["peers"] * pages + ["early-exit", "exits"]
    assert [options["precision"] for _, options in parsed_ones[:pages]] == ["fp32", "tf32"][:pages]
    assert len({options["output"] for _, options in parsed_ones[:-1]}) == pages + 1  # pages of their own
    equal = parsed_ones[-1][1]
    assert (equal["images"], equal["batch_sizes"], equal["model"]) == (10000, (512,), "resnet18")


@pytest.mark.parametrize("together", ["1", "2", "9"])
def test_judgements_side_by_side_are_the_same(together):
    script = ran("judge-l4", python="echo", TOGETHER=together)
    lines = [line.split() for line in script.stdout.splitlines()]
    assert sorted(words[words.index("--method") + 1] for words in lines) == ["cos", "qcfs", "qffs", "srp"]


@pytest.mark.parametrize("together", ["1", "4"])
def test_one_that_fails_stops_all(together):
    script = ran("judge-l4", "train-vgg", python="false", TOGETHER=together)
    assert script.returncode == 1 and "train-vgg" not in script.stderr


def test_a_wrong_step_is_named():
    script = ran("fly", python="echo")
    assert script.returncode == 2 and script.stderr.endswith("no such step: fly\n")
