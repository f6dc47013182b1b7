"""What the scheduler says of jobs, without the process that submitted them, and without an accounting database."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.sweeps.folder import Submission

SECONDS = 30.0  # a controller that starts again answers late


class SchedulerSilent(BenchmarkError):
    """squeue or scancel did not answer, so nobody knows which jobs are alive."""


def queued(name: str, submissions: Sequence[Submission]) -> dict[str, str]:
    """Task key -> state of the live job that does or will do it, for people, such as `PENDING (Resources), job 12_3`.

    Args:
        name: of the sweep.
        submissions: its jobs.

    Raises SchedulerSilent if squeue does not answer.
    """
    found: dict[str, str] = {}
    on_slurm = {f"{name}-{each.token}": each for each in submissions if each.cluster == "slurm"}
    for job, index, job_name, state, reason in _squeue(list(on_slurm)):
        submission = on_slurm[job_name]
        number = int(index) if index.isdecimal() else 0
        text = f"{state}{f' ({reason})' if reason not in ('', 'None') else ''}, job {job}"
        for key in submission.groups[number] if number < len(submission.groups) else ():
            found[key] = text
    for submission in submissions:
        if submission.cluster != "local" or submission.host != socket.gethostname():
            continue
        for group, job in zip(submission.groups, submission.jobs, strict=False):
            if _is_controller(int(job), submission.logs):
                found.update(dict.fromkeys(group, f"on {submission.host}, process {job}"))
    return found


def cancel(name: str, submissions: Sequence[Submission]) -> list[str]:
    """End all live jobs of a sweep; their ids. Raises SchedulerSilent if the scheduler does not answer."""
    names = [f"{name}-{each.token}" for each in submissions if each.cluster == "slurm"]
    ids = sorted({job for job, *_ in _squeue(names)})
    if ids:
        _asked(["scancel", *ids])
    for submission in submissions:
        if submission.cluster == "local" and submission.host == socket.gethostname():
            for job in submission.jobs:
                if _is_controller(int(job), submission.logs):
                    os.killpg(os.getpgid(int(job)), 15)
                    ids.append(job)
    return ids


def _squeue(names: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    """Job id, array index, name, state and reason of every live job of these names, each array element by itself."""
    if not names:
        return []
    # -r: one line for each element; by name, because an id that has been forgotten would be an error
    text = _asked(["squeue", "-h", "-r", "-n", ",".join(names), "-o", "%i|%K|%j|%T|%r"])
    lines = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    return [(job, index, job_name, state, reason) for job, index, job_name, state, reason in lines]


def _asked(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603  # our words
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerSilent(f"{command[0]} cannot be asked: {error}.") from error
    if done.returncode:
        raise SchedulerSilent(f"{command[0]} does not answer: {done.stderr.strip() or f'exit code {done.returncode}'}.")
    return done.stdout


def _is_controller(pid: int, logs: str) -> bool:
    """Whether a process of this machine still is the one that was started with this folder of logs."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return re.search(rb"SUBMITIT_LOCAL_COMMAND=[^\0]*" + re.escape(logs.encode()), words) is not None
