"""Convolutions, their transposes, and the columns they are made of; names and arguments as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.codegen.convolution import Geometry
from dagrun.ops import convolution as conv
from dagrun.ops.elementwise import MOST_PLANS
from dagrun.ops.manipulation import reshape, squeeze
from dagrun.ops.precision import in_half
from dagrun.record import common_device

Pair = int | Sequence[int]
_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def pair(value: Any, name: str, what: str, least: int = 1, axes: int = 2) -> tuple[int, ...]:
    """A number for all axes, or one for each. ValueError where one is too small."""
    given = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(given) == 1:
        given *= axes
    if len(given) != axes or not all(isinstance(v, (int, np.integer)) and v >= least for v in given):
        wanted = "one integer" if axes == 1 else f"an integer or {axes} of them"
        raise ValueError(f"{name}: {what} is {value!r}, expected {wanted}, at least {least}")
    return tuple(map(int, given))


@lru_cache(MOST_PLANS)
def _geometry(
    name: str, size: tuple[int, int], kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any
) -> Geometry:
    """The geometry of a convolution over images of a size; ValueError where the kernel does not fit."""
    steps, gaps = pair(stride, name, "stride"), pair(dilation, name, "dilation")
    spans = [d * (k - 1) + 1 for d, k in zip(gaps, kernel, strict=True)]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{name}: padding is {padding!r}, expected 'same', 'valid' or integers")
        if padding == "same" and steps != (1, 1):
            raise ValueError(f"{name}: padding 'same' with stride {stride!r}, expected stride 1")
        total = [span - 1 if padding == "same" else 0 for span in spans]
        before = [t // 2 for t in total]
    else:
        before = list(pair(padding, name, "padding", 0))
        total = [2 * p for p in before]
    out = []
    for length, around, span, step in zip(size, total, spans, steps, strict=True):
        if length + around < span:
            raise ValueError(
                f"{name}: the kernel spans {span} elements, but the padded input has {length + around} along that "
                f"axis (image {size}, kernel {kernel}, padding {padding!r}, dilation {dilation!r}); pad the input or "
                "take a smaller kernel"
            )
        out.append((length + around - span) // step + 1)
    return Geometry(size, kernel, (out[0], out[1]), steps, gaps, (before[0], before[1]))  # type: ignore[arg-type]


def _key(value: Any) -> Any:
    """An argument in hashable form."""
    return tuple(value) if isinstance(value, list) else value


def _check(name: str, x: Array, weight: Array, bias: Array | None, axes: int) -> None:
    arrays = [x, weight] if bias is None else [x, weight, bias]
    common_device(name, arrays)
    if len({a.dtype for a in arrays}) > 1 or x.dtype.kind != "f":
        found = ", ".join(str(a.dtype) for a in arrays)
        raise TypeError(f"{name}: dtypes {found}, expected one floating dtype for input, weight and bias; use astype")
    if x.ndim not in (axes + 1, axes + 2) or weight.ndim != axes + 2:
        raise ValueError(
            f"{name}: input of shape {x.shape} and weight of shape {weight.shape}, expected an input of {axes + 2} "
            f"axes (or {axes + 1} for one image) and a weight of {axes + 2}"
        )
    if 0 in weight.shape:
        raise ValueError(f"{name}: a weight of shape {weight.shape} is empty, expected at least one element")


def _in_single(x: Array, *others: Array | None) -> tuple[bool, list[Any]]:
    """Whether float16 is computed in float32, and the arrays so; not on GPUs, whose products sum float16 in float32."""
    arrays = [x, *others]
    if x.dtype != _HALF or x.device.kind == "cuda":
        return False, arrays
    return True, [None if a is None else a.astype(_SINGLE) for a in arrays]


@in_half
def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1,
    groups: int = 1,
) -> Array:  # fmt: skip
    """The cross-correlation of images with kernels, as convolutional layers compute it.

    input (n, channels, rows, columns) or (channels, rows, columns), weight (outputs, channels / groups, kernel rows,
    kernel columns), bias (outputs,); result (n, outputs, rows, columns). `padding`: zeros around the image, or "same"
    (the result has the image's size; stride 1) or "valid" (none). float16 is summed in float32. ValueError for shapes
    that do not fit, TypeError for other dtypes than one floating dtype. PyTorch's function of this name.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.conv2d(dr.ones((1, 1, 3, 3)), dr.ones((1, 1, 2, 2)))
        array([[[[4., 4.],
                 [4., 4.]]]])
    """
    x, w = as_array(input), as_array(weight)
    b = None if bias is None else as_array(bias)
    _check("conv2d", x, w, b, 2)
    if x.ndim == 3:
        return squeeze(conv2d(reshape(x, (1, *x.shape)), w, b, stride, padding, dilation, groups), 0)
    if groups < 1 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(
            f"conv2d: input of shape {x.shape} has {x.shape[1]} channels, weight of shape {w.shape} with groups="
            f"{groups} expects {w.shape[1] * groups}, and a number of outputs that {groups} divides"
        )
    if b is not None and b.shape != (w.shape[0],):
        raise ValueError(f"conv2d: bias of shape {b.shape}, expected ({w.shape[0]},), one for each output")
    kernel = (w.shape[2], w.shape[3])
    geometry = _geometry("conv2d", x.shape[2:], kernel, _key(stride), _key(padding), _key(dilation))
    half, (x, w, b) = _in_single(x, w, b)
    made = conv.convolve(x, w, b, geometry, int(groups))
    return made.astype(_HALF) if half else made


def _second(value: Any, fill: int) -> Any:
    """An argument of one axis as that of two, the first of length 1."""
    return value if isinstance(value, str) else (fill, *pair(value, "conv1d", "stride, padding or dilation", 0, 1))


@in_half
def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1,
    groups: int = 1,
) -> Array:  # fmt: skip
    """`conv2d` of lines: input (n, channels, length) or (channels, length), weight (outputs, channels / groups, taps).

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.conv1d(dr.asarray([[[1.0, 2.0, 4.0]]]), dr.asarray([[[-1.0, 1.0]]]))
    array([[[1., 2.]]])
    """
    x, w = as_array(input), as_array(weight)
    b = None if bias is None else as_array(bias)
    _check("conv1d", x, w, b, 1)
    x = reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    w = reshape(w, (*w.shape[:-1], 1, w.shape[-1]))
    made = conv2d(x, w, b, _second(stride, 1), _second(padding, 0), _second(dilation, 1), groups)
    return squeeze(made, -2)


@in_half
def conv_transpose2d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair = 0, output_padding: Pair = 0,
    groups: int = 1, dilation: Pair = 1,
) -> Array:  # fmt: skip
    """The adjoint of `conv2d` in its input: each input element adds its kernel, scaled, to the result.

    input (n, channels, rows, columns) or (channels, rows, columns), weight (channels, outputs / groups, kernel rows,
    kernel columns), bias (outputs,). The result has (rows - 1) stride - 2 padding + dilation (kernel - 1) +
    output_padding + 1 rows. PyTorch's function of this name.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.conv_transpose2d(dr.asarray([[[[1.0, 2.0]]]]), dr.ones((1, 1, 1, 2)), stride=(1, 2))
        array([[[[1., 1., 2., 2.]]]])
    """
    name = "conv_transpose2d"
    x, w = as_array(input), as_array(weight)
    b = None if bias is None else as_array(bias)
    _check(name, x, w, b, 2)
    if x.ndim == 3:
        whole = reshape(x, (1, *x.shape))
        return squeeze(conv_transpose2d(whole, w, b, stride, padding, output_padding, groups, dilation), 0)
    if groups < 1 or x.shape[1] != w.shape[0] or w.shape[0] % groups:
        raise ValueError(
            f"{name}: input of shape {x.shape} has {x.shape[1]} channels, weight of shape {w.shape} expects "
            f"{w.shape[0]}, a multiple of groups={groups}"
        )
    outputs = w.shape[1] * groups
    if b is not None and b.shape != (outputs,):
        raise ValueError(f"{name}: bias of shape {b.shape}, expected ({outputs},), one for each output")
    steps, gaps = pair(stride, name, "stride"), pair(dilation, name, "dilation")
    around, extra = pair(padding, name, "padding", 0), pair(output_padding, name, "output_padding", 0)
    if any(more >= max(s, d) for more, s, d in zip(extra, steps, gaps, strict=True)):
        raise ValueError(
            f"{name}: output_padding is {output_padding!r}, expected less than stride {stride!r} or dilation "
            f"{dilation!r}"
        )
    kernel = (w.shape[2], w.shape[3])
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, s, p, d, k, more in zip(x.shape[2:], steps, around, gaps, kernel, extra, strict=True)
    )
    if min(size) < 1:
        raise ValueError(f"{name}: input of shape {x.shape} gives images of {size}: take less padding than {padding!r}")
    geometry = Geometry(size, kernel, x.shape[2:], steps, gaps, around)  # type: ignore[arg-type]
    half, (x, w, b) = _in_single(x, w, b)
    made = conv.spread(x, w, geometry, int(groups))
    if b is not None:
        made = made + reshape(b, (outputs, 1, 1))
    return made.astype(_HALF) if half else made


def conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair = 0, output_padding: Pair = 0,
    groups: int = 1, dilation: Pair = 1,
) -> Array:  # fmt: skip
    """`conv_transpose2d` of lines: input (n, channels, length) or (channels, length), weight (channels, outputs, taps).

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.conv_transpose1d(dr.asarray([[[1.0, 2.0]]]), dr.ones((1, 1, 2)), stride=2)
    array([[[1., 1., 2., 2.]]])
    """
    x, w = as_array(input), as_array(weight)
    b = None if bias is None else as_array(bias)
    _check("conv_transpose1d", x, w, b, 1)
    x = reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    w = reshape(w, (*w.shape[:-1], 1, w.shape[-1]))
    steps, around, extra, gaps = (
        _second(value, fill) for value, fill in ((stride, 1), (padding, 0), (output_padding, 0), (dilation, 1))
    )
    return squeeze(conv_transpose2d(x, w, b, steps, around, extra, groups, gaps), -2)


def unfold(input: Any, kernel_size: Pair, dilation: Pair = 1, padding: Pair = 0, stride: Pair = 1) -> Array:
    """The windows of images as columns (im2col): (n, channels * kernel rows * kernel columns, output places).

    input (n, channels, rows, columns), any dtype. The products of a weight matrix with these columns are `conv2d`.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.unfold(dr.asarray([[[[1, 2, 3]]]]), (1, 2))
        array([[[1, 2],
                [2, 3]]])
    """
    x = as_array(input)
    if x.ndim == 3:
        return squeeze(unfold(reshape(x, (1, *x.shape)), kernel_size, dilation, padding, stride), 0)
    if x.ndim != 4:
        raise ValueError(f"unfold: input of shape {x.shape}, expected 4 axes, or 3 for one image")
    kernel = pair(kernel_size, "unfold", "kernel_size")
    geometry = _geometry("unfold", x.shape[2:], kernel, _key(stride), _key(padding), _key(dilation))
    return conv.unfold(x, geometry)


def fold(
    input: Any, output_size: Pair, kernel_size: Pair, dilation: Pair = 1, padding: Pair = 0, stride: Pair = 1
) -> Array:
    """Columns, as `unfold` gives them, summed into images of a size (col2im): the adjoint of `unfold`.

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.fold(dr.asarray([[[1, 2], [2, 3]]]), (1, 3), (1, 2))
    array([[[[1, 4, 3]]]])
    """
    columns = as_array(input)
    if columns.ndim == 2:
        return squeeze(
            fold(reshape(columns, (1, *columns.shape)), output_size, kernel_size, dilation, padding, stride), 0
        )
    size, kernel = pair(output_size, "fold", "output_size"), pair(kernel_size, "fold", "kernel_size")
    geometry = _geometry("fold", size, kernel, _key(stride), _key(padding), _key(dilation))
    taps = kernel[0] * kernel[1]
    if columns.ndim != 3 or columns.shape[1] % taps or columns.shape[2] != geometry.places:
        raise ValueError(
            f"fold: input of shape {columns.shape}, expected (n, a multiple of {taps}, {geometry.places}) for images "
            f"of {size} and a kernel of {kernel}"
        )
    return conv.fold(columns, geometry)
