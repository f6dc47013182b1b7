"""Simulate once, keep what every stopping rule needs. Streams to disk in shards and goes on after an interruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dynconf.batch_limit import BatchLimit, is_out_of_memory
from dynconf.evidence import SCALES, RunningSum
from dynconf.over_time import statistics_over_time
from dynconf.recording import (
    HEADER,
    LOGIT_BUDGET,
    SHARD,
    Recording,
    RecordingError,
    RecordingInfo,
    load_recording,
    shard_path,
    write_shard,
)
from dynconf.shards import Batches, Gap, batches_of, finished_shards, gaps_in, join_shards

__all__ = ["RecordingReport", "StepwiseNetwork", "is_out_of_memory", "record", "record_shards", "simulate"]


class StepwiseNetwork(Protocol):
    """What a network must offer to be recorded; `methods.network.SpikingNetwork` does.

    If it also has `site_spikes` (int64 [B, L], the `spikes` of the last timestep layer by layer) and `sites` (L objects with a
    `name`), the recording has spikes per layer. `macs_once` and `macs_per_timestep` (int, per image) are recorded if they
    are there. `batch_size_for(images)` (int) says how many of these images are best simulated together, if not all of them, and
    `steps(count)` gives the logits of several timesteps faster than as many calls of `step`, the other attributes being those
    of each timestep in turn. Early exit asks `places_for(images)` instead of `batch_size_for`, and for `lookahead` (int)
    timesteps at once, as images leave behind the last of them, and `row_sizes(images)` (list of int, or None) for the only
    numbers of rows that pay off, up to that of these images.
    `counts_spikes = False` or `counts_synops = False` says that zeros stand where nobody counted.
    """

    prelude_steps: int

    def begin(self, images: Tensor) -> None:
        """Start on images [B, ...]; run the prelude, if any."""

    def step(self) -> Tensor:
        """One timestep's logits [B, K]."""

    def keep(self, mask: Tensor) -> None:
        """Go on with some images."""

    @property
    def spikes(self) -> Tensor:
        """Spikes of the last timestep (after begin: of the prelude) per image, int64 [B]."""

    @property
    def synops(self) -> Tensor:
        """SynOps likewise."""


@dataclass
class RecordingReport:
    """What happened while recording: how often a batch was halved for memory, images resumed from disk."""

    oom_halvings: int = 0
    resumed_images: int = 0


def record(
    network: StepwiseNetwork,
    loader: Batches | Callable[[int], Batches],
    *,
    timesteps: int,
    split: str = "unknown",
    folder: Path | str | None = None,
    identity: str = "",
    keep: str = "auto",
    scales: tuple[float, ...] = SCALES,
    shard_size: int = SHARD,
    progress: Callable[[int], None] | None = None,
    report: RecordingReport | None = None,
    limit: BatchLimit | None = None,
) -> Recording:
    """Run every image for all timesteps and return the recording.

    Args:
        network: any stepwise network, ready on its device.
        loader: batches (images [B, ...], labels [B]); or a function that gives the batches from the n-th image on,
            which makes resuming free.
        timesteps: T.
        split: `train`, `calibration` or `test`; policies refuse to be fitted on `test`.
        folder: where shards go. A finished recording there is returned; of an unfinished one only those shards are
            simulated that are missing, wherever they are (see `record_shards`).
        identity: says which network and data this is; a folder with another identity is an error.
        keep: `logits`, `statistics`, or `auto` (logits while T x K is small).
        scales: smoothing scales for the statistics.
        shard_size: images a shard. Unless batches straddle shards, a resumed recording equals an unbroken one bit for bit.
        progress: called with the number of images done since the last call.
        report: filled with what happened.
        limit: how many images are simulated together at most. It is halved where memory runs out and stays so; calls that
            share one share what was found.

    Raises:
        RecordingError: the folder holds another recording, the logits are not finite, or there are no images.
    """
    report = RecordingReport() if report is None else report
    settings = _Settings(timesteps, split, identity, keep, scales, shard_size, progress, report, limit or BatchLimit())
    if folder is None:
        parts = [part for _, part in _shards(network, loader, [Gap(0, 0)], None, settings)]
        if not parts:
            raise RecordingError("there are no images to record")
        images = sum(map(len, parts))
        return Recording.joined((parts.pop(0) for _ in range(len(parts))), images)
    folder = Path(folder)
    if (folder / HEADER).exists():
        finished = load_recording(folder)
        settings.check_owner(folder, finished.info)
        settings.resumed(len(finished))
        return finished
    _write_missing(network, loader, None, folder, settings)
    return join_shards(folder, identity=identity, split=split, timesteps=timesteps)


