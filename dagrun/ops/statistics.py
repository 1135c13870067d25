"""Spread and order statistics: variance, standard deviation, median, quantiles, averages, covariance."""

from __future__ import annotations

from math import prod as product_of
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend
from dagrun.ops.creation import full
from dagrun.ops.elementwise import make, record_unary, written
from dagrun.ops.indexing import take
from dagrun.ops.joining import concatenate
from dagrun.ops.linalg.products import matmul
from dagrun.ops.manipulation import atleast_2d, broadcast_to, diagonal, expand_dims, normal_axis, permute_dims, reshape
from dagrun.ops.mathematics import divide, isnan, maximum, multiply, sqrt, subtract
from dagrun.ops.promotion import by_ufunc
from dagrun.ops.reductions import (
    MEAN,
    Axis,
    axes_of,
    count_nonzero,
    infer_reduction,
    make_reduction,
    max,
    mean,
    mean_dtype,
    min,
    spread,
    sum,
)
from dagrun.ops.reductions import reduce as reduce_by
from dagrun.ops.selection import as_condition, clip
from dagrun.ops.selection import where as choose
from dagrun.ops.sorting import sort
from dagrun.record import Gradients, Operator

_FLOAT32 = np.dtype(np.float32)


# ---- variance


def _sum_of_squares(x: Any, *, axis: tuple[int, ...], keepdims: bool, dtype: Any) -> Any:
    squares: Any = np.square(x, dtype=dtype)
    return squares.sum(axis=axis, keepdims=keepdims)


SUM_OF_SQUARES = make_reduction(
    "sum_of_squares", _sum_of_squares, lambda g, a, call, xp: spread(g, call, xp) * (2 * a), takes_dtype=True
)


def sum_of_squares(x: Array) -> Array:
    """The sum of the squares of all elements, without a temporary; of float16 arrays in float32."""
    return reduce_by(SUM_OF_SQUARES, x, None, False, _FLOAT32 if x.dtype.itemsize == 2 else x.dtype)


def var(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    ddof: float = 0,
    keepdims: bool = False,
    *,
    where: Any = True,
    mean: Any = None,
    correction: float | None = None,
) -> Array:
    """The variance, in two passes; `ddof` (`correction` in the array API) is taken from the number of elements.

    With `where` that of the elements where a mask is true. `mean`: the mean where it is known, its axes kept.

    >>> import dagrun as dr
    >>> dr.var(dr.asarray([1.0, 3.0]), ddof=1).item()
    2.0
    """
    if correction is not None:
        if ddof:
            raise ValueError(f"var: ddof={ddof} and correction={correction} are two names of one number, expected one")
        ddof = correction
    x = as_array(x)
    result = mean_dtype(x, dtype)
    wide = _FLOAT32 if result == np.float16 else result
    axes = axes_of(x, axis, "var")
    mask = None if where is True else broadcast_to(as_condition(where, x), x.shape)
    if mean is None:
        mean = reduce_by(MEAN, x, axes, True, wide) if mask is None else _mean_of(x, axes, wide, mask)
    centred = subtract(x.astype(wide, copy=False), mean)
    freedom: Any
    if mask is None:
        freedom = float(left) if (left := product_of([x.shape[i] for i in axes]) - ddof) > 0 else 0.0
    else:
        centred = choose(mask, centred, 0.0)
        freedom = maximum(count_nonzero(mask, axes, keepdims=keepdims).astype(wide) - ddof, 0.0)
    total = reduce_by(SUM_OF_SQUARES, centred, axes, keepdims, wide)
    return written(divide(total, freedom).astype(result, copy=False), out, "var")


def _mean_of(x: Array, axes: tuple[int, ...], dtype: Any, mask: Array) -> Array:
    return mean(x, axes, dtype, keepdims=True, where=mask)


# Where all elements are equal the slope of the root is infinite and that of the variance 0: taken as 0, as in PyTorch.
_ROOT = make("sqrt", np.sqrt, by_ufunc(np.sqrt), grad=(lambda g, y, xp: xp.where(y > 0, g / (2 * y), 0.0),))


def std(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    ddof: float = 0,
    keepdims: bool = False,
    *,
    where: Any = True,
    mean: Any = None,
    correction: float | None = None,
) -> Array:
    """The standard deviation: the square root of `var`, whose arguments it takes."""
    spread = var(x, axis, dtype, None, ddof, keepdims, where=where, mean=mean, correction=correction)
    return written(record_unary(_ROOT, spread), out, "std")


# ---- median and quantiles


def _median(xp: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool, result: Any) -> Any:
    return xp.median(x, axis=axes, keepdims=keepdims)


