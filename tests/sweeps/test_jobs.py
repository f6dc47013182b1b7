"""How tasks become jobs, and what the cluster's profile says. No Slurm is needed here; tests/cluster has one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from benchmark.errors import UsageError
from benchmark.spec import Cell
from benchmark.store import ResultStore
from benchmark.sweeps.folder import Submission, SweepFolder
from benchmark.sweeps.tasks import CellTask, Resources, TrainingTask
from benchmark.training.recipe import Recipe
from benchmark.training.spec import TrainCell
from slurm.cluster_profile import Profile, find_profile, load_profile
from slurm.scheduler import SchedulerSilent, cancel, queued
from slurm.submitting import arrays, parameters


def cell(seed, **changes):
    return CellTask(cell=Cell(seed=seed), **changes)


TRAINING = TrainingTask(
    name="net",
    cell=TrainCell(dataset="digits", recipe=Recipe(epochs=1, batch_size=8)),
    resources=Resources(nodes=2, tasks=4, gpus=4),
)


def test_tasks_that_ask_for_the_same_are_one_array():
    big = Resources(gpus=2)
    tasks = [cell(0), cell(1, resources=big), cell(2), cell(3, needs=TRAINING.key), TRAINING, cell(4)]
    keys = [task.key for task in tasks]
    found = arrays(tasks, Profile(cells_per_job=2, resources=Resources(partition="p", gpus=1)), Resources(mem="8G"))
    trainings, first, second, waiting = found
    assert trainings.groups == ((keys[4],),)
    assert trainings.resources == Resources(nodes=2, tasks=4, gpus=4, partition="p", mem="8G")
    assert first.groups == ((keys[0], keys[2]), (keys[5],)) and first.resources.gpus == 1
    assert second.groups == ((keys[1],),) and second.resources.gpus == 2
    assert waiting.waits and waiting.groups == ((keys[3],),)
    assert not (trainings.waits or first.waits or second.waits)


def test_a_training_that_is_done_keeps_nobody_waiting():
    (array,) = arrays([cell(0, needs=TRAINING.key)], Profile(), Resources())
    assert not array.waits


def test_long_arrays_are_cut():
    found = arrays([cell(seed) for seed in range(2001)], Profile(), Resources())
    assert [len(array.groups) for array in found] == [1000, 1000, 1]
    keys = [key for array in found for (key,) in array.groups]
    assert keys == [cell(seed).key for seed in range(2001)]


def test_what_sbatch_is_asked_for():
    asked = parameters(
        Resources(
            gpus=4, tasks=4, nodes=2, cpus=8, mem="64G", time=90, partition="p", account="a", qos="q", constraint="c"
        ),
        Profile(setup=("module load cuda",), parallel=3, extra={"exclude": "n7"}),
        "demo-1",
    )
    assert asked == {
        "job_name": "demo-1",
        "time": 90,
        "nodes": 2,
        "ntasks_per_node": 4,
        "cpus_per_task": 8,
        "gpus_per_node": 4,
        "mem": "64G",
        "partition": "p",
        "account": "a",
        "qos": "q",
        "constraint": "c",
        "array_parallelism": 3,
        "signal_delay_s": 90,
        "setup": ["module load cuda"],
        "additional_parameters": {"exclude": "n7"},
    }


def test_the_warning_comes_after_the_start():
    assert parameters(Resources(time=1), Profile(), "x")["signal_delay_s"] == 30
    assert "gpus_per_node" not in parameters(Resources(gpus=0), Profile(), "x")


PROFILE = """
partition = "gpu"
time = "4:00:00"
setup = ["a", "b"]
cells-per-job = 4
signal-delay = 120
[profiles.big]
partition = "big"
extra = { exclude = "n7" }
"""


def test_profiles(tmp_path):
    path = tmp_path / "slurm.toml"
    path.write_text(PROFILE)
    usual = load_profile(path)
    assert usual.resources == Resources(partition="gpu", time=240)
    assert (usual.setup, usual.cells_per_job, usual.signal_delay) == (("a", "b"), 4, 120)
    big = load_profile(path, "big")
    assert big.resources == Resources(partition="big", time=240) and big.extra == {"exclude": "n7"}
    assert load_profile(None) == Profile()


def test_the_profile_is_looked_for_here_then_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert find_profile(None) is None
    home = tmp_path / "config" / "dynconf-bench" / "slurm.toml"
    home.parent.mkdir(parents=True)
    home.write_text("")
    assert find_profile(None) == home
    (tmp_path / "slurm.toml").write_text("")
    assert str(find_profile(None)) == "slurm.toml"
    assert find_profile(home) == home


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ('partitions = "x"', None, r"slurm.toml: partitions: .*\n.*'partition'"),
        ('time = "soon"', None, "slurm.toml: time: "),
        ("setup = 3", None, "slurm.toml: setup: "),
        ("x =", None, "cannot be read: "),
        ("[profiles.big]", "bug", r"no \[profiles.bug\]\.\n.*'big'"),
    ],
)
def test_a_wrong_profile_is_named(tmp_path, text, name, said):
    path = tmp_path / "slurm.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        load_profile(path, name)


def test_a_profile_without_a_file():
    with pytest.raises(UsageError, match=r"no slurm\.toml that could hold profile 'a100'"):
        load_profile(None, "a100")


def submission(**changes):
    fields = {
        "token": "t1",
        "cluster": "slurm",
        "groups": (("a", "b"), ("c",)),
        "logs": "logs/t1",
        "submitted": "2026",
        "host": "h",
    }
    return Submission(**{**fields, **changes})


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A squeue that prints these lines, and a scancel that notes what it is asked for."""

    def squeue(*lines, code=0):
        for name, text in (
            ("squeue", f"printf '%s\\n' {' '.join(repr(line) for line in lines)}; echo lost >&2; exit {code}"),
            ("scancel", f'echo "$@" > {tmp_path}/cancelled'),
        ):
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return squeue


