"""`prepare`: the only command that downloads."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Example:
  python -m benchmark prepare cifar10 --data-dir data"""
)
@click.argument("dataset")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Where to put it."
)
def prepare(dataset: str, data_dir: Path) -> None:
    """Download DATASET where it is missing, check it, and print its fingerprints."""
    from benchmark import registry
    from benchmark.data.images import SPLITS
    from benchmark.errors import DatasetMissing

    cls = registry.load("datasets", dataset)
    try:
        source = cls(data_dir)
    except DatasetMissing:
        click.echo(f"downloading {dataset} into {data_dir}", err=True)
        cls.download(data_dir)
        source = cls(data_dir)
    for name in SPLITS:
        images = source.split(name)
        click.echo(f"{dataset} {name}: {len(images)} images, fingerprint {images.fingerprint}")
        for flag in source.flags(images):
            click.echo(f"note: {flag}")
