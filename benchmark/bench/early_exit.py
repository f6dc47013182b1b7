"""Seconds of early exit against the same timesteps for every image: what is left of the ideal speed-up."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmark import backbones, registry
from benchmark.bench.early_exit_table import FIXED, REFILLED, SHRINKING, Clocked, page
from benchmark.bench.machine import command_line, machine
from benchmark.bench.timing import interleaved
from benchmark.loading import Loader
from benchmark.measuring import fixed_time
from benchmark.numerics import choose_device, numerics
from benchmark.preparation import build_network, prepare
from benchmark.spec import Cell
from benchmark.store import ResultStore
from benchmark.training.thresholds import initialise_thresholds
from dynconf.online import REFILL, Answers, DynamicInference
from dynconf.policies import DynamicConfidence, Policy, RandomExit
from dynconf.recorder import record
from methods.network import SpikingNetwork

PAGE = Path("bench/EARLY_EXIT.md")
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
@click.option("--method", "methods", multiple=True, default=("qcfs",), help="May be repeated.")
@click.option("--model", default="resnet20")
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(min=1), default=(64,), help="May be repeated."
)
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
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, help="The page to write.")
@torch.no_grad()
def early_exit(
    methods: tuple[str, ...],
    model: str,
    batch_sizes: tuple[int, ...],
    timesteps: int,
    images: int | None,
    refill: float,
    repeats: int,
    device: str,
    data_dir: Path | None,
    output: Path,
) -> None:
    """All timesteps for every image, early exit from batches that shrink, and from one that is refilled."""
    place = choose_device(device)
    command = command_line()
    words = machine(place, ("torch",))
    output.parent.mkdir(parents=True, exist_ok=True)
    cells: list[Clocked] = []
    with numerics("fp32", place):
        for method, batch_size in itertools.product(methods, batch_sizes):
            count = images or 8 * batch_size
            if data_dir is None:
                case = _noise(method, model, count, place)
            else:
                case = _cifar10(method, model, count, timesteps, place, data_dir)
            cells.append(_measured(case, method, batch_size, timesteps, refill, repeats, place))
            what = f"{model}, {case.words}, T = {timesteps}, fp32"
            output.write_text(page(cells, len(methods) * len(batch_sizes), what, words, command))
            click.echo(cells[-1].row())
    click.echo(f"written to {output}: {'; '.join(words)}")


def _measured(
    case: _Case, method: str, batch_size: int, timesteps: int, refill: float, repeats: int, place: torch.device
) -> Clocked:
    batches = case.images.split(batch_size)
    inference = DynamicInference(case.network, case.policy, timesteps)
    answers: dict[str, Answers] = {}

    def stream() -> None:
        answers["stream"] = inference.stream(batches, batch_size, refill)

    ways: dict[str, Callable[[], None]] = {
        FIXED: lambda: _fixed_time(case.network, batches, timesteps),
        SHRINKING: lambda: _shrinking(inference, batches),
        REFILLED: stream,
    }
    seconds = interleaved(ways, repeats, place)
    return Clocked(
        method,
        batch_size,
        len(case.images),
        timesteps,
        case.network.prelude_steps,
        float(answers["stream"].timesteps.double().mean()),
        seconds,
    )


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
