"""AlexNet in its one-column form.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014; after Krizhevsky, Sutskever and
Hinton, "ImageNet classification with deep convolutional neural networks", NeurIPS 2012. Layers and keys
as in torchvision.
"""

from __future__ import annotations

from typing import Any

from dagrun.array import Array
from dagrun.nn import AdaptiveAvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential


class AlexNet(Module):
    """Images (N, 3, H, W), from 63 x 63 on and usually 224 x 224, to scores (N, classes); 61.1 million parameters.

    >>> import dagrun as dr
    >>> net = dr.models.AlexNet(classes=10)
    >>> sum(p.size for p in net.features.parameters())
    2469696
    """

    def __init__(self, classes: int = 1000, *, dropout: float = 0.5, device: Any = None) -> None:
        super().__init__()
        self.features = Sequential(
            Conv2d(3, 64, 11, stride=4, padding=2, device=device), ReLU(), MaxPool2d(3, stride=2),
            Conv2d(64, 192, 5, padding=2, device=device), ReLU(), MaxPool2d(3, stride=2),
            Conv2d(192, 384, 3, padding=1, device=device), ReLU(),
            Conv2d(384, 256, 3, padding=1, device=device), ReLU(),
            Conv2d(256, 256, 3, padding=1, device=device), ReLU(), MaxPool2d(3, stride=2),
        )  # fmt: skip
        self.avgpool = AdaptiveAvgPool2d(6)
        self.flatten = Flatten()
        self.classifier = Sequential(
            Dropout(dropout), Linear(256 * 6 * 6, 4096, device=device), ReLU(),
            Dropout(dropout), Linear(4096, 4096, device=device), ReLU(),
            Linear(4096, classes, device=device),
        )  # fmt: skip

    def forward(self, images: Array) -> Array:
        return self.classifier(self.flatten(self.avgpool(self.features(images))))
