"""`list`: what is registered."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchmark.locating import Found

COLUMNS: dict[str, tuple[str, ...]] = {
    "methods": ("summary", "paper", "network", "needs", "prelude"),
    "datasets": ("summary",),
    "models": ("summary",),
    "policies": ("summary", "source"),
    "checkpoints": ("from", "dataset", "model", "method", "calibration", "size", "remarks"),
}


@click.command(
    "list",
    epilog="""\b
Example:
  python -m benchmark list methods""",
)
@click.argument("kind", type=click.Choice(list(COLUMNS)))
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON on stdout.")
def listing(kind: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List methods, datasets, models, policies or checkpoints.

    Checkpoints are those of the zoo: shipped, in the folders that DYNCONF_BENCH_ZOO names, in ~/.cache/dynconf-bench/zoo, and
    from the Hugging Face Hub. Their accuracy is that on calibration images.
    """
    import json

    from benchmark import registry
    from benchmark.cli.tables import plain_table

    for plugin in plugins:
        registry.load_plugin(plugin)
    found: dict[str, dict[str, Any]]
    if kind == "checkpoints":
        found = _checkpoints()
    else:
        found = {name: _described(entry) for name, entry in registry.entries(kind).items()}
    if as_json:
        click.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    shown = {name: _in_words(entry) for name, entry in found.items()} if kind == "checkpoints" else found
    columns = COLUMNS[kind]
    rows = [[name, *(str(entry.get(column) or "") for column in columns)] for name, entry in shown.items()]
    click.echo(plain_table(["name", *columns], rows))


def _described(entry: Any) -> dict[str, Any]:
    if is_dataclass(entry) and not isinstance(entry, type):
        return asdict(entry)
    return {"summary": (getattr(entry, "__doc__", None) or str(entry)).strip().partition("\n")[0]}


def _checkpoints() -> dict[str, dict[str, Any]]:
    """What `--checkpoint` takes, with the fields of the card and of the place; `problem` where a file cannot be used so."""
    from benchmark import locating

    for folder in locating.missing_folders():
        click.echo(f"note: {locating.FOLDERS} names {folder}, which is no folder", err=True)
    places = [*locating.shipped(), *locating.local(), *filter(_has_card, locating.from_hub())]
    return {place.name: _checkpoint(place) for place in places}


def _has_card(place: Found) -> bool:
    """Most of what lies in the cache of the Hub is none of ours."""
    from benchmark.card import KEY
    from benchmark.errors import CheckpointError
    from benchmark.tensor_files import read_header

    try:
        return KEY in read_header(place.path).get("__metadata__", {})
    except CheckpointError:
        return False


def _checkpoint(place: Found) -> dict[str, Any]:
    from benchmark.card import read_card
    from benchmark.errors import CheckpointError

    problem = f"its name is taken by another {place.hidden_by}" if place.hidden_by else None
    try:
        card = read_card(place.path)
    except CheckpointError as error:  # one bad file must not hide the others
        card, problem = None, " ".join(str(error).split())
    else:
        problem = problem or (None if card is not None else "it has no card")
    return {
        **(card.model_dump(mode="json") if card is not None else {}),
        "origin": place.origin,
        "folder": str(place.folder) if place.folder is not None else None,
        "path": str(place.path),
        "bytes": place.path.stat().st_size,
        "problem": problem,
    }


def _in_words(entry: dict[str, Any]) -> dict[str, Any]:
    from benchmark.cli.tables import percent

    accuracy = entry.get("calibration_accuracy")
    return {
        **entry,
        "from": entry["folder"] or entry["origin"],
        "calibration": None if accuracy is None else percent(accuracy),
        "size": f"{entry['bytes'] / 1e6:.2f} MB",
        "remarks": "; ".join(filter(None, [entry["problem"], *entry.get("flags", ())])),
    }
