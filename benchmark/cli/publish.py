"""`publish`: a checkpoint as a folder for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  python -m benchmark publish net.safetensors --output build/my-net
  python -m benchmark publish zoo:cifar10-resnet20-qcfs-l4 --output build/net --name ORG/NAME --license mit

\b
The folder is a checkpoint like any other:
  python -m benchmark run ... --checkpoint build/my-net/model.safetensors
  DYNCONF_BENCH_ZOO=build python -m benchmark run ... --checkpoint zoo:my-net"""
)
@click.argument("checkpoint", metavar="FILE|zoo:NAME")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write; new or empty.")
@click.option("--name", metavar="[ORG/]NAME", help="Of the repository.  [default: that of the file]")
@click.option(
    "--license",
    "license_id",
    metavar="ID",
    help="Licence, as the Hub calls it.  [default: apache-2.0; unknown for weights that were trained from others]",
)
@click.option(
    "--training-record",
    type=click.Path(path_type=Path),
    help="Record of the training.  [default: the one that the card names, if it is found]",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Where to look for that record too.  [default: leaderboard/results]",
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
def publish(
    checkpoint: str,
    output: Path,
    name: str | None,
    license_id: str | None,
    training_record: Path | None,
    results: Path | None,
    plugins: tuple[Path, ...],
) -> None:
    """Write a checkpoint with its card as a folder that is ready to upload. Nothing is uploaded.

    The weights must fit the backbone of their card. They are copied byte for byte, so that records of their results stay about
    the published file.
    """
    import shlex

    from benchmark import registry
    from benchmark.locating import PUBLISHED, locate
    from benchmark.model_card import run_command
    from benchmark.publishing import publish as write_folder
    from benchmark.store import DEFAULT_RESULTS

    for plugin in plugins:
        registry.load_plugin(plugin)
    written = write_folder(
        locate(checkpoint),
        output,
        name=name,
        license_id=license_id,
        training_record=training_record,
        results=results or DEFAULT_RESULTS,
        plugins=plugins,
    )
    for remark in written.remarks:
        click.echo(f"note: {remark}", err=True)
    click.echo(f"wrote {output}: {', '.join(written.files)}")
    click.echo(f"run it:    {run_command(written.about, str(output / PUBLISHED))}")
    click.echo(f"upload it: {shlex.join([*_upload(), written.about.name, str(output)])}")


def _upload() -> list[str]:
    """The Hub's client has had two names; the one that is installed."""
    from importlib.metadata import entry_points

    installed = {point.name for point in entry_points(group="console_scripts")}
    return ["hf" if "hf" in installed else "huggingface-cli", "upload"]
