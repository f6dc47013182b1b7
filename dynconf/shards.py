"""The shards of a recording in a folder: which are there, which images the others need, and how they become one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dynconf.recording import (
    Recording,
    RecordingError,
    ShardLabel,
    read_shard_label,
    read_shard_with_checksum,
    shard_path,
    write_header,
)

Batches = Iterable[tuple[Tensor, Tensor]]
PATTERN = "shard-[0-9][0-9][0-9][0-9][0-9].safetensors"


def finished_shards(folder: Path | str, *, identity: str, split: str, timesteps: int) -> dict[int, ShardLabel]:
    """What the shards in a folder say about themselves, by number, ascending; their arrays are not read.

    Raises RecordingError for a file that is cut short, or belongs to another recording than the one named.
    """
    found = {}
    for path in sorted(Path(folder).glob(PATTERN)):
        label = read_shard_label(path)
        if (label.info.identity, label.info.split, label.info.timesteps) != (identity, split, timesteps):
            raise RecordingError(f"{path} belongs to another recording; remove {folder} or record elsewhere")
        found[int(path.stem.removeprefix("shard-"))] = label
    return found


def join_shards(
    folder: Path | str, *, identity: str, split: str, timesteps: int, images: int | None = None
) -> Recording:
    """Write the header of a recording whose shards are all there, in whatever order they were made, and return it.

    Args:
        folder: where the shards are.
        identity, split, timesteps: of the recording.
        images: how many there must be; None: as many as the shards have.

    Raises:
        RecordingError: a shard is missing, damaged or of another recording, or there are too few or too many images.
    """
    folder = Path(folder)
    there = finished_shards(folder, identity=identity, split=split, timesteps=timesteps)
    if not there:
        raise RecordingError(f"{folder} has no shards: there are no images to record")
    missing = sorted(set(range(max(there))) - there.keys())
    if missing:
        raise RecordingError(
            f"{folder} lacks {len(missing)} of its shards, among them {shard_path(folder, missing[0])}"
        )
    found = sum(label.images for label in there.values())
    if images is not None and found != images:
        raise RecordingError(f"{folder} has {found} images, expected {images}")
    checksums: list[str] = []

    def parts() -> Iterator[Recording]:
        info = None
        for number in there:
            part, checksum = read_shard_with_checksum(shard_path(folder, number), info)
            info = part.info
            checksums.append(checksum)
            yield part

    recording = Recording.joined(parts(), found)
    write_header(folder, recording.info, found, checksums)
    return recording


@dataclass(frozen=True)
class Gap:
    """Consecutive shards to be made, from `number` on up to and including `last`, of the images from number `start` on.

    `last` is None where nobody knows how many images there are.
    """

    number: int
    start: int
    last: int | None = None
    stop: int | None = None


def gaps_in(there: Mapping[int, int], shards: Sequence[int] | None, size: int) -> list[Gap]:
    """What is missing, ascending.

    Args:
        there: numbers of images of the shards that are there, by number.
        shards: those that are wanted; None: all, to the end of the images.
        size: images a shard.

    Raises:
        RecordingError: shards before the last one have another number of images, so that nobody knows where the others
            begin. Shards in an unbroken row from the first are left as they are where all are wanted.
    """
    row = next(number for number in itertools.count() if number not in there)
    last = max(there, default=-1)
    if shards is None and last < row:
        return [Gap(row, sum(there.values()))]
    for number, images in there.items():
        if images > size or (images < size and number != last):
            raise RecordingError(
                f"shard {number} has {images} images, expected {size}: it was made for shards of another size"
            )
    wanted = sorted(set(range(last)) if shards is None else set(shards))
    gaps = []
    for run in consecutive([number for number in wanted if number not in there]):
        gaps.append(Gap(run[0], run[0] * size, run[-1], (run[-1] + 1) * size))
    if shards is None:
        gaps.append(Gap(last + 1, last * size + there[last]))
    return gaps


def consecutive(numbers: Sequence[int]) -> list[range]:
    """Ascending numbers as runs without gaps."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


def batches_of(
    loader: Batches | Callable[[int], Batches], gaps: Sequence[Gap]
) -> Iterator[tuple[Gap, Iterator[tuple[Tensor, Tensor]]]]:
    """The batches of each gap, cut where it begins and ends; those of one are to be taken before the next is asked for.

    A function is called with the first image of each gap; anything else is gone through once.
    """
    once = None if callable(loader) else _InOrder(loader)
    for gap in gaps:
        source = once if once is not None else _InOrder(loader(gap.start), gap.start)  # type: ignore[operator]
        yield gap, source.between(gap.start, gap.stop)


class _InOrder:
    """Batches of images that are counted as they come, the first of them being image `number`."""

    def __init__(self, batches: Batches, number: int = 0):
        self._batches, self._next = iter(batches), number
        self._held: tuple[Tensor, Tensor] | None = None

    def between(self, start: int, stop: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The images from `start` up to `stop` (None: to the end). What comes before is dropped, what comes after is held."""
        while stop is None or self._next < stop:
            batch = self._held if self._held is not None else next(self._batches, None)
            if batch is None:
                return
            images, labels = batch
            end = len(labels) if stop is None else min(len(labels), stop - self._next)
            begin = min(max(start - self._next, 0), end)
            self._held = (images[end:], labels[end:]) if end < len(labels) else None
            self._next += end
            if begin < end:
                yield images[begin:end], labels[begin:end]
