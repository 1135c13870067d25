"""Pooling: largest elements and means of windows; names and arguments as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.codegen.pooling import Windows
from dagrun.nn.functional.convolution import Pair, pair
from dagrun.ops import pooling as pool
from dagrun.ops.elementwise import MOST_PLANS
from dagrun.ops.manipulation import expand_dims, squeeze


@lru_cache(MOST_PLANS)
def _windows(
    name: str, length: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool, fixed: int, padded: bool
) -> Windows:
    """The windows along an axis. `fixed`: the divisor where not 0; `padded`: padding counts in it."""
    if 2 * padding > dilation * (kernel - 1) + 1:
        raise ValueError(f"{name}: padding {padding}, expected at most half of what the kernel spans ({kernel})")
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(
            f"{name}: the kernel spans {dilation * (kernel - 1) + 1} elements, the padded input has "
            f"{length + 2 * padding}; take a smaller kernel"
        )
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= length + padding:
        count -= 1  # a window may not begin in the padding behind
    table = []
    for place in range(count):
        start = place * stride - padding
        first = start + (-(start // dilation) if start < 0 else 0) * dilation if dilation > 1 else max(start, 0)
        stop = min(start + dilation * (kernel - 1) + 1, length)
        inside = max(0, -(-(stop - first) // dilation))
        spanned = min(start + kernel, length + padding) - start if padded else inside
        table.append((first, inside, fixed or max(1, spanned)))
    return Windows(tuple(table), dilation)


@lru_cache(MOST_PLANS)
def _adaptive(length: int, out: int) -> Windows:
    """Windows of nearly one length that cover the axis: from floor(i n / m) to ceil((i + 1) n / m)."""
    bounds = [(i * length // out, -(-(i + 1) * length // out)) for i in range(out)]
    return Windows(tuple((start, stop - start, stop - start) for start, stop in bounds))


def _planes(name: str, input: Any, axes: int) -> Array:
    x = as_array(input)
    if x.ndim not in (axes + 1, axes + 2) or 0 in x.shape[-axes:]:
        raise ValueError(
            f"{name}: input of shape {x.shape}, expected {axes + 2} axes (or {axes + 1} for one image), the last "
            f"{'two' if axes == 2 else 'one'} not empty"
        )
    return x if axes == 2 else expand_dims(x, -2)


_ONE = Windows(((0, 1, 1),))


def _axes_windows(
    name: str, x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, axes: int,
    fixed: int = 0, padded: bool = False,
) -> list[Windows]:  # fmt: skip
    sizes = pair(kernel, name, "kernel_size", 1, axes)
    empty = stride is None or (isinstance(stride, Sequence) and not stride)
    steps = sizes if empty else pair(stride, name, "stride", 1, axes)
    around, gaps = pair(padding, name, "padding", 0, axes), pair(dilation, name, "dilation", 1, axes)
    made = [
        # A fixed divisor is one number for both axes.
        _windows(name, *row, ceil, (fixed if k == 0 else 1) if fixed else 0, padded)
        for k, row in enumerate(zip(x.shape[-axes:], sizes, steps, around, gaps, strict=True))
    ]
    return made if axes == 2 else [_ONE, *made]


def _max_pool(name: str, input: Any, axes: int, windows: Any, return_indices: bool) -> Any:
    x = _planes(name, input, axes)
    if x.dtype == np.bool_:
        raise TypeError(f"{name}: input of dtype bool, expected integers or floats; use astype")
    values, places = pool.max_pool(x, *windows(x))
    if axes == 1:
        values, places = squeeze(values, -2), squeeze(places, -2)
    return (values, places.astype(np.int64)) if return_indices else values


def _floating(name: str, x: Array) -> Array:
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: input of dtype {x.dtype}, expected a floating dtype; use astype")
    return x


def max_pool2d(
    input: Any, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window (NaN wins, of equals the first), and on request where it stands.

    input (n, channels, rows, columns) or (channels, rows, columns); windows begin every `stride` elements (the kernel's
    size if None), also overlapping ones. Indices (int64) are row * width + column in the plane. PyTorch's function of
    this name.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.max_pool2d(dr.asarray([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]), (2, 2), stride=1)
        array([[[5., 6.]]])
    """
    name = "max_pool2d"
    return _max_pool(
        name, input, 2,
        lambda x: _axes_windows(name, x, kernel_size, stride, padding, dilation, bool(ceil_mode), 2), return_indices,
    )  # fmt: skip


