"""The page on early exit: ratios within a repeat, against the ratio of timesteps with their prelude."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from benchmark.bench import main
from benchmark.bench.early_exit_table import FIXED, REFILLED, SHRINKING, Clocked, page


def cell(prelude=0, **seconds):
    ways = {FIXED: [8.0, 6.0, 10.0], SHRINKING: [4.0, 2.0, 4.0], REFILLED: [2.0, 2.0, 5.0]}
    return Clocked("srp", 64, 512, 32, prelude, 8.0, {**ways, **seconds})


def test_a_speed_up_is_that_of_its_repeat_and_the_ideal_counts_the_prelude():
    assert cell().ideal == 4.0
    assert cell(prelude=4).ideal == 3.0
    assert cell().speedups(SHRINKING) == [2.0, 3.0, 2.5] and cell().speedups(REFILLED) == [4.0, 3.0, 2.0]
    found = [part.strip() for part in cell(prelude=4).row().strip("|").split("|")]
    assert found == [
        "srp",
        "64",
        "512",
        "8.00 + 4",
        "8.000 [6.000, 10.000]",
        "3.000",
        "2.500 [2.000, 3.000]",
        "0.833 [0.667, 1.000]",
        "3.000 [2.000, 4.000]",
        "1.000 [0.667, 1.333]",
    ]


def test_a_page_that_is_not_finished_says_so():
    assert "Not finished: 1 of 2" in page([cell()], 2, "noise", ["Machine: this"], "command")
    assert "Not finished" not in page([cell()], 1, "noise", ["Machine: this"], "command")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["early-exit", "--method", "nonsense"], "unknown method 'nonsense'"),
        (["early-exit", "--model", "nonsense"], "unknown model 'nonsense'"),
        (["early-exit", "--data-dir", "/nowhere"], "cifar10 is not on this disk"),
        (["early-exit", "--checkpoint", "zoo:x"], "--checkpoint needs --data-dir"),
        (["simulation", "--model", "nonsense"], "unknown model 'nonsense'"),
    ],
)
def test_a_wrong_request_is_told_in_words(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(main, options)
    assert isinstance(answer.exception, SystemExit) and answer.exit_code in (1, 2)
    assert answer.output.startswith(f"Error: {said}")


@pytest.mark.parametrize("method", [pytest.param("qcfs", marks=pytest.mark.slow), "srp"])
def test_the_command_writes_a_page(tmp_path, method):
    output = tmp_path / "folder" / "EARLY_EXIT.md"
    options = ["--model", "resnet20", "--batch-size", "2", "--batch-size", "4", "--images", "8", "--repeats", "2"]
    answer = CliRunner().invoke(main, ["early-exit", "--method", method, *options, "--output", str(output)])
    assert answer.exit_code == 0, answer.output
    written = output.read_text()
    figure = r"[\d.]+ \[[\d.]+, [\d.]+\]"
    exits = r"[\d.]+ \+ 4" if method == "srp" else r"[\d.]+"
    row = rf"^\| {method} \| (\d) \| 8 \| {exits} \| {figure} \| [\d.]+(?: \| {figure}){{4}} \|$"
    assert re.findall(row, written, re.MULTILINE) == ["2", "4"]
    command = f"early-exit --method {method} --model resnet20 --batch-size 2 --batch-size 4 --timesteps 32 --images 8"
    assert command in written and f"--output {output}" in written and "Not finished" not in written
    assert "--refill" not in written  # whatever the method's users get
