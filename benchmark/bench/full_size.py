"""A validation of ImageNet's size from images to the leaderboard page, with everything real but the networks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy
import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.bench.random_walk import RandomWalk
from benchmark.bench.resident import peak_memory
from benchmark.card import Card
from benchmark.checkpoints import write_checkpoint
from benchmark.collecting import collect, find
from benchmark.data.images import ImageDataset, Images, Preprocessing
from benchmark.errors import BenchmarkError
from benchmark.evaluation import parse_policy
from benchmark.provenance import device_name
from benchmark.records import ResultRecord
from benchmark.reporting import Console
from benchmark.runner import run, run_slice
from benchmark.spec import Cell, ExecSpec, Slice
from benchmark.store import ResultStore
from dynconf.names import POLICIES

LIMIT = 3 * 10**9
NAME = "stub"
# Besides all rules as they are: those whose choice takes the most memory.
PROMISING = (
    "agreement[selection=ltt]",
    "dynamic-confidence[selection=ltt]",
    "dynamic-confidence[selection=ltt,per_step=true]",
    "entropy[selection=conditional-ltt]",
    "margin[per_step=true]",
)


@click.command(name="full-size")
@click.option("--calibration", type=click.IntRange(min=2), default=10_000, help="Number of calibration images.")
@click.option("--test", type=click.IntRange(min=1), default=40_000, help="Number of test images.")
@click.option("--timesteps", type=click.IntRange(min=2), default=64)
@click.option("--classes", type=click.IntRange(min=5), default=1000)
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
@click.option("--slices", type=click.IntRange(min=1), default=1, help="Record in so many slices, one after the other.")
@click.option("--policy", "policies", multiple=True, help="Stopping rule, instead of all.  [default: all]")
def full_size(
    calibration: int, test: int, timesteps: int, classes: int, batch_size: int, slices: int, policies: tuple[str, ...]
) -> None:
    """Record, judge all rules and oracles, write the record and the page. Exits with 1 if that took more than 3 GB."""
    register_stub(calibration, test, classes)
    start, before = time.perf_counter(), peak_memory()
    rules = policies or (*POLICIES, *PROMISING)
    console = _Watching()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "stub.safetensors"
        write_stub(checkpoint, classes)
        store = ResultStore(Path(folder) / "results")
        cell = Cell(
            method=NAME,
            dataset=NAME,
            model=NAME,
            checkpoint=str(checkpoint),
            timesteps=timesteps,
            policies=tuple(map(parse_policy, rules)),
        )
        record = (
            _whole(cell, store, batch_size, console)
            if slices == 1
            else _sliced(cell, store, batch_size, slices, console)
        )
        size = sum(path.stat().st_size for path in store.recording_folder(record.spec).rglob("*.safetensors"))
        console.say(f"record of {len(record.policies)} rules: peak memory {peak_memory() / 1e9:.2f} GB")
        middle = time.perf_counter()
        _leaderboard(store, Path(folder) / "README.md")
        page = time.perf_counter() - middle
    seconds = record.provenance.phases
    peak = peak_memory()
    click.echo(
        f"{calibration} + {test} images x {timesteps} timesteps x {classes} classes, {len(rules)} rules, "
        f"{f'{slices} slices' if slices > 1 else 'one run'}, batch {batch_size}, {device_name(torch.device('cpu'))}\n"
        + "".join(f"  {name:20s} {value:8.1f} s\n" for name, value in {**seconds, "leaderboard": page}.items())
        + f"  {'in all':20s} {time.perf_counter() - start:8.1f} s\n"
        f"recordings {size / 1e6:.0f} MB on disk, peak memory {peak / 1e9:.2f} GB ({before / 1e9:.2f} GB before), "
        f"limit {LIMIT / 1e9:.0f} GB"
    )
    if peak > LIMIT:
        raise SystemExit(1)


class _Watching(Console):
    """Says the peak memory after every part of the recording."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        with super().bar(title, total, done) as update:
            yield update
        self.say(f"{title}: peak memory {peak_memory() / 1e9:.2f} GB")


def _whole(cell: Cell, store: ResultStore, batch_size: int, console: Console) -> ResultRecord:
    return _done(run(cell, store, ExecSpec(batch_size=batch_size, device="cpu"), console)[0])


