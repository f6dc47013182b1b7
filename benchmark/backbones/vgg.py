"""VGG-16 in the CIFAR form of the QCFS line of papers: average pooling, and the two 4096-wide linear layers."""

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
    """3x3 convolutions with bias, batch norm and ReLU; None in `WIDTHS` is a 2x2 average pool."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width in WIDTHS:
            if width is None:
                layers.append(nn.AvgPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, 32, 32]."""
        return self.classifier(self.features(images))  # type: ignore[no-any-return]


def vgg16(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """33.6 M parameters for 10 classes; takes 32x32 images."""
    return CifarVGG(in_channels, num_classes)
