"""`leaderboard`: records into the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from benchmark.cli.add import add
from benchmark.cli.suggesting import Suggesting
from benchmark.cli.verify import verify
from benchmark.errors import EXIT_FAILED, EXIT_OK, StaleLeaderboard, UsageError

if TYPE_CHECKING:
    from benchmark.store import ResultStore

DEFAULT_OUTPUT = Path("leaderboard/README.md")


@click.group(
    cls=Suggesting,
    invoke_without_command=True,
    epilog="""\b
Examples:
  python -m benchmark leaderboard
  python -m benchmark leaderboard --check
  python -m benchmark leaderboard --results build/demo --output build/demo/README.md
  python -m benchmark leaderboard --html build/leaderboard.html
  python -m benchmark leaderboard --export table.csv --export table.tex --export papers.bib
  python -m benchmark leaderboard verify f401 --data-dir data
  python -m benchmark leaderboard add record.json""",
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
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Leave the page alone; write one to explore in a browser, in one file that needs no network.",
)
@click.option(
    "--export",
    "exports",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help=(
        "Leave the page alone; write all figures to a .csv, .json, .parquet or .tex file, or the papers to a .bib file. "
        "Several are allowed."
    ),
)
@click.pass_context
def leaderboard(
    context: click.Context,
    results: Path | None,
    output: Path,
    check: bool,
    html: Path | None,
    exports: tuple[Path, ...],
) -> int:
    """Build the leaderboard page and its figures from the records."""
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            raise UsageError(f"options of {context.invoked_subcommand} stand behind its name, not before it.")
        return EXIT_OK
    from benchmark.store import DEFAULT_RESULTS, ResultStore, collection_paused
    from leaderboard.export import check_ending

    try:
        for path in exports:
            check_ending(path)
    except ValueError as error:
        raise UsageError(f"--export {error}") from error
    store = ResultStore(results or DEFAULT_RESULTS)
    with collection_paused():
        return _build(store, output, check, html, exports)


leaderboard.add_command(add)
leaderboard.add_command(verify)


def _build(store: ResultStore, output: Path, check: bool, html: Path | None, exports: tuple[Path, ...]) -> int:
    board, records, problems = _board(store, output)
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
    if html is not None:
        board.write_html(html, _reports(store, html))
        click.echo(f"wrote {html}", err=True)
    if not check and not exports and html is None:
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
    return {path.stem: _link(path, page) for path in sorted(trainings.glob("*.json"))}


def _reports(store: ResultStore, page: Path) -> dict[str, str]:
    """For each record its report if there is one, else its file, as a link from the page."""
    found = {path.stem: path for path in store.paths()}
    found |= {path.stem: path for path in sorted((store.root / "reports").glob("*.html")) if path.stem in found}
    return {name: _link(path, page) for name, path in found.items()}


def _link(path: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(path, page.parent)).as_posix())
