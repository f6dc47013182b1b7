"""`run`: one cell of the table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from benchmark.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, RecordError, UsageError

if TYPE_CHECKING:
    from benchmark.records import ResultRecord
    from benchmark.spec import Cell, ExecSpec

EVERY = "all"


class BatchSize(click.ParamType):
    """A number of images, or `auto`."""

    name = "integer from 1, or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


@click.command(
    epilog="""\b
Examples:
  python -m benchmark run
  python -m benchmark run --method qcfs --dataset cifar10 --model resnet20 --data-dir DIR
  python -m benchmark run --method all --dataset cifar10 --data-dir DIR --limit 1000
  python -m benchmark run --set levels=8 --timesteps 16 --policy fixed --policy dynamic-confidence
  python -m benchmark run --policy 'dynamic-confidence[scale=30,threshold=0.6]' --json > record.json
  python -m benchmark run --dataset imagenet --data-dir DIR --batch-size auto --slice 2/3
  python -m benchmark run --method ltb --dataset imagenet --data-dir DIR --model squeezenet1_0 \\
      --checkpoint FILE --preprocessing divisor=1 --preprocessing mean=123,117,104 --preprocessing crop=227"""
)
@click.option(
    "--method", default="qcfs", show_default=True, help="Conversion method; `all`: every one that fits the weights."
)
@click.option("--dataset", default="digits", show_default=True, help="Dataset; must be on this disk, see prepare.")
@click.option("--model", help="Backbone; the dataset's own by default.")
@click.option("--checkpoint", metavar="FILE|zoo:NAME|timm:NAME", help="Weights; by default those of the zoo that fit.")
@click.option("--timesteps", type=click.IntRange(min=1), help="T; the method's own by default (qcfs: 32).")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME[KEY=VALUE,...]",
    help="Stopping rule; may be repeated.  [default: dynamic-confidence]",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the method; may be repeated.")
@click.option(
    "--preprocessing",
    "geometry",
    multiple=True,
    metavar="KEY=VALUE",
    help="For weights that do not say: divisor, mean, std, resize, crop, interpolation; lists with commas.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N test images.")
@click.option("--calibration-size", type=click.IntRange(min=1), help="Only the first N calibration images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of training and bootstrap.")
@click.option(
    "--batch-size",
    type=BatchSize(),
    default="64",
    show_default=True,
    metavar="N|auto",
    help="Does not change the result; halved where memory runs out. auto: large on a GPU.",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that load images.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16", "fp64"]),
    default="fp32",
    show_default=True,
    help="Of the synapses; membranes are never below fp32.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the dataset lies.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option(
    "--slice",
    "part",
    metavar="K/N|auto",
    help="Record only the K-th of N shares, for `collect`; auto: as the SLURM array or torchrun says.",
)
@click.option("--measure", is_flag=True, help="Also time both passes on the clock; a finished record gets them added.")
@click.option(
    "--measure-batch-size",
    "measure_batch_sizes",
    multiple=True,
    type=click.IntRange(min=1),
    help="Images at a time in those passes; may be repeated.  [default: as --batch-size]",
)
@click.option("--measure-images", type=click.IntRange(min=1), help="Time only the first N test images.")
@click.option("--rerun", is_flag=True, help="Run again even if the record is there.")
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record, and nothing else, on stdout.")
def run(
    method: str,
    dataset: str,
    model: str | None,
    checkpoint: str | None,
    timesteps: int | None,
    policies: tuple[str, ...],
    settings: tuple[str, ...],
    geometry: tuple[str, ...],
    limit: int | None,
    calibration_size: int | None,
    seed: int,
    batch_size: int | Literal["auto"],
    workers: int,
    device: str,
    precision: str,
    data_dir: Path | None,
    results: Path | None,
    part: str | None,
    measure: bool,
    measure_batch_sizes: tuple[int, ...],
    measure_images: int | None,
    rerun: bool,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Convert, record, stop early, judge: one record of one method on one dataset and backbone.

    Without any flag: QCFS on scikit-learn's digits, with a small network trained in seconds. With --slice, several processes
    record together, and `collect` makes the record.
    """
    from benchmark import registry
    from benchmark.options import parse_preprocessing, parse_settings
    from benchmark.slices import parse_slice
    from benchmark.spec import Cell, ExecSpec

    own, gpu = (None, None) if part is None else parse_slice(part, os.environ)
    for wrong, name in (
        (method == EVERY, "--method all"),
        (measure, "--measure"),
        (rerun, "--rerun"),
        (as_json, "--json"),
    ):
        if part is not None and wrong:
            raise UsageError(f"--slice does not go with {name}: it records a share, and makes no record.")
    if (measure_batch_sizes or measure_images) and not measure:
        raise UsageError("--measure-batch-size and --measure-images go with --measure.")
    for plugin in plugins:
        registry.load_plugin(plugin)
    # Names are checked before torch is imported: a typo should not cost seconds.
    if method != EVERY:
        registry.entry("methods", method)
    entry = registry.entry("datasets", dataset)
    if model is not None and not model.startswith("timm:"):
        registry.entry("models", model)
    for policy in policies:
        registry.entry("policies", policy.partition("[")[0])

    from benchmark.evaluation import parse_policy

    specs = tuple(parse_policy(text) for text in policies or ("dynamic-confidence",))
    cell = Cell(
        method=method,
        method_options=dict(parse_settings(settings)),
        dataset=dataset,
        model=model,
        data_dir=str(data_dir) if data_dir else None,
        checkpoint=checkpoint,
        timesteps=timesteps,
        policies=specs,
        seed=seed,
        precision=precision,  # type: ignore[arg-type]  # click has checked the choice
        limit=limit,
        calibration_size=calibration_size,
        preprocessing=parse_preprocessing(geometry),
    )
    execution = ExecSpec(
        batch_size=batch_size,
        device=device,  # type: ignore[arg-type]
        workers=workers,
        rerun=rerun,
        measure=measure,
        measure_batch_sizes=measure_batch_sizes,
        measure_images=measure_images,
        plugins=tuple(map(str, plugins)),
        slice=own,
        gpu=gpu,
    )
    if own is not None:
        return run_one_slice(cell, results, execution)
    if method == EVERY:
        from benchmark.cli.every_method import run_every_method

        return run_every_method(cell, entry, results, execution, as_json)
    from benchmark.cli.tables import record_table

    record = run_one(cell, results, execution)
    click.echo(record_table(record), err=as_json)
    if as_json:
        click.echo(record.to_json(), nl=False)
    return exit_code(record)


