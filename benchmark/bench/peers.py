"""Our simulator beside its floor and its peers, all in one run on one machine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmark.bench.contestants import COMPILED, CONTESTANTS, TOLERANCE, Contestant, Run, Side, by_name, disagreement
from benchmark.bench.foreign_neurons import NotAvailable
from benchmark.bench.machine import command_line, machine
from benchmark.bench.peer_memory import peak_in_a_process
from benchmark.bench.peer_table import Cell, Row, page
from benchmark.bench.source_network import Model, SourceNetwork
from benchmark.bench.timing import interleaved
from benchmark.errors import UsageError
from benchmark.numerics import choose_device, numerics

CHECKED_IMAGES = 2
RELEASE = "release"
PAGE = Path("bench/RESULTS.md")


def _models(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[Model, ...]:
    return tuple(map(Model.parse, names))


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("resnet20",),
    callback=_models,
    help="Backbone, or NAME@PIXELS for other images than 32 px (224 px for networks of ImageNet). May be repeated.",
)
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(min=1), default=(64,), help="May be repeated."
)
@click.option("--timesteps", "times", multiple=True, type=click.IntRange(min=1), default=(8,), help="May be repeated.")
@click.option("--images", type=click.IntRange(min=1), default=16, help="Images of a run, at least; or one batch.")
@click.option("--repeats", type=click.IntRange(min=1), default=5)
@click.option(
    "--precision", type=click.Choice(["fp32", "tf32"]), default="fp32", help="tf32: of every contestant, on a GPU."
)
@click.option("--compiled", is_flag=True, help="Also what torch.compile makes of our network and of the floor.")
@click.option(
    "--without",
    "unwanted",
    multiple=True,
    type=click.Choice([each.name for each in (*CONTESTANTS, *COMPILED) if each.side is not Side.OURS]),
    metavar="NAME",
    help="Leave out a contestant that takes too long, and say so on the page. May be repeated.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--memory/--no-memory", default=True, help="Measure peak memory, in a process for each.  [default: yes]")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, help="The page to write.")
@torch.no_grad()
def peers(
    models: tuple[Model, ...],
    batch_sizes: tuple[int, ...],
    times: tuple[int, ...],
    images: int,
    repeats: int,
    precision: str,
    compiled: bool,
    unwanted: tuple[str, ...],
    device: str,
    memory: bool,
    output: Path,
) -> None:
    """Speed and peak memory of our simulator, of plain forward passes, and of other simulators.

    Every combination of models, batch sizes and timesteps is measured, and the page is written anew after each. Before that,
    all simulators have to give our logits in float64; one that does not is shown and marked, and counts for nothing.
    A page is one machine's: give another machine, or the GPU of this one, a page of its own (--output bench/GPU.md).
    """
    place = choose_device(device)
    if precision == "tf32" and place.type != "cuda":
        raise UsageError("--precision tf32 needs a GPU: a CPU has no TF32.")
    words = machine(place, ("torch", "spikingjelly", "snntorch"))
    command = command_line()
    output.parent.mkdir(parents=True, exist_ok=True)
    all_contestants = (*CONTESTANTS, *(COMPILED if compiled else ()))
    contestants = [each.left_out() if each.name in unwanted else each for each in all_contestants]
    cells: list[Cell] = []
    for model in models:
        checked = check(model, max(times), place, contestants)
        source = model.build().to(place)
        for batch_size, timesteps in itertools.product(batch_sizes, times):
            cell = _measured(source, model, checked, batch_size, timesteps, images, repeats, precision, place, memory)
            cells.append(cell)
            click.echo("\n".join([cell.title, *cell.table(), *cell.verdicts(), ""]))
            of = len(models) * len(batch_sizes) * len(times)
            output.write_text(page(cells, of, words, command, images, precision))
    click.echo(f"written to {output}: {'; '.join(words)}")


@torch.no_grad()
def check(
    model: Model, timesteps: int, place: torch.device, contestants: Sequence[Contestant] = CONTESTANTS
) -> dict[str, Row]:
    """Whether each contestant gives our summed logits in float64, by name."""
    source, images = model.build(torch.float64).to(place), model.images(CHECKED_IMAGES).double().to(place)
    expected = by_name("ours, step loop").build(source)(images, timesteps)
    return {each.name: _checked(each, source, images, timesteps, expected) for each in contestants}


def _checked(contestant: Contestant, source: SourceNetwork, images: Tensor, timesteps: int, expected: Tensor) -> Row:
    if not contestant.spikes:
        return Row(contestant, "no spikes")
    try:
        found = contestant.build(source)(images, timesteps)
    except NotAvailable as error:
        return Row(contestant, str(error), False)
    off = disagreement(found, expected)
    if found.dtype == torch.int64:
        return Row(contestant, f"{off:.0%} OTHER ANSWERS" if off else "same answers", not off)
    if not off <= TOLERANCE:
        return Row(contestant, f"DIFFERS by {off:.1e}", False)
    return Row(contestant, f"equal (to {off:.0e})" if off else "equal", True)


def _measured(
    source: SourceNetwork,
    model: Model,
    checked: dict[str, Row],
    batch_size: int,
    timesteps: int,
    least: int,
    repeats: int,
    precision: str,
    place: torch.device,
    memory: bool,
) -> Cell:
    """Memory first, if it is asked for: who does not fit is left out where all share one process."""
    images = model.images(max(batch_size, least)).to(place)
    rows: dict[str, Row] = {}
    runs: dict[str, Run] = {}
    for name, row in checked.items():
        contestant = row.contestant
        if not contestant.fits(batch_size):
            continue
        rows[name] = row
        try:
            runs[name] = contestant.batched(source, batch_size)
            if memory and contestant.side is not Side.COMPILED:
                peak = peak_in_a_process(model, name, batch_size, timesteps, str(place))
                rows[name] = Row(contestant, row.agreement, row.agrees, memory=peak)
        except NotAvailable as error:
            runs.pop(name, None)
            rows[name] = Row(contestant, str(error), False)
    tasks: dict[str, Callable[[], None]] = {}
    warm_up: dict[str, Callable[[], None]] = {}
    # A GPU's libraries choose by the shape, in which a way to simulate may have all timesteps.
    few = timesteps if place.type == "cuda" else min(timesteps, 4)
    last_of_ours = next((name for name in reversed(runs) if rows[name].contestant.side is Side.OURS), None)
    for name, run in runs.items():
        tasks[name] = partial(_discard, run, images, timesteps)
        warm_up[name] = partial(_discard, run, images[:batch_size], few)
        if name == last_of_ours:
            # Ours keeps its state until the next images come; untimed, that memory goes back to those whose turn is next.
            tasks[RELEASE] = warm_up[RELEASE] = partial(_release, source)
    with numerics(precision, place):
        seconds = interleaved(tasks, repeats, place, warm_up)
    timed = (
        Row(row.contestant, row.agreement, row.agrees, tuple(seconds.get(name, ())), row.memory)
        for name, row in rows.items()
    )
    return Cell(model, batch_size, timesteps, tuple(timed), len(images), place.type)


def _discard(run: Run, images: Tensor, timesteps: int) -> None:
    run(images, timesteps)


def _release(source: SourceNetwork) -> None:
    source.network.keep(torch.zeros(len(source.network.spikes), dtype=torch.bool))
