"""Seconds of early exit against the same timesteps for every image: what is left of the ideal speed-up."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmark import backbones, registry
from benchmark.bench.timing import interleaved
from benchmark.loading import Loader
from benchmark.measuring import fixed_time
from benchmark.numerics import choose_device, numerics
from benchmark.preparation import build_network, prepare
from benchmark.provenance import device_name
from benchmark.spec import Cell
from benchmark.store import ResultStore
from benchmark.training.thresholds import initialise_thresholds
from dynconf.online import REFILL, Answers, DynamicInference
from dynconf.policies import DynamicConfidence, Policy, RandomExit
from dynconf.recorder import record
from methods.network import SpikingNetwork

GOAL = 0.85
CALIBRATION_IMAGES = 500

# Of 2,000 test images of CIFAR-10, how many left a ResNet-20 (QCFS, L = 4) at each of 32 timesteps under Dynamic Confidence.
# fmt: off
EXITS = (
    0, 0, 0, 74, 197, 303, 256, 169, 162, 119, 91, 76, 54, 40, 34, 30,
    27, 30, 22, 12, 16, 16, 12, 19, 11, 12, 10, 4, 7, 15, 11, 171,
)
# fmt: on


@dataclass(frozen=True)
class _Case:
    """What is timed: a network, images [N, ...] on its device, and a rule that is ready."""

    network: SpikingNetwork
    images: Tensor
    policy: Policy
    words: str


@click.command(name="early-exit")
@click.option("--method", default="qcfs")
@click.option("--model", default="resnet20")
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--images", type=click.IntRange(min=1), help="Number of images.  [default: 8 batches]")
@click.option("--refill", type=click.FloatRange(0, 1), default=REFILL, help="Share of free places to wait for.")
@click.option("--repeats", type=click.IntRange(min=1), default=5)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="CIFAR-10: its images, the zoo's weights and Dynamic Confidence. Without it: noise, random weights, and exits by "
    "chance, distributed as measured there.",
)
@torch.no_grad()
def early_exit(
    method: str,
    model: str,
    batch_size: int,
    timesteps: int,
    images: int | None,
    refill: float,
    repeats: int,
    device: str,
    data_dir: Path | None,
) -> None:
    """All timesteps for every image, early exit from batches that shrink, and from one that is refilled."""
    place = choose_device(device)
    count = images or 8 * batch_size
    with numerics("fp32", place):
        if data_dir is None:
            case = _noise(method, model, count, place)
        else:
            case = _cifar10(method, model, count, timesteps, place, data_dir)
        batches = case.images.split(batch_size)
        inference = DynamicInference(case.network, case.policy, timesteps)
        answers: dict[str, Answers] = {}

        def stream() -> None:
            answers["stream"] = inference.stream(batches, batch_size, refill)

        ways: dict[str, Callable[[], None]] = {
            "fixed time": lambda: _fixed_time(case.network, batches, timesteps),
            "early exit, shrinking batches": lambda: _shrinking(inference, batches),
            "early exit, refilled batch": stream,
        }
        seconds = interleaved(ways, repeats, place)
    prelude = case.network.prelude_steps
    ideal = (timesteps + prelude) / float(answers["stream"].latency.double().mean())
    click.echo(
        f"{method}, {model}, {case.words}, {count} images, batch {batch_size}, T = {timesteps}, fp32, "
        f"{device_name(place)}, median of {repeats} [min, max]"
    )
    click.echo(f"  mean exit {answers['stream'].timesteps.double().mean():.2f} + {prelude}: ideal speed-up {ideal:.2f}")
    for name, times in seconds.items():
        speedups = [fixed / own for fixed, own in zip(seconds["fixed time"], times, strict=True)]
        text = f"  {name:31s} {_spread(times, 's')}"
        if name != "fixed time":
            text += f"  speed-up {_spread(speedups)}, of the ideal {_spread([value / ideal for value in speedups])}"
        click.echo(text + (f" (goal {GOAL})" if name.endswith("refilled batch") else ""))


def _spread(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.3f}{unit and ' ' + unit} [{min(values):.3f}, {max(values):.3f}]"


def _fixed_time(network: SpikingNetwork, batches: tuple[Tensor, ...], timesteps: int) -> None:
    for batch in batches:
        fixed_time(network, batch, timesteps).cpu()


def _shrinking(inference: DynamicInference, batches: tuple[Tensor, ...]) -> None:
    for batch in batches:
        inference(batch).prediction.cpu()


def _noise(method_name: str, model: str, count: int, place: torch.device) -> _Case:
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    ann = backbones.build(model, 3, 10, 32).eval()
    method = registry.load("methods", method_name)()
    quantised = method.prepare(ann)
    calibration = images[: max(8, method.calibration_images)]
    initialise_thresholds(quantised, images[:8])
    there = [sum(EXITS[step:]) for step in range(len(EXITS))]
    rates = tuple(leaving / left for leaving, left in zip(EXITS, there, strict=True))
    return _Case(
        method.convert(quantised, calibration).to(place),
        images.to(place),
        RandomExit(rates=rates, selection="given"),
        "noise, exits by chance",
    )


def _cifar10(method: str, model: str, count: int, timesteps: int, place: torch.device, folder: Path) -> _Case:
    cell = Cell(
        method=method,
        dataset="cifar10",
        data_dir=str(folder),
        model=model,
        timesteps=timesteps,
        limit=count,
        calibration_size=CALIBRATION_IMAGES,
    )
    with tempfile.TemporaryDirectory() as results:
        prepared = prepare(cell, ResultStore(Path(results)))
    quantised = build_network(prepared).to(place)
    loaders = [Loader(images, prepared.preprocessing, 50, place) for images in (prepared.calibration, prepared.test)]
    calibration, test = loaders
    first = math.ceil(max(1, prepared.method.calibration_images) / 50)
    network = prepared.method.convert(quantised, [pair for pair, _ in zip(calibration(0), range(first), strict=False)])
    recording = record(network, calibration, timesteps=timesteps, split="calibration")
    images = torch.cat([images for images, _ in test(0)])
    return _Case(network, images, DynamicConfidence().fit(recording), "CIFAR-10, dynamic-confidence")
