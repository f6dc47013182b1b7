"""Claims: one owner at a time, whatever dies when."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmark.claims import Claim, waiting_for


def test_one_has_it_and_the_next_gets_it_back(tmp_path):
    first, second = Claim(tmp_path / "a" / "work"), Claim(tmp_path / "a" / "work")
    assert first.take() and first.is_ours()
    assert not second.take() and not second.is_ours() and not second.is_void()
    second.release()  # not its own
    assert first.is_ours()
    first.release()
    assert second.take()
    second.release()
    assert list((tmp_path / "a").iterdir()) == []


def test_the_owner_says_who_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    claim = Claim(tmp_path / "work")
    assert claim.owner() is None
    claim.take()
    owner = claim.owner()
    assert owner["pid"] == os.getpid() and owner["job"] == "17" and owner["host"]
    claim.release()


HOLD = """
import sys, time
from pathlib import Path
from benchmark.claims import Claim
assert Claim(Path(sys.argv[1])).take()
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_of_this_machine_has_it_no_longer(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "work"], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        claim = Claim(tmp_path / "work")
        assert not claim.take()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert claim.take()
    claim.release()


def elsewhere(path, age):
    """A claim of another machine that was touched `age` seconds ago."""
    path.write_text(json.dumps({"token": "x", "host": "far", "machine": "another boot 1", "pid": 1, "started": "1"}))
    then = time.time() - age
    os.utime(path, (then, then))


@pytest.mark.parametrize(("age", "void"), [(5, False), (25, True)])
def test_another_machine_loses_it_by_silence(tmp_path, age, void):
    elsewhere(tmp_path / "work", age)
    claim = Claim(tmp_path / "work", stale_seconds=20)
    assert claim.is_void() == void and claim.take() == void
    claim.release()


def test_it_is_touched_while_it_is_held(tmp_path):
    claim = Claim(tmp_path / "work", beat_seconds=0.05)
    claim.take()
    os.utime(tmp_path / "work", (1, 1))
    end = time.monotonic() + 10
    while (tmp_path / "work").stat().st_mtime < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    claim.release()


def test_who_has_lost_it_leaves_the_next_owner_alone(tmp_path):
    claim = Claim(tmp_path / "work", beat_seconds=0.02)
    claim.take()
    elsewhere(tmp_path / "work", 100)
    before = (tmp_path / "work").stat().st_mtime
    time.sleep(0.2)
    assert (tmp_path / "work").stat().st_mtime == before
    claim.release()
    assert json.loads((tmp_path / "work").read_text())["token"] == "x"


def test_half_a_claim_is_void_when_it_is_old(tmp_path):
    (tmp_path / "work").write_text("{")
    claim = Claim(tmp_path / "work", stale_seconds=20)
    assert not claim.take()
    os.utime(tmp_path / "work", (1, 1))
    assert claim.take()
    claim.release()


def race(path, log, start, count):
    start.wait()
    for _ in range(count):
        with waiting_for(Claim(path, stale_seconds=20), 0.001):
            with open(log, "a") as stream:
                stream.write("in\n")
            time.sleep(0.001)
            with open(log, "a") as stream:
                stream.write("out\n")


def test_many_processes_take_turns_also_over_a_void_claim(tmp_path):
    elsewhere(tmp_path / "work", 1000)
    context = multiprocessing.get_context("fork")
    start, log = context.Event(), tmp_path / "log"
    workers = [context.Process(target=race, args=(tmp_path / "work", log, start, 25)) for _ in range(6)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert log.read_text().split() == ["in", "out"] * (6 * 25)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
