"""Trainings that are killed for real: nothing is lost but the steps since the last state, and the end is the same."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import environment

from benchmark.checkpoints import read_weights
from benchmark.store import sha256_of

ARGUMENTS = [
    "--dataset",
    "synthetic",
    "--method",
    "qcfs",
    "--preset",
    "embedded",
    "--augment",
    "crop-flip",
    "--ema",
    "0.9",
]


def command(folder, *more):
    return [sys.executable, "-m", "benchmark", "train", *ARGUMENTS, *map(str, more), "--results", str(folder)]


def finish(folder, *more):
    done = subprocess.run(
        command(folder, *more), env=environment(), cwd=folder.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (checkpoint,) = folder.glob("checkpoints/*.safetensors")
    (record,) = folder.glob("training/*.json")
    return checkpoint, json.loads(record.read_text()), done.stderr


def curve(record):
    return [{k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")} for epoch in record["epochs"]]


def state_of(folder):
    return next(iter(folder.glob("training/*/state.pt")), None)


def wait_for_a_state(process, folder):
    while state_of(folder) is None:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_stops_after_the_step_and_the_rest_is_exact(tmp_path):
    more = ["--epochs", 40, "--checkpoint-seconds", 3600]
    folder = tmp_path / "cut"
    process = subprocess.Popen(
        command(folder, *more),
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_a_state(process, folder)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert "run the same command again to go on" in errors and "Traceback" not in errors
    (path,) = folder.glob("training/*.json")
    cut = json.loads(path.read_text())
    assert cut["status"] == "interrupted" and 1 <= len(cut["epochs"]) < 40
    assert cut["checkpoint"] is None and not list(folder.glob("checkpoints/*"))
    checkpoint, record, errors = finish(folder, *more)
    assert f"going on after {len(cut['epochs'])} epochs and " in errors
    unbroken, whole, _ = finish(tmp_path / "whole", *more)
    assert checkpoint.read_bytes() == unbroken.read_bytes()
    assert curve(record) == curve(whole)
    assert record["provenance"]["started"] == cut["provenance"]["started"]
    (place,) = record["provenance"]["resumed_at"]
    assert len(cut["epochs"]) <= place <= len(cut["epochs"]) + 1
    assert state_of(folder) is None  # nothing is left to go on with


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    """SIGKILL at random moments, in writing too; a state every tenth of a second."""
    more = ["--epochs", 150, "--checkpoint-seconds", 0.1]
    unbroken, whole, _ = finish(tmp_path / "whole", *more)
    folder = tmp_path / "cut"
    moments = random.Random(0)
    kills, places = 0, [0.0]
    while kills < 20:
        process = subprocess.Popen(
            command(folder, *more),
            env=environment(),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        before = state_of(folder).stat().st_mtime_ns if state_of(folder) else 0
        while process.poll() is None:  # until it has written a state of its own
            found = state_of(folder)
            if found is not None and found.stat().st_mtime_ns > before:
                break
            time.sleep(0.005)
        assert process.poll() is None, "it was done before it had been killed often enough"
        time.sleep(moments.uniform(0.0, 0.25))
        process.kill()
        process.communicate()
        kills += 1
        state = torch.load(state_of(folder), weights_only=True)
        place = state["progress"]["epoch"] + state["progress"]["step"] / 8
        assert place >= places[-1]  # never back behind what was written
        places.append(place)
        best = state["progress"]["best_epoch"]
        assert best is None or (state_of(folder).parent / f"best-{best}.pt").exists()
    checkpoint, record, _ = finish(folder, *more)
    assert checkpoint.read_bytes() == unbroken.read_bytes()
    assert curve(record) == curve(whole)
    assert len(record["provenance"]["resumed_at"]) == 20
    weights, others = read_weights(checkpoint), read_weights(unbroken)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert record["checkpoint_sha256"] == sha256_of(checkpoint)


@pytest.mark.slow
def test_of_two_at_once_one_trains_and_the_other_waits(tmp_path):
    arguments = {
        "env": environment(),
        "cwd": tmp_path,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    both = [subprocess.Popen(command(tmp_path / "r", "--epochs", 20), **arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(out.partition(":")[0] for out, _ in outputs) == ["was there already", "wrote"]
    assert sorted("epoch 1/20" in errors for _, errors in outputs) == [False, True]
    assert not list((tmp_path / "r").rglob("claim*"))
