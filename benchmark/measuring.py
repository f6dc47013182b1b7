"""Seconds on the clock: all timesteps for every image against early exit, same images, same device, same batches."""

from __future__ import annotations

import time

import torch

from benchmark.loading import Loader
from benchmark.provenance import device_name
from benchmark.records import Measured
from dynconf.evidence import RunningSum
from dynconf.judging import outcome
from dynconf.online import DynamicInference
from dynconf.policies import Policy
from dynconf.recording import Recording
from methods.network import SpikingNetwork


@torch.no_grad()
def measure(network: SpikingNetwork, policy: Policy, loader: Loader, test: Recording) -> Measured:
    """Time both passes over the test images, after one batch of warm-up; loading and preprocessing are in neither."""
    dynamic = DynamicInference(network, policy, test.timesteps)
    dynamic(next(iter(loader(0)))[0])
    static_seconds = dynamic_seconds = 0.0
    exits, predictions = [], []
    for images, _ in loader(0):
        start = _clock(loader.device)
        network.begin(images)
        running = RunningSum()
        for _ in range(test.timesteps):
            total = running.add(network.step())
        total.argmax(1)
        middle = _clock(loader.device)
        answers = dynamic(images)
        static_seconds += middle - start
        dynamic_seconds += _clock(loader.device) - middle
        exits.append(answers.timesteps.cpu())
        predictions.append(answers.prediction.cpu())
    replayed = outcome(test, policy.exit_steps(test))
    differing = (torch.cat(exits) != replayed.timesteps) | (torch.cat(predictions) != replayed.prediction)
    prelude = test.info.prelude_steps
    return Measured(
        static_seconds=static_seconds,
        dynamic_seconds=dynamic_seconds,
        speedup=static_seconds / dynamic_seconds,
        ideal_speedup=(test.timesteps + prelude) / replayed.mean("latency"),
        device=device_name(loader.device),
        batch_size=loader.batch_size,
        images=len(test),
        policy=policy.name,
        differing_images=int(differing.sum()),
    )


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
