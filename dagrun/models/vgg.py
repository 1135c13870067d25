"""VGG networks A to E.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, table 1. Layers
and keys as in torchvision, which lacks C.
"""

from __future__ import annotations

from typing import Any

from dagrun.array import Array
from dagrun.nn import AdaptiveAvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential, init

# The columns of table 1: for each of the five stages, the kernel of each convolution.
KERNELS = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(Module):
    """Images (N, 3, H, W), from 32 x 32 on and usually 224 x 224, to scores (N, classes).

    `configuration`: a letter of the paper's table 1. Convolutions begin with Kaiming's normal values, full connections
    with a deviation of 0.01, as in torchvision.
    """

    def __init__(self, configuration: str, classes: int = 1000, *, dropout: float = 0.5, device: Any = None) -> None:
        super().__init__()
        if configuration not in KERNELS:
            raise ValueError(f"VGG: configuration {configuration!r}, expected one of {', '.join(KERNELS)}")
        layers: list[Module] = []
        channels = 3
        for width, kernels in zip(WIDTHS, KERNELS[configuration], strict=True):
            for kernel in kernels:
                layers += [Conv2d(channels, width, kernel, padding=kernel // 2, device=device), ReLU()]
                channels = width
            layers += [MaxPool2d(2)]
        self.features = Sequential(*layers)
        self.avgpool = AdaptiveAvgPool2d(7)
        self.flatten = Flatten()
        self.classifier = Sequential(
            Linear(512 * 7 * 7, 4096, device=device), ReLU(), Dropout(dropout),
            Linear(4096, 4096, device=device), ReLU(), Dropout(dropout),
            Linear(4096, classes, device=device),
        )  # fmt: skip
        for layer in self.modules():
            if isinstance(layer, Conv2d):
                init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                init.zeros_(layer.bias)
            elif isinstance(layer, Linear):
                init.normal_(layer.weight, 0, 0.01)
                init.zeros_(layer.bias)

    def forward(self, images: Array) -> Array:
        return self.classifier(self.flatten(self.avgpool(self.features(images))))


def vgg11(classes: int = 1000, **options: Any) -> VGG:
    """Configuration A: 132.9 million parameters."""
    return VGG("A", classes, **options)


def vgg13(classes: int = 1000, **options: Any) -> VGG:
    """Configuration B: 133.0 million parameters."""
    return VGG("B", classes, **options)


def vgg16_1x1(classes: int = 1000, **options: Any) -> VGG:
    """Configuration C, with kernels of 1 x 1 at the end of the last three stages: 133.6 million parameters."""
    return VGG("C", classes, **options)


def vgg16(classes: int = 1000, **options: Any) -> VGG:
    """Configuration D: 138.4 million parameters."""
    return VGG("D", classes, **options)


def vgg19(classes: int = 1000, **options: Any) -> VGG:
    """Configuration E: 143.7 million parameters."""
    return VGG("E", classes, **options)
