"""How fast: ratios against a floor that is measured in the same run, because machines are noisy.

python -m benchmark.bench                     both parts
python -m benchmark.bench simulation --model resnet18 --batch-size 64 --timesteps 8
python -m benchmark.bench thresholds
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import nn

from benchmark import backbones, registry
from benchmark.numerics import choose_device, numerics
from benchmark.provenance import device_name
from benchmark.training import initialise_thresholds
from dynconf.evidence import LogitEvidence
from dynconf.policies import CONFIDENCE_THRESHOLDS, DynamicConfidence
from dynconf.recorder import record
from dynconf.sweep import sweep_thresholds
from methods.rewrite import fold_batch_norms
from methods.tracing import trace

GOAL_SIMULATION = 1.15
GOAL_SECONDS = 1.0


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.pass_context
def main(context: click.Context) -> None:
    """Print the cost of simulation and of replay beside their goals."""
    if context.invoked_subcommand is None:
        context.invoke(simulation)
        context.invoke(thresholds)


@main.command()
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
        goal = f" (goal {GOAL_SIMULATION})" if name == "T forward passes" else ""
        click.echo(
            f"  recording / {name}: {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]{goal}"
        )


@main.command()
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


@main.command()
@click.option("--images", type=click.IntRange(min=1), default=50_000)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--classes", type=click.IntRange(min=2), default=1000)
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
def memory(images: int, timesteps: int, classes: int, batch_size: int) -> None:
    """Peak memory of recording and judging a data set of ImageNet's size; the network is a source of random logits."""
    labels = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(1))
    batches = ((torch.empty(len(part), 1), part) for part in labels.split(batch_size))
    before = _peak_memory()
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
        f"{images} images x {timesteps} timesteps x {classes} classes: peak memory {_peak_memory() / 2**30:.2f} GiB "
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


def _peak_memory() -> int:
    """Largest resident size of this process so far, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def interleaved(tasks: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each task, the tasks taking turns so that a machine that drifts slows them all; one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            start = _clock(device)
            task()
            if round_number:
                seconds[name].append(_clock(device) - start)
    return seconds


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _forward(model: nn.Module, images: torch.Tensor, timesteps: int) -> None:
    for _ in range(timesteps):
        model(images)


def _simulate(network: nn.Module, images: torch.Tensor, timesteps: int) -> None:
    network.begin(images)  # type: ignore[operator]
    for _ in range(timesteps):
        network.step()  # type: ignore[operator]


if __name__ == "__main__":
    main()
