"""AlexNet, in one column and as it was first: in columns on devices of their own.

Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", NeurIPS 2012; one
column: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, with layers and keys as in
torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    Module,
    ModuleList,
    ReLU,
    Sequential,
)
from dagrun.parallel import OnDevice


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


class ColumnAlexNet(Module):
    """AlexNet in columns, each on a device: the first two, the fourth and the fifth convolution see their own column,
    the third convolution and the linear layers see all of them. Scores are on the first device.

    Images (N, 3, H, W), from 63 x 63 on and usually 224 x 224, to scores (N, classes); the two columns of the paper
    have 61.0 million parameters. The columns run at once between the layers where they meet.

        >>> import dagrun as dr
        >>> net = dr.models.ColumnAlexNet(classes=10, devices=["cpu:0", "cpu:1"])
        >>> sum(p.size for p in net.column2.parameters())
        1991680
        >>> net.column2[1].module[0].weight.device
        device('cpu:1')
    """

    def __init__(
        self, classes: int = 1000, *, hidden: int = 4096, dropout: float = 0.5,
        devices: Sequence[Any] = ("cpu:0", "cpu:1"),
    ) -> None:  # fmt: skip
        super().__init__()
        n = len(devices)
        if n not in (1, 2, 4, 8, 16, 32) or hidden % n:
            raise ValueError(
                f"ColumnAlexNet: {n} devices, expected 1, 2, 4, 8, 16 or 32, which divide hidden={hidden} too"
            )

        def columns(make: Callable[[], Module]) -> ModuleList:
            return ModuleList([OnDevice(make(), device) for device in devices])

        def normalised() -> tuple[Module, ...]:
            return ReLU(), LocalResponseNorm(5, alpha=5e-4, k=2), MaxPool2d(3, stride=2)  # alpha is for the sum of 5

        self.column1 = columns(
            lambda: Sequential(
                Conv2d(3, 96 // n, 11, stride=4, padding=2),
                *normalised(),
                Conv2d(96 // n, 256 // n, 5, padding=2),
                *normalised(),
            )
        )
        self.column2 = columns(
            lambda: Sequential(
                Conv2d(256, 384 // n, 3, padding=1),
                ReLU(),
                Conv2d(384 // n, 384 // n, 3, padding=1),
                ReLU(),
                Conv2d(384 // n, 256 // n, 3, padding=1),
                ReLU(),
                MaxPool2d(3, stride=2),
                AdaptiveAvgPool2d(6),
                Flatten(),
            )
        )
        self.linear1 = columns(lambda: Sequential(Dropout(dropout), Linear(256 * 6 * 6, hidden // n), ReLU()))
        self.linear2 = columns(lambda: Sequential(Dropout(dropout), Linear(hidden, hidden // n), ReLU()))
        self.linear3 = OnDevice(Linear(hidden, classes), devices[0])

    def forward(self, images: Array) -> Array:
        parts = [column(images) for column in self.column1]
        for layer in (self.column2, self.linear1, self.linear2):
            parts = [column(_joined(parts, column.device)) for column in layer]
        return self.linear3(_joined(parts, self.linear3.device))


def _joined(parts: Sequence[Array], device: Any) -> Array:
    """The columns side by side, on one device."""
    return ops.concatenate([part.to_device(device) for part in parts], axis=1)
