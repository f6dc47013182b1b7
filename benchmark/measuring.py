"""Seconds on the clock: all timesteps for every image against early exit, same images, same device, same batches."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from benchmark.loading import Loader
from benchmark.provenance import device_name
from benchmark.records import Measured
from dynconf.evidence import RunningSum
from dynconf.judging import outcome
from dynconf.online import DynamicInference
from dynconf.policies import Policy
from dynconf.recording import Recording
from methods.network import SpikingNetwork
from methods.neurons import Stateful
from methods.rewrite import fold_batch_norms
from methods.tracing import QuantisedActivation, module_of, replace_nodes, trace


def plain_network(quantised: nn.Module) -> fx.GraphModule | None:
    """The network with ReLU in the places of its activations and batch norms folded; None for one that is spiking itself."""
    graph = trace(copy.deepcopy(quantised).eval())
    fold_batch_norms(graph)
    replace_nodes(graph, lambda node: isinstance(module_of(graph, node), QuantisedActivation), lambda node: nn.ReLU())
    return None if any(isinstance(module, Stateful) for module in graph.modules()) else graph


@torch.no_grad()
def measure(
    network: SpikingNetwork,
    policy: Policy,
    loader: Loader,
    test: Recording,
    quantised: nn.Module,
    git_sha: str | None = None,
) -> Measured:
    """Time all passes over the images of `loader`, the first ones of the recording; loading them is in none.

    Each is run on a batch before, so that no first time is in it. `git_sha` is the commit that this runs from.
    """
    timesteps, device = test.timesteps, loader.device
    test = test.take(torch.arange(len(loader.images)))
    dynamic = DynamicInference(network, policy, timesteps)
    first = next(iter(loader(0)))[0]
    floor = _floor(quantised, first)
    for _ in range(2):
        fixed_time(network, first, timesteps)
        dynamic(first)
        dynamic.stream([first], loader.batch_size)
    static_seconds = dynamic_seconds = floor_seconds = 0.0
    exits, predictions = [], []
    for images, _ in loader(0):
        start = clock(device)
        fixed_time(network, images, timesteps)
        middle = clock(device)
        answers = dynamic(images)
        end = clock(device)
        static_seconds += middle - start
        dynamic_seconds += end - middle
        if floor is not None:
            _forward_passes(*floor, images, timesteps)
            floor_seconds += clock(device) - end
        exits.append(answers.timesteps.cpu())
        predictions.append(answers.prediction.cpu())
    source = _Untimed(loader)
    start = clock(device)
    streamed = dynamic.stream(source, loader.batch_size)
    stream_seconds = clock(device) - start - source.seconds
    replayed = outcome(test, policy.exit_steps(test))
    differing = (
        (torch.cat(exits) != replayed.timesteps)
        | (torch.cat(predictions) != replayed.prediction)
        | (streamed.timesteps != replayed.timesteps)
        | (streamed.prediction != replayed.prediction)
    )
    prelude = test.info.prelude_steps
    return Measured(
        static_seconds=static_seconds,
        dynamic_seconds=dynamic_seconds,
        speedup=static_seconds / dynamic_seconds,
        ideal_speedup=(timesteps + prelude) / replayed.mean("latency"),
        device=device_name(device),
        batch_size=loader.batch_size,
        images=len(test),
        policy=policy.name,
        differing_images=int(differing.sum()),
        stream_seconds=stream_seconds,
        floor_seconds=None if floor is None else floor_seconds,
        git_sha=git_sha,
    )


class _Untimed:
    """The images of a loader, and how long it took to load them."""

    def __init__(self, loader: Loader):
        self.seconds = 0.0
        self._loader = loader

    def __iter__(self) -> Iterator[Tensor]:
        batches = iter(self._loader(0))
        while True:
            start = clock(self._loader.device)
            batch = next(batches, None)
            self.seconds += clock(self._loader.device) - start
            if batch is None:
                return
            yield batch[0]


def fixed_time(network: SpikingNetwork, images: Tensor, timesteps: int) -> Tensor:
    """The answers int64 [B] after all timesteps, as fast as they are to be had: early exit is to be compared with that."""
    answers = []
    for part in images.split(max(1, network.batch_size_for(images))):
        network.begin(part)
        running = RunningSum()
        for logits in network.steps(timesteps):
            total = running.add(logits)
        answers.append(total.argmax(1))
    return torch.cat(answers)


def _forward_passes(network: nn.Module, layout: torch.memory_format, images: Tensor, timesteps: int) -> None:
    images = images.contiguous(memory_format=layout)
    running = RunningSum()
    for _ in range(timesteps):
        total = running.add(network(images))
    total.argmax(1)


def _floor(quantised: nn.Module, images: Tensor) -> tuple[nn.Module, torch.memory_format] | None:
    """What one pass of the floor runs, in the memory format that is faster here."""
    network = plain_network(quantised)
    if network is None:
        return None
    seconds = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        network = network.to(memory_format=layout)
        for _ in range(2):
            start = clock(images.device)
            _forward_passes(network, layout, images, 2)
            seconds[layout] = clock(images.device) - start
    best = min(seconds, key=lambda layout: seconds[layout])
    return network.to(memory_format=best), best


def clock(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
