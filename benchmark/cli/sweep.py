"""`sweep`: everything that a sweep file asks for and that is not done, here or as jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.sweeps.folder import SweepFolder
    from benchmark.sweeps.state import TaskState
    from benchmark.sweeps.tasks import Resources, Task

Function = TypeVar("Function", bound=Callable[..., Any])


def resource_options(function: Function) -> Function:
    """What jobs ask for, over what sweep file and profile say."""
    texts = ("mem", "time", "partition", "account", "qos", "constraint")
    counts = {"gpus": "A node.", "cpus": "A task.", "tasks": "A node.", "nodes": None}
    for name in reversed(texts):
        function = click.option(f"--{name}", help="As sbatch has it.")(function)
    for name, words in reversed(counts.items()):
        function = click.option(f"--{name}", type=click.IntRange(min=0 if name == "gpus" else 1), help=words)(function)
    return function


@click.command(
    epilog="""\b
Examples:
  python -m benchmark sweep sweeps/demo.toml --results build/demo
  python -m benchmark sweep sweeps/cifar10.toml --cluster slurm --partition gpu --gpus 1 --dry-run
  python -m benchmark sweep sweeps/cifar10.toml --cluster slurm --profile a100 --parallel 16
  python -m benchmark sweep sweeps/demo.toml --cluster local --parallel 2 --retry-failed

\b
The same command does what is missing, and nothing twice. Formats of sweep files and of slurm.toml: docs/sweeps.md."""
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--cluster",
    type=click.Choice(["inline", "local", "slurm"]),
    default="inline",
    show_default=True,
    help="In this process; in processes of this machine that go on without it; as SLURM jobs.",
)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option("--retry-failed", is_flag=True, help="Also do again what has failed.")
@click.option(
    "--dry-run", is_flag=True, help="Check all, print every task and how it stands, and what sbatch would get."
)
@click.option("--profile", metavar="NAME", help="Table [profiles.NAME] of the profile file.")
@click.option(
    "--profile-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What the cluster wants.  [default: ./slurm.toml, ~/.config/dynconf-bench/slurm.toml]",
)
@click.option("--parallel", type=click.IntRange(min=1), help="Jobs of an array, or local processes, at once.")
@click.option("--cells-per-job", type=click.IntRange(min=1), help="Cells that one job does.  [default: 1]")
@resource_options
def sweep(
    file: Path,
    cluster: str,
    results: Path | None,
    retry_failed: bool,
    dry_run: bool,
    profile: str | None,
    profile_file: Path | None,
    parallel: int | None,
    cells_per_job: int | None,
    **asked: Any,
) -> int:
    """Do every cell and training of a sweep file that is not done yet.

    The file is checked to the last option before anything is computed. A failing task harms no other; `status` tells how all
    stand. Inline, exits with 1 if one has failed or is left over.
    """
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from benchmark.sweeps.folder import Plan, SweepFolder
    from benchmark.sweeps.option_checks import check_options
    from benchmark.sweeps.state import states, summary, wanted
    from benchmark.sweeps.sweep_file import load_sweep

    sweep = load_sweep(file)
    check_options(sweep)
    folder = SweepFolder(ResultStore((results or DEFAULT_RESULTS).absolute()), sweep.name)
    plan = Plan(name=sweep.name, file=str(file), tasks=sweep.tasks, plugins=sweep.plugins)
    inline = cluster == "inline"
    settings, flags = _settings(profile_file, profile, parallel, cells_per_job, asked)
    if dry_run:
        before = states(folder, plan, _queued(folder))
        list_tasks(before, on_stdout=True)
        if cluster == "slurm":
            from slurm.submitting import sbatch_texts

            for text in sbatch_texts(folder, wanted(before, retry_failed), settings, flags):
                click.echo(f"\n{text.strip()}")
        click.echo(f"{sweep.name}: {len(before)} tasks: {summary(before)}", err=True)
        return EXIT_OK
    folder.write_plan(plan)
    if inline:
        from benchmark.sweeps.work import work

        left = wanted(states(folder, queued=_queued(folder)), retry_failed)
        click.echo(f"{sweep.name}: {len(sweep.tasks)} tasks, {len(left)} to do", err=True)
        work(folder, [task.key for task in left], retry_failed=retry_failed)
        return conclude(folder)
    _submit(folder, cluster, settings, flags, retry_failed)
    return EXIT_OK


def _submit(folder: SweepFolder, cluster: str, settings: Any, flags: Resources, retry_failed: bool) -> None:
    """Hand over what is left under a cluster profile; of two submitters at once, one waits for the other and sees its jobs."""
    from benchmark.claims import waiting_for
    from benchmark.sweeps.state import states, summary, wanted
    from slurm.submitting import start_processes, submit_tasks

    hand_over = submit_tasks if cluster == "slurm" else start_processes
    with waiting_for(folder.submitting()):
        before = states(folder, queued=_queued(folder))
        left: list[Task] = wanted(before, retry_failed)
        made = hand_over(folder, left, settings, flags, retry_failed)
    jobs = sum(len(submission.groups) for submission in made)
    click.echo(f"{folder.name}: {len(before)} tasks: {summary(before)}", err=True)
    click.echo(f"submitted {len(left)} tasks in {jobs} jobs: {', '.join(_ids(made)) or 'none'}", err=True)
    click.echo(f"Look at them with: python -m benchmark status {folder.name}", err=True)


def _ids(made: Sequence[Any]) -> list[str]:
    """Array ids, or process ids."""
    return list(dict.fromkeys(job.partition("_")[0] for submission in made for job in submission.jobs))


def _queued(folder: SweepFolder) -> dict[str, str]:
    from slurm.scheduler import queued

    return queued(folder.name, folder.submissions())


def _settings(
    file: Path | None, name: str | None, parallel: int | None, cells_per_job: int | None, asked: dict[str, Any]
) -> tuple[Any, Resources]:
    from pydantic import ValidationError

    from benchmark.sweeps.tasks import Resources
    from slurm.cluster_profile import find_profile, load_profile

    settings = load_profile(find_profile(file), name)
    changes = {"parallel": parallel, "cells_per_job": cells_per_job}
    try:
        flags = Resources.model_validate(asked)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"--{problem['loc'][0]}: {problem['msg']}.") from error
    return settings.model_copy(update={key: value for key, value in changes.items() if value is not None}), flags


def conclude(folder: SweepFolder) -> int:
    """Join the slices, say how all tasks stand, and answer with the exit code."""
    from benchmark.sweeps.joining import join_slices
    from benchmark.sweeps.state import states, summary

    found = states(folder)
    problems = join_slices(folder)
    list_tasks([each for each in found if each.state not in ("done", "skipped")])
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    click.echo(f"{folder.name}: {summary(found)}", err=True)
    return EXIT_OK if not problems and all(each.state in ("done", "skipped") for each in found) else EXIT_FAILED


def list_tasks(found: Sequence[TaskState], on_stdout: bool = False) -> None:
    """One line for each."""
    for each in found:
        why = f": {each.why.partition(chr(10))[0]}" if each.why else ""
        click.echo(f"{each.state:8} {each.task.key} {each.task.label}{why}", err=not on_stdout)
