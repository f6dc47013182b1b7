"""ImageNet networks of torchvision, unchanged, so that its state dicts load strictly."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision import models


def _create(builder: Any, in_channels: int, num_classes: int) -> nn.Module:
    """The network without weights; for other than 3 channels its first convolution is a new one."""
    network: nn.Module = builder(weights=None, num_classes=num_classes)
    if in_channels != 3:
        path, stem = next((path, each) for path, each in network.named_modules() if isinstance(each, nn.Conv2d))
        fresh = nn.Conv2d(
            in_channels,
            stem.out_channels,
            stem.kernel_size,  # type: ignore[arg-type]
            stem.stride,  # type: ignore[arg-type]
            stem.padding,  # type: ignore[arg-type]
            bias=stem.bias is not None,
        )
        nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
        network.set_submodule(path, fresh)
    return network


def resnet18(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """11.7 M parameters, 1.8 GMAC at 224 pixels."""
    return _create(models.resnet18, in_channels, num_classes)


def resnet34(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """21.8 M parameters, 3.7 GMAC at 224 pixels."""
    return _create(models.resnet34, in_channels, num_classes)


def resnet50(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """25.6 M parameters, 4.1 GMAC at 224 pixels."""
    return _create(models.resnet50, in_channels, num_classes)


def vgg16(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """138.4 M parameters, maximum pooling, no batch norm."""
    return _create(models.vgg16, in_channels, num_classes)


def vgg16_bn(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """138.4 M parameters, maximum pooling, batch norm."""
    return _create(models.vgg16_bn, in_channels, num_classes)


def squeezenet1_0(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """1.2 M parameters; its logits are averages of a last ReLU."""
    return _create(models.squeezenet1_0, in_channels, num_classes)


def mobilenet_v2(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """3.5 M parameters; its activations are ReLU6."""
    return _create(models.mobilenet_v2, in_channels, num_classes)
