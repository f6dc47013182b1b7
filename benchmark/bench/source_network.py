"""One network with random weights in all the forms that a comparison of simulators needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from benchmark import backbones, registry
from benchmark.backbones import LARGE_IMAGES
from benchmark.errors import UsageError
from benchmark.measuring import plain_network
from benchmark.training.thresholds import initialise_thresholds
from methods.network import SpikingNetwork

LEVELS = 4
PIXELS = {"resnet34": 224, "resnet34-qcfs": 224, "resnet50": 224, "vgg16-bn": 224, "vgg16-qcfs": 224}


@dataclass(frozen=True)
class SourceNetwork:
    """The same weights three times: with ReLU and folded batch norms, quantised (QCFS), and converted to spikes."""

    analog: fx.GraphModule
    quantised: nn.Module
    network: SpikingNetwork

    def to(self, device: torch.device) -> SourceNetwork:
        """The same networks, moved."""
        return SourceNetwork(self.analog.to(device), self.quantised.to(device), self.network.to(device))


@dataclass(frozen=True)
class Model:
    """A backbone's name and the width and height of its images."""

    name: str
    pixels: int

    @classmethod
    def parse(cls, text: str) -> Model:
        """`NAME` or `NAME@PIXELS`. Raises UsageError for an unknown name or pixels that are no positive number."""
        name, at, pixels = text.partition("@")
        backbones.check(name)
        if not at:
            return cls(name, PIXELS.get(name, 32))
        if not pixels.isdecimal() or not int(pixels):
            raise UsageError(f"{text!r}: the pixels after @ must be a positive number.", "For example resnet34@224.")
        return cls(name, int(pixels))

    def __str__(self) -> str:
        return self.name if self.pixels == PIXELS.get(self.name, 32) else f"{self.name}@{self.pixels}"

    def images(self, count: int) -> Tensor:
        """Noise [B, 3, pixels, pixels], always the same."""
        return torch.randn(count, 3, self.pixels, self.pixels, generator=torch.Generator().manual_seed(0))

    def build(self, dtype: torch.dtype = torch.float32) -> SourceNetwork:
        """The network with random weights, always the same, its thresholds set from eight images.

        In float64 batch norms are folded in float64, too, so that folded and other weights give the same logits.
        """
        classes = 1000 if self.pixels >= LARGE_IMAGES else 10
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ann = backbones.build(self.name, 3, classes, self.pixels).eval().to(dtype)
        method = registry.load("methods", "qcfs")(levels=LEVELS)
        quantised = method.prepare(ann).to(dtype)
        images = self.images(8).to(dtype)
        initialise_thresholds(quantised, images)
        network = method.convert(quantised, images)
        analog = plain_network(quantised)
        assert analog is not None
        return SourceNetwork(analog, quantised, network)