def test_jobs_are_known_by_their_name(squeue, tmp_path):
    squeue("12_0|0|demo-t1|RUNNING|None", "12_1|1|demo-t1|PENDING|Resources")
    assert queued("demo", [submission()]) == {
        "a": "RUNNING, job 12_0",
        "b": "RUNNING, job 12_0",
        "c": "PENDING (Resources), job 12_1",
    }
    assert cancel("demo", [submission()]) == ["12_0", "12_1"]
    assert (tmp_path / "cancelled").read_text() == "12_0 12_1\n"


def test_a_job_that_is_no_array(squeue):
    squeue("13|N/A|demo-t1|PENDING|Priority")
    assert queued("demo", [submission(groups=(("a",),))]) == {"a": "PENDING (Priority), job 13"}


def test_a_silent_scheduler_is_an_error(squeue, monkeypatch):
    squeue(code=1)
    with pytest.raises(SchedulerSilent, match="squeue does not answer: lost"):
        queued("demo", [submission()])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SchedulerSilent, match="squeue cannot be asked"):
        queued("demo", [submission()])
    assert queued("demo", []) == {}  # nobody to ask for


def test_a_process_of_another_kind_is_no_job(tmp_path):
    other = submission(cluster="local", jobs=(str(os.getpid()),), host=socket.gethostname())
    assert queued("demo", [other]) == {}


def test_submissions_are_kept_in_their_order(tmp_path):
    folder = SweepFolder(ResultStore(tmp_path), "demo")
    for token, when in (("b", "2026-01-01"), ("a", "2026-01-02")):
        folder.write_submission(submission(token=token, submitted=when))
    assert [each.token for each in folder.submissions()] == ["b", "a"]


def test_status_and_submitting_need_no_torch():
    program = "import sys, slurm.submitting, slurm.scheduler, benchmark.sweeps.state; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
