"""`logs` and `cancel`: the jobs of a sweep, from any machine that shares its folder."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.cli.status import sweep_folder
from benchmark.errors import EXIT_OK, UsageError, unknown_name

RESULTS = click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)


@click.command(
    epilog="""\b
Examples:
  python -m benchmark logs 34ca11e22798
  python -m benchmark logs 34ca --sweep demo --lines 200"""
)
@click.argument("key")
@click.option("--sweep", "name", help="Name of the sweep.  [default: the only one]")
@click.option("--lines", type=click.IntRange(min=1), default=40, show_default=True, help="From the end.")
@RESULTS
def logs(key: str, name: str | None, lines: int, results: Path | None) -> int:
    """Print the end of a task's log. KEY, or its beginning, is what `status` shows."""
    from benchmark.sweeps.logs import last_lines, log_file

    folder = sweep_folder(name, results)
    keys = [task.key for task in folder.plan().tasks]
    found = [each for each in keys if each.startswith(key)]
    if len(found) != 1:
        if found:
            raise UsageError(f"{key!r} is not unique: {', '.join(found)}.")
        raise unknown_name("task", key, keys, f"python -m benchmark status {folder.name} --all")
    path = log_file(folder, found[0])
    if path is None:
        raise UsageError(f"task {found[0]} has no log: no job has begun it.")
    click.echo(f"==> {path} <==", err=True)
    click.echo("\n".join(last_lines(path, lines)))
    return EXIT_OK


@click.command(
    epilog="""\b
Examples:
  python -m benchmark cancel demo"""
)
@click.argument("name", required=False)
@RESULTS
def cancel(name: str | None, results: Path | None) -> int:
    """End all jobs of a sweep that wait or run. What they have recorded stays; `sweep` goes on there."""
    from slurm.scheduler import cancel as cancel_jobs

    folder = sweep_folder(name, results)
    ended = cancel_jobs(folder.name, folder.submissions())
    click.echo(f"{folder.name}: cancelled {', '.join(ended) or 'nothing: no job is alive'}", err=True)
    return EXIT_OK
