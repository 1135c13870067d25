"""Layers that put elements around lines and images; `padding`: one number, or (before, after), the last axis first."""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn.convolution import several
from dagrun.nn.module import Module

Size = int | Sequence[int]


class _Pad(Module):
    axes = 2
    mode = "constant"

    def __init__(self, padding: Size) -> None:
        super().__init__()
        self.padding = several(padding, 2 * self.axes, "padding")
        self.value: float | None = None

    def forward(self, input: Array) -> Array:
        if input.ndim not in (self.axes + 1, self.axes + 2):
            raise ValueError(
                f"{type(self).__name__} of an input of shape {input.shape}: expected {self.axes + 2} axes, or "
                f"{self.axes + 1} without a batch"
            )
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}" if self.value is None else f"padding={self.padding}, value={self.value}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Size, value: float) -> None:
        super().__init__(padding)
        self.value = value


class ZeroPad1d(_Pad):
    """Zeros around lines: (N, C, L)."""

    axes = 1


class ZeroPad2d(_Pad):
    """Zeros around images: (N, C, H, W); `padding` is (left, right, top, bottom).

    >>> import dagrun as dr
    >>> dr.nn.ZeroPad2d((1, 0, 0, 2))(dr.ones((1, 1, 2, 2))).shape
    (1, 1, 4, 3)
    """


class ConstantPad1d(_ConstantPad):
    """A value around lines: (N, C, L)."""

    axes = 1


class ConstantPad2d(_ConstantPad):
    """A value around images: (N, C, H, W)."""


class ReflectionPad1d(_Pad):
    """Lines mirrored at their last elements: (N, C, L)."""

    axes, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Images mirrored at their last rows and columns: (N, C, H, W)."""

    mode = "reflect"


class ReplicationPad1d(_Pad):
    """The last elements of lines repeated: (N, C, L)."""

    axes, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The last rows and columns of images repeated: (N, C, H, W)."""

    mode = "replicate"


class CircularPad1d(_Pad):
    """Lines that go on from their other end: (N, C, L)."""

    axes, mode = 1, "circular"


class CircularPad2d(_Pad):
    """Images that go on from their other ends: (N, C, H, W)."""

    mode = "circular"