def _sliced(cell: Cell, store: ResultStore, batch_size: int, slices: int, console: Console) -> ResultRecord:
    for number in range(1, slices + 1):
        part = Slice(number=number, of=slices)
        failed = run_slice(cell, store, ExecSpec(batch_size=batch_size, device="cpu", slice=part), console).record
        if failed is not None:
            _done(failed)
    (sliced,), _ = find(store)
    record = collect(sliced, store).record
    assert record is not None
    return _done(record)


def _done(record: ResultRecord) -> ResultRecord:
    if record.status != "ok":
        raise BenchmarkError(f"{record.status}: {record.reason}\n{record.traceback or ''}")
    return record


def _leaderboard(store: ResultStore, page: Path) -> None:
    from benchmark.cli import cli

    cli.main(["leaderboard", "--results", str(store.root), "--output", str(page)], standalone_mode=False)
    if not page.exists():
        raise BenchmarkError("the leaderboard wrote no page.")


def register_stub(calibration: int, test: int, classes: int) -> None:
    """Register a dataset, a model and a method, all called `stub`, for so many images and classes."""

    class OfThisSize(_Dataset):
        num_classes = classes
        sizes: ClassVar = {"calibration": (0, calibration), "test": (calibration, calibration + test)}

    registry.register("datasets", NAME, OfThisSize)
    registry.register("models", NAME, lambda in_channels, num_classes: _Analog(num_classes))
    registry.register("methods", NAME, _Method)


def write_stub(path: Path, classes: int) -> None:
    """A checkpoint of the model."""
    card = Card(
        model=NAME,
        method="relu",
        dataset=NAME,
        num_classes=classes,
        in_channels=3,
        preprocessing=_Dataset.preprocessing.to_dict(),
        training_fingerprint="none",
    )
    write_checkpoint(path, _Analog(classes).state_dict(), card)


class _Dataset(ImageDataset):
    """Images of 2 x 2 pixels that hold nothing but their number."""

    name = NAME
    preprocessing = Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3)
    splits = ("calibration", "test")
    sizes: ClassVar[dict[str, tuple[int, int]]]

    def __init__(self, data_dir: Path | None = None):
        self.data_dir = data_dir

    def split(self, name: str) -> Images:
        numbers = numpy.arange(*self.sizes[name])
        digits = numpy.stack([numbers >> shift & 255 for shift in (0, 8, 16)], 1).astype(numpy.uint8)
        pixels = numpy.ascontiguousarray(numpy.broadcast_to(digits[:, :, None, None], (len(numbers), 3, 2, 2)))
        return Images(
            f"{NAME} {name}", pixels, _label(torch.from_numpy(numbers), self.num_classes).numpy(), self.num_classes
        )


def _numbers(images: Tensor) -> Tensor:
    """The numbers of images, int64 [B]."""
    digits = images[:, :, 0, 0].long()
    return digits[:, 0] + (digits[:, 1] << 8) + (digits[:, 2] << 16)


def _label(numbers: Tensor, classes: int) -> Tensor:
    return numbers * 7919 % 104_729 % classes


class _Analog(nn.Module):
    """Gives four of five images their label."""

    def __init__(self, classes: int):
        super().__init__()
        self.height = nn.Parameter(torch.ones(1))
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K]."""
        numbers = _numbers(images)
        answer = _label(numbers, self.classes) + (numbers % 5 == 0).long()
        return nn.functional.one_hot(answer % self.classes, self.classes) * self.height


@dataclass(frozen=True)
class _Method:
    """A method in name: what it makes of a network has nothing to do with it."""

    name: ClassVar[str] = NAME
    network: ClassVar[str] = "relu"
    calibration_images: ClassVar[int] = 0

    def options(self) -> dict[str, Any]:
        return {}

    def prepare(self, ann: nn.Module) -> nn.Module:
        return ann

    def convert(self, ann: _Analog, calibration: object) -> RandomWalk:
        return RandomWalk(ann.classes, partial(_start, classes=ann.classes))


def _start(images: Tensor, classes: int) -> tuple[Tensor, torch.Generator]:
    """The noise follows from the number of the first image of the batch, so equal batches have equal logits."""
    numbers = _numbers(images)
    return _label(numbers, classes), torch.Generator().manual_seed(int(numbers[0]))
