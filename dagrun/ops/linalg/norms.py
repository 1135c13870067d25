"""Norms of vectors and matrices, condition numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.ops.linalg.factors import svdvals
from dagrun.ops.linalg.solving import inv
from dagrun.ops.manipulation import expand_dims, moveaxis, normal_axes, ravel
from dagrun.ops.mathematics import absolute, isnan, not_equal, sqrt, square
from dagrun.ops.reductions import Axis
from dagrun.ops.reductions import any as any_of
from dagrun.ops.reductions import max as max_of
from dagrun.ops.reductions import min as min_of
from dagrun.ops.reductions import sum as sum_of
from dagrun.ops.selection import where


def _root(total: Array, p: float) -> Array:
    """The p-th root of a sum of powers; at 0, where its slope is infinite, the gradient is 0."""
    if not total._tracked:
        return sqrt(total) if p == 2 else total ** (1 / p)
    some = total > 0
    safe = where(some, total, 1.0)
    return where(some, sqrt(safe) if p == 2 else safe ** (1 / p), total)


def _largest(x: Array, axis: Axis, keepdims: bool) -> Array:
    """The largest of elements that are not negative; 0 where there are none."""
    return max_of(x, axis, keepdims=keepdims) if x.size else sum_of(x, axis, keepdims=keepdims)


def _p_norm(x: Array, p: float, axis: Axis, keepdims: bool) -> Array:
    if p == math.inf:
        return _largest(absolute(x), axis, keepdims)
    if p == -math.inf:
        return min_of(absolute(x), axis, keepdims=keepdims)
    if p == 0:
        return sum_of(not_equal(x, 0), axis, x.dtype, keepdims=keepdims)
    if p == 1:
        return sum_of(absolute(x), axis, keepdims=keepdims)
    total = sum_of(square(x) if p == 2 else absolute(x) ** p, axis, keepdims=keepdims)
    return _root(total, p) if p > 0 else total ** (1 / p)


def _in_float(x: Any) -> Array:
    x = as_array(x)
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def vector_norm(x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Array:
    """The p-norms of vectors along an axis, or several as one (all where it is None); p is `ord`.

    inf and -inf: the largest and smallest magnitude; 0: how many elements are not 0.

        >>> import dagrun as dr
        >>> dr.linalg.vector_norm(dr.asarray([[3.0, 4.0], [6.0, 8.0]]), axis=1)
        array([ 5., 10.])
    """
    return _p_norm(_in_float(x), _order(ord), axis, keepdims)


def _order(p: Any) -> float:
    if isinstance(p, str) or p is None:
        raise ValueError(f"norm: ord is {p!r}, expected a number for vectors; 'fro' and 'nuc' are for matrices")
    return float(p)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    """The norms of matrices in the last two axes.

    "fro": the root of the sum of squares; "nuc": the sum of the singular values; 2, -2: the largest and smallest of
    them; 1, -1: of the sums of magnitudes of columns; inf, -inf: of rows.

        >>> import dagrun as dr
        >>> dr.linalg.matrix_norm(dr.asarray([[1.0, 2.0], [3.0, 4.0]]), ord=1).item()
        6.0
    """
    x = _in_float(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_norm: an array of shape {x.shape}, expected at least two axes")
    if ord is None or ord == "fro":
        return _p_norm(x, 2.0, (-2, -1), keepdims)
    if ord in (1, -1, math.inf, -math.inf):
        along = -2 if abs(ord) == 1 else -1
        sums = sum_of(absolute(x), along, keepdims=True)
        return _largest(sums, (-2, -1), keepdims) if ord > 0 else min_of(sums, (-2, -1), keepdims=keepdims)
    if ord in (2, -2, "nuc"):
        sizes = svdvals(x)
        reduce = sum_of if ord == "nuc" else max_of if ord > 0 else min_of
        found = reduce(sizes, -1)
        return expand_dims(found, (-2, -1)) if keepdims else found
    raise ValueError(f"matrix_norm: ord is {ord!r}, expected 'fro', 'nuc', 1, -1, 2, -2, inf or -inf")


def norm(x: Any, /, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Array:
    """The norms of vectors (along one axis) or of matrices (in two axes); of the whole array where `axis` is None.

    Without `ord` the root of the sum of squares. `numpy.linalg.norm`; its gradient at zero is 0.

        >>> import dagrun as dr
        >>> dr.linalg.norm(dr.asarray([3.0, 4.0])).item()
        5.0
    """
    x = _in_float(x)
    if axis is None:
        if ord is None:
            found = _p_norm(ravel(x), 2.0, None, False)
            return found.reshape((1,) * x.ndim) if keepdims else found
        if x.ndim not in (1, 2):
            raise ValueError(f"norm: ord={ord!r} of an array of shape {x.shape}, expected one or two axes, or `axis`")
        axis = tuple(range(x.ndim))
    places = normal_axes(tuple(axis) if isinstance(axis, (tuple, list)) else axis, x.ndim, "norm")
    if len(places) == 1:
        return _p_norm(x, 2.0 if ord is None else _order(ord), places[0], keepdims)
    if len(places) != 2:
        raise ValueError(f"norm: over the axes {axis}, expected one for vectors or two for matrices")
    found = matrix_norm(moveaxis(x, places, (-2, -1)), ord=ord)
    return expand_dims(found, tuple(sorted(places))) if keepdims else found


def cond(x: Any, /, p: Any = None) -> Array:
    """The condition numbers of matrices: by singular values (`p` None, 2 or -2), else norm(x, p) * norm(inv(x), p).

    Infinite for singular matrices, of which `inv` makes a LinAlgError at the wait.
    """
    x = _in_float(x)
    if p in (None, 2, -2):
        sizes = svdvals(x)
        large, small = sizes[..., 0], sizes[..., -1]
        found = small / large if p == -2 else large / small
        return where(isnan(found) & ~any_of(isnan(x), (-2, -1)), math.inf, found)
    return matrix_norm(x, ord=p) * matrix_norm(inv(x), ord=p)
