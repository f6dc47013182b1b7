"""The cost of a recording against the forward passes it is made of."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import click
import torch
from torch import nn

from benchmark import backbones, registry
from benchmark.bench.timing import interleaved
from benchmark.numerics import choose_device, numerics
from benchmark.provenance import device_name
from benchmark.training.thresholds import initialise_thresholds
from dynconf.recorder import record
from methods.rewrite import fold_batch_norms
from methods.tracing import trace

GOAL = 1.15


@click.command()
@click.option("--model", default="resnet18")
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
@click.option("--timesteps", type=click.IntRange(min=1), default=8)
@click.option("--repeats", type=click.IntRange(min=1), default=5)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@torch.no_grad()
def simulation(model: str, batch_size: int, timesteps: int, repeats: int, device: str) -> None:
    """A full recording (spikes, SynOps, confidence statistics, shards on disk) against T plain forward passes."""
    place = choose_device(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator)
    torch.manual_seed(0)
    ann = backbones.build(model, 3, 10, 32).eval()
    method = registry.load("methods", "qcfs")()
    quantised = method.prepare(ann)
    initialise_thresholds(quantised, images[:8])
    network = method.convert(quantised, images).to(place)
    folded = trace(ann)
    fold_batch_norms(folded)
    ann, folded, images = ann.to(place), folded.to(place), images.to(place)
    labels = torch.zeros(batch_size, dtype=torch.long)

    def recording() -> None:
        with tempfile.TemporaryDirectory() as folder:
            record(network, [(images, labels)], timesteps=timesteps, keep="statistics", folder=Path(folder))

    with numerics("fp32", place):
        seconds = interleaved(
            {
                "recording": recording,
                "simulation alone": lambda: _simulate(network, images, timesteps),
                "T forward passes": lambda: _forward(ann, images, timesteps),
                "T forward passes, batch norm folded": lambda: _forward(folded, images, timesteps),
            },
            repeats,
            place,
        )
    click.echo(
        f"{model}, batch {batch_size}, T = {timesteps}, fp32, {device_name(place)}, median of {repeats} [min, max]"
    )
    for name, times in seconds.items():
        rate = batch_size * timesteps / statistics.median(times)
        click.echo(
            f"  {name:38s} {statistics.median(times):8.3f} s [{min(times):.3f}, {max(times):.3f}]"
            f"  {rate:9.1f} images x timesteps/s"
        )
    for name in ("T forward passes", "T forward passes, batch norm folded"):
        ratios = [ours / floor for ours, floor in zip(seconds["recording"], seconds[name], strict=True)]
        goal = f" (goal {GOAL})" if name == "T forward passes" else ""
        click.echo(
            f"  recording / {name}: {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]{goal}"
        )


def _forward(model: nn.Module, images: torch.Tensor, timesteps: int) -> None:
    for _ in range(timesteps):
        model(images)


def _simulate(network: nn.Module, images: torch.Tensor, timesteps: int) -> None:
    network.begin(images)  # type: ignore[operator]
    for _ in range(timesteps):
        network.step()  # type: ignore[operator]
