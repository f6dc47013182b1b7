"""Sweeps on a real Slurm: what is killed, preempted or fails for good ends in a whole table or in a precise list."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from slurm_lab import SLOW_PLUGIN

pytestmark = pytest.mark.cluster

SMALL = """
[defaults]
dataset = "synthetic"
timesteps = 3
limit = 16
calibration-size = 16
[resources]
gpus = 1
mem = "2G"
time = 30
[[cells]]
method = ["qcfs", "cos"]
seed = [0, 1]
"""

# A recording that takes some ten seconds: a pause before each batch. `held` stops it there for as long as a test needs.
SLOW = """
plugins = ["{plugin}"]
[resources]
mem = "2G"
time = {minutes}
[[cells]]
method = "slow"
dataset = "synthetic"
timesteps = 4
calibration-size = 16
"""


def rows(benchmark, *more):
    return json.loads(benchmark("status", "--json", *more, code=None).stdout)


def states(benchmark):
    return [row["state"] for row in rows(benchmark)]


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def wait_done(benchmark, seconds=240.0):
    wait_until(lambda: not {"running", "queued"} & set(states(benchmark)), seconds)


def slow(benchmark, pause=0.5, minutes=30):
    plugin = benchmark.folder / "slow.py"
    plugin.write_text(SLOW_PLUGIN.format(pause=pause))
    return benchmark.write(SLOW.format(plugin=plugin, minutes=minutes))


@contextmanager
def held(benchmark):
    """A recording by `slow` does not end meanwhile, however slow this machine is at what the test asks of it."""
    file = benchmark.folder / "held"
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def shards(benchmark):
    return sorted(benchmark.results.glob("recordings/*/test/shard-*.safetensors"))


def record(benchmark):
    (path,) = benchmark.results.glob("synthetic/**/*.json")
    return json.loads(path.read_text())


def pid_of_the_task(benchmark):
    (path,) = (benchmark.results / "sweeps" / "table" / "claims").iterdir()
    return json.loads(path.read_text())["pid"]


def first_sweep():
    """The commands of the documentation, one by one."""
    text = (ROOT / "docs" / "sweeps.md").read_text().partition("## First sweep")[2]
    (block,) = re.findall("```\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def test_a_newcomer_gets_the_table_that_one_process_makes(benchmark):
    """Word for word from the documentation: 24 cells as an array on pretended GPUs; the page is equal byte for byte."""
    (benchmark.folder / "sweeps").symlink_to(ROOT / "sweeps")
    commands = first_sweep()
    assert [command.split()[3] for command in commands] == ["sweep", "sweep", "status", "leaderboard"]
    for command in commands:
        program, *words = command.split()
        assert program == "python" and words[:2] == ["-m", "benchmark"]
        benchmark(*words[2:], results=False)
    page = (benchmark.folder / "build" / "demo" / "README.md").read_text()
    # The weights are those that the jobs trained: processors may differ in the last bit.
    inline = benchmark.folder / "build" / "inline"
    for name in ("checkpoints", "training"):
        (inline / name).mkdir(parents=True)
        for path in (benchmark.folder / "build" / "demo" / name).iterdir():
            if path.is_file():
                (inline / name / path.name).write_bytes(path.read_bytes())
    benchmark("sweep", "sweeps/demo.toml", "--results", inline)
    benchmark("leaderboard", "--results", inline, "--output", inline / "README.md")
    assert page == (inline / "README.md").read_text()
    assert len(re.findall("`[0-9a-f]{12}`", page)) >= 24


def test_nothing_is_submitted_twice(benchmark):
    path = benchmark.write(SMALL)
    first = benchmark("sweep", path, "--cluster", "slurm")
    assert "submitted 4 tasks in 4 jobs" in first.stderr
    assert "submitted 0 tasks in 0 jobs: none" in benchmark("sweep", path, "--cluster", "slurm").stderr
    wait_done(benchmark)
    assert states(benchmark) == ["done"] * 4
    assert "submitted 0 tasks" in benchmark("sweep", path, "--cluster", "slurm").stderr
    gpu = next((benchmark.results / "synthetic").rglob("*.json"))
    assert json.loads(gpu.read_text())["provenance"]["slurm"]


def test_two_submitters_at_once(benchmark):
    path = benchmark.write(SMALL)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(benchmark, "sweep", path, "--cluster", "slurm") for _ in range(3)]
    said = sorted(re.findall("submitted (\\d+) tasks", each.result().stderr) for each in asked)
    assert said == [["0"], ["0"], ["4"]]
    wait_done(benchmark)
    assert states(benchmark) == ["done"] * 4


def test_jobs_of_a_submitter_that_died_are_known(benchmark):
    """Its folder does not know the ids; the jobs are found by their name."""
    benchmark("sweep", slow(benchmark), "--cluster", "slurm")
    (path,) = (benchmark.results / "sweeps" / "table" / "submissions").iterdir()
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in document.items() if key != "jobs"}))
    assert states(benchmark) in (["queued"], ["running"])
    assert "submitted 0 tasks" in benchmark("sweep", slow(benchmark), "--cluster", "slurm").stderr
    benchmark("cancel")


@pytest.mark.parametrize("how", ["preempted", "requeued"])
def test_a_recording_goes_on_after_preemption(benchmark, cluster, how):
    """USR2 as a warning, or requeued without one: finished shards are not made again, and the id of the job stays."""
    benchmark("sweep", slow(benchmark), "--cluster", "slurm")
    wait_until(lambda: len(shards(benchmark)) >= 1)
    with held(benchmark):
        ((job, state, _),) = cluster.jobs()
        assert state == "RUNNING" and states(benchmark) == ["running"]
        before = {path: path.stat().st_mtime_ns for path in shards(benchmark)}
        cluster.asked(*(["scancel", "-s", "USR2", job] if how == "preempted" else ["scontrol", "requeue", job]))
    wait_done(benchmark)
    assert states(benchmark) == ["done"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert record(benchmark)["provenance"]["slurm"]["SLURM_JOB_ID"] == job
    assert rows(benchmark)[0]["outcome"]["job"] == job


def test_a_recording_makes_room_for_urgent_jobs(benchmark, cluster):
    """Slurm itself preempts: it warns, gives the time of grace, and queues the job again until there is room."""
    benchmark("sweep", slow(benchmark), "--cluster", "slurm")
    wait_until(lambda: len(shards(benchmark)) >= 1)
    with held(benchmark):
        before = {path: path.stat().st_mtime_ns for path in shards(benchmark)}
        for node in ("n1", "n2"):
            said = cluster.asked(
                "sbatch", "-p", "urgent", "-w", node, "-c", "4", "-o", "/dev/null", "--wrap", "sleep 15"
            )
            assert said.startswith("Submitted"), said
        wait_until(lambda: (rows(benchmark)[0]["why"] or "").startswith("PENDING"))
        assert states(benchmark) == ["queued"]
    wait_done(benchmark)
    assert states(benchmark) == ["done"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert record(benchmark)["provenance"]["slurm"]["SLURM_RESTART_COUNT"] == "1"


def test_a_job_over_its_time_limit_goes_on_in_the_next(benchmark, cluster):
    """Slurm warns a minute before the end of the two, or up to a minute earlier: too early for all of the work."""
    benchmark("sweep", slow(benchmark, pause=5, minutes=2), "--cluster", "slurm")
    wait_done(benchmark, 500)
    assert states(benchmark) == ["done"], benchmark("status", "--all", code=None).stdout
    (log,) = (benchmark.results / "sweeps" / "table" / "logs").rglob("*_log.err")
    assert log.read_text().count("Caught signal SIGUSR2") >= 1


def test_a_full_disk_loses_nothing_but_the_shard(benchmark):
    benchmark.results.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", benchmark.results],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"NO SMALL DISK CAN BE MADE HERE: {mounted.stderr.strip()}")
    try:
        path = slow(benchmark)
        benchmark("sweep", path, "--cluster", "slurm")
        wait_until(lambda: len(shards(benchmark)) >= 1)
        filler = benchmark.results / "filler"
        with held(benchmark):
            with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))
            before = {path: path.stat().st_mtime_ns for path in shards(benchmark)}
        wait_done(benchmark)
        assert states(benchmark) == ["missing"]  # there was no room to say more
        filler.unlink()
        benchmark("sweep", path, "--cluster", "slurm", "--retry-failed")
        wait_done(benchmark)
        assert states(benchmark) == ["done"]
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    finally:
        benchmark("cancel", code=None)
        benchmark.cluster.wait_empty(60)
        subprocess.run(["umount", benchmark.results], check=True)


def test_what_is_killed_is_missing_and_goes_on(benchmark):
    """SIGKILL, as from the kernel where memory runs out: no last word, and status still knows."""
    path = slow(benchmark)
    benchmark("sweep", path, "--cluster", "slurm")
    wait_until(lambda: len(shards(benchmark)) >= 1)
    with held(benchmark):
        os.kill(pid_of_the_task(benchmark), signal.SIGKILL)
    wait_done(benchmark)
    (row,) = rows(benchmark)
    assert row["state"] == "missing" and row["why"].startswith("its process on ")
    before = {path: path.stat().st_mtime_ns for path in shards(benchmark)}
    assert "submitted 1 tasks" in benchmark("sweep", path, "--cluster", "slurm").stderr
    wait_done(benchmark)
    assert states(benchmark) == ["done"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_cancelled_jobs_leave_a_list(benchmark):
    path = slow(benchmark)
    with held(benchmark):
        benchmark("sweep", path, "--cluster", "slurm")
        wait_until(lambda: states(benchmark) == ["running"])
        assert "cancelled " in benchmark("cancel").stderr
    wait_done(benchmark)
    assert states(benchmark) == ["missing"]
    assert "nothing: no job is alive" in benchmark("cancel").stderr


def test_a_cell_that_always_fails_is_named_with_its_log(benchmark):
    path = benchmark.write(SMALL + '[[cells]]\nmethod = "qcfs"\ncheckpoint = "no.pt"\n')
    benchmark("sweep", path, "--cluster", "slurm")
    wait_done(benchmark)
    found = rows(benchmark)
    assert sorted(row["state"] for row in found) == ["done"] * 4 + ["failed"]
    failed = found[-1]
    assert "no.pt does not exist" in failed["why"] and Path(failed["outcome"]["log"]).is_file()
    told = benchmark("status", code=1).stdout
    assert f": {failed['outcome']['log']}\n  " in told and "4 done, 1 failed" in told
    assert "failed: " in told.partition(failed["outcome"]["log"])[2]  # the log itself is quoted
    assert "does not exist" in benchmark("logs", failed["key"]).stdout
    assert "submitted 0 tasks" in benchmark("sweep", path, "--cluster", "slurm").stderr
    assert "submitted 1 tasks" in benchmark("sweep", path, "--cluster", "slurm", "--retry-failed").stderr
    wait_done(benchmark)
    assert states(benchmark)[-1] == "failed"


def test_the_controller_may_be_away(benchmark, cluster):
    """Running jobs go on; nobody submits as long as nobody knows what is queued."""
    path = slow(benchmark)
    with held(benchmark):
        benchmark("sweep", path, "--cluster", "slurm")
        wait_until(lambda: states(benchmark) == ["running"])
        cluster.wait_saved()
        cluster.lab("stop.sh", "-9", "ctld")
        try:
            told = benchmark("status", code=1)
            assert "squeue " in told.stderr and "running" in told.stdout
            refused = benchmark("sweep", path, "--cluster", "slurm", code=1)
            assert "squeue " in refused.stderr
        finally:
            cluster.lab("start.sh", "ctld")
    wait_done(benchmark)
    assert states(benchmark) == ["done"]


def test_the_daemon_of_the_node_may_die(benchmark, cluster):
    path = slow(benchmark)
    with held(benchmark):
        benchmark("sweep", path, "--cluster", "slurm")
        wait_until(lambda: states(benchmark) == ["running"])
        ((_, _, node),) = cluster.jobs()
        cluster.lab("stop.sh", "-9", node)
        time.sleep(2)
        cluster.lab("start.sh", node)
    wait_done(benchmark)
    assert states(benchmark) == ["done"]


def test_a_node_that_is_lost(benchmark, cluster):
    """Power off: neither the task, nor its warden, nor the daemon says a word; Slurm waits its time and goes elsewhere."""
    benchmark("sweep", slow(benchmark), "--cluster", "slurm")
    wait_until(lambda: len(shards(benchmark)) >= 1)
    with held(benchmark):
        ((job, _, node),) = cluster.jobs()
        before = {path: path.stat().st_mtime_ns for path in shards(benchmark)}
        cluster.lab("stop.sh", "-9", node)
        for pid in cluster.processes():
            os.kill(pid, signal.SIGKILL)
    try:
        assert states(benchmark) == ["queued"]  # Slurm still holds it for running
        wait_until(lambda: len(shards(benchmark)) > len(before))
        ((again, _, elsewhere),) = cluster.jobs()
        assert again == job and elsewhere != node
        wait_done(benchmark)
    finally:
        cluster.lab("start.sh", node)
    assert states(benchmark) == ["done"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    wait_until(lambda: not cluster.closed_nodes())


TRAINED = """
[defaults]
dataset = "synthetic"
[resources]
mem = "2G"
time = 30
[[trainings]]
name = "net"
method = "qcfs"
epochs = {epochs}
checkpoint-seconds = 3600
resources = {{ nodes = {nodes} }}
[[cells]]
method = ["qcfs", "srp"]
checkpoint = "training:net"
timesteps = 3
limit = 16
calibration-size = 16
"""


def training_record(benchmark):
    (path,) = (benchmark.results / "training").glob("*.json")
    return json.loads(path.read_text())


def test_a_training_on_two_nodes_and_its_cells(benchmark):
    # The nodes of the lab have names that no network knows.
    benchmark.write('setup = ["export MASTER_ADDR=127.0.0.1"]\n', "slurm")
    benchmark("sweep", benchmark.write(TRAINED.format(epochs=2, nodes=2)), "--cluster", "slurm")
    wait_done(benchmark)
    assert states(benchmark) == ["done"] * 3
    trained = training_record(benchmark)
    assert trained["provenance"]["processes"] == 2 and trained["provenance"]["submit_sha"]
    records = [json.loads(path.read_text()) for path in (benchmark.results / "synthetic").rglob("*.json")]
    assert {each["ann"]["training"] for each in records} == {trained["id"]} and len(records) == 2


def test_a_training_goes_on_after_preemption(benchmark, cluster):
    benchmark("sweep", benchmark.write(TRAINED.format(epochs=400, nodes=1)), "--cluster", "slurm")
    wait_until(lambda: list((benchmark.results / "training").glob("*/state.pt")))
    job = next(job for job, state, _ in cluster.jobs() if state == "RUNNING")
    cluster.asked("scancel", "-s", "USR2", job)
    wait_done(benchmark)
    assert states(benchmark) == ["done"] * 3
    trained = training_record(benchmark)
    assert len(trained["provenance"]["resumed_at"]) == 1 and len(trained["epochs"]) == 400
