"""Layers that drop activations or weights in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn.module import Module


class Dropout(Module):
    """In training each element is 0 with probability p, the others are divided by 1 - p (Srivastava et al. 2014)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p is {p}, expected a probability")
        self.p = p

    def forward(self, input: Array) -> Array:
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(Dropout):
    """Drops whole channels of lines: (N, C, L) or (C, L)."""

    def forward(self, input: Array) -> Array:
        return F.dropout1d(input, self.p, self.training)


class AlphaDropout(Dropout):
    """In training sets elements to the lowest value of SELU; keeps mean 0 and variance 1 (Klambauer et al. 2017)."""

    def forward(self, input: Array) -> Array:
        return F.alpha_dropout(input, self.p, self.training)


class Dropout2d(Dropout):
    """Drops whole channels (Tompson et al. 2015): (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Array) -> Array:
        return F.dropout2d(input, self.p, self.training)


class DropConnect(Module):
    """In training drops elements of a module's weights (Wan et al. 2013; for recurrent weights Merity et al. 2018).

    `weights` names the parameters of the module to drop from: all named weight... (not biases) where it is None. A call
    draws one mask, so a recurrent layer uses the same weights at every step.

        >>> import dagrun as dr
        >>> layer = dr.nn.DropConnect(dr.nn.Linear(3, 2), p=0.5)
        >>> [name for name, _ in layer.named_parameters()]
        ['module.weight', 'module.bias']
    """

    def __init__(self, module: Module, p: float = 0.5, weights: Sequence[str] | None = None) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"DropConnect: p is {p}, expected a probability")
        self.module, self.p = module, p
        names = [name for name in module._parameters if name.startswith("weight")] if weights is None else list(weights)
        unknown = [name for name in names if name not in module._parameters]
        if unknown or not names:
            raise ValueError(f"DropConnect: {type(module).__name__} has parameters {', '.join(module._parameters)}; "
                             f"expected weights among them, got {', '.join(unknown) or 'none'}")  # fmt: skip
        self.weights = names

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if not self.training or self.p == 0:
            return self.module(*inputs, **options)
        # The module computes with masked weights; what it owns, and what gradients gather in, are the whole ones.
        own = self.module._parameters
        whole = {name: own[name] for name in self.weights}
        try:
            for name, weight in whole.items():
                own[name] = F.dropout(weight, self.p, True)
            return self.module(*inputs, **options)
        finally:
            own.update(whole)

    def extra_repr(self) -> str:
        return f"p={self.p}, weights={self.weights}"


WeightDrop = DropConnect
