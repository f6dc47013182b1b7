"""Simulate once, keep what every stopping rule needs. Streams to disk in shards and goes on after an interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dynconf.evidence import SCALES, RunningSum, statistics_of
from dynconf.recording import (
    HEADER,
    Recording,
    RecordingError,
    RecordingInfo,
    load_recording,
    read_shard,
    shard_path,
    write_header,
    write_shard,
)

# Up to this many logits an image are kept as they are; above, statistics of them.
LOGIT_BUDGET = 4096

Batches = Iterable[tuple[Tensor, Tensor]]


class StepwiseNetwork(Protocol):
    """What a network must offer to be recorded; `methods.network.SpikingNetwork` does."""

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
    shard_size: int = 512,
    progress: Callable[[int], None] | None = None,
    report: RecordingReport | None = None,
) -> Recording:
    """Run every image for all timesteps and return the recording.

    Args:
        network: any stepwise network, ready on its device.
        loader: batches (images [B, ...], labels [B]); or a function that gives the batches from the n-th image on,
            which makes resuming free.
        timesteps: T.
        split: `train`, `calibration` or `test`; policies refuse to be fitted on `test`.
        folder: where shards go. A finished recording there is returned; an unfinished one is resumed.
        identity: says which network and data this is; a folder with another identity is an error.
        keep: `logits`, `statistics`, or `auto` (logits while T x K is small).
        scales: smoothing scales for the statistics.
        shard_size: images a shard. Unless batches straddle shards, a resumed recording equals an unbroken one bit for bit.
        progress: called with the number of images done since the last call.
        report: filled with what happened.

    Raises:
        RecordingError: the folder holds another recording, the logits are not finite, or there are no images.
    """
    if timesteps < 1:
        raise ValueError(f"timesteps must be at least 1, got {timesteps}")
    if keep not in ("auto", "logits", "statistics"):
        raise ValueError(f"keep must be auto, logits or statistics, not {keep!r}")
    report = RecordingReport() if report is None else report
    folder = Path(folder) if folder is not None else None
    if folder is not None and (folder / HEADER).exists():
        finished = load_recording(folder)
        if (finished.info.identity, finished.split, finished.timesteps) != (identity, split, timesteps):
            raise RecordingError(f"{folder} belongs to another recording; remove it or record elsewhere")
        report.resumed_images = len(finished)
        if progress is not None:
            progress(len(finished))
        return finished

    done = _resume(folder, identity, split, timesteps)
    parts = [part for part, _ in done]
    checksums = [checksum for _, checksum in done]
    report.resumed_images = sum(len(part) for part in parts)
    if progress is not None and report.resumed_images:
        progress(report.resumed_images)
    simulated = _simulate_all(
        network, _from_image(loader, report.resumed_images), timesteps, split, identity, keep, scales, report, progress
    )
    for part in _in_shards(simulated, shard_size):
        if folder is not None:
            checksums.append(write_shard(shard_path(folder, len(parts)), part))
        parts.append(part)
    if not parts:
        raise RecordingError("there are no images to record")
    if folder is not None:
        write_header(folder, parts[0].info, sum(len(part) for part in parts), checksums)
    return Recording.concatenate(parts)


def _resume(folder: Path | None, identity: str, split: str, timesteps: int) -> list[tuple[Recording, str]]:
    """The shards that are already there, each with its sha256."""
    found: list[tuple[Recording, str]] = []
    while folder is not None and (path := shard_path(folder, len(found))).exists():
        part = read_shard(path)
        if (part.info.identity, part.split, part.timesteps) != (identity, split, timesteps):
            raise RecordingError(f"{path} belongs to another recording; remove {folder} or record elsewhere")
        found.append((part, hashlib.sha256(path.read_bytes()).hexdigest()))
    return found


def _from_image(loader: Batches | Callable[[int], Batches], first: int) -> Iterator[tuple[Tensor, Tensor]]:
    if callable(loader):
        yield from loader(first)
        return
    seen = 0
    for images, labels in loader:
        skip = min(max(first - seen, 0), len(labels))
        seen += len(labels)
        if skip < len(labels):
            yield images[skip:], labels[skip:]


def _simulate_all(
    network: StepwiseNetwork,
    batches: Iterator[tuple[Tensor, Tensor]],
    timesteps: int,
    split: str,
    identity: str,
    keep: str,
    scales: tuple[float, ...],
    report: RecordingReport,
    progress: Callable[[int], None] | None,
) -> Iterator[Recording]:
    for images, labels in batches:
        for part in _halving(network, images, labels, timesteps, keep, scales, report):
            arrays, num_classes = part
            info = RecordingInfo(
                split=split,
                timesteps=timesteps,
                num_classes=num_classes,
                prelude_steps=network.prelude_steps,
                macs_once=int(getattr(network, "macs_once", 0)),
                identity=identity,
                macs_per_timestep=int(getattr(network, "macs_per_timestep", 0)),
                scales=() if "logits" in arrays else scales,
            )
            yield Recording.from_tensors(info, arrays)
        if progress is not None:
            progress(len(labels))


def _halving(
    network: StepwiseNetwork,
    images: Tensor,
    labels: Tensor,
    timesteps: int,
    keep: str,
    scales: tuple[float, ...],
    report: RecordingReport,
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Simulate a batch; where memory runs out, its halves one after the other (the numbers are the same)."""
    try:
        outcome = simulate(network, images, labels, timesteps, keep, scales)
    except (RuntimeError, MemoryError) as error:
        if len(labels) == 1 or not is_out_of_memory(error):
            raise
    else:
        yield outcome
        return
    report.oom_halvings += 1
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(labels) // 2
    for part in (slice(0, half), slice(half, None)):
        yield from _halving(network, images[part], labels[part], timesteps, keep, scales, report)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch names it on GPUs, but on the CPU only in the message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@torch.no_grad()
