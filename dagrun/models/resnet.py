"""Residual networks: those for large images, and the thin ones for images of 32 x 32.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016. Layers and keys as in torchvision,
where bottlenecks have their stride in the 3 x 3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    init,
)
from dagrun.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int, stride: int, device: Any) -> Conv2d:
    """A convolution that keeps the image's size but for the stride; what follows normalises, so it has no bias."""
    return Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, device=device)


class BasicBlock(Module):
    """Two 3 x 3 convolutions and a skip."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: Module | None, device: Any = None) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride, device)
        self.bn1 = BatchNorm2d(width, device=device)
        self.conv2 = conv(width, width, 3, 1, device)
        self.bn2 = BatchNorm2d(width, device=device)
        self.register_module("downsample", downsample)

    def forward(self, x: Array) -> Array:
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + skip)


class Bottleneck(Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the last four times as wide, and a skip."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: Module | None, device: Any = None) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 1, 1, device)
        self.bn1 = BatchNorm2d(width, device=device)
        self.conv2 = conv(width, width, 3, stride, device)
        self.bn2 = BatchNorm2d(width, device=device)
        self.conv3 = conv(width, 4 * width, 1, 1, device)
        self.bn3 = BatchNorm2d(4 * width, device=device)
        self.register_module("downsample", downsample)

    def forward(self, x: Array) -> Array:
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + skip)


class Widen(Module):
    """The skip without parameters (option A of the paper): every `stride`-th pixel, and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = outputs - inputs, stride

    def forward(self, x: Array) -> Array:
        x = x[:, :, :: self.stride, :: self.stride]
        zeros = ops.zeros((x.shape[0], self.more, *x.shape[2:]), dtype=x.dtype, device=x.device)
        return ops.concatenate([x, zeros], axis=1)

    def extra_repr(self) -> str:
        return f"more={self.more}, stride={self.stride}"


class ResNet(Module):
    """Images (N, 3, H, W) to scores (N, classes): a stem, stages of blocks, the mean over the image, one layer.

    `depths`: blocks in each stage; from the second stage on, each is twice as wide as the one before and halves the
    image. `width`: of the first. `small`: the stem is one 3 x 3 convolution, for images of 32 x 32; otherwise 7 x 7
    with stride 2 and pooling. `projections`: skips that change shape have a 1 x 1 convolution (option B), otherwise
    no parameters (option A).
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], classes: int = 1000, *,
        width: int = 64, small: bool = False, projections: bool = True, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = conv(3, width, 3, 1, device) if small else conv(3, width, 7, 2, device)
        self.bn1 = BatchNorm2d(width, device=device)
        self.relu = ReLU()
        self.register_module("maxpool", None if small else MaxPool2d(3, stride=2, padding=1))
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        channels = width
        for stage, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            blocks: list[Module] = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                outputs = (width << stage) * block.expansion
                skip: Module | None = None
                if stride > 1 or channels != outputs:
                    skip = (
                        Sequential(conv(channels, outputs, 1, stride, device), BatchNorm2d(outputs, device=device))
                        if projections
                        else Widen(channels, outputs, stride)
                    )
                blocks.append(block(channels, width << stage, stride, skip, device))
                channels = outputs
            self.register_module(name, Sequential(*blocks))
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(channels, classes, device=device)
        for layer in self.modules():
            if isinstance(layer, Conv2d):
                init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Array) -> Array:
        x = self.relu(self.bn1(self.conv1(images)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(self.flatten(self.avgpool(x)))


def resnet18(classes: int = 1000, **options: Any) -> ResNet:
    """18 layers, 11.7 million parameters; `small=True` for images of 32 x 32.

    >>> import dagrun as dr
    >>> net = dr.models.resnet18(10, small=True)
    >>> net(dr.zeros((2, 3, 32, 32), "float32")).shape, sum(p.size for p in net.parameters())
    ((2, 10), 11173962)
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, **options)


def resnet34(classes: int = 1000, **options: Any) -> ResNet:
    """34 layers, 21.8 million parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes, **options)


def resnet50(classes: int = 1000, **options: Any) -> ResNet:
    """50 layers, 25.6 million parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, **options)


def resnet101(classes: int = 1000, **options: Any) -> ResNet:
    """101 layers, 44.5 million parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), classes, **options)


def resnet152(classes: int = 1000, **options: Any) -> ResNet:
    """152 layers, 60.2 million parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), classes, **options)


def cifar_resnet(layers: int, classes: int = 10, **options: Any) -> ResNet:
    """The thin networks of section 4.2 for images of 32 x 32: 20, 32, 44, 56 or 110 layers.

    >>> import dagrun as dr
    >>> sum(p.size for p in dr.models.cifar_resnet(20).parameters())
    269722
    """
    if layers < 8 or layers % 6 != 2:
        raise ValueError(f"cifar_resnet of {layers} layers, expected 6 n + 2: 20, 32, 44, 56, 110")
    return ResNet(BasicBlock, (layers // 6,) * 3, classes, width=16, small=True, projections=False, **options)
