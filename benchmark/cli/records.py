"""`show` and `compare`: records in words."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.errors import UsageError


@click.command(
    epilog="""\b
Example:
  python -m benchmark show 3f2a"""
)
@click.argument("record_id", metavar="ID")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON on stdout.")
def show(record_id: str, results: Path | None, as_json: bool) -> None:
    """Show the record whose id starts with ID."""
    from benchmark.cli.tables import plain_table, record_table
    from benchmark.store import DEFAULT_RESULTS, ResultStore

    record = ResultStore(results or DEFAULT_RESULTS).find(record_id)
    if as_json:
        click.echo(record.to_json(), nl=False)
        return
    click.echo(record_table(record))
    if record.traceback:
        click.echo(record.traceback)
    if record.curve is not None:
        steps = [step for step in record.curve.timestep if step & (step - 1) == 0 or step == record.curve.timestep[-1]]
        rows = [[str(step), f"{100 * record.curve.accuracy[step - 1]:.2f}%"] for step in steps]
        click.echo("\n" + plain_table(("fixed T", "accuracy"), rows))
    provenance = record.provenance
    click.echo(
        f"\nprotocol {record.protocol}\nweights {record.spec.weights.source} sha256 {record.spec.weights.sha256[:12]}\n"
        f"made {provenance.started} on {provenance.device}, commit {provenance.git_sha or 'unknown'}"
        f"{' (changed)' if provenance.dirty else ''}, torch {provenance.versions.get('torch')}"
    )


@click.command(
    epilog="""\b
Example:
  python -m benchmark compare 3f2a 9c41"""
)
@click.argument("first", metavar="ID")
@click.argument("second", metavar="ID")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder of the records.  [default: leaderboard/results]"
)
def compare(first: str, second: str, results: Path | None) -> None:
    """Compare two records: what differs in what was asked, and in what came out."""
    from benchmark.cli.tables import plain_table
    from benchmark.store import DEFAULT_RESULTS, ResultStore

    store = ResultStore(results or DEFAULT_RESULTS)
    left, right = store.find(first), store.find(second)
    if left.id == right.id:
        raise UsageError(f"both are record {left.id}.")
    asked = (_flat(left.spec.model_dump(mode="json")), _flat(right.spec.model_dump(mode="json")))
    differences = [
        [key, str(asked[0].get(key, "-")), str(asked[1].get(key, "-"))]
        for key in sorted(asked[0].keys() | asked[1].keys())
        if asked[0].get(key) != asked[1].get(key)
    ]
    click.echo(plain_table(("asked for", left.id, right.id), differences))
    if left.protocol != right.protocol:
        click.echo("\nDifferent protocols: these numbers must not be compared as if they were one table.")
    results_of = (_numbers(left), _numbers(right))
    rows = []
    for key in results_of[0] | results_of[1]:
        values = [numbers.get(key) for numbers in results_of]
        change = f"{values[1] - values[0]:+.4g}" if None not in values else ""  # type: ignore[operator]
        rows.append([key, *("-" if value is None else f"{value:.6g}" for value in values), change])
    click.echo("\n" + plain_table(("result", left.id, right.id, "difference"), rows))


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value}


def _numbers(record: object) -> dict[str, float]:
    from benchmark.records import ResultRecord

    assert isinstance(record, ResultRecord)
    if record.status != "ok" or record.static is None or record.ann is None:
        return {}
    found = {
        "ANN accuracy": record.ann.accuracy.value,
        "accuracy, all timesteps": record.static.accuracy.value,
        "latency, all timesteps": record.static.latency,
        "spikes, all timesteps": record.static.spikes_per_image,
        "SynOps, all timesteps": record.static.synops_per_image,
    }
    for policy in record.policies:
        found |= {
            f"accuracy, {policy.name}": policy.accuracy.value,
            f"latency, {policy.name}": policy.latency.mean,
            f"spikes, {policy.name}": policy.spikes_per_image,
            f"SynOps, {policy.name}": policy.synops_per_image,
        }
    return found
