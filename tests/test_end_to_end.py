"""Whole runs: the answer depends neither on batches, workers nor crashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIMESTEPS = 8
IMAGES = 800  # two shards


def command(results: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmark",
        "run",
        "--dataset",
        "synthetic",
        "--timesteps",
        str(TIMESTEPS),
        "--limit",
        str(IMAGES),
        "--results",
        str(results),
        *more,
    ]


def run(results: Path, *more: str) -> dict:
    done = subprocess.run([*command(results, *more), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without_provenance(record: dict) -> str:
    return json.dumps({**record, "provenance": None}, sort_keys=True)


@pytest.fixture
def results(trained_networks, tmp_path) -> Path:
    """A fresh results folder with the same network."""
    trained_networks(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def reference(trained_networks, tmp_path_factory) -> tuple[Path, dict]:
    """The float64 record at batch 64, without workers."""
    folder = tmp_path_factory.mktemp("reference")
    trained_networks(folder)
    return folder, run(folder, "--precision", "fp64", "--batch-size", "64")


@pytest.mark.parametrize(
    "options",
    [
        ("--batch-size", "1"),
        pytest.param(("--batch-size", "100"), marks=pytest.mark.slow),
        pytest.param(("--batch-size", "64", "--workers", "4"), marks=pytest.mark.slow),
        pytest.param(("--batch-size", "64", "--workers", "1"), marks=pytest.mark.slow),
    ],
)
def test_batch_size_and_workers_do_not_change_the_record(results, reference, options):
    """Byte for byte, recordings included, in float64."""
    folder, expected = reference
    record = run(results, "--precision", "fp64", *options)
    assert without_provenance(record) == without_provenance(expected)
    shards = sorted((folder / "recordings").rglob("*.safetensors"))
    assert len(shards) == 1 + 2
    for shard in shards:
        assert (results / shard.relative_to(folder)).read_bytes() == shard.read_bytes()


@pytest.mark.slow
def test_single_precision_differs_only_by_rounding(results, reference):
    """In fp32 a membrane that lies on its threshold may flip; such images are counted, and they are few."""
    import torch

    from dynconf.recording import load_recording

    folder, _ = reference
    exact = load_recording(next((folder / "recordings").iterdir()) / "test")
    recordings = {}
    for size in ("1", "64"):
        run(results, "--batch-size", size, "--rerun")
        recordings[size] = load_recording(next((results / "recordings").iterdir()) / "test")
    one, many = recordings["1"], recordings["64"]
    flipped = (one.spikes != many.spikes).any(1)
    assert flipped.double().mean() <= 0.02
    same = ~flipped
    assert torch.equal(one.predictions[same], many.predictions[same])
    assert torch.allclose(one.evidence.logits[same], many.evidence.logits[same], rtol=1e-4, atol=1e-4)
    assert ((one.spikes != exact.spikes).any(1)).double().mean() <= 0.02


def wait_for(condition, process, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_in_the_middle_it_resumes_to_the_same_record(results, reference):
    """SIGKILL after the first shard of the test split; the second run does the rest, and nothing is half-read."""
    _, expected = reference
    arguments = ("--precision", "fp64", "--batch-size", "4")
    process = subprocess.Popen(command(results, *arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: any((results / "recordings").glob("*/test/shard-00000.safetensors")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    test = next((results / "recordings").iterdir()) / "test"
    assert not (test / "recording.json").exists()
    assert not list(results.rglob("synthetic/**/*.json"))
    before = {path.name: path.stat().st_mtime_ns for path in test.glob("shard-*")}
    assert len(before) == 1
    record = run(results, *arguments)
    assert without_provenance(record) == without_provenance(expected)
    after = {path.name: path.stat().st_mtime_ns for path in test.glob("shard-*")}
    assert {name: after[name] for name in before} == before  # finished shards were not simulated again


@pytest.mark.slow
def test_two_writers_of_one_cell_agree(results, reference):
    """Started together on the same folder, both end well and leave the one record."""
    _, expected = reference
    arguments = command(results, "--precision", "fp64", "--json")
    first, second = (subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2))
    outputs = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    for output in outputs:
        assert without_provenance(json.loads(output)) == without_provenance(expected)
    assert len(list(results.rglob("synthetic/**/*.json"))) == 1


def test_early_exit_on_the_clock_answers_like_the_replay(results):
    record = run(results, "--measure", "--limit", "200", "--batch-size", "50")
    measured = record["measured"]
    assert measured["differing_images"] == 0
    assert measured["images"] == 200 and measured["batch_size"] == 50
    assert measured["speedup"] == pytest.approx(measured["static_seconds"] / measured["dynamic_seconds"])
    flags = record["provenance"]["torch_flags"]  # those in force while it ran: TF32 is off in fp32
    assert (flags["cudnn.allow_tf32"], flags["cuda.matmul.allow_tf32"], flags["cudnn.deterministic"]) == (
        False,
        False,
        True,
    )
    assert measured["ideal_speedup"] == pytest.approx(TIMESTEPS / record["policies"][0]["latency"]["mean"])
