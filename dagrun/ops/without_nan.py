"""Reductions that leave NaN out; composed of reductions with masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.ops import cumulative, reductions, statistics
from dagrun.ops.elementwise import written
from dagrun.ops.indexing import take_along_axis
from dagrun.ops.mathematics import isinf, isnan
from dagrun.ops.reductions import Axis
from dagrun.ops.selection import where as choose
from dagrun.ops.sorting import sort


def _or_else(x: Array, value: Any) -> Array:
    """The array with a value in the place of NaN."""
    return choose(isnan(x), value, x) if x.dtype.kind == "f" else x


def nansum(x: Any, /, axis: Axis = None, dtype: Any = None, out: Array | None = None, keepdims: bool = False) -> Array:
    """The sum of the elements that are not NaN.

    >>> import dagrun as dr
    >>> dr.nansum(dr.asarray([1.0, float("nan"), 2.0])).item()
    3.0
    """
    return reductions.sum(_or_else(as_array(x), 0.0), axis, dtype, out, keepdims)


def nanprod(x: Any, /, axis: Axis = None, dtype: Any = None, out: Array | None = None, keepdims: bool = False) -> Array:
    """The product of the elements that are not NaN."""
    return reductions.prod(_or_else(as_array(x), 1.0), axis, dtype, out, keepdims)


def nanmax(x: Any, /, axis: Axis = None, out: Array | None = None, keepdims: bool = False) -> Array:
    """The largest element that is not NaN; NaN where all are."""
    return _extreme(x, axis, out, keepdims, -np.inf, "max")


def nanmin(x: Any, /, axis: Axis = None, out: Array | None = None, keepdims: bool = False) -> Array:
    """The smallest element that is not NaN; NaN where all are."""
    return _extreme(x, axis, out, keepdims, np.inf, "min")


def _extreme(x: Any, axis: Axis, out: Array | None, keepdims: bool, last: float, name: str) -> Array:
    x = as_array(x)
    found: Array = getattr(reductions, name)(_or_else(x, last), axis, None, keepdims)
    if x.dtype.kind == "f":
        found = choose(reductions.all(isnan(x), axis, None, keepdims), float("nan"), found)
    return written(found, out, f"nan{name}")


def nanargmax(x: Any, /, axis: int | None = None, out: Array | None = None, *, keepdims: bool = False) -> Array:
    """Where the largest element that is not NaN is; ValueError where all are NaN, so this waits for floats."""
    return reductions.argmax(_with_some(x, axis, -np.inf, "nanargmax"), axis, out, keepdims=keepdims)


def nanargmin(x: Any, /, axis: int | None = None, out: Array | None = None, *, keepdims: bool = False) -> Array:
    """Where the smallest element that is not NaN is; ValueError where all are NaN, so this waits for floats."""
    return reductions.argmin(_with_some(x, axis, np.inf, "nanargmin"), axis, out, keepdims=keepdims)


def _with_some(x: Any, axis: int | None, last: float, name: str) -> Array:
    x = as_array(x)
    if x.dtype.kind == "f" and bool(reductions.any(reductions.all(isnan(x), axis))):
        raise ValueError(f"{name}: all elements are NaN somewhere along axis {axis}, expected one that is a number")
    return _or_else(x, last)


def _numbers(x: Array) -> Any:
    """The mask of what is not NaN."""
    return ~isnan(x) if x.dtype.kind == "f" else True


def nanmean(x: Any, /, axis: Axis = None, dtype: Any = None, out: Array | None = None, keepdims: bool = False) -> Array:
    """The mean of the elements that are not NaN; NaN where all are."""
    x = as_array(x)
    return reductions.mean(_or_else(x, 0.0), axis, dtype, out, keepdims, where=_numbers(x))


def nanvar(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    ddof: float = 0,
    keepdims: bool = False,
) -> Array:
    """The variance of the elements that are not NaN; NaN where there are no more than `ddof`."""
    x = as_array(x)
    return written(_or_nan(statistics.var, x, axis, dtype, ddof, keepdims), out, "nanvar")


def nanstd(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    ddof: float = 0,
    keepdims: bool = False,
) -> Array:
    """The standard deviation of the elements that are not NaN; NaN where there are no more than `ddof`."""
    x = as_array(x)
    return written(_or_nan(statistics.std, x, axis, dtype, ddof, keepdims), out, "nanstd")


def _or_nan(function: Any, x: Array, axis: Axis, dtype: Any, ddof: float, keepdims: bool) -> Array:
    mask = _numbers(x)
    found: Array = function(_or_else(x, 0.0), axis, dtype, None, ddof, keepdims, where=mask)
    if mask is True:
        return found
    return choose(reductions.count_nonzero(mask, axis, keepdims=keepdims) > ddof, found, float("nan"))


def nancumsum(x: Any, /, axis: int | None = None, dtype: Any = None, out: Array | None = None) -> Array:
    """The running sum, NaN counting as 0."""
    return cumulative.cumsum(_or_else(as_array(x), 0.0), axis, dtype, out)


def nancumprod(x: Any, /, axis: int | None = None, dtype: Any = None, out: Array | None = None) -> Array:
    """The running product, NaN counting as 1."""
    return cumulative.cumprod(_or_else(as_array(x), 1.0), axis, dtype, out)


def nanmedian(
    x: Any, /, axis: Axis = None, out: Array | None = None, overwrite_input: bool = False, keepdims: bool = False
) -> Array:
    """The median of the elements that are not NaN; NaN where all are. `overwrite_input` is taken and does nothing."""
    x = as_array(x)
    if x.dtype.kind != "f":
        return statistics.median(x, axis, out, overwrite_input, keepdims)
    flat, kept = statistics.last_axis_of(x, axis, "nanmedian")
    if not flat.shape[-1]:
        return statistics.median(x, axis, out, overwrite_input, keepdims)
    line = sort(flat, -1)  # NaN come last
    count: Any = reductions.count_nonzero(~isnan(line), -1, keepdims=True)
    low = take_along_axis(line, (count - 1).clip(0) // 2, -1)
    high = take_along_axis(line, (count // 2).clip(0, line.shape[-1] - 1), -1)
    middle = choose(low == high, low, (low + high) / 2)[..., 0]
    return written(middle.reshape(kept) if keepdims else middle, out, "nanmedian")


def nan_to_num(
    x: Any, /, copy: bool = True, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Array:
    """NaN replaced by a number, infinities by the largest and smallest of the dtype, or the numbers given.

    In place with `copy=False`, which gives the array itself.

        >>> import dagrun as dr
        >>> dr.nan_to_num(dr.asarray([1.0, float("nan")]))
        array([1., 0.])
    """
    x = as_array(x)
    if x.dtype.kind != "f":
        return x.copy() if copy else x
    limits = np.finfo(x.dtype)
    high = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    found = choose(isnan(x), nan, choose(isinf(x), choose(x > 0, high, x.dtype.type(low)), x))
    if copy:
        return found
    x[...] = found
    return x
