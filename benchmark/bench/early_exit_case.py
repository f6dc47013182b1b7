"""What early exit is measured on: a network, images, and a rule that is ready; noise, or CIFAR-10."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark import backbones, registry
from benchmark.loading import Loader
from benchmark.preparation import build_network, prepare
from benchmark.spec import Cell
from benchmark.store import ResultStore
from benchmark.training.thresholds import initialise_thresholds
from dynconf.policies import DynamicConfidence, Policy, RandomExit
from dynconf.recorder import record
from methods.network import SpikingNetwork

CALIBRATION_IMAGES = 500

# Of 2,000 test images of CIFAR-10, how many left a ResNet-20 (QCFS, L = 4) at each of 32 timesteps under Dynamic Confidence.
# fmt: off
EXITS = (
    0, 0, 0, 74, 197, 303, 256, 169, 162, 119, 91, 76, 54, 40, 34, 30,
    27, 30, 22, 12, 16, 16, 12, 19, 11, 12, 10, 4, 7, 15, 11, 171,
)
# fmt: on


@dataclass(frozen=True)
class Case:
    """A network, images [N, ...] on its device, and a fitted rule; `words` say what images and rule are."""

    network: SpikingNetwork
    images: Tensor
    policy: Policy
    words: str


def noise(method_name: str, model: str, count: int, place: torch.device) -> Case:
    """Random images and weights, and exits by chance that are distributed as on CIFAR-10."""
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    ann = backbones.build(model, 3, 10, 32).eval()
    method = registry.load("methods", method_name)()
    quantised = method.prepare(ann)
    calibration = images[: max(8, method.calibration_images)]
    initialise_thresholds(quantised, images[:8])
    there = [sum(EXITS[step:]) for step in range(len(EXITS))]
    rates = tuple(leaving / left for leaving, left in zip(EXITS, there, strict=True))
    return Case(
        method.convert(quantised, calibration).to(place),
        images.to(place),
        RandomExit(rates=rates, selection="given"),
        "noise, exits by chance",
    )


def cifar10(
    method: str, model: str, count: int, timesteps: int, place: torch.device, folder: Path, weights: str | None = None
) -> Case:
    """Test images and Dynamic Confidence. `weights` is a checkpoint as `run` takes it; None: the zoo's."""
    cell = Cell(
        method=method,
        dataset="cifar10",
        data_dir=str(folder),
        model=model,
        checkpoint=weights,
        timesteps=timesteps,
        limit=count,
        calibration_size=CALIBRATION_IMAGES,
    )
    with tempfile.TemporaryDirectory() as results:
        prepared = prepare(cell, ResultStore(Path(results)))
    quantised = build_network(prepared).to(place)
    loaders = [Loader(images, prepared.preprocessing, 50, place) for images in (prepared.calibration, prepared.test)]
    calibration, test = loaders
    first = math.ceil(max(1, prepared.method.calibration_images) / 50)
    network = prepared.method.convert(quantised, [pair for pair, _ in zip(calibration(0), range(first), strict=False)])
    recording = record(network, calibration, timesteps=timesteps, split="calibration")
    images = torch.cat([images for images, _ in test(0)])
    return Case(network, images, DynamicConfidence().fit(recording), "CIFAR-10, dynamic-confidence")
