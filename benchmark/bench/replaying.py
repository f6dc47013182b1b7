"""Seconds and memory of judging every stopping rule on recordings of ImageNet's size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import torch

from benchmark import evaluation
from benchmark.bench.random_walk import RandomWalk
from benchmark.bench.resident import peak_memory
from dynconf.names import POLICIES
from dynconf.recorder import record
from dynconf.recording import Recording

GOAL_SECONDS = 60.0
GOAL_BYTES = 4 * 10**9


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=10_000, help="Of each split.")
@click.option("--timesteps", type=click.IntRange(min=1), default=64)
@click.option("--classes", type=click.IntRange(min=2), default=1000)
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
def replaying(images: int, timesteps: int, classes: int, batch_size: int) -> None:
    """Fit and judge all stopping rules and the oracles on two recordings; the network is a random walk towards the label."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        calibration, test = (
            recorded(Path(folder) / split, split, images, timesteps, classes, batch_size, seed)
            for seed, split in enumerate(("calibration", "test"))
        )
    middle = time.perf_counter()
    click.echo(
        f"2 recordings of {images} images x {timesteps} timesteps x {classes} classes, recorded and read in "
        f"{middle - start:.0f} s with {torch.get_num_threads()} threads"
    )
    for name in POLICIES:
        before = time.perf_counter()
        result, _ = evaluation.evaluate(evaluation.parse_policy(name), calibration, test)
        low, high = result.latency.ci95
        click.echo(
            f"  {name:30s} {time.perf_counter() - before:6.1f} s  "
            f"latency {result.latency.mean:6.2f} [{low:.2f}, {high:.2f}], accuracy {result.accuracy.value:.4f}"
        )
    before = time.perf_counter()
    evaluation.oracle(test)
    evaluation.curve(test)
    evaluation.static(test)
    after = time.perf_counter()
    click.echo(
        f"  {'oracles and curve':30s} {after - before:6.1f} s\n"
        f"judged in {after - middle:.1f} s (goal under {GOAL_SECONDS:.0f} s), peak memory {peak_memory() / 1e9:.2f} GB, "
        f"recording included (goal under {GOAL_BYTES / 1e9:.0f} GB)"
    )


def recorded(
    folder: Path, split: str, images: int, timesteps: int, classes: int, batch_size: int, seed: int
) -> Recording:
    """A recording of random walks, streamed through shards in `folder`."""
    labels = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(seed))
    batches = ((part[:, None], part) for part in labels.split(batch_size))
    noise = torch.Generator().manual_seed(100 + seed)
    walk = RandomWalk(classes, lambda images: (images[:, 0].long(), noise))  # an image is its label
    return record(walk, batches, timesteps=timesteps, folder=folder, split=split)