def max_pool1d(
    input: Any, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """`max_pool2d` of lines: input (n, channels, length) or (channels, length).

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.max_pool1d(dr.asarray([[1.0, 3.0, 2.0, 0.0]]), 2)
    array([[3., 2.]])
    """
    name = "max_pool1d"
    return _max_pool(
        name, input, 1,
        lambda x: _axes_windows(name, x, kernel_size, stride, padding, dilation, bool(ceil_mode), 1), return_indices,
    )  # fmt: skip


def avg_pool2d(
    input: Any, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Array:  # fmt: skip
    """The mean of each window; padding counts as zeros, or not at all with `count_include_pad=False`.

    input (n, channels, rows, columns) or (channels, rows, columns), floating. `divisor_override` replaces the number of
    elements. PyTorch's function of this name.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.avg_pool2d(dr.asarray([[[1.0, 2.0], [3.0, 4.0]]]), 2)
        array([[[2.5]]])
    """
    x = _floating("avg_pool2d", _planes("avg_pool2d", input, 2))
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"avg_pool2d: divisor_override is {divisor_override}, expected at least 1")
    windows = _axes_windows(
        "avg_pool2d", x, kernel_size, stride, padding, 1, bool(ceil_mode), 2, divisor_override or 0,
        bool(count_include_pad),
    )  # fmt: skip
    return pool.mean_pool(x, *windows)


def avg_pool1d(
    input: Any, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:  # fmt: skip
    """`avg_pool2d` of lines: input (n, channels, length) or (channels, length).

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.avg_pool1d(dr.asarray([[1.0, 3.0, 2.0, 0.0]]), 2)
    array([[2., 1.]])
    """
    x = _floating("avg_pool1d", _planes("avg_pool1d", input, 1))
    windows = _axes_windows(
        "avg_pool1d", x, kernel_size, stride, padding, 1, bool(ceil_mode), 1, 0, bool(count_include_pad)
    )
    return squeeze(pool.mean_pool(x, *windows), -2)


def _adaptive_windows(name: str, x: Array, output_size: Any, axes: int) -> list[Windows]:
    given = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * axes
    sizes = [own if wanted is None else wanted for own, wanted in zip(x.shape[-axes:], given, strict=False)]
    wanted = pair(sizes, name, "output_size", 1, axes)
    made = [_adaptive(length, out) for length, out in zip(x.shape[-axes:], wanted, strict=True)]
    return made if axes == 2 else [_ONE, *made]


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Array:
    """Means of windows chosen so that the result has rows and columns of `output_size` (None: those of the input).

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.adaptive_avg_pool2d(dr.asarray([[[1.0, 2.0, 3.0]]]), (1, 2))
    array([[[1.5, 2.5]]])
    """
    x = _floating("adaptive_avg_pool2d", _planes("adaptive_avg_pool2d", input, 2))
    return pool.mean_pool(x, *_adaptive_windows("adaptive_avg_pool2d", x, output_size, 2))


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Array:
    """`adaptive_avg_pool2d` of lines: input (n, channels, length) or (channels, length)."""
    x = _floating("adaptive_avg_pool1d", _planes("adaptive_avg_pool1d", input, 1))
    return squeeze(pool.mean_pool(x, *_adaptive_windows("adaptive_avg_pool1d", x, output_size, 1)), -2)


def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Largest elements of windows chosen as `adaptive_avg_pool2d` does, and on request where they stand."""
    name = "adaptive_max_pool2d"
    return _max_pool(name, input, 2, lambda x: _adaptive_windows(name, x, output_size, 2), return_indices)


def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """`adaptive_max_pool2d` of lines: input (n, channels, length) or (channels, length)."""
    name = "adaptive_max_pool1d"
    return _max_pool(name, input, 1, lambda x: _adaptive_windows(name, x, output_size, 1), return_indices)
