"""How a sweep stands: what its folder says, and what a scheduler says of jobs that have not left anything there yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.sweeps.folder import Outcome, Plan, Progress, SweepFolder
from benchmark.sweeps.tasks import Task

State = Literal["done", "skipped", "failed", "running", "queued", "missing"]
ORDER: tuple[State, ...] = ("done", "skipped", "failed", "running", "queued", "missing")


@dataclass(frozen=True)
class TaskState:
    """A task and how it stands.

    `progress` is that of whoever works on it; of a `missing` task, how far somebody came who is gone. `why` is for people.
    """

    task: Task
    state: State
    outcome: Outcome | None = None
    progress: Progress | None = None
    why: str | None = None


def states(folder: SweepFolder, plan: Plan | None = None, queued: Mapping[str, str] | None = None) -> list[TaskState]:
    """Every task of a plan, in its order.

    Args:
        folder: of the sweep.
        plan: by default the one on disk.
        queued: key -> what the scheduler says of the job that will do it.

    Raises RecordError for a file that cannot be read, UsageError if there is no plan.
    """
    return [_state(folder, task, queued or {}) for task in (plan or folder.plan()).tasks]


def _state(folder: SweepFolder, task: Task, queued: Mapping[str, str]) -> TaskState:
    outcome = folder.outcome(task.key)
    claim = folder.claim(task.key)
    if claim.owner() is not None and not claim.is_void():
        return TaskState(task, "running", outcome, folder.progress(task.key))
    if outcome is not None and not (outcome.status == "failed" and task.key in queued):
        state: State = "done" if outcome.status == "ok" else outcome.status
        return TaskState(task, state, outcome, why=outcome.reason)
    progress = folder.progress(task.key)
    if task.key in queued:
        return TaskState(task, "queued", progress=progress, why=queued[task.key])
    gone = f"its process on {progress.host} is gone" if progress is not None else None
    return TaskState(task, "missing", progress=progress, why=gone)


def wanted(found: Sequence[TaskState], retry_failed: bool) -> list[Task]:
    """The tasks that nobody has done or is about to do."""
    again = ("missing", "failed") if retry_failed else ("missing",)
    return [each.task for each in found if each.state in again]


def summary(found: Sequence[TaskState]) -> str:
    """`3 done, 1 failed, 20 missing`."""
    counts = Counter(each.state for each in found)
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state]) or "no tasks"
