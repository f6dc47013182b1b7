"""`leaderboard`: records into the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, StaleLeaderboard, UsageError

if TYPE_CHECKING:
    from benchmark.store import ResultStore

DEFAULT_OUTPUT = Path("leaderboard/README.md")


@click.command(
    epilog="""\b
Examples:
  python -m benchmark leaderboard
  python -m benchmark leaderboard --check
  python -m benchmark leaderboard --results build/demo --output build/demo/README.md
  python -m benchmark leaderboard --export table.csv --export table.tex"""
)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=DEFAULT_OUTPUT,
    show_default=True,
    help="The page; figures go into figures/ beside it.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 3 if the page is not what the records say.")
@click.option(
    "--export",
    "exports",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Leave the page alone; write all figures to a .csv, .json, .parquet or .tex file. Several are allowed.",
)
def leaderboard(results: Path | None, output: Path, check: bool, exports: tuple[Path, ...]) -> int:
    """Build the leaderboard page and its figures from the records."""
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from leaderboard.export import check_ending

    try:
        for path in exports:
            check_ending(path)
    except ValueError as error:
        raise UsageError(f"--export {error}") from error
    board, records, problems = _board(ResultStore(results or DEFAULT_RESULTS), output)
    if check:
        differences = board.check(output)
        if differences:
            raise StaleLeaderboard(
                f"{output} is not what the {records} records say:\n" + "\n".join(differences),
                "Rebuild it with: python -m benchmark leaderboard",
            )
        click.echo(f"{output} is up to date with {records} records", err=True)
    for path in exports:
        board.export(path)
        click.echo(f"wrote {path}", err=True)
    if not check and not exports:
        _write(board, output)
    return EXIT_FAILED if problems else EXIT_OK


def write_page(store: ResultStore, output: Path) -> int:
    """Build the page from the records; the exit code."""
    board, _, problems = _board(store, output)
    _write(board, output)
    return EXIT_FAILED if problems else EXIT_OK


def _board(store: ResultStore, output: Path) -> tuple[Any, int, list[str]]:
    """The leaderboard, how many records it is made of, and what could not be read."""
    from leaderboard import Leaderboard

    records, bad = store.load_all()
    problems = [problem.reason.replace(f"{store.root}/", "") for problem in bad]
    for problem in problems:
        click.echo(f"skipped {problem}", err=True)
    return Leaderboard.from_records(records, problems, _links(store.training, output)), len(records), problems


def _write(board: Any, output: Path) -> None:
    for path in board.write(output):
        click.echo(f"wrote {path}", err=True)


def _links(trainings: Path, page: Path) -> dict[str, str]:
    """Training records by id, as links from the page."""
    return {
        path.stem: quote(Path(os.path.relpath(path, page.parent)).as_posix())
        for path in sorted(trainings.glob("*.json"))
    }
