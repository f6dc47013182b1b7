"""`list`: what is registered."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import click

COLUMNS = {
    "methods": ("summary", "paper", "network", "needs", "prelude"),
    "datasets": ("summary",),
    "models": ("summary",),
    "policies": ("summary", "source"),
}


@click.command(
    "list",
    epilog="""\b
Example:
  python -m benchmark list methods""",
)
@click.argument("kind", type=click.Choice([*COLUMNS, "checkpoints"]))
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON on stdout.")
def listing(kind: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List methods, datasets, models, policies or checkpoints."""
    import json

    from benchmark import registry
    from benchmark.cli.tables import plain_table

    for plugin in plugins:
        registry.load_plugin(plugin)
    found: dict[str, dict[str, Any]]
    if kind == "checkpoints":
        found = _checkpoints()
        columns: tuple[str, ...] = ("dataset", "model", "method", "calibration_accuracy")
    else:
        found = {name: _described(entry) for name, entry in registry.entries(kind).items()}
        columns = COLUMNS[kind]
    if as_json:
        click.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    rows = [[name, *(str(entry.get(column) or "") for column in columns)] for name, entry in found.items()]
    click.echo(plain_table(["name", *columns], rows))


def _described(entry: Any) -> dict[str, Any]:
    if is_dataclass(entry) and not isinstance(entry, type):
        return asdict(entry)
    return {"summary": (getattr(entry, "__doc__", None) or str(entry)).strip().partition("\n")[0]}


def _checkpoints() -> dict[str, dict[str, Any]]:
    from benchmark.checkpoints import read_card, zoo

    cards = {f"zoo:{name}": read_card(path) for name, path in zoo().items()}
    return {name: card.model_dump(mode="json") if card is not None else {} for name, card in cards.items()}
