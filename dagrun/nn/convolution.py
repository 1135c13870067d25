"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn.linear import blank, default_init
from dagrun.nn.module import Module

Size = int | Sequence[int]
MODES = ("zeros", "reflect", "replicate", "circular")  # what is put around an image


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
        dilation: Size = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if padding_mode not in (MODES[:1] if self.transposed else MODES):
            raise ValueError(
                f"{type(self).__name__}: padding_mode is {padding_mode!r}, expected "
                + ("'zeros'" if self.transposed else f"one of {', '.join(MODES)}")
            )
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: {in_channels} and {out_channels} channels do not divide into {groups} groups"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = several(kernel_size, self.axes, "kernel_size")
        self.stride = several(stride, self.axes, "stride")
        self.padding: Any = padding if isinstance(padding, str) else several(padding, self.axes, "padding")
        self.dilation = several(dilation, self.axes, "dilation")
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = blank((first, second // groups, *self.kernel_size), device, dtype)
        self.register_parameter("bias", blank((out_channels,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew: uniform in +-1/sqrt(fan_in), as PyTorch's."""
        default_init(self.weight, self.bias)

    def _padded(self, input: Array) -> tuple[Array, Any]:
        """The input, and the zeros that are still to be put around it."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return input, self.padding
        if self.padding == "same":
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            pairs = [(span // 2, span - span // 2) for span in spans]
        else:
            pairs = [(width, width) for width in self.padding]
        return F.pad(input, [width for pair in reversed(pairs) for width in pair], self.padding_mode), 0

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {"padding": (0,) * self.axes, "dilation": (1,) * self.axes, "groups": 1}
        text += "".join(f", {k}={getattr(self, k)}" for k, value in usual.items() if getattr(self, k) != value)
        text += "" if self.bias is not None else ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


class Conv1d(_Convolution):
    """Cross-correlation along one axis: (N, in, L) to (N, out, L'); weight (out, in / groups, k).

    L' = (L + 2 padding - dilation (k - 1) - 1) // stride + 1. `padding` may be "valid" or "same";
    `padding_mode` says what stands there: see `functional.pad`.
    """

    axes = 1

    def forward(self, input: Array) -> Array:
        x, padding = self._padded(input)
        return F.conv1d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Convolution):
    """Cross-correlation of images: (N, in, H, W) to (N, out, H', W'); weight (out, in / groups, kh, kw).

    H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1. `padding` may be "valid" or "same";
    `padding_mode` says what stands there: see `functional.pad`.

        >>> import dagrun as dr
        >>> dr.nn.Conv2d(1, 6, 5, padding=2)(dr.zeros((4, 1, 28, 28), dtype="float32")).shape
        (4, 6, 28, 28)
    """

    def forward(self, input: Array) -> Array:
        x, padding = self._padded(input)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
        output_padding: Size = 0, groups: int = 1, bias: bool = True, dilation: Size = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.output_padding = several(output_padding, self.axes, "output_padding")

    def _output_padding(self, input: Array, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """What is added at the end so that the result has a size: its last lengths, or all of them."""
        if output_size is None:
            return self.output_padding
        wanted = tuple(output_size)
        wanted = wanted[-self.axes :] if len(wanted) == input.ndim else wanted
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self.axes :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        most = [low + step - 1 for low, step in zip(least, self.stride, strict=True)]
        if len(wanted) != self.axes or not all(a <= n <= b for a, n, b in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: output_size is {tuple(output_size)} for an input of shape {input.shape}, "
                f"expected {self.axes} lengths (or those of all axes) from {tuple(least)} to {tuple(most)}"
            )
        return tuple(n - low for n, low in zip(wanted, least, strict=True))


class ConvTranspose1d(_ConvTranspose):
    """The adjoint of Conv1d: (N, in, L) to (N, out, L'); weight (in, out / groups, k).

    L' = (L - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1. `output_size` of a call chooses L' itself,
    among those that a convolution would give L from.
    """

    axes = 1

    def forward(self, input: Array, output_size: Sequence[int] | None = None) -> Array:
        extra = self._output_padding(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose):
    """The adjoint of Conv2d: (N, in, H, W) to (N, out, H', W'); weight (in, out / groups, kh, kw).

    H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1. `output_size` of a call chooses (H', W')
    itself, among those that a convolution would give (H, W) from.
    """

    def forward(self, input: Array, output_size: Sequence[int] | None = None) -> Array:
        extra = self._output_padding(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class Unfold(Module):
    """The windows of images as columns: (N, C, H, W) to (N, C kh kw, places)."""

    def __init__(self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Array) -> Array:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Unfold):
    """Columns summed into images of a size: the adjoint of Unfold."""

    def __init__(
        self, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input: Array) -> Array:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
