"""Doing the tasks of a sweep: each once, by one process at a time, whoever starts it; the outcome is on disk."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark import registry
from benchmark.errors import BenchmarkError, UsageError
from benchmark.provenance import git_state, now
from benchmark.records import ResultRecord
from benchmark.reporting import Console
from benchmark.runner import run, run_slice
from benchmark.sweeps.folder import Outcome, Progress, SweepFolder
from benchmark.sweeps.tasks import TRAINING, CellTask, Task, TrainingTask
from benchmark.training.command import train

PROGRESS_SECONDS = 5.0
WAIT_SECONDS = 2.0  # for a training that another process is at


@dataclass(frozen=True)
class Place:
    """Where tasks are done, for those who look, and as which of several processes.

    `job` and `log` are those of the scheduler, `submit_sha` the commit at which the job was handed to it. Of processes that
    train one network together, one `leads`: it alone writes outcomes. They may be `alone`, which is the rule.
    """

    job: str | None = None
    log: str | None = None
    submit_sha: str | None = None
    leads: bool = True
    alone: bool = True


def work(
    folder: SweepFolder, keys: Sequence[str], place: Place = Place(), retry_failed: bool = False
) -> dict[str, Outcome | None]:
    """Do these tasks of the plan, one after the other; a failing one harms no other.

    Args:
        folder: of the sweep.
        keys: of tasks; one that the plan no longer has is passed over.
        place: where this is.
        retry_failed: do again what has failed before.

    Returns:
        Outcomes by key; None where another process works on it, or a training that it needs is not done.

    Raises:
        KeyboardInterrupt: the process was asked to stop; the task in work has no outcome and goes on another time.
    """
    plan = folder.plan()
    for plugin in plan.plugins:
        registry.load_plugin(plugin)
    tasks = {task.key: task for task in plan.tasks}
    found: dict[str, Outcome | None] = {}
    left = [key for key in keys if key in tasks]
    while left:
        blocked = {key: needed for key in left if (needed := tasks[key].needs) and _end_of(folder, needed) is None}
        found |= {key: _do(folder, tasks[key], place, retry_failed) for key in left}
        left = [key for key, needed in blocked.items() if found[key] is None and _may_come(folder, needed)]
        if left:
            time.sleep(WAIT_SECONDS)
    return found


def _end_of(folder: SweepFolder, training: str) -> Outcome | None:
    """Its outcome, but not one that is about to be replaced: somebody tries again what has failed."""
    return folder.outcome(training) if folder.claim(training).is_void() else None


def _may_come(folder: SweepFolder, training: str) -> bool:
    """Whether a training that was not done is done now, or somebody is at it."""
    return folder.outcome(training) is not None or not folder.claim(training).is_void()


def _do(folder: SweepFolder, task: Task, place: Place, retry_failed: bool) -> Outcome | None:
    def ended() -> Outcome | None:
        found = folder.outcome(task.key)
        return None if found is not None and found.status == "failed" and retry_failed else found

    if (before := ended()) is not None:
        return before
    training = _end_of(folder, task.needs) if task.needs is not None else None
    if task.needs is not None and training is None:
        return None
    if not place.leads:
        return _followed(folder, task, place)
    claim = folder.claim(task.key)
    # Of several processes the others are on their way already, and a training has a claim of its own.
    if not claim.take() and place.alone:
        return None
    try:
        outcome = ended() if place.alone else None  # done while this process looked
        if outcome is None:
            outcome = _done(folder, task, place, training)
            folder.write_outcome(task.key, outcome)
        return outcome
    finally:
        claim.release()


def _done(folder: SweepFolder, task: Task, place: Place, training: Outcome | None) -> Outcome:
    """Do a task; whatever goes wrong is its outcome."""
    start = time.monotonic()
    console = _Noted(Console(), folder, task.key, place)
    console.say(f"--- {task.label}")
    try:
        if training is not None and training.status == "failed":
            raise UsageError(f"its training failed: {training.reason}")
        if isinstance(task, TrainingTask):
            made = _trained(folder, task, console, place)
        else:
            made = _ran(folder, task, console, place)
    except BenchmarkError as error:
        made = {"status": "failed", "reason": str(error)}
    except Exception as error:
        console.say(traceback.format_exc())
        made = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    if made["status"] != "ok":
        console.say(f"{made['status']}: {made['reason']}")
    return Outcome.model_validate(
        {
            **made,
            "seconds": time.monotonic() - start,
            "finished": now(),
            "host": socket.gethostname(),
            "job": place.job,
            "log": place.log,
            "git_sha": git_state()["git_sha"],
        }
    )


def _followed(folder: SweepFolder, task: Task, place: Place) -> Outcome | None:
    """Help the leading process with a training; cells are its own business."""
    if isinstance(task, TrainingTask):
        _trained(folder, task, Console(), place)
    return folder.outcome(task.key)


def checkpoint_of(folder: SweepFolder, name: str) -> Path:
    """Where the training of this name in the sweep puts its checkpoint."""
    return folder.store.checkpoints / f"{folder.name}-{name}.safetensors"


def _made(folder: SweepFolder, checkpoint: str | None) -> str | None:
    """The checkpoint, by its path where a training of the sweep makes it."""
    if checkpoint is None or not checkpoint.startswith(TRAINING):
        return checkpoint
    return str(checkpoint_of(folder, checkpoint.removeprefix(TRAINING)))


def _trained(folder: SweepFolder, task: TrainingTask, console: Console | _Noted, place: Place) -> dict[str, object]:
    how = {"output": checkpoint_of(folder, task.name), "submit_sha": place.submit_sha}
    cell = task.cell.model_copy(update={"init": _made(folder, task.cell.init)})
    record, checkpoint, _ = train(cell, folder.store, task.execution.model_copy(update=how), console)
    files = (checkpoint, folder.store.training / f"{record.id}.json")
    return {"status": "ok", "record": record.id, "files": tuple(_relative(folder, file) for file in files)}


def _ran(folder: SweepFolder, task: CellTask, console: _Noted, place: Place) -> dict[str, object]:
    cell = task.cell.model_copy(update={"checkpoint": _made(folder, task.cell.checkpoint)})
    execution = task.execution.model_copy(update={"submit_sha": place.submit_sha})
    if execution.slice is not None:
        result = run_slice(cell, folder.store, execution, console)
        if result.record is not None:
            return _of(folder, result.record)
        return {"status": "ok", "files": (_relative(folder, folder.store.recording_folder(result.spec)),)}
    return _of(folder, run(cell, folder.store, execution, console)[0])


def _of(folder: SweepFolder, record: ResultRecord) -> dict[str, object]:
    status = record.status if record.status in ("ok", "skipped") else "failed"
    path = _relative(folder, folder.store.path(record.spec))
    reason = record.reason if record.status in ("ok", "skipped", "failed") else f"{record.status}: {record.reason}"
    return {"status": status, "record": record.id, "files": (path,), "reason": reason}


def _relative(folder: SweepFolder, path: Path) -> str:
    return path.relative_to(folder.store.root).as_posix()


@dataclass
class _Noted:
    """A reporter that also leaves its progress where others see it."""

    console: Console
    folder: SweepFolder
    key: str
    place: Place

    def __post_init__(self) -> None:
        self._started = time.time()

    def say(self, text: str) -> None:
        self.console.say(text)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        last, now_done = 0.0, done

        def note() -> None:
            nonlocal last
            last = time.monotonic()
            progress = Progress(
                text=title,
                done=now_done,
                total=total,
                started=self._started,
                host=socket.gethostname(),
                job=self.place.job,
                log=self.place.log,
            )
            self.folder.write_progress(self.key, progress)

        with self.console.bar(title, total, done) as update:
            note()

            def noted(count: int) -> None:
                nonlocal now_done
                now_done += count
                update(count)
                if time.monotonic() - last > PROGRESS_SECONDS:
                    note()

            yield noted
            note()
