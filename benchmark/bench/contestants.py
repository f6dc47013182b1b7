"""What stands side by side in `peers`: our simulator, its floor and its peers."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from benchmark.bench.compiled_network import compiled, compiled_steps
from benchmark.bench.foreign_neurons import NotAvailable
from benchmark.bench.reference_loop import reference_loop
from benchmark.bench.snntorch_network import leaky_network
from benchmark.bench.source_network import SourceNetwork
from benchmark.bench.spikingjelly_network import multi_step, single_step
from dynconf.recorder import record

TOLERANCE = 1e-9

# `run(images [B, ...], timesteps)` simulates, and gives the summed logits [B, K], or only the answers, int64 [B].
Run = Callable[[Tensor, int], Tensor]


class Side(Enum):
    """What a contestant is to ours."""

    OURS = "ours"
    FLOOR = "floor"
    COMPILED = "compiled"
    PEER = "peer"
    REFERENCE = "reference"


@dataclass(frozen=True)
class Contestant:
    """A way to get the answers after so many timesteps.

    `build` makes it ready for a network, and raises NotAvailable where it cannot; `words` say what it does. Without `spikes`
    it gives the logits of another network.
    """

    name: str
    side: Side
    build: Callable[[SourceNetwork], Run]
    words: str
    spikes: bool = True

    def batched(self, source: SourceNetwork, batch_size: int) -> Run:
        """The same for any number of images, one batch after the other; ours makes a single recording of them."""
        if self is RECORDING:
            return _recording(source, batch_size)
        run = self.build(source)
        return lambda images, timesteps: torch.cat([run(batch, timesteps) for batch in images.split(batch_size)])

    def fits(self, batch_size: int) -> bool:
        """Whether it is to take part with batches of this size."""
        return self.side is not Side.REFERENCE or batch_size == 1

    def left_out(self) -> Contestant:
        """The same, but not available, because somebody does not want it."""
        return replace(self, build=_not_wanted)


def _not_wanted(_: SourceNetwork) -> Run:
    raise NotAvailable("left out")


def _recording(source: SourceNetwork, batch_size: int | None = None) -> Run:
    def run(images: Tensor, timesteps: int) -> Tensor:
        labels = torch.zeros(len(images), dtype=torch.long)
        with tempfile.TemporaryDirectory() as folder:
            size = batch_size or len(images)
            batches = list(zip(images.split(size), labels.split(size), strict=True))
            made = record(source.network, batches, timesteps=timesteps, keep="statistics", folder=Path(folder))
        return made.predictions[:, -1].long()

    return run


def _step_loop(source: SourceNetwork) -> Run:
    def run(images: Tensor, timesteps: int) -> Tensor:
        source.network.begin(images)
        total = source.network.step()
        for _ in range(timesteps - 1):
            total = total + source.network.step()
        return total

    return run


def _forward_passes(source: SourceNetwork, memory_format: torch.memory_format, compile: bool = False) -> Run:
    analog = copy.deepcopy(source.analog).to(memory_format=memory_format)  # type: ignore[call-overload]
    forward: Callable[[Tensor], Tensor] = compiled(analog, source) if compile else analog

    def run(images: Tensor, timesteps: int) -> Tensor:
        images = images.contiguous(memory_format=memory_format)
        total = forward(images)
        for _ in range(timesteps - 1):
            total = total + forward(images)
        return total

    return run


RECORDING = Contestant(
    "ours, recording",
    Side.OURS,
    _recording,
    "`dynconf.record`: spikes, SynOps and confidence statistics of each image and timestep, shards on disk",
)
CONTESTANTS = (
    RECORDING,
    Contestant("ours, step loop", Side.OURS, _step_loop, "`begin` and T times `step`, which count spikes and SynOps"),
    Contestant(
        "floor, NCHW",
        Side.FLOOR,
        lambda source: _forward_passes(source, torch.contiguous_format),
        "T forward passes of the network with ReLU, batch norms folded",
        spikes=False,
    ),
    Contestant(
        "floor, channels_last",
        Side.FLOOR,
        lambda source: _forward_passes(source, torch.channels_last),
        "the same in the other memory format; the floor is the faster one",
        spikes=False,
    ),
    Contestant(
        "SpikingJelly, single-step",
        Side.PEER,
        single_step,
        "`IFNode`, soft reset, one call per timestep; weights folded and stem cached as in ours; counts nothing",
    ),
    Contestant(
        "SpikingJelly, multi-step",
        Side.PEER,
        multi_step,
        "the same in step mode `m`: all timesteps in one call, folded into the batch",
    ),
    Contestant(
        "snnTorch",
        Side.PEER,
        leaky_network,
        "`Leaky`, beta 1, reset by subtraction, one call per timestep; weights and stem likewise; counts nothing",
    ),
    Contestant(
        "reference loop",
        Side.REFERENCE,
        reference_loop,
        "as papers' demonstrations do it: one image, membranes in a dictionary, stem and batch norms in each timestep",
    ),
)

COMPILED = (
    Contestant(
        "ours, compiled",
        Side.COMPILED,
        compiled_steps,
        "`torch.compile` of a timestep of our network, neurons included, which counts nothing; no peer",
    ),
    Contestant(
        "floor, compiled",
        Side.COMPILED,
        lambda source: _forward_passes(source, torch.channels_last, compile=True),
        "`torch.compile` of the forward pass in channels_last; ratios are to the plain floor",
        spikes=False,
    ),
)


def by_name(name: str) -> Contestant:
    """The contestant of that name."""
    return next(each for each in (*CONTESTANTS, *COMPILED) if each.name == name)


def disagreement(found: Tensor, expected: Tensor) -> float:
    """How far a contestant's result is from our summed logits [B, K]: the largest difference, or the share of other answers."""
    if found.dtype == torch.int64:
        return float((found.to(expected.device) != expected.argmax(1)).double().mean())
    return float((found - expected).abs().max())
