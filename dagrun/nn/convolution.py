"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn.linear import blank, default_init
from dagrun.nn.module import Module

Size = int | Sequence[int]


def several(value: Size, count: int, name: str) -> tuple[int, ...]:
    """A number for each axis, from one for all or a sequence."""
    values = (value,) * count if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != count:
        raise ValueError(f"{name}: {value!r}, expected a number or {count} numbers")
    return values


class _Convolution(Module):
    """What convolutions share: their sizes and parameters; `axes` is the number of image axes."""

    axes = 2
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size | str = 0,
        dilation: Size = 1, groups: int = 1, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: {in_channels} and {out_channels} channels do not divide into {groups} groups"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = several(kernel_size, self.axes, "kernel_size")
        self.stride = several(stride, self.axes, "stride")
        self.padding: Any = padding if isinstance(padding, str) else several(padding, self.axes, "padding")
        self.dilation = several(dilation, self.axes, "dilation")
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = blank((first, second // groups, *self.kernel_size), device, dtype)
        self.register_parameter("bias", blank((out_channels,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew: uniform in +-1/sqrt(fan_in), as PyTorch's."""
        default_init(self.weight, self.bias)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {"padding": (0,) * self.axes, "dilation": (1,) * self.axes, "groups": 1}
        text += "".join(f", {k}={getattr(self, k)}" for k, value in usual.items() if getattr(self, k) != value)
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Convolution):
    """Cross-correlation along one axis: (N, in, L) to (N, out, L'); weight (out, in / groups, k).

    L' = (L + 2 padding - dilation (k - 1) - 1) // stride + 1. `padding` may be "valid" or "same".
    """

    axes = 1

    def forward(self, input: Array) -> Array:
        return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Convolution):
    """Cross-correlation of images: (N, in, H, W) to (N, out, H', W'); weight (out, in / groups, kh, kw).

    H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1. `padding` may be "valid" or "same".

        >>> import dagrun as dr
        >>> dr.nn.Conv2d(1, 6, 5, padding=2)(dr.zeros((4, 1, 28, 28), dtype="float32")).shape
        (4, 6, 28, 28)
    """

    def forward(self, input: Array) -> Array:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(_Convolution):
    """The adjoint of Conv2d: (N, in, H, W) to (N, out, H', W'); weight (in, out / groups, kh, kw).

    H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.
    """

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
        output_padding: Size = 0, groups: int = 1, bias: bool = True, dilation: Size = 1, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device, dtype)
        self.output_padding = several(output_padding, 2, "output_padding")

    def forward(self, input: Array) -> Array:
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
