"""The bench of a whole validation, in small: what it runs is real but for the network, so it must not rot."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import environment

SMALL = ("--calibration", 60, "--test", 530, "--timesteps", 5, "--classes", 1000, "--policy", "dynamic-confidence")


@pytest.mark.parametrize("slices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_small_validation_goes_all_the_way(tmp_path, slices):
    command = [sys.executable, "-m", "benchmark.bench", "full-size", *map(str, SMALL), "--slices", str(slices)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "60 + 530 images x 5 timesteps x 1000 classes, 1 rules" in done.stdout
    found = re.search(r"peak memory (\S+) GB \((\S+) GB before\), limit 3 GB", done.stdout)
    assert found and float(found[2]) <= float(found[1]) < 3
    for phase in ("record_calibration", "record_test", "policies", "leaderboard"):
        assert re.search(rf"{phase} +\d+\.\d s", done.stdout), phase
    assert ("join" in done.stdout) == (slices > 1)
    assert not list(tmp_path.iterdir())


def test_it_fails_above_its_limit(monkeypatch, fresh_registry):
    from click.testing import CliRunner

    from benchmark.bench import full_size, main

    monkeypatch.setattr(full_size, "LIMIT", 1)
    small = ["--calibration", "4", "--test", "4", "--timesteps", "2", "--classes", "5", "--policy", "fixed"]
    answer = CliRunner().invoke(main, ["full-size", *small])
    assert answer.exit_code == 1 and "limit 0 GB" in answer.output


def test_the_peak_is_not_that_of_the_process_that_started_it():
    ballast = b"x" * (1 << 30)
    program = "from benchmark.bench.resident import peak_memory; print(peak_memory())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert 5e6 < int(done.stdout) < 0.9 * len(ballast)