def run_one(cell: Cell, results: Path | None, execution: ExecSpec) -> ResultRecord:
    """Run a cell or take its record from the store, and say which on stderr."""
    from benchmark.reporting import Console
    from benchmark.runner import run as run_cell
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from dynconf.recording import RecordingError

    store = ResultStore(results or DEFAULT_RESULTS)
    try:
        record, stored = run_cell(cell, store, execution, Console())
    except RecordingError as error:
        raise RecordError(f"{error}.", "Record it again with: --rerun") from error
    if stored:
        click.echo(f"record {record.id} was in the store already; --rerun repeats it", err=True)
    elif record.status == "ok":
        click.echo(f"wrote {store.path(record.spec)}", err=True)
    return record


def run_one_slice(cell: Cell, results: Path | None, execution: ExecSpec) -> int:
    """Do a slice of a cell, and say on stderr what is still missing. Returns the exit code."""
    from benchmark.collecting import find, missing
    from benchmark.reporting import Console
    from benchmark.runner import run_slice
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from dynconf.recording import RecordingError

    store = ResultStore(results or DEFAULT_RESULTS)
    try:
        result = run_slice(cell, store, execution, Console())
    except RecordingError as error:
        raise RecordError(f"{error}.", "Remove the file and run the slice again: it does what is missing.") from error
    if result.record is not None:
        if result.record.status == "ok":
            click.echo(f"record {result.record.id} was in the store already", err=True)
        else:
            click.echo(f"slice {result.slice}: {result.record.status}: {result.record.reason}", err=True)
        return exit_code(result.record)
    own = sum(map(len, result.shards.values()))
    click.echo(
        f"slice {result.slice} of recording {result.spec.recording_id} is done: shards recorded {result.simulated}, there "
        f"already {own - result.simulated}",
        err=True,
    )
    for sliced in find(store, [result.spec.id])[0]:
        for left in missing(sliced):
            click.echo(f"not there yet: {left}", err=True)
    where = f" --results {results}" if results else ""
    click.echo(f"when all slices are done: python -m benchmark collect {result.spec.recording_id}{where}", err=True)
    return EXIT_OK


def exit_code(record: ResultRecord) -> int:
    """What the process returns for a record."""
    return {"ok": EXIT_OK, "skipped": EXIT_OK, "interrupted": EXIT_INTERRUPTED}.get(record.status, EXIT_FAILED)
