"""Affine layers, and modules that only change shape or path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn import init
from dagrun.nn.module import Module


def blank(shape: Sequence[int], device: Any, dtype: Any) -> Array:
    """A parameter that an initialiser will fill: float32 unless a dtype is given."""
    return ops.zeros(tuple(shape), dtype="float32" if dtype is None else dtype, device=device, requires_grad=True)


class Linear(Module):
    """x @ weight.T + bias: (*, in_features) to (*, out_features).

    Parameters `weight` (out, in), `bias` (out,), uniform in +-1/sqrt(in_features) as PyTorch's.

        >>> import dagrun as dr
        >>> dr.nn.Linear(3, 2)(dr.ones((5, 3), dtype="float32")).shape
        (5, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = blank((out_features, in_features), device, dtype)
        if bias:
            self.bias = blank((out_features,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        default_init(self.weight, self.bias)

    def forward(self, input: Array) -> Array:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def default_init(weight: Array, bias: Array | None) -> None:
    """PyTorch's initial values of linear and convolution layers: Kaiming's with a = sqrt(5), +-1/sqrt(fan_in)."""
    if weight.size:
        init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(max(init.fans(weight)[0], 1))
        init.uniform_(bias, -bound, bound)


class Bilinear(Module):
    """For each output k: x1 . weight[k] . x2 + bias[k]; weight (out, in1, in2)."""

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = blank((out_features, in1_features, in2_features), device, dtype)
        self.register_parameter("bias", blank((out_features,), device, dtype) if bias else None)
        bound = 1 / math.sqrt(in1_features)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input1: Array, input2: Array) -> Array:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Identity(Module):
    """Gives back what it is given; takes and ignores any arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Flatten(Module):
    """Axes start_dim to end_dim as one.

    >>> import dagrun as dr
    >>> dr.nn.Flatten()(dr.zeros((2, 3, 4))).shape
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Array) -> Array:
        start, end = (d + input.ndim if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < input.ndim:
            raise ValueError(f"Flatten of axes {self.start_dim} to {self.end_dim}: the input has shape {input.shape}")
        joined = math.prod(input.shape[start : end + 1])
        return ops.reshape(input, (*input.shape[:start], joined, *input.shape[end + 1 :]))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """One axis as several, of these lengths (one may be -1)."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Array) -> Array:
        dim = self.dim % input.ndim
        sizes = self.unflattened_size
        if -1 in sizes:
            rest = -math.prod(sizes)
            sizes = tuple(input.shape[dim] // rest if size == -1 else size for size in sizes)
        return ops.reshape(input, (*input.shape[:dim], *sizes, *input.shape[dim + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Residual(Module):
    """module(x) + skip(x) (He et al. 2016); the skip is the identity unless a module is given.

    >>> import dagrun as dr
    >>> dr.nn.Residual(dr.nn.Identity())(dr.ones(2))
    array([2., 2.])
    """

    def __init__(self, module: Module, skip: Module | None = None) -> None:
        super().__init__()
        self.module = module
        self.register_module("skip", skip)

    def forward(self, input: Array) -> Array:
        return self.module(input) + (input if self.skip is None else self.skip(input))