def simulate(
    network: StepwiseNetwork, images: Tensor, labels: Tensor, timesteps: int, keep: str, scales: tuple[float, ...]
) -> tuple[dict[str, Tensor], int]:
    """One batch for all timesteps: the arrays of a recording (on the CPU), and the number of classes."""
    network.begin(images)
    columns: dict[str, list[Tensor]] = {}
    prelude = {"prelude_spikes": network.spikes.clone(), "prelude_synops": network.synops.clone()}
    running = RunningSum()
    labels_there = labels.to(images.device).long()
    num_classes = 0
    for _ in range(timesteps):
        total = running.add(network.step())
        num_classes = total.shape[-1]
        as_logits = keep == "logits" or (keep == "auto" and timesteps * num_classes <= LOGIT_BUDGET)
        step = {"logits": total} if as_logits else statistics_of(total, scales)
        step |= {
            "label_logits": total.gather(1, labels_there[:, None])[:, 0],
            "spikes": network.spikes,
            "synops": network.synops,
        }
        for name, value in step.items():
            columns.setdefault(name, []).append(value)
    stacked = {name: torch.stack(values, 1).cpu() for name, values in columns.items()}
    whole = {"labels": labels_there.cpu(), **{name: value.cpu() for name, value in prelude.items()}}
    return {**whole, **stacked}, num_classes


def _in_shards(parts: Iterator[Recording], size: int) -> Iterator[Recording]:
    """Regroup parts into shards of exactly `size` images, the last one smaller."""
    waiting: list[Recording] = []
    for part in parts:
        waiting.append(part)
        while sum(len(waiting_part) for waiting_part in waiting) >= size:
            merged = Recording.concatenate(waiting)
            yield merged.take(torch.arange(size))
            rest = torch.arange(size, len(merged))
            waiting = [merged.take(rest)] if len(rest) else []
    if waiting:
        yield Recording.concatenate(waiting)
