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
RECORDING = "recording"


@click.command(name="exits")
@click.option("--method", "methods", multiple=True, default=("qcfs",), help="May be repeated.")
@click.option("--model", default="resnet20")
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(min=1), default=(64,), help="May be repeated."
)
@click.option("--timesteps", type=click.IntRange(min=1), default=32)
@click.option("--images", type=click.IntRange(min=1), default=512)
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
    device: str,
    data_dir: Path,
    checkpoint: str | None,
) -> None:
    """Images whose exit, answer, spikes or SynOps are not those of plain torch code.

    Plain code has eager neurons and no CUDA graphs, but batches and timesteps at once as in the recording beside it. That has
    to be equal for 99.99% of the images, on a CPU also what simulates other numbers of rows at a time: plain code one timestep
    after the other, and early exit. On a GPU cuDNN chooses its kernels by the number of rows, which rounds differently; how
    many images differ for that alone is shown. Exits with 1 where too few are equal.
    """
    place = choose_device(device)
    click.echo("; ".join(machine(place, ("torch",))))
    worst = 1.0
    with numerics("fp32", place):
        for method in methods:
            case = cifar10(method, model, images, timesteps, place, data_dir, checkpoint)
            click.echo(f"{method}, {model}, {case.words}, T = {timesteps}, {len(case.images)} images, fp32")
            for batch_size in batch_sizes:
                with eager_neurons():
                    plain = _replayed(case, case.network, timesteps, batch_size)
                for way, found in _ways(case, timesteps, batch_size):
                    equal = (found == plain).all(0)
                    if way == RECORDING or place.type == "cpu":
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
    yield RECORDING, _replayed(case, case.network, timesteps, batch_size)
    with eager_neurons():
        in_turn = _replayed(case, _StepByStep(case.network), timesteps, batch_size)
    yield "plain code, one timestep after the other", in_turn
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
