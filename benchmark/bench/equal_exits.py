"""Whether the fast ways to simulate give each image the answer of the plain one, on the device at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmark.bench.early_exit_case import Case, cifar10
from benchmark.bench.machine import machine
from benchmark.errors import EXIT_FAILED
from benchmark.numerics import choose_device, numerics
from dynconf.judging import Outcome, outcome
from dynconf.online import Answers, DynamicInference
from dynconf.recorder import StepwiseNetwork, record
from methods.fused import eager_neurons
from methods.network import SpikingNetwork

GOAL = 0.9999


@click.command(name="exits")
@click.option("--method", "methods", multiple=True, default=("qcfs",), help="May be repeated.")
@click.option("--model", default="resnet20")
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(min=1), default=(64,), help="May be repeated."
)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--images", type=click.IntRange(min=1), default=512)
@click.option("--precision", type=click.Choice(["fp32", "tf32"]), default="fp32")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="CIFAR-10.")
@click.option("--checkpoint", metavar="FILE|zoo:NAME", help="Other weights than the zoo's.")
@torch.no_grad()
def exits(
    methods: tuple[str, ...],
    model: str,
    batch_sizes: tuple[int, ...],
    timesteps: int,
    images: int,
    precision: str,
    device: str,
    data_dir: Path,
    checkpoint: str | None,
) -> None:
    """Images whose exit or answer is not that of plain torch code, one timestep after the other.

    The plain code records with batches of the first size. It is compared with recordings by the engine, which replays CUDA
    graphs with fused neurons on a GPU and computes several timesteps at once on a CPU, and with early exit from shrinking and
    from refilled batches, each with batches of every size. Exits with 1 if fewer than 99.99% are equal in one of them.
    """
    place = choose_device(device)
    click.echo("; ".join(machine(place, ("torch",))))
    worst = 1.0
    with numerics(precision, place):
        for method in methods:
            case = cifar10(method, model, images, timesteps, place, data_dir, checkpoint)
            click.echo(f"{method}, {model}, {case.words}, T = {timesteps}, {len(case.images)} images, {precision}")
            with eager_neurons():
                plain = _replayed(case, _StepByStep(case.network), timesteps, batch_sizes[0])
            for batch_size in batch_sizes:
                for way, found in _ways(case, timesteps, batch_size):
                    equal = (found == plain).all(0)
                    worst = min(worst, float(equal.double().mean()))
                    click.echo(f"  batch {batch_size}, {way}: {int((~equal).sum())} of {len(equal)} differ")
    if worst < GOAL:
        click.echo(f"fewer than {GOAL:.2%} are equal")
        click.get_current_context().exit(EXIT_FAILED)


class _StepByStep:
    """A network without what a recording makes use of to be faster."""

    def __init__(self, network: SpikingNetwork):
        self.prelude_steps = network.prelude_steps
        self.begin, self.step, self.keep = network.begin, network.step, network.keep
        self._network = network

    @property
    def spikes(self) -> Tensor:
        return self._network.spikes

    @property
    def synops(self) -> Tensor:
        return self._network.synops


def _ways(case: Case, timesteps: int, batch_size: int) -> Iterator[tuple[str, Tensor]]:
    """Each way to simulate, and what it gives: prediction, exit, spikes and SynOps, int64 [4, N]."""
    yield "recording", _replayed(case, case.network, timesteps, batch_size)
    batches = case.images.split(batch_size)
    inference = DynamicInference(case.network, case.policy, timesteps)
    shrinking = [inference(batch) for batch in batches]
    yield "early exit, shrinking batches", torch.cat([_rows(answers) for answers in shrinking], 1)
    yield "early exit, refilled batch", _rows(inference.stream(batches, batch_size))


def _replayed(case: Case, network: StepwiseNetwork, timesteps: int, batch_size: int) -> Tensor:
    labels = torch.zeros(len(case.images), dtype=torch.long)
    batches = list(zip(case.images.split(batch_size), labels.split(batch_size), strict=True))
    recording = record(network, batches, timesteps=timesteps, split="test")
    return _rows(outcome(recording, case.policy.exit_steps(recording)))


def _rows(answers: Answers | Outcome) -> Tensor:
    return torch.stack([answers.prediction, answers.timesteps, answers.spikes, answers.synops]).cpu()
