"""Source networks, plain ReLU classifiers with average pooling. `BACKBONES` is a table; listing imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneEntry:
    """Where the builder is, and what it builds. A builder takes `in_channels` and `num_classes`."""

    target: str
    summary: str


BACKBONES: dict[str, BackboneEntry] = {
    "small-cnn": BackboneEntry(
        "benchmark.backbones.small_cnn:small_cnn", "3 convolutions for 8x8 digits, 24 k weights"
    ),
    "resnet20": BackboneEntry("benchmark.backbones.resnet:resnet20", "CIFAR ResNet-20, projection shortcuts, 0.27 M"),
    "resnet18": BackboneEntry("benchmark.backbones.resnet:resnet18", "ResNet-18 with the 3x3 CIFAR stem, 11.2 M"),
    "vgg16": BackboneEntry(
        "benchmark.backbones.vgg:vgg16", "VGG-16 with average pooling and 512-4096-4096 head, 33.6 M"
    ),
}
