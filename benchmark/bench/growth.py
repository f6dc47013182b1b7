"""How seconds and memory grow with timesteps, images and classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import torch

from benchmark.bench.growing import Recorder, Work, bytes_per_image_timestep, peak_in_own_process, replay
from benchmark.bench.growth_table import KIBI, SUMMARY, Memory, Series, page
from benchmark.bench.machine import command_line, machine
from benchmark.bench.source_network import Model
from benchmark.bench.timing import interleaved
from benchmark.numerics import numerics

PAGE = Path("bench/GROWTH.md")
CPU = torch.device("cpu")
# Of the random walks: enough that seconds are far above what a clock can tell.
WALK_BATCHES, WALK_TIMESTEPS = 2, 8
# By how much more images, because they cost little: what grows with the number of shards shows only after hundreds of them.
WALK_FACTOR = 64
SERIES = 6


def _model(_: click.Context, __: click.Parameter, name: str) -> Model:
    return Model.parse(name)


def _sizes(_: click.Context, parameter: click.Parameter, values: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(sorted(set(values)))
    if len(sizes) < 3:
        raise click.BadParameter("an exponent takes at least three different sizes", param=parameter)
    return sizes


@click.command()
@click.option("--model", default="resnet20", callback=_model, help="Backbone, or NAME@PIXELS.")
@click.option(
    "--timesteps",
    "times",
    multiple=True,
    type=click.IntRange(min=1),
    default=(2, 4, 8, 16, 32, 64),
    callback=_sizes,
    help="Of one batch of images. To be repeated.",
)
@click.option(
    "--images",
    "counts",
    multiple=True,
    type=click.IntRange(min=1),
    default=(64, 128, 256, 512),
    callback=_sizes,
    help=f"For the smallest number of timesteps; {WALK_FACTOR} times as many of a random walk. To be repeated.",
)
@click.option(
    "--classes",
    multiple=True,
    type=click.IntRange(min=2),
    default=(10, 100, 1000, 10_000),
    callback=_sizes,
    help="Of random walks. To be repeated.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Images of a batch, and of a shard.")
@click.option("--repeats", type=click.IntRange(min=1), default=7)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, help="The page to write.")
@torch.no_grad()
def growth(
    model: Model,
    times: tuple[int, ...],
    counts: tuple[int, ...],
    classes: tuple[int, ...],
    batch_size: int,
    repeats: int,
    output: Path,
) -> None:
    """Exponents of the seconds, and slopes of the peak memory, of recording and replaying, on the CPU.

    A converted backbone with random weights is recorded to disk for several numbers of timesteps and of images. What grows
    with the classes, the statistics of a recording and the replay of a stopping rule, is measured on random walks, because
    convolutions would hide it; so is the recording of very many images. In each repeat seconds = a + c x^b is fitted to the
    sizes x, all three numbers, by least squares of the relative error (see `benchmark.bench.power_law`); beside b stands the
    slope of log seconds over log x. Peak memory is that of a process of its own for each size, once for writing shards and
    once for reading them back as well.
    """
    words = machine(CPU, ("torch", "scipy"))
    command = command_line()
    output.parent.mkdir(parents=True, exist_ok=True)
    network = model.build().network
    many = tuple(WALK_FACTOR * each for each in counts)
    works = (
        ("timestep", times, [Work(model, batch_size, each, batch_size) for each in times]),
        ("image", counts, [Work(model, each, times[0], batch_size) for each in counts]),
        ("image", many, [Work(classes[0], each, times[0], batch_size) for each in many]),
        ("class", classes, [Work(each, WALK_BATCHES * batch_size, WALK_TIMESTEPS, batch_size) for each in classes]),
    )
    done: list[Series] = []

    def add(series: Series) -> None:
        done.append(series)
        click.echo("\n".join([*SUMMARY, series.summary(), *series.table(), *series.remarks(), ""]))
        output.write_text(page(done, SERIES, words, command))

    with numerics("fp32", CPU):
        for unit, sizes, sized in works:
            recorders = [Recorder(work, network if work.subject == model else None) for work in sized]
            seconds = _timed([recorder.record for recorder in recorders], repeats)
            add(Series(_name(sized, unit), unit, sizes, seconds, _memory(sized), _own(sized[0], unit)))
        for kept in ("logits", "statistics"):
            recordings = [Recorder(work).in_memory(kept) for work in sized]
            seconds = _timed([partial(replay, recording) for recording in recordings], repeats)
            add(Series(f"replaying dynamic-confidence on recorded {kept}", unit, sizes, seconds))
    click.echo(f"written to {output}: {'; '.join(words)}")


def _timed(tasks: Sequence[Callable[[], object]], repeats: int) -> tuple[tuple[float, ...], ...]:
    """Seconds of each task, one per repeat, the tasks taking turns."""
    seconds = interleaved({str(number): partial(_discard, task) for number, task in enumerate(tasks)}, repeats, CPU)
    return tuple(map(tuple, seconds.values()))


def _discard(task: Callable[[], object]) -> None:
    task()


def _memory(works: Sequence[Work]) -> Memory:
    written, read_back = (tuple(peak_in_own_process(work, back) for work in works) for back in (False, True))
    return Memory(written, read_back)


def _name(works: Sequence[Work], unit: str) -> str:
    work = works[0]
    fixed = {"timestep": f"T = {work.timesteps}", "image": f"{work.images} images"}
    if isinstance(work.subject, Model):
        subject = f"{work.subject.name}, {work.subject.pixels} px"
    else:
        subject, fixed = "random walks", {"class": f"{work.subject} classes", **fixed}
    fixed.pop(unit, None)
    return f"recording {', '.join([subject, *fixed.values()])}, batch {work.batch_size}"


def _own(work: Work, unit: str) -> str:
    """How much a recording takes by its nature, per unit."""
    recorded, layers = bytes_per_image_timestep(work)
    shard = min(work.batch_size, work.images) * (recorded + layers) / KIBI
    if unit == "timestep":
        return (
            f"by its nature a shard grows: its arrays take {recorded} bytes per image and timestep, and {layers} more for "
            f"spikes per layer until it is written, in all {shard:.2f} KiB per timestep for each copy of it"
        )
    if unit == "image":
        size = work.timesteps * recorded / KIBI
        return (
            f"by its nature the recording that is read back grows, by {size:.2f} KiB per image; written, a second shard adds "
            f"what is left of the first ({shard * work.timesteps:.2f} KiB for each copy of it); more than that and "
            "than garbage that waits for its collection would be a leak"
        )
    size = work.batch_size * work.timesteps * torch.float32.itemsize / KIBI
    return f"statistics do not grow; the summed logits of a batch at all timesteps do, by {size:.2f} KiB per class and copy"
