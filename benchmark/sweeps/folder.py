"""What a sweep leaves on disk, `<results>/sweeps/<name>/`: plan, claims, progress, outcomes, submissions; written atomically.

Nothing else says what is done, so any process on any machine that shares the folder can go on with it, or tell its state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from benchmark.claims import Claim
from benchmark.errors import RecordError, UsageError, near_matches
from benchmark.spec import Frozen
from benchmark.store import ResultStore, write_atomic
from benchmark.sweeps.tasks import Task

SWEEPS = "sweeps"  # the folder in the results
RECORDINGS = "recordings"


class Plan(Frozen):
    """All tasks of a sweep, as its file said when it was last started."""

    schema_version: Literal[1] = 1
    name: str
    file: str
    tasks: tuple[Task, ...]
    plugins: tuple[str, ...] = ()


class Progress(Frozen):
    """How far a task is. `done` of `total` images; `started` and `seen` in seconds since the epoch, by the worker's clock."""

    text: str
    done: int
    total: int
    started: float
    host: str
    job: str | None = None
    log: str | None = None


class Outcome(Frozen):
    """How a task ended.

    `files`, relative to the results folder, are what it made; without one of them it is not done. `record` is the id of the
    result record or of the training record.
    """

    status: Literal["ok", "skipped", "failed"]
    record: str | None = None
    files: tuple[str, ...] = ()
    reason: str | None = None
    seconds: float
    finished: str
    host: str
    job: str | None = None
    log: str | None = None
    git_sha: str | None = None


class Submission(Frozen):
    """Jobs that were handed to a scheduler together.

    It is written before they are, so that jobs whose submitter died in between can be found by their name, `<sweep>-<token>`.
    The job of number i does the tasks of `groups[i]`, one after the other. `jobs` are the ids, as the scheduler writes them.
    """

    token: str
    cluster: Literal["slurm", "local"]
    groups: tuple[tuple[str, ...], ...]
    logs: str
    submitted: str
    host: str
    jobs: tuple[str, ...] = ()
    git_sha: str | None = None


Value = TypeVar("Value", bound=Frozen)


class SweepFolder:
    """The folder of one sweep in a results folder."""

    def __init__(self, store: ResultStore, name: str):
        self.store, self.name = store, name
        self.root = store.root / SWEEPS / name

    def plan(self) -> Plan:
        """Raises UsageError if there is none, RecordError if it cannot be read."""
        found = _read(Plan, self.root / "plan.json")
        if found is None:
            known = sorted(path.parent.name for path in self.root.parent.glob("*/plan.json"))
            hint = near_matches(self.name, known) or f"There are {', '.join(known) or 'none'} in {self.store.root}."
            raise UsageError(f"no sweep {self.name!r} has been started here.", hint)
        return found

    def write_plan(self, plan: Plan) -> None:
        """Put a plan in the place of the old one."""
        _write(self.root / "plan.json", plan)

    def claim(self, key: str) -> Claim:
        """The right to work on a task."""
        return Claim(self.root / "claims" / key)

    def progress(self, key: str) -> Progress | None:
        """How far a task is, or was when its worker died."""
        return _read(Progress, self.root / "progress" / f"{key}.json")

    def write_progress(self, key: str, progress: Progress) -> None:
        """For others to read."""
        _write(self.root / "progress" / f"{key}.json", progress)

    def outcome(self, key: str) -> Outcome | None:
        """How a task ended; None if it has not, or if what it made is gone. Raises RecordError if that cannot be read."""
        found = _read(Outcome, self.root / "outcomes" / f"{key}.json")
        if found is None or any(not (self.store.root / file).exists() for file in found.files):
            return None
        return found

    def submissions(self) -> list[Submission]:
        """All of them, oldest first."""
        found = [_read(Submission, path) for path in (self.root / "submissions").glob("*.json")]
        return sorted((each for each in found if each is not None), key=lambda each: (each.submitted, each.token))

    def write_submission(self, submission: Submission) -> None:
        """Before the jobs are handed over, and again when their ids are known."""
        _write(self.root / "submissions" / f"{submission.token}.json", submission)

    def submitting(self) -> Claim:
        """The right to submit: of two submitters, the second sees the jobs of the first."""
        return Claim(self.root / "submitting")

    def write_outcome(self, key: str, outcome: Outcome) -> None:
        """The end of a task."""
        _write(self.root / "outcomes" / f"{key}.json", outcome)


def _write(path: Path, value: Frozen) -> None:
    write_atomic(path, (value.model_dump_json(indent=2, exclude_none=True) + "\n").encode())


def _read(kind: type[Value], path: Path) -> Value | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise RecordError(f"{path} cannot be read: {reason}.", "Remove it; what it tells of is done again.") from error
