"""Peak memory of recording and judging a large data set."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import torch

from benchmark.bench.resident import peak_memory
from dynconf.policies import DynamicConfidence
from dynconf.recorder import record


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=50_000)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--classes", type=click.IntRange(min=2), default=1000)
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
def memory(images: int, timesteps: int, classes: int, batch_size: int) -> None:
    """Peak memory of recording and judging a data set of ImageNet's size; the network is a source of random logits."""
    labels = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(1))
    batches = ((torch.empty(len(part), 1), part) for part in labels.split(batch_size))
    before = peak_memory()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        recording = record(
            _RandomLogits(classes), batches, timesteps=timesteps, folder=Path(folder), split="calibration"
        )
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    middle = time.perf_counter()
    policy = DynamicConfidence().fit(recording)
    steps = policy.exit_steps(recording).double().mean()
    click.echo(
        f"{images} images x {timesteps} timesteps x {classes} classes: peak memory {peak_memory() / 2**30:.2f} GiB "
        f"({before / 2**30:.2f} GiB before), {size / 2**20:.0f} MiB on disk, recorded in {middle - start:.0f} s, "
        f"fitted and replayed in {time.perf_counter() - middle:.1f} s (mean {steps:.1f} timesteps) (goal under 2 GiB)"
    )


class _RandomLogits:
    """A stepwise network without a network: a random walk per class."""

    prelude_steps = 0

    def __init__(self, classes: int):
        self._classes = classes
        self._generator = torch.Generator().manual_seed(0)

    def begin(self, images: torch.Tensor) -> None:
        self.spikes = self.synops = torch.zeros(len(images), dtype=torch.long)

    def step(self) -> torch.Tensor:
        return torch.randn(len(self.spikes), self._classes, generator=self._generator)

    def keep(self, mask: torch.Tensor) -> None:
        self.spikes = self.synops = self.spikes[mask]
