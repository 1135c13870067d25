"""Reductions: sums, products, extremes, means, counts, and where the extremes are; cumulative sums and products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend
from dagrun.array.array import _dtype
from dagrun.core import device_index
from dagrun.ops.manipulation import _normal
from dagrun.ops.mathematics import divide, sqrt, square, subtract
from dagrun.ops.reducing import cumulative_bodies, reduction_bodies
from dagrun.record import Operator, apply

Axis = int | Sequence[int] | None


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, axes: tuple[int, ...], keepdims: bool, result: Any) -> Any:
    shape = inputs[0].shape
    if keepdims:
        return ((tuple(1 if i in axes else n for i, n in enumerate(shape)), result),)
    return ((tuple(n for i, n in enumerate(shape) if i not in axes), result),)


def _make(name: str, function: Callable[..., Any], kernel: str, *, takes_dtype: bool = False) -> Operator:
    def compute(xp: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool, result: Any) -> Any:
        if name in ("argmax", "argmin"):
            axis = axes[0] if len(axes) == 1 else None
            return function(x, axis=axis, keepdims=keepdims)
        if takes_dtype:
            return function(x, axis=axes, keepdims=keepdims, dtype=result)
        return function(x, axis=axes, keepdims=keepdims)

    def lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], **attributes: Any) -> Any:
        return reduction_bodies(kernel, outputs[0], inputs[0], attributes["axes"], attributes["keepdims"])

    return Operator(name, _infer, compute, lower)


SUM = _make("sum", np.sum, "sum", takes_dtype=True)
PROD = _make("prod", np.prod, "prod", takes_dtype=True)
MAX = _make("max", np.max, "max")
MIN = _make("min", np.min, "min")
ALL = _make("all", np.all, "all")
ANY = _make("any", np.any, "any")
COUNT = _make("count_nonzero", np.count_nonzero, "count_nonzero")
ARGMAX = _make("argmax", np.argmax, "argmax")
ARGMIN = _make("argmin", np.argmin, "argmin")


def _axes(x: Array, axis: Axis, name: str) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    places = [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    axes = sorted(_normal(place, x.ndim, name) for place in places)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: axis {axis} names an axis twice")
    return tuple(axes)


def _reduce(op: Operator, x: Any, axis: Axis, keepdims: bool, result: Any) -> Array:
    x = x if isinstance(x, Array) else asarray(x)
    axes = _axes(x, axis, op.name)
    return apply(  # type: ignore[no-any-return]
        op,
        (x,),
        device_index(x.device),
        attributes=(("axes", axes), ("keepdims", bool(keepdims)), ("result", np.dtype(result))),
    )


def _sum_dtype(x: Any, dtype: Any) -> np.dtype[Any]:
    """NumPy's rule: integers narrower than int64 are summed in int64, or uint64 where unsigned."""
    if dtype is not None:
        return _dtype(dtype)
    source = x.dtype if isinstance(x, Array) else np.asarray(x).dtype
    if source.kind in "bi":
        return np.result_type(source, np.int64)
    return np.result_type(source, np.uint64) if source.kind == "u" else source


