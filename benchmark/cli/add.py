"""`leaderboard add`: a record that was made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, RecordError

if TYPE_CHECKING:
    from benchmark.records import ResultRecord


@click.command(
    epilog="""\b
Examples:
  python -m benchmark leaderboard add record.json
  python -m benchmark leaderboard add results/*.json --dry-run"""
)
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True)
)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option("--dry-run", is_flag=True, help="Check only.")
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
def add(files: tuple[Path, ...], results: Path | None, dry_run: bool, plugins: tuple[Path, ...]) -> int:
    """Check records that were made elsewhere, and put them where the page finds them.

    Checked are the schema, the id, the protocol with its fingerprints, that the rules are those that were asked for, and
    what must hold between the figures (spikes that do not sum, an accuracy above the oracle that peeks, intervals that are
    none). With one wrong file none is added. Figures that fit together can still be invented: `verify` runs a row again.
    """
    from benchmark import registry
    from benchmark.admission import examine
    from benchmark.records import load_record
    from benchmark.store import DEFAULT_RESULTS, ResultStore

    for plugin in plugins:
        registry.load_plugin(plugin)
    store = ResultStore(results or DEFAULT_RESULTS)
    known, _ = store.load_all()
    accepted: list[ResultRecord] = []
    wrong = False
    for path in files:
        try:
            record = load_record(path)
        except RecordError as error:
            click.echo(f"error: {error}", err=True)
            wrong = True
            continue
        found = examine(record, [*known, *accepted], registry.names("methods"))
        for objection in found.objections:
            click.echo(f"error: {path}: {objection}", err=True)
        for remark in found.remarks:
            click.echo(f"{path}: {remark}", err=True)
        wrong = wrong or bool(found.objections)
        accepted.append(record)
    if wrong:
        click.echo("nothing was added", err=True)
        return EXIT_FAILED
    for record in accepted:
        click.echo(f"would write {store.path(record.spec)}" if dry_run else f"wrote {store.save(record)}", err=True)
    if not dry_run:
        click.echo("now rebuild the page: python -m benchmark leaderboard", err=True)
    return EXIT_OK
