"""`leaderboard verify`: a row, run again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, BenchmarkError, UsageError

if TYPE_CHECKING:
    from benchmark.records import ResultRecord
    from benchmark.spec import ExecSpec
    from benchmark.verification import Comparison


@click.command(
    epilog="""\b
Examples:
  python -m benchmark leaderboard verify f401 --data-dir data
  python -m benchmark leaderboard verify 3f2a 9c41 --data-dir data --checkpoint resnet20.th
  python -m benchmark leaderboard verify 3f2a --data-dir data --work build/verify   goes on where it was cut off"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the dataset lies.")
@click.option(
    "--checkpoint", metavar="FILE|zoo:NAME|timm:NAME", help="The weights, where the record cannot say where they lie."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), help="Keep the new recordings here.  [default: removed afterwards]"
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print every comparison as JSON on stdout.")
def verify(
    ids: tuple[str, ...],
    results: Path | None,
    data_dir: Path | None,
    checkpoint: str | None,
    batch_size: int,
    device: str,
    work: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Run rows again from their records, on the same weights and images, and compare.

    Exits with 1 where a figure is not what the record says: accuracy and latency in its 95% interval, spikes and SynOps
    within 1%. Other weights or images than the recorded ones (by sha256) are an error, not a difference.
    """
    import json

    from benchmark.spec import ExecSpec
    from benchmark.store import DEFAULT_RESULTS, ResultStore

    store = ResultStore(results or DEFAULT_RESULTS)
    records = [store.find(each) for each in ids]
    execution = ExecSpec(
        batch_size=batch_size,
        device=device,  # type: ignore[arg-type]  # click has checked the choice
        plugins=tuple(map(str, plugins)),
    )
    documents, agree = [], True
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(TemporaryDirectory(prefix="dynconf-verify-")))
        _not_the_results(folder, store.root)
        for record in records:
            found = _again(record, ResultStore(folder), execution, data_dir, checkpoint)
            document = _report(record, found, as_json)
            documents.append(document)
            agree = agree and document["reproduced"]
    if as_json:
        click.echo(json.dumps(documents, indent=2))
    return EXIT_OK if agree else EXIT_FAILED


def _not_the_results(folder: Path, results: Path) -> None:
    # The stored record, or its recording, would answer instead of a run.
    if folder.resolve() == results.resolve():
        raise UsageError("--work is the folder of the records themselves.")


def _again(
    record: ResultRecord, store: Any, execution: ExecSpec, data_dir: Path | None, checkpoint: str | None
) -> list[Comparison]:
    from benchmark import registry
    from benchmark.preparation import prepare
    from benchmark.reporting import Console
    from benchmark.runner import run
    from benchmark.verification import cell_of, check_same_run, comparisons

    for plugin in execution.plugins:
        registry.load_plugin(Path(plugin))
    console = Console()
    cell = cell_of(record.spec, str(data_dir) if data_dir else None, checkpoint)
    weights = record.spec.weights
    try:
        check_same_run(record.spec, prepare(cell, store, console.say).spec)
    except BenchmarkError as error:
        said = f"Its weights are {weights.source}, sha256 {weights.sha256}."
        raise type(error)(f"{record.id}: {error}", None if checkpoint or cell.checkpoint else said) from error
    console.say(f"{record.id}: {record.spec.method} on {record.spec.dataset}, {record.spec.model}")
    found, _ = run(cell, store, execution, console)
    return comparisons(record, found)


def _report(record: ResultRecord, found: list[Comparison], as_json: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from benchmark.cli.tables import plain_table

    exact, wrong = sum(each.exact for each in found), [each for each in found if not each.agrees]
    rows = [
        [each.figure, f"{each.recorded:.6g}", f"{each.found:.6g}", "same" if each.exact else each.allowed]
        for each in found
        if each.agrees
    ]
    rows += [[each.figure, f"{each.recorded:.6g}", f"{each.found:.6g}", f"NOT {each.allowed}"] for each in wrong]
    click.echo(plain_table(("figure", "record", "now", "verdict"), rows), err=as_json)
    verdict = f"NOT reproduced: {len(wrong)} figures differ" if wrong else "reproduced"
    click.echo(f"{record.id}: {verdict}; {exact} of {len(found)} figures are the same float", err=as_json)
    return {"id": record.id, "reproduced": not wrong, "figures": [asdict(each) for each in found]}