def record_shards(
    network: StepwiseNetwork,
    loader: Batches | Callable[[int], Batches],
    shards: Sequence[int],
    *,
    timesteps: int,
    folder: Path | str,
    split: str = "unknown",
    identity: str = "",
    keep: str = "auto",
    scales: tuple[float, ...] = SCALES,
    shard_size: int = SHARD,
    progress: Callable[[int], None] | None = None,
    report: RecordingReport | None = None,
    limit: BatchLimit | None = None,
    before_shard: Callable[[int], None] | None = None,
) -> None:
    """Simulate some of the shards of a recording, those of them that are not in the folder yet.

    So several processes can each do a part of one recording, in one folder and in any order; two that do the same shard
    write the same bytes. `dynconf.shards.join_shards` makes them a recording once all are there; so does `record`, which
    does what is missing itself. Only one shard is in memory at a time.

    Args:
        network, timesteps, folder, split, identity, keep, scales, progress, report, limit: as for `record`.
        loader: batches of all images, as for `record`; it is read no further than the last of these shards.
        shards: their numbers; shard n has the images from n x `shard_size` on.
        shard_size: images a shard, the same for all processes.
        before_shard: called with the number of each shard that is about to be written.

    Raises:
        RecordingError: the folder holds another recording, the logits are not finite, or there are no images for a shard.
    """
    report = RecordingReport() if report is None else report
    settings = _Settings(timesteps, split, identity, keep, scales, shard_size, progress, report, limit or BatchLimit())
    _write_missing(network, loader, shards, Path(folder), settings, before_shard)


@dataclass(frozen=True)
class _Settings:
    """What is the same for all shards."""

    timesteps: int
    split: str
    identity: str
    keep: str
    scales: tuple[float, ...]
    shard_size: int
    progress: Callable[[int], None] | None
    report: RecordingReport
    limit: BatchLimit

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, got {self.timesteps}")
        if self.keep not in ("auto", "logits", "statistics"):
            raise ValueError(f"keep must be auto, logits or statistics, not {self.keep!r}")
        if self.shard_size < 1:
            raise ValueError(f"a shard must have at least one image, got {self.shard_size}")

    def check_owner(self, path: Path, info: RecordingInfo) -> None:
        """Raises RecordingError unless what is at `path` belongs to this recording."""
        if (info.identity, info.split, info.timesteps) != (self.identity, self.split, self.timesteps):
            raise RecordingError(f"{path} belongs to another recording; remove it or record elsewhere")

    def resumed(self, images: int) -> None:
        """Images that were there already."""
        self.report.resumed_images = images
        if images:
            self.done(images)

    def done(self, images: int) -> None:
        """Images that are there now."""
        if self.progress is not None:
            self.progress(images)


def _write_missing(
    network: StepwiseNetwork,
    loader: Batches | Callable[[int], Batches],
    shards: Sequence[int] | None,
    folder: Path,
    settings: _Settings,
    before_shard: Callable[[int], None] | None = None,
) -> None:
    """Write those of the shards (None: of all shards) that are not there."""
    there = finished_shards(folder, identity=settings.identity, split=settings.split, timesteps=settings.timesteps)
    by_site = next(iter(there.values())).by_site if there else None
    lengths = {number: label.images for number, label in there.items()}
    settings.resumed(sum(images for number, images in lengths.items() if shards is None or number in shards))
    gaps = gaps_in(lengths, shards, settings.shard_size)
    for number, part in _shards(network, loader, gaps, by_site, settings, max(lengths, default=-1)):
        if before_shard is not None:
            before_shard(number)
        write_shard(shard_path(folder, number), part)


