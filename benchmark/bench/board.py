"""The time that the leaderboard takes with many records, and of what it is made."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmark.records import ResultRecord
from benchmark.store import DEFAULT_RESULTS, ResultStore

GOAL_SECONDS = 5.0


@click.command()
@click.option("--records", type=click.IntRange(min=1), default=10_000)
@click.option("--per-table", type=click.IntRange(min=1), default=100)
@click.option("--policies", type=click.IntRange(min=1), default=2, help="Stopping rules of a record.")
@click.option("--results", type=click.Path(path_type=Path), default=DEFAULT_RESULTS, help="Records to multiply.")
@click.option("--repeats", type=click.IntRange(min=1), default=3)
def leaderboard(records: int, per_table: int, policies: int, results: Path, repeats: int) -> None:
    """`leaderboard --check` on copies of real records that differ in seed and model: read, tables, page, digests."""
    originals, _ = ResultStore(results).load_all()
    originals = [record for record in originals if record.status == "ok"]
    if not originals:
        raise click.UsageError(f"no records in {results}")
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder) / "results")
        for number in range(records):
            copy = _copy(originals[number % len(originals)], number, per_table, policies)
            path = store.path(copy.spec)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(copy.to_json())
        command = [sys.executable, "-m", "benchmark", "leaderboard", "--check", "--results", str(store.root)]
        command += ["--output", str(Path(folder) / "page" / "README.md")]
        seconds, processor = [], []
        for _ in range(repeats):
            before, start = _processor_seconds(), time.perf_counter()
            # Nothing is there to compare with, which is found out last: exit code 3.
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            seconds.append(time.perf_counter() - start)
            processor.append(_processor_seconds() - before)
            if done.returncode != 3:
                raise click.ClickException(done.stderr)
    click.echo(
        f"{records} records with {policies} rules, {per_table} a table: {min(seconds):.2f} s (most {max(seconds):.2f}), of "
        f"which processor {min(processor):.2f} s (goal under {GOAL_SECONDS:.0f} s)"
    )


def _copy(record: ResultRecord, number: int, per_table: int, policies: int) -> ResultRecord:
    kept = slice(0, policies)
    spec = record.spec.model_copy(
        update={
            "seed": number,
            "model": f"{record.spec.model}-{number // per_table}",
            "policies": record.spec.policies[kept],
        }
    )
    return record.model_copy(update={"id": spec.id, "spec": spec, "policies": record.policies[kept]})


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
