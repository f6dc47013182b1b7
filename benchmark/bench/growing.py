"""What `growth` measures: recordings of any size, on disk, and replays of them."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.bench.own_process import added_at_peak, give_tensors_their_own_pages, in_own_process
from benchmark.bench.random_walk import RandomWalk
from benchmark.bench.source_network import Model
from benchmark.errors import BenchmarkError
from benchmark.numerics import numerics
from dynconf.policies import DynamicConfidence
from dynconf.recorder import StepwiseNetwork, record, record_shards
from dynconf.recording import Recording

PRELOADED = (__name__, "methods.qcfs", "sympy")  # tracing a network imports the last
KEPT = "statistics"
RULE = DynamicConfidence(scale=8.0, threshold=0.9)


@dataclass(frozen=True)
class Work:
    """A recording to be made: of a backbone with random weights, or of a random walk over so many classes.

    Shards have as many images as batches, and hold statistics of the logits whatever the number of classes and timesteps
    (`keep="auto"` would take the logits themselves where they are few), so that all sizes do the same.
    """

    subject: Model | int
    images: int
    timesteps: int
    batch_size: int

    def network(self) -> StepwiseNetwork:
        """The network, always the same."""
        if isinstance(self.subject, Model):
            return self.subject.build().network
        noise = torch.Generator().manual_seed(0)
        return RandomWalk(self.subject, lambda images: (images[:, 0].long(), noise))


class Recorder:
    """A recording that can be made again and again; its network and the images of one batch are there already."""

    def __init__(self, work: Work, network: StepwiseNetwork | None = None):
        self._work = work
        self._network = work.network() if network is None else network
        size = min(work.batch_size, work.images)
        if isinstance(work.subject, Model):
            self._labels = torch.zeros(size, dtype=torch.long)
            self._images = work.subject.images(size)
        else:
            self._labels = torch.arange(size) % work.subject
            self._images = self._labels[:, None].float()  # an image is its label

    def write(self) -> None:
        """Simulate and write all shards, and read nothing back."""
        work = self._work
        shards = range(math.ceil(work.images / work.batch_size))
        with tempfile.TemporaryDirectory() as folder:
            record_shards(
                self._network,
                self._batches(),
                shards,
                timesteps=work.timesteps,
                folder=Path(folder),
                keep=KEPT,
                shard_size=work.batch_size,
            )

    def record(self) -> Recording:
        """The same, and read the shards back into one recording: `dynconf.record`."""
        with tempfile.TemporaryDirectory() as folder:
            return record(
                self._network,
                self._batches(),
                timesteps=self._work.timesteps,
                folder=Path(folder),
                keep=KEPT,
                shard_size=self._work.batch_size,
            )

    def in_memory(self, keep: str) -> Recording:
        """The recording without a disk, of logits or of statistics."""
        return record(self._network, self._batches(), timesteps=self._work.timesteps, keep=keep)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batch until there are enough images, so that a thousand take no more memory than a batch."""
        for start in range(0, self._work.images, self._work.batch_size):
            size = min(self._work.batch_size, self._work.images - start)
            yield self._images[:size], self._labels[:size]


def replay(recording: Recording) -> None:
    """When each image leaves, by a rule whose parameters are given."""
    RULE.exit_steps(recording)


@torch.no_grad()
def bytes_per_image_timestep(work: Work) -> tuple[int, int]:
    """What one timestep of one image takes: in a recording, and beside it until its shard is cut (spikes per layer)."""
    recording = Recorder(dataclasses.replace(work, images=1)).record()
    arrays = (value for name, value in recording.tensors().items() if name != "site_spikes" and value.dim() > 1)
    layers = len(recording.info.sites)
    return sum(array[0, 0].nbytes for array in arrays), torch.int32.itemsize * layers


def peak_in_own_process(work: Work, read_back: bool) -> float | None:
    """MiB that a recording adds at its peak to a process that has its network and images; None where nobody measures it.

    Raises BenchmarkError if memory runs out.
    """
    try:
        return in_own_process(PRELOADED, peak_here, work, read_back)
    except BrokenProcessPool as error:
        raise BenchmarkError(f"out of memory: {work}") from error


@torch.no_grad()
def peak_here(work: Work, read_back: bool) -> float | None:
    """The same in this process."""
    give_tensors_their_own_pages()
    with numerics("fp32", torch.device("cpu")):
        # Pages of libraries; by another network, whose state is gone afterwards.
        Recorder(dataclasses.replace(work, images=1, timesteps=1)).record()
        recorder = Recorder(work)
        return added_at_peak(recorder.record if read_back else recorder.write)
