"""LeNet-5: the network as it is usually built today, and the one of the paper.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of the IEEE
86(11), 1998: section II.B, figure 2 and table I.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, Parameter, ReLU, Sequential, init
from dagrun.nn import functional as F


class LeNet5(Module):
    """The usual modern form: ReLU, largest elements for pooling, full connections; 61 706 parameters.

    Images (N, 1, 28, 28) to scores (N, classes).

        >>> import dagrun as dr
        >>> net = dr.models.LeNet5()
        >>> net(dr.zeros((2, 1, 28, 28), "float32")).shape, sum(p.size for p in net.parameters())
        ((2, 10), 61706)
    """

    def __init__(self, classes: int = 10, *, device: Any = None) -> None:
        super().__init__()
        self.features = Sequential(
            Conv2d(1, 6, 5, padding=2, device=device), ReLU(), MaxPool2d(2),
            Conv2d(6, 16, 5, device=device), ReLU(), MaxPool2d(2),
        )  # fmt: skip
        self.classifier = Sequential(
            Flatten(),
            Linear(400, 120, device=device), ReLU(),
            Linear(120, 84, device=device), ReLU(),
            Linear(84, classes, device=device),
        )  # fmt: skip

    def forward(self, images: Array) -> Array:
        return self.classifier(self.features(images))


# Table I: the maps of S2 that each map of C3 sees.
CONNECTIONS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# The targets of F6, 7 x 12 pixels for each class: # is +1, . is -1. Drawn in the manner of figure 3.
DIGITS = """
.#####. ...#... .#####. .#####. ....##. ####### .#####. ####### .#####. .#####.
##...## ..##... ##...## ##...## ...###. ##..... ##...## ##...## ##...## ##...##
##...## .###... .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...#... .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...#... ....##. ....##. ##..##. ######. ##..... ....##. .##.##. ##...##
##...## ...#... ...##.. ..####. ##..##. .....## ######. ...##.. ..###.. .######
##...## ...#... ..##... .....## ####### .....## ##...## ...##.. .##.##. .....##
##...## ...#... .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... ##...## ....##. ##...## ##...## ..##... ##...## ##...##
.#####. .#####. ####### .#####. ....##. .#####. .#####. ..##... .#####. .#####.
"""


def squash(a: Array) -> Array:
    """1.7159 tanh(2/3 a): 1 and -1 are where it bends most (appendix A of the paper)."""
    return 1.7159 * ops.tanh(a * (2.0 / 3.0))


def fan_in_uniform(parameter: Array, fan_in: int) -> Array:
    """Draws uniformly between -2.4 / fan_in and 2.4 / fan_in (appendix A)."""
    return init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)


class Subsampling(Module):
    """Halves height and width: the sum of each 2 x 2 window, times a coefficient and plus a bias for each map."""

    def __init__(self, maps: int, device: Any = None) -> None:
        super().__init__()
        self.weight = Parameter(ops.full((maps,), 0.25, dtype="float32", device=device))  # the mean, to begin with
        self.bias = Parameter(ops.zeros((maps,), dtype="float32", device=device))

    def forward(self, maps: Array) -> Array:
        sums = F.avg_pool2d(maps, 2, divisor_override=1)
        return squash(sums * self.weight[:, None, None] + self.bias[:, None, None])


class TableConv2d(Module):
    """A convolution whose output maps see some input maps only: one kernel for each connection, one bias for each map.

    `connections[i]`: the input maps that output map i sees.
    """

    def __init__(
        self, in_channels: int, connections: tuple[tuple[int, ...], ...], kernel_size: int, device: Any = None
    ) -> None:
        super().__init__()
        self.connections = connections
        count = sum(map(len, connections))
        # The place of each kernel in the full (out, in) table of kernels; `count` is a kernel of zeros.
        places = np.full((len(connections), in_channels), count)
        places[[i for i, seen in enumerate(connections) for _ in seen], np.concatenate(connections)] = np.arange(count)
        self.register_buffer("places", asarray(places, device=device), persistent=False)
        self.weight = Parameter(ops.empty((count, kernel_size, kernel_size), dtype="float32", device=device))
        self.bias = Parameter(ops.zeros((len(connections),), dtype="float32", device=device))
        fan_in_uniform(self.weight, kernel_size * kernel_size * max(map(len, connections)))

    def forward(self, maps: Array) -> Array:
        none = ops.zeros((1, *self.weight.shape[1:]), dtype=self.weight.dtype, device=self.weight.device)
        return F.conv2d(maps, ops.concatenate([self.weight, none])[self.places], self.bias)

    def extra_repr(self) -> str:
        return f"{len(self.weight)} connections to {len(self.connections)} maps, kernel_size={self.weight.shape[1:]}"


class OriginalLeNet5(Module):
    """LeNet-5 of the paper: trainable subsampling, the connection table of C3, distances to drawn digits as outputs.

    Images (N, 1, 32, 32), ink about 1.175 and paper about -0.1, to scores (N, 10): minus the squared distance of F6 to
    each class's digit, so that the largest score is the nearest digit. Parameters of C1 to F6: 156, 12, 1516, 32,
    48120, 10164; the digits stay as they are.

        >>> import dagrun as dr
        >>> net = dr.models.OriginalLeNet5()
        >>> [sum(p.size for p in layer.parameters()) for layer in net.children()]
        [156, 12, 1516, 32, 48120, 10164]
        >>> net(dr.zeros((2, 1, 32, 32), "float32")).shape
        (2, 10)
    """

    def __init__(self, *, device: Any = None) -> None:
        super().__init__()
        self.c1 = Conv2d(1, 6, 5, device=device)
        self.s2 = Subsampling(6, device)
        self.c3 = TableConv2d(6, CONNECTIONS, 5, device)
        self.s4 = Subsampling(16, device)
        self.c5 = Conv2d(16, 120, 5, device=device)
        self.f6 = Linear(120, 84, device=device)
        for layer, fan_in in ((self.c1, 25), (self.c5, 400), (self.f6, 120)):
            fan_in_uniform(layer.weight, fan_in)
            init.zeros_(layer.bias)
        rows = [line.split() for line in DIGITS.split("\n") if line]
        codes = [[1 if pixel == "#" else -1 for row in rows for pixel in row[digit]] for digit in range(10)]
        self.register_buffer("digits", asarray(codes, "float32", device=device))

    def forward(self, images: Array) -> Array:
        x = self.s2(squash(self.c1(images)))
        x = self.s4(squash(self.c3(x)))
        x = ops.reshape(squash(self.c5(x)), (len(images), 120))
        x = squash(self.f6(x))
        return -ops.sum((x[:, None, :] - self.digits) ** 2, axis=2)
