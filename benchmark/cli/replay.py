"""`replay`: other stopping rules on an old recording."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.errors import RecordError


@click.command(
    epilog="""\b
Examples:
  python -m benchmark replay leaderboard/results/recordings/ID --policy fixed --policy dynamic-confidence-reference
  python -m benchmark replay my_simulator/calibration.npz my_simulator/test.npz --policy entropy --against fixed"""
)
@click.argument("recording", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME[KEY=VALUE,...]",
    help="Stopping rule; may be repeated.  [default: dynamic-confidence]",
)
@click.option(
    "--against",
    metavar="NAME[KEY=VALUE,...]",
    help="Also compare every rule with this one, image by image.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--allow-shared-images",
    is_flag=True,
    help="Go on if test images have exactly the logits of calibration images.",
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
def replay(
    recording: tuple[Path, ...],
    policies: tuple[str, ...],
    against: str | None,
    seed: int,
    allow_shared_images: bool,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Judge stopping rules on a recording; no network is needed.

    RECORDING is a folder with `calibration` and `test` in it, or these two. Each is a folder as `run` writes it, or an .npz
    or .safetensors file of any simulator (see docs/recordings.md).
    """
    import json

    from benchmark import registry
    from benchmark.cli.tables import HEADERS, against_row, plain_table, policy_name, policy_row
    from benchmark.evaluation import compare_with, evaluate, fit, parse_policy
    from dynconf.recording import RecordingError
    from dynconf.splits import load_splits

    for plugin in plugins:
        registry.load_plugin(plugin)
    specs = [parse_policy(text) for text in policies or ("dynamic-confidence",)]
    other = None if against is None else parse_policy(against)
    try:
        calibration, test = load_splits(*recording, allow_shared_images=allow_shared_images)
    except RecordingError as error:
        raise RecordError(str(error)) from error
    judged = [evaluate(spec, calibration, test, seed) for spec in specs]
    results = [result for result, _ in judged]
    click.echo(plain_table(HEADERS, [policy_row(result) for result in results]), err=as_json)
    documents = [result.model_dump(mode="json") for result in results]
    if other is not None:
        base = fit(other, calibration)
        compared = [compare_with(policy, base, calibration, test, seed) for _, policy in judged]
        rows = [against_row(result, found) for result, found in zip(results, compared, strict=True)]
        title = policy_name(other.name, base.params(), base.selection)
        headers = ("stopping rule", f"saved vs {title} [95%]", "accuracy difference [95%]")
        click.echo(f"\n{plain_table(headers, rows)}", err=as_json)
        for document, found in zip(documents, compared, strict=True):
            document["against"] = found.model_dump(mode="json")
    if as_json:
        click.echo(json.dumps(documents, indent=2, sort_keys=True))
