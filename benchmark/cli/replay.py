"""`replay`: other stopping rules on an old recording."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.errors import RecordError


@click.command(
    epilog="""\b
Example:
  python -m benchmark replay leaderboard/results/recordings/ID --policy fixed --policy dynamic-confidence-reference"""
)
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME[KEY=VALUE,...]",
    help="Stopping rule; may be repeated.  [default: dynamic-confidence]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
def replay(recording: Path, policies: tuple[str, ...], seed: int, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Judge stopping rules on RECORDING, a folder with `calibration` and `test` in it; no network is needed."""
    import json

    from benchmark import registry
    from benchmark.cli.tables import HEADERS, plain_table, policy_row
    from benchmark.evaluation import evaluate, parse_policy
    from dynconf.recording import RecordingError, load_recording

    for plugin in plugins:
        registry.load_plugin(plugin)
    specs = [parse_policy(text) for text in policies or ("dynamic-confidence",)]
    try:
        calibration, test = load_recording(recording / "calibration"), load_recording(recording / "test")
    except RecordingError as error:
        raise RecordError(str(error)) from error
    results = [evaluate(spec, calibration, test, seed)[0] for spec in specs]
    click.echo(plain_table(HEADERS, [policy_row(result) for result in results]), err=as_json)
    if as_json:
        click.echo(json.dumps([result.model_dump(mode="json") for result in results], indent=2, sort_keys=True))
