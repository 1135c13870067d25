"""A network of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dagrun.nn import Flatten, Linear, Module, ReLU, Sequential


def mlp(inputs: int = 784, hidden: Sequence[int] = (1024,) * 4, classes: int = 10, *, device: Any = None) -> Module:
    """Fully connected layers with ReLU between them; (N, ...) with `inputs` elements in a row to scores (N, classes).

    >>> import dagrun as dr
    >>> net = dr.models.mlp(4, [8, 8], 3)
    >>> net(dr.zeros((2, 2, 2), "float32")).shape, sum(p.size for p in net.parameters())
    ((2, 3), 139)
    """
    sizes = [inputs, *hidden]
    layers: list[Module] = [Flatten()]
    for size, following in pairwise(sizes):
        layers += [Linear(size, following, device=device), ReLU()]
    return Sequential(*layers, Linear(sizes[-1], classes, device=device))
