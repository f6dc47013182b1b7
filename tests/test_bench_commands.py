"""`python -m benchmark.bench`: its commands are imported when they are called."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import environment

from benchmark.bench import COMMANDS, main, simulation, thresholds


def test_help_needs_no_torch():
    code = "import sys; from benchmark.bench import main; main(['-h'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_list_says(name):
    answer = CliRunner().invoke(main, [name, "--help"])
    assert answer.exit_code == 0 and f"{name} [OPTIONS]" in answer.output


def test_a_name_that_is_nearly_one():
    answer = CliRunner().invoke(main, ["early-exits"])
    assert answer.exit_code == 2 and re.search("Did you mean .*'early-exit'", answer.output)


def test_without_a_command_there_are_two(monkeypatch):
    called = []
    monkeypatch.setattr(simulation.simulation, "callback", lambda **options: called.append(("simulation", options)))
    monkeypatch.setattr(thresholds.thresholds, "callback", lambda **options: called.append(("thresholds", options)))
    assert CliRunner().invoke(main, []).exit_code == 0
    assert [name for name, _ in called] == ["simulation", "thresholds"]
    assert called[0][1]["batch_size"] == 64  # options have their defaults
