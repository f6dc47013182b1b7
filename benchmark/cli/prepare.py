"""`prepare`: the only command that downloads."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  python -m benchmark prepare cifar10 --data-dir data
  python -m benchmark prepare timm:resnet18"""
)
@click.argument("dataset")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Where to put it."
)
def prepare(dataset: str, data_dir: Path) -> None:
    """Download DATASET where it is missing, check it, and print its fingerprints.

    timm:NAME downloads pretrained weights into the cache of the Hugging Face Hub instead.
    """
    from benchmark import registry
    from benchmark.backbones import TIMM
    from benchmark.errors import DatasetMissing

    if dataset.startswith(TIMM):
        from benchmark.backbones.from_timm import download_timm

        click.echo(f"{dataset}: {download_timm(dataset.removeprefix(TIMM))}")
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
        click.echo(f"{dataset} {name}: {len(images)} images, fingerprint {images.fingerprint}")
        for flag in source.flags(images):
            click.echo(f"note: {flag}")