def _shards(
    network: StepwiseNetwork,
    loader: Batches | Callable[[int], Batches],
    gaps: Sequence[Gap],
    by_site: bool | None,
    settings: _Settings,
    last: int = -1,
) -> Iterator[tuple[int, Recording]]:
    """The shards of the gaps, each with its number; `last` is the highest number of those that are there already.

    Only the last shard of a recording may be smaller than the others. Raises RecordingError if the images end before.
    """
    last = max([last, *(gap.last for gap in gaps if gap.last is not None)])
    for gap, batches in batches_of(loader, gaps):
        number = gap.number
        parts = _simulate_all(network, batches, settings)
        for part in _in_shards(parts, settings.shard_size, by_site is not False):
            if len(part) < settings.shard_size and number < last:
                raise RecordingError(f"the images end in shard {number}, but there is to be a shard {last}")
            yield number, part
            number += 1
        if gap.last is not None and number <= gap.last:
            raise RecordingError(f"there are no images for shard {number}")


@dataclass(frozen=True)
class _Part:
    """Some images: their recording, and the spikes of each one per timestep and layer, int32 [B, T, L], if counted.

    A recording has only the sum of the latter over its images, which cannot be divided among shards; so it is not in there.
    """

    recording: Recording
    site_spikes: Tensor | None
    sites: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.recording)

    def cut(self, start: int, stop: int) -> _Part:
        """The images from `start` to `stop`."""
        sites = None if self.site_spikes is None else self.site_spikes[start:stop]
        return _Part(self.recording.take(torch.arange(start, stop)), sites, self.sites)

    @classmethod
    def joined(cls, parts: Sequence[_Part]) -> _Part:
        """Consecutive parts as one."""
        sites = [part.site_spikes for part in parts if part.site_spikes is not None]
        whole = Recording.concatenate([part.recording for part in parts])
        return cls(whole, torch.cat(sites) if len(sites) == len(parts) else None, parts[0].sites)

    def summed(self, by_site: bool) -> Recording:
        """The recording with the sum over its images in it, if there is one and it is asked for."""
        if self.site_spikes is None or not by_site:
            return self.recording
        info = dataclasses.replace(self.recording.info, sites=self.sites)
        arrays = {**self.recording.tensors(), "site_spikes": self.site_spikes.long().sum(0)}
        return Recording.from_tensors(info, arrays)


def _simulate_all(
    network: StepwiseNetwork, batches: Iterator[tuple[Tensor, Tensor]], settings: _Settings
) -> Iterator[_Part]:
    for images, labels in batches:
        yield from _simulate_batch(network, images, labels, settings)
        settings.done(len(labels))


def _simulate_batch(network: StepwiseNetwork, images: Tensor, labels: Tensor, settings: _Settings) -> Iterator[_Part]:
    before = settings.limit.halvings
    try:
        yield from settings.limit.parts(
            len(labels), lambda part: _simulated(network, images[part], labels[part], settings)
        )
    finally:
        settings.report.oom_halvings += settings.limit.halvings - before


