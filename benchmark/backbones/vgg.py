"""VGG-16 in the form of the QCFS line of papers: batch norm, average pooling, and one of three heads."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS: tuple[int | None, ...] = (
    64,
    64,
    None,
    128,
    128,
    None,
    256,
    256,
    256,
    None,
    512,
    512,
    512,
    None,
    512,
    512,
    512,
    None,
)


class CifarVGG(nn.Module):
    """3x3 convolutions with bias, batch norm and ReLU; None in `WIDTHS` is a 2x2 average pool.

    `side` is the width of the last feature map, in pixels: 1 for 32x32 images, 7 for 224x224.
    """

    def __init__(self, in_channels: int, num_classes: int, side: int = 1):
        super().__init__()
        self.features = _features(in_channels, nn.AvgPool2d(2))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512 * side * side, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, 32 * side, 32 * side]."""
        return self.classifier(self.features(images))  # type: ignore[no-any-return]


class SlimVGG(nn.Module):
    """The same convolutions with a single linear layer behind them."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        # At 32x32 the last 2x2 pool is global already; so it stays on larger images.
        self.features = _features(in_channels, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W] of at least 16 x 16 pixels."""
        return self.head(self.features(images).flatten(1))  # type: ignore[no-any-return]


def _features(in_channels: int, last_pool: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = in_channels
    for width in WIDTHS:
        if width is None:
            layers.append(nn.AvgPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    layers[-1] = last_pool
    return nn.Sequential(*layers)


def vgg16(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """33.6 M parameters for 10 classes; takes 32x32 images."""
    return CifarVGG(in_channels, num_classes)


def vgg16_slim(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """14.7 M parameters for 10 classes."""
    return SlimVGG(in_channels, num_classes)


def vgg16_qcfs(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """The ImageNet VGG-16 of the QCFS, SRP and COS papers: average pools, 138.4 M parameters; takes 224x224 images."""
    return CifarVGG(in_channels, num_classes, side=7)
