"""`report`: one run as a page."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  python -m benchmark report 3f2a --data-dir DIR
  python -m benchmark report 3f2a --policy entropy --output run.html
  python -m benchmark report ./my-recording --policy dynamic-confidence --policy margin"""
)
@click.argument("subject", metavar="ID|RECORDING")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the dataset lies, for example images.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="The page.  [default: reports/ID.html in the results folder]"
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME[KEY=VALUE,...]",
    help="Stopping rule beside those of the record; may be repeated.  [default for a recording: dynamic-confidence]",
)
@click.option(
    "--examples", type=click.IntRange(min=0), default=8, show_default=True, help="Images of each kind for each rule."
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
def report(
    subject: str,
    results: Path | None,
    data_dir: Path | None,
    output: Path | None,
    policies: tuple[str, ...],
    examples: int,
    plugins: tuple[Path, ...],
) -> None:
    """Write one self-contained HTML page about a run.

    The record whose id starts with ID needs its recordings in the results folder. RECORDING is a folder with the recordings
    `calibration` and `test` in it; what exists as a folder is taken for one.
    """
    from benchmark import registry
    from benchmark.evaluation import parse_policy
    from benchmark.report.gathering import find_record, subject_of_record, subject_of_recording
    from benchmark.report.page import page
    from benchmark.store import DEFAULT_RESULTS, ResultStore, file_name, write_atomic

    for plugin in plugins:
        registry.load_plugin(plugin)
    store = ResultStore(results or DEFAULT_RESULTS)
    specs = [parse_policy(text) for text in policies]
    if subject and Path(subject).is_dir():  # an empty path would be the current folder
        name = file_name(Path(subject).resolve().name)
        found = subject_of_recording(Path(subject), specs or [parse_policy("dynamic-confidence")])
    else:
        record = find_record(store, subject)
        name = record.id
        found = subject_of_record(record, store, data_dir, specs)
    path = output or store.root / "reports" / f"{name}.html"
    if path.is_dir():
        raise UsageError(f"{path} is a folder; --output takes the name of a file.")
    write_atomic(path, page(found, examples).encode())
    click.echo(path)
