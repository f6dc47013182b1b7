"""A small convolutional network for 8x8 digits; trains in seconds on a CPU."""

from __future__ import annotations

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """conv 16 - conv 32, stride 2 - conv 64 - global average pool - linear, with batch norm and ReLU."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        return self.head(self.pool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


def small_cnn(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    """The network for `in_channels` x 8 x 8 images (any size of at least 2 x 2 works)."""
    return SmallCNN(in_channels, num_classes)
