"""`leaderboard`: records into the page."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, StaleLeaderboard

DEFAULT_OUTPUT = Path("leaderboard/README.md")


@click.command(
    epilog="""\b
Examples:
  python -m benchmark leaderboard
  python -m benchmark leaderboard --check
  python -m benchmark leaderboard --results build/demo --output build/demo/README.md"""
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
def leaderboard(results: Path | None, output: Path, check: bool) -> int:
    """Build the leaderboard page and its figures from the records."""
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from leaderboard import Leaderboard

    store = ResultStore(results or DEFAULT_RESULTS)
    records, bad = store.load_all()
    problems = [problem.reason.replace(f"{store.root}/", "") for problem in bad]
    board = Leaderboard.from_records(records, problems, _links(store.training, output))
    for problem in problems:
        click.echo(f"skipped {problem}", err=True)
    if check:
        differences = board.check(output)
        if differences:
            raise StaleLeaderboard(
                f"{output} is not what the {len(records)} records say:\n" + "\n".join(differences),
                "Rebuild it with: python -m benchmark leaderboard",
            )
        click.echo(f"{output} is up to date with {len(records)} records", err=True)
    else:
        for path in board.write(output):
            click.echo(f"wrote {path}", err=True)
    return EXIT_FAILED if problems else EXIT_OK


def _links(trainings: Path, page: Path) -> dict[str, str]:
    """Training records by id, as links from the page."""
    return {
        path.stem: quote(Path(os.path.relpath(path, page.parent)).as_posix())
        for path in sorted(trainings.glob("*.json"))
    }
