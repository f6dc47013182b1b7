"""`collect`: the records of recordings that were made in slices."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK, BenchmarkError, UsageError


@click.command(
    epilog="""\b
Examples:
  sbatch --array=1-8 ... python -m benchmark run --slice auto --method qcfs --dataset imagenet --data-dir DIR
  torchrun --nproc-per-node 4 -m benchmark run --slice auto --method qcfs --dataset imagenet --data-dir DIR
  python -m benchmark run --slice 2/3 --method qcfs --dataset imagenet --data-dir DIR
  python -m benchmark collect
  python -m benchmark collect --page leaderboard/README.md"""
)
@click.argument("recordings", metavar="[RECORDING_ID]...", nargs=-1)
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option(
    "--page", type=click.Path(path_type=Path), help="Also rebuild this leaderboard page, such as leaderboard/README.md."
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as a JSON array on stdout.")
def collect(
    recordings: tuple[str, ...], results: Path | None, plugins: tuple[Path, ...], page: Path | None, as_json: bool
) -> int:
    """Join what `run --slice` has recorded, and write the records that whole runs would have written.

    Needs no network, no GPU and no dataset. Without RECORDING_ID: all recordings that slices have worked on. Exits with 1 and
    says what is missing where they are not done.
    """
    import json

    from benchmark import collecting, registry
    from benchmark.cli.leaderboard import write_page
    from benchmark.cli.tables import record_table
    from benchmark.store import DEFAULT_RESULTS, ResultStore

    for plugin in plugins:
        registry.load_plugin(plugin)
    store = ResultStore(results or DEFAULT_RESULTS)
    found, damaged = collecting.find(store, recordings)
    if not found and not damaged and page is None:
        raise UsageError(
            f"no slices have worked on a recording in {store.root}.",
            "Make some with: python -m benchmark run --slice K/N",
        )
    problems = [str(error) for error in damaged]
    records = []
    for sliced in found:
        spec = sliced.plan.spec
        name = f"{spec.recording_id} ({spec.method} · {spec.dataset} · {spec.model})"
        try:
            result = collecting.collect(sliced, store)
        except BenchmarkError as error:
            problems.append(f"recording {name}: {error}")
            continue
        if result.record is None:
            problems.append("\n  ".join([f"recording {name} is not finished:", *map(str, result.missing)]))
            continue
        records.append(json.loads(result.record.to_json()))
        if result.stored:
            click.echo(f"record {result.record.id} of recording {name} was in the store already", err=True)
        else:
            click.echo(f"wrote {store.path(spec)}", err=True)
            click.echo(record_table(result.record), err=as_json)
    if as_json:
        click.echo(json.dumps(records, indent=2, sort_keys=True))
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if page is not None and write_page(store, page) != EXIT_OK:
        return EXIT_FAILED
    return EXIT_FAILED if problems else EXIT_OK
