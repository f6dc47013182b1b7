"""Source networks, ReLU classifiers. `BACKBONES` is a table and `build` the way from a name to a network.

Listing imports no torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

LARGE_IMAGES = 64
TIMM = "timm:"


@dataclass(frozen=True)
class BackboneEntry:
    """Where the builder is, and what it builds. A builder takes `in_channels` and `num_classes`.

    `imagenet` is another builder, for images of at least 64 pixels; without one `target` serves every size.
    """

    target: str
    summary: str
    imagenet: str = ""


_RESNET = "benchmark.backbones.resnet"
_VGG = "benchmark.backbones.vgg"
_TORCHVISION = "benchmark.backbones.from_torchvision"

BACKBONES: dict[str, BackboneEntry] = {
    "small-cnn": BackboneEntry(
        "benchmark.backbones.small_cnn:small_cnn", "3 convolutions for 8x8 digits, 24 k weights"
    ),
    "resnet20": BackboneEntry(f"{_RESNET}:resnet20", "CIFAR ResNet-20, projection shortcuts, 0.27 M"),
    "resnet32": BackboneEntry(f"{_RESNET}:resnet32", "CIFAR ResNet-32, projection shortcuts, 0.47 M"),
    "resnet44": BackboneEntry(f"{_RESNET}:resnet44", "CIFAR ResNet-44, projection shortcuts, 0.66 M"),
    "resnet56": BackboneEntry(f"{_RESNET}:resnet56", "CIFAR ResNet-56, projection shortcuts, 0.86 M"),
    "resnet20-a": BackboneEntry(f"{_RESNET}:resnet20_a", "CIFAR ResNet-20, zero-padded shortcuts, 0.27 M"),
    "resnet32-a": BackboneEntry(f"{_RESNET}:resnet32_a", "CIFAR ResNet-32, zero-padded shortcuts, 0.46 M"),
    "resnet44-a": BackboneEntry(f"{_RESNET}:resnet44_a", "CIFAR ResNet-44, zero-padded shortcuts, 0.66 M"),
    "resnet56-a": BackboneEntry(f"{_RESNET}:resnet56_a", "CIFAR ResNet-56, zero-padded shortcuts, 0.85 M"),
    "resnet18": BackboneEntry(
        f"{_RESNET}:resnet18",
        "ResNet-18: the 3x3 CIFAR stem, 11.2 M; torchvision's on large images",
        f"{_TORCHVISION}:resnet18",
    ),
    "resnet34": BackboneEntry(
        f"{_RESNET}:resnet34",
        "ResNet-34: the 3x3 CIFAR stem, 21.3 M; torchvision's on large images",
        f"{_TORCHVISION}:resnet34",
    ),
    "resnet34-qcfs": BackboneEntry(
        f"{_RESNET}:resnet34_qcfs", "ResNet-34 with the 3x3 CIFAR stem on ImageNet too, 21.8 M, 57 GMAC at 224 px"
    ),
    "resnet50": BackboneEntry(f"{_TORCHVISION}:resnet50", "torchvision's ResNet-50, 25.6 M"),
    "vgg16": BackboneEntry(
        f"{_VGG}:vgg16",
        "VGG-16: average pooling and 512-4096-4096 head, 33.6 M; torchvision's on large images",
        f"{_TORCHVISION}:vgg16",
    ),
    "vgg16-slim": BackboneEntry(f"{_VGG}:vgg16_slim", "VGG-16 with average pooling and one linear layer, 14.7 M"),
    "vgg16-bn": BackboneEntry(f"{_TORCHVISION}:vgg16_bn", "torchvision's VGG-16 with batch norm, 138.4 M"),
    "vgg16-qcfs": BackboneEntry(f"{_VGG}:vgg16_qcfs", "VGG-16 with batch norm and average pooling for 224 px, 138.4 M"),
    "squeezenet1_0": BackboneEntry(f"{_TORCHVISION}:squeezenet1_0", "torchvision's SqueezeNet 1.0, 1.2 M"),
    "mobilenet_v2": BackboneEntry(f"{_TORCHVISION}:mobilenet_v2", "torchvision's MobileNetV2 (ReLU6), 3.5 M"),
}


def check(name: str) -> None:
    """Raise UsageError with near matches unless `build` knows the name. Imports timm for `timm:` names alone."""
    if name.startswith(TIMM):
        from benchmark.backbones.from_timm import check_name

        check_name(name.removeprefix(TIMM))
    else:
        from benchmark import registry

        registry.entry("models", name)


def build(name: str, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """A new network: logits [B, num_classes] of images [B, in_channels, image_size, image_size].

    `name` is one of the table, of a plug-in, or `timm:NAME`. Raises UsageError with near matches for any other.
    """
    if name.startswith(TIMM):
        from benchmark.backbones.from_timm import create

        return create(name.removeprefix(TIMM), in_channels, num_classes, image_size)
    found = builders(name)
    return found[-1 if image_size >= LARGE_IMAGES else 0](in_channels, num_classes)


def builders(name: str) -> tuple[Callable[..., nn.Module], ...]:
    """The function behind a name of the table or of a plug-in, and the one for large images where that is another.

    Raises UsageError with near matches for an unknown name.
    """
    from benchmark import registry

    entry, builder = registry.entry("models", name), registry.load("models", name)
    if not isinstance(entry, BackboneEntry) or not entry.imagenet:
        return (builder,)
    module, _, attribute = entry.imagenet.partition(":")
    return builder, getattr(importlib.import_module(module), attribute)
