"""Simulate once, keep what every stopping rule needs. Streams to disk in shards and goes on after an interruption."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dynconf.evidence import SCALES, RunningSum, statistics_of
from dynconf.leads import Leads
from dynconf.recording import (
    HEADER,
    LOGIT_BUDGET,
    SHARD,
    Recording,
    RecordingError,
    RecordingInfo,
    load_recording,
    read_shard,
    shard_path,
    write_header,
    write_shard,
)

Batches = Iterable[tuple[Tensor, Tensor]]


class StepwiseNetwork(Protocol):
    """What a network must offer to be recorded; `methods.network.SpikingNetwork` does.

    If it also has `site_spikes` (int64 [B, L], the `spikes` of the last timestep layer by layer) and `sites` (L objects with a
    `name`), the recording has spikes per layer. `macs_once` and `macs_per_timestep` (int, per image) are recorded if they
    are there. `counts_spikes = False` or `counts_synops = False` says that zeros stand where nobody counted.
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
    by_site = not parts or parts[0].site_spikes is not None
    checksums = [checksum for _, checksum in done]
    report.resumed_images = sum(len(part) for part in parts)
    if progress is not None and report.resumed_images:
        progress(report.resumed_images)
    simulated = _simulate_all(
        network, _from_image(loader, report.resumed_images), timesteps, split, identity, keep, scales, report, progress
    )
    for part in _in_shards(simulated, shard_size, by_site):
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
    network: StepwiseNetwork,
    batches: Iterator[tuple[Tensor, Tensor]],
    timesteps: int,
    split: str,
    identity: str,
    keep: str,
    scales: tuple[float, ...],
    report: RecordingReport,
    progress: Callable[[int], None] | None,
) -> Iterator[_Part]:
    for images, labels in batches:
        for arrays, num_classes in _halving(network, images, labels, timesteps, keep, scales, report):
            site_spikes = arrays.pop("site_spikes", None)
            info = RecordingInfo(
                split=split,
                timesteps=timesteps,
                num_classes=num_classes,
                prelude_steps=network.prelude_steps,
                macs_once=int(getattr(network, "macs_once", 0)),
                identity=identity,
                macs_per_timestep=int(getattr(network, "macs_per_timestep", 0)),
                scales=() if "logits" in arrays else scales,
                counts_spikes=bool(getattr(network, "counts_spikes", True)),
                counts_synops=bool(getattr(network, "counts_synops", True)),
            )
            sites = () if site_spikes is None else tuple(site.name for site in network.sites)  # type: ignore[attr-defined]
            yield _Part(Recording.from_tensors(info, arrays), site_spikes, sites)
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
    """One batch for all timesteps: the arrays of a recording (on the CPU), and the number of classes.

    Spikes per layer, if the network has them, are those of every image: `site_spikes` int32 [B, T, L].
    """
    network.begin(images)
    columns: dict[str, list[Tensor]] = {}
    prelude = {"prelude_spikes": network.spikes.clone(), "prelude_synops": network.synops.clone()}
    running, leads = RunningSum(), Leads()
    labels_there = labels.to(images.device).long()
    num_classes = 0
    for _ in range(timesteps):
        total = running.add(network.step())
        num_classes = total.shape[-1]
        as_logits = keep == "logits" or (keep == "auto" and timesteps * num_classes <= LOGIT_BUDGET)
        if as_logits:
            step = {"logits": total}
        else:
            step = {**statistics_of(total, scales), "leads": leads.advance(total)}
        step |= {
            "label_logits": total.gather(1, labels_there[:, None])[:, 0],
            "spikes": network.spikes,
            "synops": network.synops,
        }
        by_site = getattr(network, "site_spikes", None)
        if by_site is not None:
            step["site_spikes"] = by_site.int()  # every image's own until a shard is cut: half the memory
        for name, value in step.items():
            columns.setdefault(name, []).append(value)
    stacked = {name: torch.stack(values, 1).cpu() for name, values in columns.items()}
    whole = {"labels": labels_there.cpu(), **{name: value.cpu() for name, value in prelude.items()}}
    return {**whole, **stacked}, num_classes


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
