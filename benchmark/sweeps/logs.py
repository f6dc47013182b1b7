"""Where the jobs of a sweep write, and the end of it."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from benchmark.sweeps.folder import SweepFolder


def log_file(folder: SweepFolder, key: str) -> Path | None:
    """That of whoever did or does a task; else that of the last job that was to do it; None if there is none."""
    known = [folder.outcome(key), folder.progress(key)]
    paths = [Path(each.log) for each in known if each is not None and each.log is not None]
    for submission in reversed(folder.submissions()):
        for group, job in zip(submission.groups, submission.jobs, strict=False):
            if key in group:
                paths += sorted((folder.root / submission.logs).glob(f"{job}_*log.err"))
    return next((path for path in paths if path.is_file()), None)


def last_lines(path: Path, count: int) -> list[str]:
    """At most so many lines from the end of a text file, without their ends."""
    with path.open(errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, count)]
