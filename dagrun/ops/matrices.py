"""Matrices and grids: triangles, diagonals, traces, coordinates; all composed of other operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend
from dagrun.ops.creation import arange, zeros
from dagrun.ops.joining import concatenate
from dagrun.ops.manipulation import broadcast_to, diagonal, expand_dims, normal_axis
from dagrun.ops.reductions import sum
from dagrun.ops.selection import where


def diag(x: Any, /, k: int = 0) -> Array:
    """A vector as diagonal `k` of a new matrix; of a matrix, a copy of diagonal `k`.

    >>> import dagrun as dr
    >>> dr.diag([1, 2])
    array([[1, 0],
           [0, 2]])
    """
    x = as_array(x)
    if x.ndim == 2:
        return diagonal(x, k).copy()
    if x.ndim != 1:
        raise ValueError(f"diag: the array has {x.ndim} axes, expected 1 or 2")
    length = x.shape[0] + abs(k)
    made = zeros((length, length), x.dtype, device=x.device)
    diagonal(made, k)[...] = x
    return made


def trace(
    x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Array | None = None
) -> Array:
    """The sum of the elements on a diagonal of two axes."""
    return sum(diagonal(x, offset, axis1, axis2), -1, dtype, out)


def _triangle(x: Any, k: int, lower: bool) -> Array:
    x = as_array(x)
    if x.ndim == 1:
        x = broadcast_to(x, (x.shape[0], x.shape[0]))
    if x.ndim < 2:
        raise ValueError(f"{'tril' if lower else 'triu'}: the array has no axes, expected at least 1")
    rows = arange(x.shape[-2], device=x.device)[:, None] + k
    columns = arange(x.shape[-1], device=x.device)
    return where(columns <= rows if lower else columns >= rows, x, x.dtype.type(0))


def tril(x: Any, /, k: int = 0) -> Array:
    """A copy with zeros above diagonal `k`.

    >>> import dagrun as dr
    >>> dr.tril(dr.ones((2, 2)))
    array([[1., 0.],
           [1., 1.]])
    """
    return _triangle(x, k, lower=True)


def triu(x: Any, /, k: int = 0) -> Array:
    """A copy with zeros below diagonal `k`."""
    return _triangle(x, k, lower=False)


def meshgrid(*arrays: Any, indexing: str = "xy", sparse: bool = False, copy: bool = True) -> list[Array]:
    """The coordinates of a grid, as read-only views: array i varies along axis i ("ij"), or the first two exchanged.

    `sparse`: with axes of length 1, which broadcast. `copy` is taken and does nothing: memory is shared.

    >>> import dagrun as dr
    >>> [x.shape for x in dr.meshgrid([1, 2], [3, 4, 5])]
    [(3, 2), (3, 2)]
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is {indexing!r}, expected 'xy' or 'ij'")
    parts = [as_array(x).reshape(-1) for x in arrays]
    order = list(range(len(parts)))
    if indexing == "xy" and len(parts) > 1:
        order[:2] = [1, 0]
    shape = [0] * len(parts)
    for part, axis in zip(parts, order, strict=True):
        shape[axis] = part.size
    spread = [
        expand_dims(part, tuple(i for i in range(len(parts)) if i != axis))
        for part, axis in zip(parts, order, strict=True)
    ]
    return spread if sparse else [broadcast_to(x, tuple(shape)) for x in spread]


def diff(x: Any, /, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Array:
    """The differences of neighbours along an axis, taken n times; of booleans, whether they differ.

    `prepend` and `append`: values put before and after the axis first, numbers or arrays.

        >>> import dagrun as dr
        >>> dr.diff(dr.asarray([1, 4, 9]))
        array([3, 5])
    """
    x = as_array(x)
    if n == 0:
        return x
    if n < 0:
        raise ValueError(f"diff: taken {n} times, expected a number that is not negative")
    if x.ndim == 0:
        raise ValueError("diff: the array has no axes, expected at least one")
    if prepend is not None or append is not None:
        x = concatenate([_beside(x, prepend, axis), x, _beside(x, append, axis)], axis)
    for _ in range(n):
        last = x.swapaxes(axis, -1)
        pair = last[..., 1:], last[..., :-1]
        x = (pair[0] != pair[1] if x.dtype == np.bool_ else pair[0] - pair[1]).swapaxes(axis, -1)
    return x


def _beside(x: Array, value: Any, axis: int) -> Array:
    """What stands before or after an array along an axis: nothing, an array, or a number repeated."""
    place = normal_axis(axis, x.ndim, "diff")
    shape = (*x.shape[:place], int(value is not None), *x.shape[place + 1 :])
    if value is None:
        return zeros(shape, x.dtype, device=x.device)
    part = asarray(value, device=x.device)
    return part if part.ndim else broadcast_to(part, shape)


extend(trace=trace)
