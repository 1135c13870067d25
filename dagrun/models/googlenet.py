"""GoogLeNet with its two auxiliary classifiers.

Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1. Layers and keys as in torchvision, whose weights
differ from the paper in two ways: batch normalisation after each convolution, and 3 x 3 in place of 5 x 5 kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    Sequential,
    init,
)
from dagrun.nn import functional as F


class Scores(NamedTuple):
    """What a training step sees: the scores of the network and of its auxiliary classifiers, each (N, classes)."""

    logits: Array
    aux_logits2: Array
    aux_logits1: Array


class ConvNorm(Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, device: Any = None) -> None:
        super().__init__()
        self.conv = Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, device=device)
        self.bn = BatchNorm2d(outputs, eps=0.001, device=device)

    def forward(self, x: Array) -> Array:
        return F.relu(self.bn(self.conv(x)))


class Inception(Module):
    """Four branches side by side: 1 x 1; 1 x 1 then 3 x 3, twice; largest elements then 1 x 1."""

    def __init__(
        self, inputs: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int, device: Any = None
    ) -> None:
        super().__init__()
        self.branch1 = ConvNorm(inputs, one, 1, device=device)
        self.branch2 = Sequential(
            ConvNorm(inputs, reduce3, 1, device=device), ConvNorm(reduce3, three, 3, device=device)
        )
        self.branch3 = Sequential(
            ConvNorm(inputs, reduce5, 1, device=device), ConvNorm(reduce5, five, 3, device=device)
        )
        self.branch4 = Sequential(
            MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvNorm(inputs, pooled, 1, device=device)
        )

    def forward(self, x: Array) -> Array:
        return ops.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], axis=1)


class AuxiliaryClassifier(Module):
    """Scores from the middle of the network, whose loss brings gradients to its lower half."""

    def __init__(self, inputs: int, classes: int, dropout: float, device: Any = None) -> None:
        super().__init__()
        self.pool = AdaptiveAvgPool2d(4)
        self.conv = ConvNorm(inputs, 128, 1, device=device)
        self.flatten = Flatten()
        self.fc1 = Linear(128 * 4 * 4, 1024, device=device)
        self.dropout = Dropout(dropout)
        self.fc2 = Linear(1024, classes, device=device)

    def forward(self, x: Array) -> Array:
        x = F.relu(self.fc1(self.flatten(self.conv(self.pool(x)))))
        return self.fc2(self.dropout(x))


class GoogLeNet(Module):
    """Images (N, 3, H, W), from 32 x 32 on and usually 224 x 224, to scores (N, classes).

    In training with `aux_logits`: `Scores`, to be summed as in `googlenet_loss`. 13.0 million parameters, of which 6.6
    million are in use in evaluation. Initial values: normal, limited to two deviations of 0.01, as in torchvision.
    """

    def __init__(
        self, classes: int = 1000, *, aux_logits: bool = True, dropout: float = 0.2, dropout_aux: float = 0.7,
        device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, stride=2, device=device)
        self.maxpool1 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1, device=device)
        self.conv3 = ConvNorm(64, 192, 3, device=device)
        self.maxpool2 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32, device)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64, device)
        self.maxpool3 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64, device)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64, device)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64, device)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64, device)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128, device)
        self.maxpool4 = MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128, device)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128, device)
        self.register_module("aux1", AuxiliaryClassifier(512, classes, dropout_aux, device) if aux_logits else None)
        self.register_module("aux2", AuxiliaryClassifier(528, classes, dropout_aux, device) if aux_logits else None)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.dropout = Dropout(dropout)
        self.fc = Linear(1024, classes, device=device)
        for layer in self.modules():
            if isinstance(layer, (Conv2d, Linear)):
                init.trunc_normal_(layer.weight, 0.0, 0.01, -0.02, 0.02)

    def forward(self, images: Array) -> Array | Scores:
        x = self.maxpool1(self.conv1(images))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        first = self.inception4a(x)
        second = self.inception4d(self.inception4c(self.inception4b(first)))
        x = self.maxpool4(self.inception4e(second))
        x = self.inception5b(self.inception5a(x))
        scores: Array = self.fc(self.dropout(self.flatten(self.avgpool(x))))
        if self.training and self.aux1 is not None:
            return Scores(scores, self.aux2(second), self.aux1(first))
        return scores


def googlenet_loss(outputs: Array | Scores, targets: Array) -> Array:
    """Cross-entropy; that of the auxiliary classifiers counts 0.3 (section 5 of the paper)."""
    if not isinstance(outputs, Scores):
        return F.cross_entropy(outputs, targets)
    main, *others = (F.cross_entropy(scores, targets) for scores in outputs)
    return main + 0.3 * (others[0] + others[1])