def sum(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The sum over all elements, or over the axes given; small integers are summed in 64 bits.

    The order of additions depends on shape and strides alone, so the bits are the same on any number of lanes.

        >>> import dagrun as dr
        >>> dr.sum(dr.asarray([[1, 2], [3, 4]]), axis=0)
        array([4, 6])
    """
    return _reduce(SUM, x, axis, keepdims, _sum_dtype(x, dtype))


def prod(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The product over all elements, or over the axes given."""
    return _reduce(PROD, x, axis, keepdims, _sum_dtype(x, dtype))


def _not_empty(x: Array, axis: Axis, name: str) -> Array:
    x = x if isinstance(x, Array) else asarray(x)
    if any(x.shape[i] == 0 for i in _axes(x, axis, name)):
        raise ValueError(f"{name}: an array of shape {x.shape} has no {name} over axis {axis}: it is empty there")
    return x


def max(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """The largest element; NaN wins. ValueError where there is none."""
    x = _not_empty(x, axis, "max")
    return _reduce(MAX, x, axis, keepdims, x.dtype)


def min(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """The smallest element; NaN wins. ValueError where there is none."""
    x = _not_empty(x, axis, "min")
    return _reduce(MIN, x, axis, keepdims, x.dtype)


def all(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Whether every element is true."""
    return _reduce(ALL, x, axis, keepdims, np.bool_)


def any(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Whether some element is true."""
    return _reduce(ANY, x, axis, keepdims, np.bool_)


def count_nonzero(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """How many elements are not zero."""
    return _reduce(COUNT, x, axis, keepdims, np.int64)


def _arg(op: Operator, x: Any, axis: int | None, keepdims: bool) -> Array:
    x = _not_empty(x, axis, op.name)
    if axis is None and x.ndim > 1:
        flat = _reduce(op, x.reshape(-1), 0, False, np.int64)
        return flat.reshape((1,) * x.ndim) if keepdims else flat
    return _reduce(op, x, axis, keepdims, np.int64)


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the largest element is, the first of equals (in the flattened array where `axis` is None).

    >>> import dagrun as dr
    >>> dr.argmax(dr.asarray([1, 9, 9])).item()
    1
    """
    return _arg(ARGMAX, x, axis, keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the smallest element is, the first of equals (in the flattened array where `axis` is None)."""
    return _arg(ARGMIN, x, axis, keepdims)


def _count(x: Array, axes: tuple[int, ...]) -> int:
    return int(np.prod([x.shape[i] for i in axes], dtype=np.int64)) if axes else 1


def _mean_dtype(x: Array, dtype: Any) -> np.dtype[Any]:
    return _dtype(dtype) if dtype is not None else (x.dtype if x.dtype.kind == "f" else np.dtype(np.float64))


def mean(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The mean; float64 for integers. NaN where there are no elements."""
    x = x if isinstance(x, Array) else asarray(x)
    result = _mean_dtype(x, dtype)
    wide = np.dtype(np.float32) if result == np.float16 else result
    total = _reduce(SUM, x, axis, keepdims, wide)
    value = divide(total, float(_count(x, _axes(x, axis, "mean"))))
    return value.astype(result, copy=False)


def var(
    x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False, ddof: float | None = None
) -> Array:
    """The variance, in two passes; `correction` (NumPy's ddof) is taken from the number of elements."""
    x = x if isinstance(x, Array) else asarray(x)
    axes = _axes(x, axis, "var")
    centred = subtract(x, mean(x, axis=axes, keepdims=True))
    freedom = float(_count(x, axes)) - (correction if ddof is None else ddof)
    total = _reduce(SUM, square(centred), axes, keepdims, centred.dtype)
    return divide(total, freedom if freedom > 0 else 0.0)


def std(
    x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False, ddof: float | None = None
) -> Array:
    """The standard deviation: the square root of `var`."""
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims, ddof=ddof))


# ---- cumulative


def _make_cumulative(name: str, function: Callable[..., Any]) -> Operator:
    return Operator(
        name,
        lambda inputs, scalars, axis, result: ((inputs[0].shape, result),),
        lambda xp, x, axis, result: function(x, axis=axis, dtype=result),
        lambda outputs, inputs, scalars, axis, result: cumulative_bodies(name, outputs[0], inputs[0], axis),
    )


CUMSUM = _make_cumulative("cumsum", np.cumsum)
CUMPROD = _make_cumulative("cumprod", np.cumprod)


def _accumulate(op: Operator, x: Any, axis: int | None, dtype: Any) -> Array:
    x = x if isinstance(x, Array) else asarray(x)
    if axis is None:
        x, axis = x.reshape(-1), 0
    place = _normal(axis, x.ndim, op.name)
    return apply(  # type: ignore[no-any-return]
        op, (x,), device_index(x.device), attributes=(("axis", place), ("result", _sum_dtype(x, dtype)))
    )


def cumulative_sum(x: Any, /, *, axis: int | None = None, dtype: Any = None) -> Array:
    """The running sum along an axis (of the flattened array where it is None)."""
    return _accumulate(CUMSUM, x, axis, dtype)


def cumulative_prod(x: Any, /, *, axis: int | None = None, dtype: Any = None) -> Array:
    """The running product along an axis (of the flattened array where it is None)."""
    return _accumulate(CUMPROD, x, axis, dtype)


cumsum, cumprod = cumulative_sum, cumulative_prod


def _method(function: Callable[..., Array]) -> Callable[..., Array]:
    """As a method, the axis may be given by position, as in NumPy."""

    def method(self: Array, axis: Axis = None, **options: Any) -> Array:
        return function(self, axis=axis, **options)

    method.__doc__, method.__name__ = function.__doc__, function.__name__
    return method


extend(
    **{
        function.__name__: _method(function)
        for function in (sum, prod, max, min, all, any, argmax, argmin, mean, var, std)
    },
    cumsum=_method(cumulative_sum),
    cumprod=_method(cumulative_prod),
)
