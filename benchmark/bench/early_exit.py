"""Seconds of early exit against the same timesteps for every image: what is left of the ideal speed-up."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmark.bench.early_exit_case import Case, cifar10, noise
from benchmark.bench.early_exit_table import FIXED, REFILLED, SHRINKING, Clocked, page
from benchmark.bench.machine import command_line, machine
from benchmark.bench.timing import interleaved
from benchmark.errors import UsageError
from benchmark.measuring import fixed_time
from benchmark.numerics import choose_device, numerics
from dynconf.online import Answers, DynamicInference
from methods.network import SpikingNetwork

PAGE = Path("bench/EARLY_EXIT.md")


@click.command(name="early-exit")
@click.option("--method", "methods", multiple=True, default=("qcfs",), help="May be repeated.")
@click.option("--model", default="resnet20")
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(min=1), default=(64,), help="May be repeated."
)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--images", type=click.IntRange(min=1), help="Number of images.  [default: 8 batches]")
@click.option(
    "--refill", type=click.FloatRange(0, 1), help="Share of free places to wait for.  [default: the method's]"
)
@click.option("--repeats", type=click.IntRange(min=1), default=5)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="CIFAR-10: its images, the zoo's weights and Dynamic Confidence. Without it: noise, random weights, and exits by "
    "chance, distributed as measured there.",
)
@click.option("--checkpoint", metavar="FILE|zoo:NAME", help="With --data-dir: other weights than the zoo's.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, help="The page to write.")
@torch.no_grad()
def early_exit(
    methods: tuple[str, ...],
    model: str,
    batch_sizes: tuple[int, ...],
    timesteps: int,
    images: int | None,
    refill: float | None,
    repeats: int,
    device: str,
    data_dir: Path | None,
    checkpoint: str | None,
    output: Path,
) -> None:
    """All timesteps for every image, early exit from batches that shrink, and from one that is refilled."""
    if checkpoint is not None and data_dir is None:
        raise UsageError("--checkpoint needs --data-dir: without it weights are random.")
    place = choose_device(device)
    command = command_line()
    words = machine(place, ("torch",))
    output.parent.mkdir(parents=True, exist_ok=True)
    cells: list[Clocked] = []
    with numerics("fp32", place):
        for method, batch_size in itertools.product(methods, batch_sizes):
            count = images or 8 * batch_size
            if data_dir is None:
                case = noise(method, model, count, place)
            else:
                case = cifar10(method, model, count, timesteps, place, data_dir, checkpoint)
            cells.append(_measured(case, method, batch_size, timesteps, refill, repeats, place))
            what = f"{model}, {case.words}, T = {timesteps}, fp32"
            output.write_text(page(cells, len(methods) * len(batch_sizes), what, words, command))
            click.echo(cells[-1].row())
    click.echo(f"written to {output}: {'; '.join(words)}")


def _measured(
    case: Case, method: str, batch_size: int, timesteps: int, refill: float | None, repeats: int, place: torch.device
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
