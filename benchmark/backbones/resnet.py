"""Residual networks in the CIFAR form of the QCFS line of papers.

3x3 stem without pooling, basic blocks with one ReLU after the first batch norm and one after the addition, 1x1
projection shortcuts where the shape changes (option B), global average pool, one linear layer. He et al., CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C, H/stride, W/stride]."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """Stem, stages of basic blocks (stride 2 from the second stage on), average pool, linear."""

    def __init__(self, in_channels: int, num_classes: int, widths: Sequence[int], blocks: Sequence[int]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages = []
        channels = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = []
            for position in range(count):
                stage.append(BasicBlock(channels, width, 2 if index > 0 and position == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        x = self.stages(self.relu(self.bn1(self.conv1(images))))
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet20(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 16/32/64, three blocks each: 0.27 M parameters."""
    return CifarResNet(in_channels, num_classes, (16, 32, 64), (3, 3, 3))


def resnet18(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """Widths 64/128/256/512, two blocks each: 11.2 M parameters."""
    return CifarResNet(in_channels, num_classes, (64, 128, 256, 512), (2, 2, 2, 2))
