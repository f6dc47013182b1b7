"""Residual networks in the CIFAR form of the QCFS line of papers.

3x3 stem without pooling, basic blocks with one ReLU after the first batch norm and one after the addition, global
average pool, one linear layer. Where the shape changes, the shortcut is a 1x1 projection (option B) or every second
pixel with zero channels around (option A). He et al., CVPR 2016, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def shifted_identity(in_channels: int, channels: int) -> Tensor:
    """[channels, in_channels, 1, 1]: the 1x1 kernel that puts zero channels before and after, as many on both sides."""
    kernel = torch.zeros(channels, in_channels, 1, 1)
    first = (channels - in_channels) // 2
    kernel[first : first + in_channels, :, 0, 0] = torch.eye(in_channels)
    return kernel


def zero_padded_shortcut(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    """The option-A shortcut as a fixed convolution, [B, C_in, H, W] to [B, C, H/stride, W/stride].

    Its kernel is a buffer outside the state dict: nothing trains it and no checkpoint holds it.
    """
    # A plain nn.Conv2d, not a subclass: torch.fx keeps only torch's own modules whole.
    convolution = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
    del convolution.weight
    convolution.register_buffer("weight", shifted_identity(in_channels, channels), persistent=False)
    return convolution


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, projection: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride == 1 and in_channels == channels:
            return
        if projection:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        else:
            self.shortcut = zero_padded_shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C, H/stride, W/stride]."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """Stem, stages of basic blocks (stride 2 from the second stage on), average pool, linear.

    With `projection` the shortcuts are option B, else option A.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        projection: bool = True,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages = []
        channels = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = []
            for position in range(count):
                stage.append(BasicBlock(channels, width, 2 if index > 0 and position == 0 else 1, projection))
                channels = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and isinstance(module.weight, nn.Parameter):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        x = self.stages(self.relu(self.bn1(self.conv1(images))))
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]


NARROW = (16, 32, 64)
WIDE = (64, 128, 256, 512)


def resnet20(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 16/32/64, three blocks each: 0.27 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (3, 3, 3))


def resnet32(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 16/32/64, five blocks each: 0.47 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (5, 5, 5))


def resnet44(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 16/32/64, seven blocks each: 0.66 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (7, 7, 7))


def resnet56(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 16/32/64, nine blocks each: 0.86 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (9, 9, 9))


def resnet20_a(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """ResNet-20 with shortcuts without parameters (option A): 0.27 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (3, 3, 3), projection=False)


def resnet32_a(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """ResNet-32 with shortcuts without parameters (option A): 0.46 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (5, 5, 5), projection=False)


def resnet44_a(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """ResNet-44 with shortcuts without parameters (option A): 0.66 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (7, 7, 7), projection=False)


def resnet56_a(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """ResNet-56 with shortcuts without parameters (option A): 0.85 M parameters."""
    return CifarResNet(in_channels, num_classes, NARROW, (9, 9, 9), projection=False)


def resnet18(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 64/128/256/512, two blocks each: 11.2 M parameters."""
    return CifarResNet(in_channels, num_classes, WIDE, (2, 2, 2, 2))


def resnet34(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 64/128/256/512; 3, 4, 6 and 3 blocks: 21.3 M parameters."""
    return CifarResNet(in_channels, num_classes, WIDE, (3, 4, 6, 3))


def resnet34_qcfs(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """The ImageNet ResNet-34 of the QCFS, SRP and COS papers: `resnet34`, stem included, also at 224 pixels.

    56.8 GMAC per image there, against 3.7 for the usual ResNet-34: never compare the two by name.
    """
    return resnet34(in_channels, num_classes)
