"""`status`: how the tasks of a sweep stand, for anybody who can read its folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.sweeps.folder import SweepFolder
    from benchmark.sweeps.state import TaskState

QUOTED, QUOTED_LINES = 5, 3  # tasks whose logs are quoted, and lines of each


@click.command(
    epilog="""\b
Examples:
  python -m benchmark status demo
  python -m benchmark status --watch 10
  python -m benchmark status demo --all --json"""
)
@click.argument("name", required=False)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option("--all", "every", is_flag=True, help="Also the tasks that are done.")
@click.option(
    "--watch", metavar="SECONDS", type=click.FloatRange(min=1), help="Look again and again until all is done."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of all tasks on stdout.")
def status(name: str | None, results: Path | None, every: bool, watch: float | None, as_json: bool) -> int:
    """Tell how a sweep stands: what is running and how far it is, what has failed and why, what is left.

    Logs of the first tasks that have failed or whose job is gone are quoted.

    NAME is that of the sweep; without it, of the only one in the results folder. Exits with 1 as long as something has failed
    or is left.
    """
    import json

    from benchmark.sweeps.state import states, summary
    from slurm.scheduler import SchedulerSilent, queued

    folder = sweep_folder(name, results)
    while True:
        try:
            alive = queued(folder.name, folder.submissions())
        except SchedulerSilent as error:
            click.echo(f"warning: {error} Tasks that are called missing may be queued.", err=True)
            alive = {}
        found = states(folder, queued=alive)
        if as_json:
            click.echo(json.dumps([_document(each) for each in found], indent=2))
        else:
            if watch is not None:
                click.clear()
            shown = found if every else [each for each in found if each.state not in ("done", "skipped")]
            if shown:
                click.echo(_table(shown))
            _quote_logs(folder, found)
            click.echo(f"{folder.name}: {summary(found)}")
        busy = any(each.state in ("running", "queued") for each in found)
        if watch is None or not busy:
            return EXIT_OK if all(each.state in ("done", "skipped") for each in found) else EXIT_FAILED
        time.sleep(watch)


def sweep_folder(name: str | None, results: Path | None) -> SweepFolder:
    """The folder of a sweep by name, or of the only one. Raises UsageError if there is none or several."""
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from benchmark.sweeps.folder import SWEEPS, SweepFolder

    store = ResultStore((results or DEFAULT_RESULTS).absolute())
    if name is None:
        known = sorted(path.parent.name for path in (store.root / SWEEPS).glob("*/plan.json"))
        if len(known) != 1:
            raise UsageError(f"name one of the sweeps in {store.root}: {', '.join(known) or 'there are none'}.")
        name = known[0]
    return SweepFolder(store, name)


def _document(each: TaskState) -> dict[str, Any]:
    return {
        "key": each.task.key,
        "task": each.task.label,
        "state": each.state,
        "why": each.why,
        "outcome": each.outcome.model_dump(mode="json") if each.outcome else None,
        "progress": each.progress.model_dump(mode="json") if each.progress else None,
    }


def _table(shown: Sequence[TaskState]) -> str:
    from tabulate import tabulate

    rows = [[each.state, each.task.key, each.task.label, _progress(each), _where(each), _why(each)] for each in shown]
    headers = ["state", "key", "task", "progress", "where", "why"]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True)


def _quote_logs(folder: SweepFolder, found: Sequence[TaskState]) -> None:
    """The end of the log, and where it is, of the first tasks that ended badly."""
    from benchmark.sweeps.logs import last_lines, log_file

    bad = [each.task for each in found if each.state in ("failed", "missing")]
    logs = [(task, path) for task in bad[:QUOTED] if (path := log_file(folder, task.key)) is not None]
    for task, path in logs:
        click.echo(f"\n{task.key} {task.label}: {path}")
        for line in last_lines(path, QUOTED_LINES):
            click.echo(f"  {line}")
    if logs and len(bad) > QUOTED:
        click.echo(f"\nand {len(bad) - QUOTED} more: python -m benchmark logs KEY")
    if logs:
        click.echo("")


def _progress(each: TaskState) -> str:
    progress = each.progress
    if progress is None or each.state not in ("running", "missing", "queued"):
        return ""
    return f"{progress.text} {progress.done:,}/{progress.total:,}"


def _where(each: TaskState) -> str:
    known = each.progress if each.state == "running" else each.outcome
    return " ".join(filter(None, [known.host, known.job])) if known is not None else ""


def _why(each: TaskState) -> str:
    return (each.why or "").partition("\n")[0]