def _median_grad(g: Any, a: Any, call: Any, xp: Any) -> Any:
    """Half to each of the two elements in the middle, which are one where their number is odd."""
    axes = call["axes"]
    kept = [axis for axis in range(a.ndim) if axis not in axes]
    order = (*kept, *axes)
    moved = xp.permute_dims(a, order)
    flat = xp.reshape(moved, (*[a.shape[axis] for axis in kept], product_of([a.shape[axis] for axis in axes])))
    count = flat.shape[-1]
    if not count:
        return None
    places = xp.argsort(xp.argsort(flat, -1), -1)
    share = 0.5 * xp.equal(places, (count - 1) // 2) + 0.5 * xp.equal(places, count // 2)
    share = xp.permute_dims(xp.reshape(share, moved.shape), np.argsort(order))
    return spread(g, call, xp) * share


MEDIAN = Operator("median", infer_reduction, _median, grad=Gradients(_median_grad))


def median(
    x: Any, /, axis: Axis = None, out: Array | None = None, overwrite_input: bool = False, keepdims: bool = False
) -> Array:
    """The middle element in order, or the mean of the two middle ones; NaN where one is NaN or there are none.

    `overwrite_input` is taken and does nothing.
    """
    x = as_array(x)
    return written(reduce_by(MEDIAN, x, axis, keepdims, mean_dtype(x, None)), out, "median")


METHODS = {  # alpha and beta of Hyndman and Fan 1996, or how the place is rounded
    "linear": (1.0, 1.0),
    "hazen": (0.5, 0.5),
    "weibull": (0.0, 0.0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
    "lower": np.floor,
    "higher": np.ceil,
    "midpoint": lambda place: 0.5 * (np.floor(place) + np.ceil(place)),
    "nearest": np.round,
}


def last_axis_of(x: Array, axis: Axis, name: str) -> tuple[Array, tuple[int, ...]]:
    """The array with the axes to reduce as one, the last; and the shape of the result with these axes kept."""
    axes = axes_of(x, axis, name)
    kept = [place for place in range(x.ndim) if place not in axes]
    flat = reshape(
        permute_dims(x, (*kept, *axes)), (*[x.shape[i] for i in kept], product_of([x.shape[i] for i in axes]))
    )
    return flat, tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def quantile(
    x: Any,
    /,
    q: Any,
    axis: Axis = None,
    out: Array | None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
) -> Array:
    """The values below which fractions `q` (in [0, 1], read at once) of the elements lie; NaN where an element is NaN.

    An array `q` gives its axes in front of the result's. `method`: "linear", "lower", "higher", "midpoint", "nearest",
    "hazen", "weibull", "median_unbiased" or "normal_unbiased" (Hyndman and Fan 1996). ValueError for others, for
    fractions outside of [0, 1] and for arrays without elements. `overwrite_input` is taken and does nothing.

        >>> import dagrun as dr
        >>> dr.quantile(dr.asarray([1.0, 2.0, 4.0]), [0.5, 0.75])
        array([2., 3.])
    """
    x = as_array(x)
    wanted = q.numpy() if isinstance(q, Array) else np.asarray(q)
    exact = x.dtype if x.dtype.kind == "f" and type(q) in (int, float) else np.result_type(x.dtype, np.float64)
    if method not in METHODS:
        raise ValueError(f"quantile: method is {method!r}, expected one of {', '.join(METHODS)}")
    if wanted.size and not (wanted.min() >= 0 and wanted.max() <= 1):
        raise ValueError(f"quantile: q is {q!r}, expected fractions from 0 to 1 (percentiles from 0 to 100)")
    flat, kept = last_axis_of(x, axis, "quantile")
    count = flat.shape[-1]
    if not count:
        raise ValueError(f"quantile: an array of shape {x.shape} has no elements over axis {axis}")
    places = _places(wanted.astype(exact), count, method)
    below = np.floor(places)
    share = np.asarray(places - below)
    line = sort(flat, -1)
    low = take(line, below.astype(np.int64), -1)
    if METHODS[method] in (np.floor, np.ceil, np.round):
        found = low
    elif x.dtype == np.bool_:
        raise TypeError(f"quantile: {method!r} interpolates, expected numbers, not booleans; take a cast of them")
    else:
        if x.dtype.kind != "f":
            line, low = line.astype(exact), low.astype(exact)
        found = _between(low, take(line, np.ceil(places).astype(np.int64), -1), share).astype(exact, copy=False)
    if x.dtype.kind == "f":  # NaN are last in order
        some = isnan(line[..., -1:])
        found = choose(reshape(some, (*some.shape[:-1], *(1,) * wanted.ndim)), float("nan"), found)
    lead = flat.ndim - 1
    found = permute_dims(found, (*range(lead, found.ndim), *range(lead)))
    return written(reshape(found, (*wanted.shape, *kept)) if keepdims else found, out, "quantile")


def _places(q: np.ndarray[Any, Any], count: int, method: str) -> Any:
    """Where in a sorted line of `count` elements the fractions lie."""
    how: Any = METHODS[method]
    if not isinstance(how, tuple):
        return how(q * (count - 1))
    alpha, beta = how
    return np.clip(
        q * (count - 1) if method == "linear" else count * q + (alpha + q * (1 - alpha - beta)) - 1, 0, count - 1
    )


def _between(low: Any, high: Any, share: np.ndarray[Any, Any]) -> Any:
    """From the nearer end, as NumPy does, so that both ends come out exactly."""
    step = high - low
    near = asarray(share, device=low.device)
    return choose(near >= 0.5, high - step * (1 - near), low + step * near)


def percentile(
    x: Any,
    /,
    q: Any,
    axis: Axis = None,
    out: Array | None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
) -> Array:
    """`quantile` of q / 100."""
    x = as_array(x)
    given = q.numpy() if isinstance(q, Array) else q
    weak = type(given) in (int, float)
    exact = x.dtype.type if weak and x.dtype.kind == "f" else np.float64
    fractions = np.true_divide(np.asarray(given, exact), exact(100))
    return quantile(x, float(fractions) if weak else fractions, axis, out, overwrite_input, method, keepdims)


# ---- averages and relations


def average(
    x: Any, /, axis: Axis = None, weights: Any = None, returned: bool = False, *, keepdims: bool = False
) -> Any:
    """The mean, weighted where `weights` are given, of the array's shape or the axis'; with `returned` their sum, too.

    >>> import dagrun as dr
    >>> dr.average(dr.asarray([1.0, 2.0, 3.0]), weights=[3, 0, 1]).item()
    1.5
    """
    x = as_array(x)
    if weights is None:
        result = mean(x, axis, keepdims=keepdims)
        if not returned:
            return result
        return result, full(result.shape, x.size / result.size if result.size else 0.0, result.dtype, device=x.device)
    scale = asarray(weights, device=x.device)
    if scale.shape != x.shape:
        if axis is None or not isinstance(axis, int) or scale.shape != (x.shape[normal_axis(axis, x.ndim, "average")],):
            error = TypeError if axis is None else ValueError
            raise error(
                f"average: weights of shape {scale.shape} for an array of shape {x.shape} over axis {axis}, expected "
                "that shape, or one axis and as many weights as it is long"
            )
        place = normal_axis(axis, x.ndim, "average")
        scale = broadcast_to(reshape(scale, (-1,) + (1,) * (x.ndim - 1 - place)), x.shape)
    exact = (
        np.result_type(x.dtype, scale.dtype, np.float64)
        if x.dtype.kind != "f"
        else np.result_type(x.dtype, scale.dtype)
    )
    total = sum(scale, axis, exact, keepdims=keepdims)
    result = (
        sum(multiply(x.astype(exact, copy=False), scale.astype(exact, copy=False)), axis, keepdims=keepdims) / total
    )
    return (result, total) if returned else result


def ptp(x: Any, /, axis: Axis = None, out: Array | None = None, keepdims: bool = False) -> Array:
    """The largest element less the smallest (peak to peak)."""
    x = as_array(x)
    return written(subtract(max(x, axis, keepdims=keepdims), min(x, axis, keepdims=keepdims)), out, "ptp")


def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    *,
    dtype: Any = None,
) -> Array:
    """The covariance matrix of variables, one a row (a column with `rowvar=False`); divided by N - 1, N with `bias`.

    >>> import dagrun as dr
    >>> dr.cov(dr.asarray([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    parts = [as_array(part) for part in (m, y) if part is not None]
    exact = np.result_type(np.float64, *(part.dtype for part in parts)) if dtype is None else np.dtype(dtype)
    rows = []
    for place, part in enumerate(parts):
        if part.ndim > 2:
            raise ValueError(f"cov: an array of shape {part.shape}, expected at most two axes")
        rows.append(atleast_2d(part.astype(exact, copy=False)))
        # One row of y stays a row, as in NumPy.
        if not rowvar and part.ndim == 2 and (place == 0 or part.shape[0] != 1):
            rows[-1] = rows[-1].T
    x = rows[0] if len(rows) == 1 else concatenate(rows, 0)
    freedom = x.shape[1] - ((0 if bias else 1) if ddof is None else ddof)
    centred = subtract(x, mean(x, 1, keepdims=True))
    return divide(matmul(centred, centred.T), float(freedom if freedom > 0 else 0)).squeeze()


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Array:
    """The matrix of Pearson's correlation coefficients of variables, one a row (a column with `rowvar=False`)."""
    c = cov(x, y, rowvar, dtype=dtype)
    if not c.ndim:
        return c / c
    scale = sqrt(diagonal(c))
    return clip(c / expand_dims(scale, 1) / scale, -1, 1)


extend(var=var, std=std)