def _simulated(network: StepwiseNetwork, images: Tensor, labels: Tensor, settings: _Settings) -> _Part:
    arrays, num_classes = simulate(network, images, labels, settings.timesteps, settings.keep, settings.scales)
    site_spikes = arrays.pop("site_spikes", None)
    info = RecordingInfo(
        split=settings.split,
        timesteps=settings.timesteps,
        num_classes=num_classes,
        prelude_steps=network.prelude_steps,
        macs_once=int(getattr(network, "macs_once", 0)),
        identity=settings.identity,
        macs_per_timestep=int(getattr(network, "macs_per_timestep", 0)),
        scales=() if "logits" in arrays else settings.scales,
        counts_spikes=bool(getattr(network, "counts_spikes", True)),
        counts_synops=bool(getattr(network, "counts_synops", True)),
    )
    sites = () if site_spikes is None else tuple(site.name for site in network.sites)  # type: ignore[attr-defined]
    return _Part(Recording.from_tensors(info, arrays), site_spikes, sites)


@torch.no_grad()
def simulate(
    network: StepwiseNetwork, images: Tensor, labels: Tensor, timesteps: int, keep: str, scales: tuple[float, ...]
) -> tuple[dict[str, Tensor], int]:
    """One batch for all timesteps: the arrays of a recording (on the CPU), and the number of classes.

    Spikes per layer, if the network has them, are those of every image: `site_spikes` int32 [B, T, L].
    """
    size = getattr(network, "batch_size_for", len)(images)
    parts = [_Trace.of(network, part, timesteps) for part in images.split(max(1, size))]
    arrays, sums = _Trace.joined(parts)
    num_classes = sums.shape[-1]
    as_logits = keep == "logits" or (keep == "auto" and timesteps * num_classes <= LOGIT_BUDGET)
    labels_there = labels.to(sums.device).long()
    arrays |= {"logits": sums} if as_logits else statistics_over_time(sums, scales)
    arrays |= {
        "labels": labels_there,
        "label_logits": sums.gather(2, labels_there[:, None, None].expand(-1, timesteps, 1))[..., 0],
    }
    return {name: value.cpu() for name, value in arrays.items()}, num_classes


@dataclass(frozen=True)
class _Trace:
    """What some images made the network do. `sums` float32 [B, T, K] are of its logits; the rest are arrays of a recording."""

    sums: Tensor
    counts: dict[str, Tensor]

    @classmethod
    def of(cls, network: StepwiseNetwork, images: Tensor, timesteps: int) -> _Trace:
        """Simulate these images together."""
        network.begin(images)
        prelude = {"prelude_spikes": network.spikes.clone(), "prelude_synops": network.synops.clone()}
        running = RunningSum()
        sums: list[Tensor] = []
        columns: dict[str, list[Tensor]] = {}
        for logits in _timesteps(network, timesteps):
            sums.append(running.add(logits))
            step = {"spikes": network.spikes, "synops": network.synops}
            by_site = getattr(network, "site_spikes", None)
            if by_site is not None:
                step["site_spikes"] = by_site.int()  # every image's own until a shard is cut: half the memory
            for name, value in step.items():
                columns.setdefault(name, []).append(value)
        return cls(torch.stack(sums, 1), prelude | {name: torch.stack(values, 1) for name, values in columns.items()})

    @staticmethod
    def joined(parts: Sequence[_Trace]) -> tuple[dict[str, Tensor], Tensor]:
        """The counts and the sums of consecutive images."""
        counts = {name: torch.cat([part.counts[name] for part in parts]) for name in parts[0].counts}
        return counts, torch.cat([part.sums for part in parts])


def _timesteps(network: StepwiseNetwork, count: int) -> Iterator[Tensor]:
    """The logits of so many timesteps."""
    steps = getattr(network, "steps", None)
    return steps(count) if callable(steps) else (network.step() for _ in range(count))


def _in_shards(parts: Iterator[_Part], size: int, by_site: bool) -> Iterator[Recording]:
    """Regroup parts into shards of exactly `size` images, the last one smaller; `by_site`: with spikes per layer."""
    waiting: list[_Part] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= size:
            merged = _Part.joined(waiting)
            yield merged.cut(0, size).summed(by_site)
            waiting = [merged.cut(size, len(merged))] if len(merged) > size else []
    if waiting:
        yield _Part.joined(waiting).summed(by_site)
