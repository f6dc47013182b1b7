"""`run --method all`: every method that fits the weights, one after the other, and one table of them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UsageError, near_matches

if TYPE_CHECKING:
    from benchmark.records import ResultRecord
    from benchmark.spec import Cell, ExecSpec


def run_every_method(cell: Cell, dataset: Any, results: Path | None, execution: ExecSpec, as_json: bool) -> int:
    """Run `cell` for every registered method; those without fitting weights are named on stderr.

    Options of the cell go to the methods that have them; one that none has is an error. With `as_json` the records are
    printed as a JSON array. Returns the worst exit code.
    """
    import json

    from benchmark.cli.run import exit_code, run_one
    from benchmark.cli.tables import comparison_tables

    cells = fitting_cells(cell, dataset)
    records: list[ResultRecord] = []
    for each in cells:
        click.echo(f"--- {each.method}", err=True)
        records.append(run_one(each, results, execution))
        if records[-1].status != "ok":
            click.echo(f"{each.method}: {records[-1].status}: {records[-1].reason}", err=True)
    click.echo(comparison_tables([record for record in records if record.status == "ok"]), err=as_json)
    if as_json:
        click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=2))
    codes = {exit_code(record) for record in records}
    return next((code for code in (EXIT_INTERRUPTED, EXIT_FAILED) if code in codes), EXIT_OK)


def fitting_cells(cell: Cell, dataset: Any) -> list[Cell]:
    """A cell for each method that has weights. Raises UsageError if none has, or for an option that no method has."""
    import dataclasses

    from benchmark import registry, weights

    model = cell.model or getattr(dataset, "model", None)
    if model is None:
        raise UsageError(f"dataset {cell.dataset!r} has no default backbone; pass --model.")
    found, known, reasons = [], set(), []
    for name in registry.names("methods"):
        options = {item.name for item in dataclasses.fields(registry.load("methods", name))}
        known |= options
        own = {key: value for key, value in cell.method_options.items() if key in options}
        each = cell.model_copy(update={"method": name, "method_options": own})
        try:
            source = weights.find(each, model, bool(getattr(dataset, "embedded", False)))
            if source is not None:
                weights.check_kind(source, name)
        except UsageError as error:
            reasons.append(f"{name}: not run: {str(error).partition(chr(10))[0]}")
        else:
            found.append(each)
    for key in cell.method_options:
        if key not in known:
            raise UsageError(f"no method has an option {key!r}.", near_matches(key, known) or None)
    if not found:
        raise UsageError("no method fits.", "\n".join(reasons))
    for reason in reasons:
        click.echo(reason, err=True)
    return found
