"""`prepare`: the only command that downloads."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  python -m benchmark prepare cifar10 --data-dir data
  python -m benchmark prepare timm:resnet18
  python -m benchmark prepare zoo:ORG/REPO@REVISION"""
)
@click.argument("dataset", metavar="DATASET|timm:NAME|zoo:ORG/REPO")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Where to put it."
)
def prepare(dataset: str, data_dir: Path) -> None:
    """Download DATASET where it is missing, check it, and print its fingerprints.

    timm:NAME downloads pretrained weights, zoo:ORG/REPO[@REVISION][#FILE.safetensors] a checkpoint, into the cache of the
    Hugging Face Hub instead.
    """
    from benchmark import registry
    from benchmark.backbones import TIMM
    from benchmark.errors import DatasetMissing
    from benchmark.locating import ZOO

    if dataset.startswith(TIMM):
        from benchmark.backbones.from_timm import download_timm

        click.echo(f"{dataset}: {download_timm(dataset.removeprefix(TIMM))}")
        return
    if dataset.startswith(ZOO):
        _prepare_checkpoint(dataset)
        return

    cls = registry.load("datasets", dataset)
    try:
        source = cls(data_dir)
    except DatasetMissing:
        click.echo(f"downloading {dataset} into {data_dir}", err=True)
        cls.download(data_dir)
        source = cls(data_dir)
    for name in source.splits:
        images = source.split(name)
        if name != "train":  # a training says so itself; here it would copy 150 GB of parquet files first
            images.check()
        click.echo(f"{dataset} {name}: {len(images)} images, fingerprint {images.fingerprint}")
        for flag in source.flags(images):
            click.echo(f"note: {flag}")


def _prepare_checkpoint(name: str) -> None:
    """Fetch a checkpoint of the Hub; those of other places are here already. Checks header and card, not the weights."""
    from benchmark import hub
    from benchmark.card import read_card
    from benchmark.locating import ZOO, resolve
    from benchmark.store import sha256_of

    if "/" in name:
        hub.download(hub.parse(name.removeprefix(ZOO)))
    found = resolve(name)
    card = read_card(found.path)
    click.echo(f"{found.source}: {found.path}")
    click.echo(f"sha256 {sha256_of(found.path)}")
    if card is None:
        click.echo("note: it has no card; say what run cannot know: --model, --preprocessing, --set levels=L")
        return
    click.echo(f"{card.method} on {card.dataset} with {card.model}")
    for flag in card.flags:
        click.echo(f"note: {flag}")
