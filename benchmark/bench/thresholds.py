"""The time that all thresholds of a stopping rule take on one recording."""

from __future__ import annotations

import statistics

import click
import torch

from benchmark.bench.timing import interleaved
from dynconf.evidence import LogitEvidence
from dynconf.policies import CONFIDENCE_THRESHOLDS, DynamicConfidence
from dynconf.sweep import sweep_thresholds

GOAL_SECONDS = 1.0


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=10_000)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--classes", type=click.IntRange(min=2), default=10)
@click.option("--repeats", type=click.IntRange(min=1), default=5)
def thresholds(images: int, timesteps: int, classes: int, repeats: int) -> None:
    """All thresholds of the grid on one recording: confidence, exits, accuracy and latency."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, timesteps, classes, generator=generator).cumsum(1)
    correct = torch.rand(images, timesteps, generator=generator) < 0.9
    policy = DynamicConfidence(scale=8.0, threshold=0.5)

    def evaluate() -> None:
        sweep_thresholds(policy.score(LogitEvidence(logits)), correct, CONFIDENCE_THRESHOLDS)

    times = interleaved({"sweep": evaluate}, repeats, torch.device("cpu"))["sweep"]
    click.echo(
        f"{len(CONFIDENCE_THRESHOLDS)} thresholds on {images} x {timesteps} x {classes}: "
        f"{statistics.median(times):.3f} s [{min(times):.3f}, {max(times):.3f}] (goal under {GOAL_SECONDS:.0f} s)"
    )
