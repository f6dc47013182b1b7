"""Continuous batching: images leave the batch at their exits, and fresh ones take their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dynconf.evidence import LogitEvidence, RunningSum
from dynconf.image_stream import ImageStream
from dynconf.policies import Policy, Watch
from dynconf.recorder import StepwiseNetwork


class RefillableNetwork(StepwiseNetwork, Protocol):
    """A stepwise network whose batch may hold images of different age; `methods.network.SpikingNetwork` is one."""

    def replace(self, places: Tensor, images: Tensor) -> None:
        """Put fresh images [n, ...] in these places of the batch (int64 [n]), and run their prelude, if any, of them alone.

        The other images go on as if nothing had happened. `spikes` and `synops` at these places are then the prelude's.
        """


@dataclass
class _Cohort:
    """Images that began together and so have the same age; what the policy remembers of them is theirs.

    Under an `ageless` policy there is one cohort, of images of any age, in which `timestep` says nothing.
    """

    size: int
    watch: Watch
    timestep: int = 0


class ContinuousBatch:
    """One pass over a stream of images.

    Args:
        network: ready on the device of the images. Without `replace` a batch has to be done before the next one begins.
        policy: fitted.
        max_timesteps: T, at which every remaining image answers.
        stream: the images.
        batch_size: the largest number of images at a time; without `buckets` there are fewer if the network has a
            `places_for` that says so.
        refill: share of the batch that has to be free before fresh images come in, 0 (one place is enough) to 1 (all). Until
            then the images that have left are simulated in vain.
        buckets: the only numbers of rows that the network is asked to compute, `batch_size` among them; rows that are not
            needed repeat an image, or go on with one that has left. None: those of the network's `row_sizes`, if it has any.

    `images` begins with the oldest cohort: every cohort is a run of its columns. Column by column: number in the stream, place
    in the batch, timestep. It is on the CPU; `places` is its second row on the network's device.
    """

    def __init__(
        self,
        network: StepwiseNetwork,
        policy: Policy,
        max_timesteps: int,
        stream: ImageStream,
        batch_size: int,
        refill: float = 0.0,
        buckets: Sequence[int] | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= refill <= 1:
            raise ValueError(f"refill must be between 0 and 1, got {refill:g}")
        if buckets is not None and (min(buckets, default=0) < 1 or max(buckets) != batch_size):
            raise ValueError(f"the largest of buckets must be batch_size = {batch_size}, got {list(buckets)}")
        self._network = network
        self._policy = policy
        self._max_timesteps = max_timesteps
        self._stream = stream
        self._batch_size = batch_size
        self._buckets = None if buckets is None else sorted(set(buckets))
        self._refill = refill
        self._least = 0
        self._replace: Callable[[Tensor, Tensor], None] | None = None
        self._rows = 0
        self._seen = 0
        self._cohorts: list[_Cohort] = []
        self._running = RunningSum()
        self._images = torch.zeros(3, 0, dtype=torch.long)
        self._places = torch.zeros(0, dtype=torch.long)
        self._totals = torch.zeros(2, 0, dtype=torch.long)

    @torch.no_grad()
    def exits(self) -> Iterator[Tensor]:
        """The images that have left, timestep by timestep, until the stream is done: int64 [5, n] on the CPU.

        Rows: number in the stream from 0, timestep of the exit, prediction, spikes and SynOps up to it with the prelude's.
        """
        while self._fill():
            for logits in self._timesteps():
                left = self._leaving(logits)
                if left is not None:
                    yield left
                if not self._cohorts:
                    break

    def _fill(self) -> bool:
        """Let fresh images in, or drop rows that no image will need; False if nothing is left to do."""
        there = len(self._places)
        free = self._rows - there
        if not there:
            size = self._places_to_fill()
            images = self._stream.take(size)
            if images is None:
                return False
            self._least = max(1, math.ceil(self._refill * size), self._buckets[0] if self._buckets else 1)
            # If all places have to be free, the next images can as well begin a batch of their own.
            self._replace = getattr(self._network, "replace", None) if self._least < size else None
            padded = self._padded(images)
            self._network.begin(padded)
            self._rows = len(padded)
            self._images, self._places = self._images[:, :0], self._places[:0].to(images.device)
            self._totals = self._totals[:, :0].to(images.device)
            self._running = RunningSum()
            self._enter(torch.arange(len(images)))
        elif free and (self._replace is None or self._stream.exhausted):
            self._shrink(self._rows_for(there))
        elif self._replace is not None and free >= self._least:
            room = self._room(free)
            images = self._stream.take(room)
            assert images is not None
            padded = self._padded(images)
            empty = torch.ones(self._rows, dtype=torch.bool)
            empty[self._images[1]] = False
            places = torch.nonzero(empty)[: len(padded), 0]
            self._replace(places.to(images.device), padded)
            self._enter(places[: len(images)])
            if len(images) < room:
                self._shrink(self._rows_for(len(self._places)))
        return True

    def _places_to_fill(self) -> int:
        """How many images to begin with."""
        image = self._stream.sample()
        if image is None or self._buckets is not None:
            return self._batch_size
        images = image.expand(self._batch_size, *image.shape[1:])
        best, sizes = (getattr(self._network, name, None) for name in ("places_for", "row_sizes"))
        self._buckets = None if sizes is None else sizes(images)
        return self._batch_size if best is None or self._buckets is not None else int(best(images))

    def _room(self, free: int) -> int:
        return free if self._buckets is None else max(size for size in self._buckets if size <= free)

    def _rows_for(self, count: int) -> int:
        return count if self._buckets is None else min(size for size in self._buckets if size >= count)

    def _padded(self, images: Tensor) -> Tensor:
        missing = self._rows_for(len(images)) - len(images)
        return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]) if missing else images

    def _enter(self, places: Tensor) -> None:
        """A cohort of as many images begins at these places."""
        count = len(places)
        numbers = torch.arange(self._seen, self._seen + count)
        self._seen += count
        self._images = torch.cat([self._images, torch.stack([numbers, places, torch.zeros_like(places)])], 1)
        places = places.to(self._places.device)
        self._places = torch.cat([self._places, places])
        prelude = torch.stack([self._network.spikes[places], self._network.synops[places]])
        self._totals = torch.cat([self._totals, prelude], 1)
        if self._policy.ageless and self._cohorts:
            self._cohorts[0].size += count
        else:
            self._cohorts.append(_Cohort(count, self._policy.watch()))

    def _timesteps(self) -> Iterator[Tensor]:
        """The logits of all rows at the next timesteps, between which none comes or goes."""
        left = self._max_timesteps - int(self._images[2].min())
        count = min(left, getattr(self._network, "lookahead", 1))
        return self._network.steps(count) if count > 1 else iter([self._network.step()])  # type: ignore[attr-defined]

    def _leaving(self, logits: Tensor) -> Tensor | None:
        """The images that leave after a timestep with these logits of all rows, as in `exits`."""
        logits = logits[self._places]
        spikes = self._network.spikes[self._places]
        self._totals += torch.stack([spikes, self._network.synops[self._places]])
        self._images[2] += 1
        sums, stops = self._running.add(logits), []
        sizes = [cohort.size for cohort in self._cohorts]
        for cohort, own, fired in zip(self._cohorts, sums.split(sizes), spikes.split(sizes), strict=True):
            cohort.timestep += 1
            if self._policy.ageless or cohort.timestep < self._max_timesteps:
                stops.append(cohort.watch.stops(LogitEvidence(own), cohort.timestep, fired))
            else:
                stops.append(torch.ones_like(fired, dtype=torch.bool))
        # The one time that a timestep waits for the device.
        report = torch.stack([torch.cat(stops).long(), LogitEvidence(sums).prediction, *self._totals]).cpu()
        leaves = report[0].bool() | (self._images[2] == self._max_timesteps)
        if not leaves.any():
            return None
        left = torch.stack([self._images[0], self._images[2], *report[1:]])[:, leaves]
        self._remove(~leaves)
        return left

    def _remove(self, stays: Tensor) -> None:
        """Go on with the images where `stays` (bool, on the CPU) is True."""
        device = self._places.device
        for cohort, mask in zip(self._cohorts, stays.split([cohort.size for cohort in self._cohorts]), strict=True):
            left = int(mask.sum())
            if 0 < left < cohort.size:
                cohort.watch.keep(mask.to(device))
            cohort.size = left
        self._cohorts = [cohort for cohort in self._cohorts if cohort.size]
        kept = torch.nonzero(stays)[:, 0]
        self._images = self._images[:, kept]
        kept = kept.to(device)
        self._running.keep(kept)
        self._places, self._totals = self._places[kept], self._totals[:, kept]

    def _shrink(self, rows: int) -> None:
        """Drop rows of images that have left, down to `rows`."""
        if rows == self._rows:
            return
        places = self._images[1]
        needed = torch.zeros(self._rows, dtype=torch.bool)
        needed[places] = True
        needed[torch.nonzero(~needed)[: rows - len(places), 0]] = True
        self._network.keep(needed.to(self._places.device))
        self._rows = rows
        self._images[1] = (needed.cumsum(0) - 1)[places]
        self._places = self._images[1].to(self._places.device)
