"""Doing a sweep: every task once, whatever fails or dies; and what the commands say about it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import types

import pytest
from conftest import environment

from benchmark.store import ResultStore
from benchmark.sweeps.folder import SweepFolder
from benchmark.sweeps.work import WAIT_SECONDS, work

TWO_METHODS = """
[defaults]
dataset = "synthetic"
timesteps = 3
limit = 16
calibration-size = 16
[[cells]]
method = ["qcfs", "cos"]
seed = [0, 1]
"""

PLUGIN = """
from benchmark.registry import register
from methods.qcfs import QCFS
import pathlib

class Moody(QCFS):
    name = "moody"
    network = "quantised"
    trained_as = "qcfs"
    def convert(self, network, calibration=None):
        if pathlib.Path({mood!r}).exists():
            raise RuntimeError(pathlib.Path({mood!r}).read_text())
        return super().convert(network, calibration)

register("methods", "moody", Moody)
"""


@pytest.fixture
def networks(trained_networks, tmp_path):
    """The networks of TWO_METHODS are there already."""
    trained_networks(tmp_path / "r", seeds=(0, 1))


@pytest.fixture
def sweep(call, tmp_path):
    """Runs `sweep` on a text, in process, and answers with exit code and output."""

    def sweep(text, *more, name="small"):
        (tmp_path / f"{name}.toml").write_text(text)
        return call("sweep", tmp_path / f"{name}.toml", "--results", tmp_path / "r", *more)

    return sweep


def states(call, tmp_path, *more):
    answer = call("status", "--results", tmp_path / "r", "--json", *more)
    return {row["key"]: row for row in json.loads(answer.out)}


def test_all_tasks_are_done_once(sweep, call, tmp_path):
    before = sweep(TWO_METHODS, "--dry-run")
    assert before.code == 0 and before.out.count("missing ") == 4 and "4 tasks: 4 missing" in before.err
    assert not (tmp_path / "r").exists()
    answer = sweep(TWO_METHODS)
    assert answer.code == 0 and "small: 4 tasks, 4 to do" in answer.err and "small: 4 done" in answer.err
    rows = states(call, tmp_path)
    records, bad = ResultStore(tmp_path / "r").load_all()
    assert not bad and {record.id for record in records} == {row["outcome"]["record"] for row in rows.values()}
    assert {(record.spec.method, record.spec.seed) for record in records} == {
        (method, seed) for method in ("qcfs", "cos") for seed in (0, 1)
    }
    again = sweep(TWO_METHODS)
    assert again.code == 0 and "4 tasks, 0 to do" in again.err and "recording" not in again.err


def test_what_is_removed_or_added_is_done(networks, sweep, call, tmp_path):
    sweep(TWO_METHODS)
    gone = next((tmp_path / "r" / "synthetic").rglob("cos/*.json"))
    gone.unlink()
    rows = states(call, tmp_path)
    assert sorted(row["state"] for row in rows.values()) == ["done"] * 3 + ["missing"]
    answer = sweep(TWO_METHODS.replace("[0, 1]", "[0, 1, 2]"))
    assert answer.code == 0 and "6 tasks, 3 to do" in answer.err and gone.exists()


def test_a_failing_task_harms_no_other_and_is_done_again_if_asked(networks, sweep, call, tmp_path, fresh_registry):
    mood = tmp_path / "mood"
    (tmp_path / "moody.py").write_text(PLUGIN.format(mood=str(mood)))
    mood.write_text("not today")
    text = f'plugins = ["{tmp_path}/moody.py"]\n' + TWO_METHODS.replace('["qcfs", "cos"]', '["moody", "qcfs"]')
    answer = sweep(text)
    assert answer.code == 1 and "2 done, 2 failed" in answer.err and ": not today" in answer.err
    failed = [row for row in states(call, tmp_path).values() if row["state"] == "failed"]
    assert {row["why"] for row in failed} == {"not today"}
    mood.unlink()
    assert "0 to do" in sweep(text).err
    answer = sweep(text, "--retry-failed")
    assert answer.code == 0 and "4 tasks, 2 to do" in answer.err and "4 done" in answer.err


TRAINED = """
[[trainings]]
name = "net"
method = "qcfs"
dataset = "synthetic"
epochs = 2
{more}
[[cells]]
dataset = "synthetic"
method = ["qcfs", "srp"]
checkpoint = "training:net"
timesteps = 3
limit = 16
calibration-size = 16
"""


def test_cells_run_on_what_the_sweep_trains(sweep, call, tmp_path):
    answer = sweep(TRAINED.format(more=""))
    assert answer.code == 0, answer.err
    rows = list(states(call, tmp_path).values())
    training = rows[0]["outcome"]["record"]
    records, _ = ResultStore(tmp_path / "r").load_all()
    assert len(records) == 2 and {record.ann.training for record in records} == {training}
    assert {record.spec.weights.source for record in records} == {"small-net.safetensors"}


def test_a_training_starts_from_another(sweep, call, tmp_path):
    first = '[[trainings]]\nname = "relu"\nmethod = "relu"\ndataset = "synthetic"\nepochs = 2\n'
    answer = sweep(first + TRAINED.format(more='init = "training:relu"'))
    assert answer.code == 0, answer.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "r" / "training").glob("*.json")]
    made = {record["spec"]["method"]: record for record in records}
    assert made["qcfs"]["spec"]["init"]["sha256"] == made["relu"]["checkpoint_sha256"]


def test_cells_of_a_failed_training_say_so(sweep, call, tmp_path):
    answer = sweep(TRAINED.format(more="lr = 1e20"))
    assert answer.code == 1 and "3 failed" in answer.err
    why = [row["why"] for row in states(call, tmp_path).values()]
    assert why[0].startswith("training diverged") and all(text.startswith("its training failed: ") for text in why[1:])


def test_slices_become_one_record(networks, sweep, tmp_path, trained_networks):
    text = TWO_METHODS.replace("seed = [0, 1]", "slices = 2").replace('["qcfs", "cos"]', '"qcfs"')
    answer = sweep(text)
    assert answer.code == 0 and "2 done" in answer.err
    (record,), _ = ResultStore(tmp_path / "r").load_all()
    trained_networks(tmp_path / "whole")
    whole = sweep(text.replace("slices = 2", ""), "--results", tmp_path / "whole", name="whole")
    assert whole.code == 0
    (other,), _ = ResultStore(tmp_path / "whole").load_all()
    assert record.model_dump(exclude={"provenance"}) == other.model_dump(exclude={"provenance"})


def start(tmp_path, text, *more, name="killed"):
    (tmp_path / f"{name}.toml").write_text(text)
    command = [
        sys.executable,
        "-m",
        "benchmark",
        "sweep",
        tmp_path / f"{name}.toml",
        "--results",
        tmp_path / "r",
        *more,
    ]
    return subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)


LONG = TWO_METHODS.replace("limit = 16", "limit = 700").replace("timesteps = 3", "timesteps = 64")


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_sweep_tells_the_truth_and_goes_on(networks, call, tmp_path):
    process = start(tmp_path, LONG)
    wait_until(lambda: list((tmp_path / "r").glob("recordings/*/test/shard-00000.safetensors")), process)
    running = [row for row in states(call, tmp_path).values() if row["state"] == "running"]
    assert len(running) == 1 and running[0]["progress"]["text"].startswith("recording")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rows = states(call, tmp_path)
    assert {row["state"] for row in rows.values()} == {"missing"}
    assert rows[running[0]["key"]]["why"].startswith("its process on ")
    shard = next((tmp_path / "r").glob("recordings/*/test/shard-00000.safetensors"))
    before = shard.stat().st_mtime_ns
    process = start(tmp_path, LONG)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert shard.stat().st_mtime_ns == before  # it was not simulated again
    assert {row["state"] for row in states(call, tmp_path).values()} == {"done"}


@pytest.mark.slow
def test_two_at_once_do_every_task_once(call, tmp_path):
    both = [start(tmp_path, LONG) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    # A task that the other is at is left to it, so the first to end may leave one over.
    assert sorted(process.returncode for process in both)[0] == 0
    assert {row["state"] for row in states(call, tmp_path).values()} == {"done"}
    for key in states(call, tmp_path):
        label = states(call, tmp_path)[key]["task"]
        assert sum(text.count(f"--- {label}\n") for text in errors) == 1, label


@pytest.mark.slow
def test_local_processes_outlive_the_command(call, tmp_path):
    process = start(tmp_path, TRAINED.format(more="") + "seed = [0, 1]\n", "--cluster", "local", "--parallel", "2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "submitted 5 tasks in 2 jobs" in errors
    end = time.monotonic() + 120
    while {row["state"] for row in states(call, tmp_path).values()} != {"done"}:
        assert time.monotonic() < end, states(call, tmp_path)
        time.sleep(0.5)
    key = next(iter(states(call, tmp_path)))
    answer = call("logs", key[:8], "--results", tmp_path / "r")
    assert answer.code == 0 and "epoch 2/2" in answer.out


def test_a_local_process_does_not_rely_on_another_to_begin_the_training(sweep, call, tmp_path, monkeypatch):
    """The second process comes first, and the first finds everything that it needs."""
    jobs = []

    class Executor:
        def __init__(self, folder):
            pass

        def update_parameters(self, **parameters):
            assert parameters["gpus_per_node"] == 0

        def batch(self):
            return contextlib.nullcontext()

        def submit(self, job):
            jobs.append(job)
            return types.SimpleNamespace(job_id=str(len(jobs)))

    monkeypatch.setattr("submitit.LocalExecutor", Executor)
    first = '[[trainings]]\nname = "relu"\nmethod = "relu"\ndataset = "synthetic"\nepochs = 1\n'
    text = first + TRAINED.format(more='init = "training:relu"') + "seed = [0, 1]\n"
    assert sweep(text, "--cluster", "local", "--parallel", "3", name="killed").code == 0
    keys = list(states(call, tmp_path))
    trainings, cells = tuple(keys[:2]), keys[2:]
    assert [job.keys for job in jobs] == [
        (*trainings, cells[1]),
        (*trainings, cells[2]),
        (*trainings, cells[0], cells[3]),
    ]
    folder = SweepFolder(ResultStore(tmp_path / "r"), "killed")
    for job in (jobs[1], jobs[2], jobs[0]):
        assert {outcome.status for outcome in work(folder, job.keys).values()} == {"ok"}
    assert {row["state"] for row in states(call, tmp_path).values()} == {"done"}


def test_a_training_that_is_tried_again_is_waited_for(sweep, call, tmp_path, monkeypatch):
    """Its cells do not take the failure of before for an answer."""
    sweep(TRAINED.format(more="lr = 1e20"))
    training, *cells = states(call, tmp_path)
    folder = SweepFolder(ResultStore(tmp_path / "r"), "small")
    before = [folder.outcome(key) for key in cells]
    claim, waited = folder.claim(training), []
    assert claim.take()

    def sleep(seconds):
        assert [folder.outcome(key) for key in cells] == before
        waited.append(seconds)
        claim.release()

    clock = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr("benchmark.sweeps.work.time", clock)  # subprocess sleeps too
    found = work(folder, cells, retry_failed=True)
    assert waited == [WAIT_SECONDS] and {outcome.status for outcome in found.values()} == {"failed"}


def test_a_file_of_the_folder_that_is_damaged_is_named(networks, sweep, call, tmp_path):
    sweep(TWO_METHODS)
    folder = SweepFolder(ResultStore(tmp_path / "r"), "small")
    path = next((folder.root / "outcomes").glob("*.json"))
    path.write_text(path.read_text()[:-20])
    answer = call("status", "--results", tmp_path / "r")
    assert answer.code == 1 and str(path) in answer.err and "Remove it" in answer.err
    path.unlink()
    assert "1 to do" in sweep(TWO_METHODS).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], "name one of the sweeps in .*: there are none"),
        (["status", "smal"], "no sweep 'smal' has been started here"),
        (["logs", "abc", "--sweep", "small"], "no sweep 'small' has been started here"),
        (["cancel"], "there are none"),
    ],
)
def test_unknown_sweeps(call, tmp_path, arguments, said):
    answer = call(*arguments, "--results", tmp_path / "r")
    assert answer.code == 2
    import re

    assert re.search(said, answer.err)


def test_without_slurm_it_says_so(sweep, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    answer = sweep(TWO_METHODS, "--cluster", "slurm")
    assert answer.code == 1 and "there is no SLURM here" in answer.err and "--cluster inline" in answer.err
    assert not list((tmp_path / "r").rglob("submissions/*"))
