"""Slopes, areas, interpolation and convolution of sampled functions; composed of other operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray
from dagrun.ops.elementwise import place
from dagrun.ops.indexing import take
from dagrun.ops.joining import concatenate
from dagrun.ops.linalg.products import matmul
from dagrun.ops.manipulation import Axes, broadcast_to, expand_dims, flip, normal_axes, normal_axis, ravel, reshape
from dagrun.ops.matrices import diff
from dagrun.ops.reductions import sum
from dagrun.ops.selection import where
from dagrun.ops.sorting import searchsorted


def ediff1d(x: Any, /, to_end: Any = None, to_begin: Any = None) -> Array:
    """The differences of neighbours of all elements in one axis, with values before and after them.

    >>> import dagrun as dr
    >>> dr.ediff1d([1, 4, 9], to_begin=0)
    array([0, 3, 5])
    """
    x = ravel(x)
    parts = [x[1:] - x[:-1]]
    if to_begin is not None:
        parts.insert(0, _end(x, to_begin, "to_begin"))
    if to_end is not None:
        parts.append(_end(x, to_end, "to_end"))
    return concatenate(parts) if len(parts) > 1 else parts[0]


def _end(x: Array, values: Any, name: str) -> Array:
    added = ravel(asarray(values, device=x.device))
    if not np.can_cast(added.dtype, x.dtype, "same_kind"):
        raise TypeError(f"ediff1d: {name} is {added.dtype}, expected what casts to {x.dtype} by the same_kind rule")
    return added.astype(x.dtype, copy=False)


def trapezoid(y: Any, /, x: Any = None, dx: float = 1.0, axis: int = -1) -> Array:
    """The area under samples `dx` apart, or at the places `x`, along an axis, by the trapezoidal rule.

    >>> import dagrun as dr
    >>> dr.trapezoid(dr.asarray([1.0, 2.0, 3.0]), dx=2).item()
    8.0
    """
    y = as_array(y)
    along = normal_axis(axis, y.ndim, "trapezoid")
    step: Any = dx
    if x is not None:
        places = asarray(x, device=y.device)
        step = diff(places, axis=axis if places.ndim > 1 else -1)
        if places.ndim == 1:
            step = reshape(step, (-1,) + (1,) * (y.ndim - 1 - along))
    lead = (slice(None),) * along
    pairs = step * (y[(*lead, slice(1, None))] + y[(*lead, slice(None, -1))]) / 2.0
    return sum(pairs, along)


def _slopes(f: Array, axis: int, spacing: Any, edge_order: int) -> Array:
    """Second-order differences inside, of first or second order at the ends."""
    lead = (slice(None),) * axis

    def part(start: int | None, stop: int | None) -> Array:
        return f[(*lead, slice(start, stop))]

    if not isinstance(spacing, Array):
        h = float(spacing)
        inner = (part(2, None) - part(None, -2)) / (2.0 * h)
        if edge_order == 1:
            first, last = (part(1, 2) - part(0, 1)) / h, (part(-1, None) - part(-2, -1)) / h
        else:
            first = (-1.5 / h) * part(0, 1) + (2.0 / h) * part(1, 2) + (-0.5 / h) * part(2, 3)
            last = (0.5 / h) * part(-3, -2) + (-2.0 / h) * part(-2, -1) + (1.5 / h) * part(-1, None)
        return concatenate([first, inner, last], axis)
    shape = (-1,) + (1,) * (f.ndim - 1 - axis)
    h0, h1 = reshape(spacing[:-1], shape), reshape(spacing[1:], shape)
    inner = (
        -h1 / (h0 * (h0 + h1)) * part(None, -2)
        + (h1 - h0) / (h0 * h1) * part(1, -1)
        + h0 / (h1 * (h0 + h1)) * part(2, None)
    )
    if edge_order == 1:
        first, last = (part(1, 2) - part(0, 1)) / spacing[0], (part(-1, None) - part(-2, -1)) / spacing[-1]
    else:
        a, b = spacing[0], spacing[1]
        first = (
            -(2.0 * a + b) / (a * (a + b)) * part(0, 1)
            + (a + b) / (a * b) * part(1, 2)
            - a / (b * (a + b)) * part(2, 3)
        )
        a, b = spacing[-2], spacing[-1]
        last = (
            b / (a * (a + b)) * part(-3, -2)
            - (b + a) / (a * b) * part(-2, -1)
            + (2.0 * b + a) / (b * (a + b)) * part(-1, None)
        )
    return concatenate([first, inner, last], axis)


def gradient(f: Any, /, *varargs: Any, axis: Axes | None = None, edge_order: int = 1) -> Any:
    """The slopes of samples along an axis, or a tuple of them along several (all where it is None).

    `varargs`: the spacing, one number or one number or vector of coordinates for each axis. `numpy.gradient`; for the
    gradient of a function, see `grad`.

        >>> import dagrun as dr
        >>> dr.gradient(dr.asarray([1.0, 2.0, 4.0]))
        array([1. , 1.5, 2. ])
    """
    f = as_array(f)
    axes = tuple(range(f.ndim)) if axis is None else normal_axes(axis, f.ndim, "gradient")
    spacings = varargs * len(axes) if len(varargs) == 1 and np.ndim(varargs[0]) == 0 else varargs or (1.0,) * len(axes)
    if len(spacings) != len(axes):
        raise TypeError(f"gradient: {len(varargs)} spacings for {len(axes)} axes, expected one, or one for each")
    if edge_order not in (1, 2):
        raise ValueError(f"gradient: edge_order is {edge_order}, expected 1 or 2")
    if f.dtype.kind in "iu":
        f = f.astype(np.float64)
    found = []
    for along, spacing in zip(axes, spacings, strict=True):
        if f.shape[along] < edge_order + 1:
            raise ValueError(f"gradient: axis {along} has length {f.shape[along]}, expected at least {edge_order + 1}")
        if isinstance(spacing, Array) or np.ndim(spacing):
            places = asarray(spacing, device=f.device)
            if places.ndim and places.shape != (f.shape[along],):
                raise ValueError(f"gradient: coordinates of shape {places.shape} for {f.shape[along]} samples")
            spacing = (
                diff(places.astype(f.dtype if f.dtype.kind == "f" else np.float64)) if places.ndim else places.item()
            )
        found.append(_slopes(f, along, spacing, edge_order))
    return found[0] if len(found) == 1 else tuple(found)


def interp(x: Any, xp: Any, fp: Any, /, left: Any = None, right: Any = None, period: float | None = None) -> Array:
    """The values at x of the line through the points (xp, fp), of which xp ascends.

    Beyond the ends of xp `left` and `right`, or the values there. With `period` the points repeat.

        >>> import dagrun as dr
        >>> dr.interp(dr.asarray([0.5, 3.0]), [0, 1, 2], [0, 10, 30])
        array([ 5., 30.])
    """
    (x, places, values), where_ = place((x, xp, fp), "interp")
    x, places, values = (asarray(part, device=where_).astype(np.float64, copy=False) for part in (x, places, values))
    if places.ndim != 1 or places.shape != values.shape or not places.size:
        raise ValueError(f"interp: points of shapes {places.shape} and {values.shape}, expected vectors of one length")
    if period is not None:
        if period == 0:
            raise ValueError("interp: a period of 0, expected another number")
        period = abs(period)
        x, places = x % period, places % period
        order = places.argsort()
        places, values = take(places, order), take(values, order)
        places = concatenate([places[-1:] - period, places, places[:1] + period])
        values = concatenate([values[-1:], values, values[:1]])
        left = right = None
    if places.size == 1:
        inside = broadcast_to(values, x.shape) if x.ndim else values[0]
    else:
        above = searchsorted(places, x, "right").clip(1, places.size - 1)
        x0, x1, y0, y1 = take(places, above - 1), take(places, above), take(values, above - 1), take(values, above)
        inside = (y1 - y0) / (x1 - x0) * (x - x0) + y0
        inside = where(x == x1, y1, inside)
    found = where(x < places[0], values[0] if left is None else left, inside)
    return where(x > places[-1], values[-1] if right is None else right, found)


def convolve(x1: Any, x2: Any, /, mode: str = "full") -> Array:
    """The convolution of two vectors; mode "same": as long as the longer one, "valid": where both overlap wholly.

    >>> import dagrun as dr
    >>> dr.convolve(dr.asarray([1, 2, 3]), [1, 10])
    array([ 1, 12, 23, 30])
    """
    (a, b), device = place((x1, x2), "convolve")
    a, b = asarray(a, device=device).reshape(-1), asarray(b, device=device).reshape(-1)
    if b.size > a.size:
        a, b = b, a
    return _slid(a, flip(b), mode, "convolve")


def correlate(x1: Any, x2: Any, /, mode: str = "valid") -> Array:
    """The sums of products of a vector with another one slid along it; modes as for `convolve`."""
    (a, b), device = place((x1, x2), "correlate")
    a, b = asarray(a, device=device).reshape(-1), asarray(b, device=device).reshape(-1)
    if b.size > a.size:
        return flip(_slid(b, a, mode, "correlate"))
    return _slid(a, b, mode, "correlate")


def _slid(a: Array, b: Array, mode: str, name: str) -> Array:
    """The products of b with every window of the longer a."""
    if mode not in ("full", "same", "valid"):
        raise ValueError(f"{name}: mode is {mode!r}, expected 'full', 'same' or 'valid'")
    if not b.size:
        raise ValueError(f"{name}: a vector without elements, expected at least one")
    dtype = np.result_type(a.dtype, b.dtype)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    rest = b.size - 1
    count = a.size - rest
    windows = take(a, np.arange(count)[:, None] + np.arange(b.size))
    whole = reshape(matmul(windows, expand_dims(b, 1)), (count,))
    if mode == "valid" or not rest:
        return whole
    before, after = (rest, rest) if mode == "full" else (rest - rest // 2, rest // 2)
    return concatenate([_over_the_end(a, b, -before, 0), whole, _over_the_end(a, b, count, count + after)])


def _over_the_end(a: Array, b: Array, first: int, last: int) -> Array:
    """The products of b with what there is of a in windows from `first` to `last`; what is not there adds nothing."""
    places = np.arange(first, last)[:, None] + np.arange(b.size)
    inside = asarray((places >= 0) & (places < a.size), device=a.device)
    products = take(a, np.clip(places, 0, a.size - 1)) * b
    return sum(where(inside, products, False), -1, a.dtype)
