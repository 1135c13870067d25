"""Running sums and products along an axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, extend
from dagrun.core import device_index
from dagrun.ops.creation import full
from dagrun.ops.elementwise import MOST_PLANS, written
from dagrun.ops.joining import concatenate
from dagrun.ops.manipulation import normal_axis
from dagrun.ops.reducing import cumulative_bodies
from dagrun.ops.reductions import dtype_into, sum_dtype
from dagrun.record import Gradients, Known, Operator, signature_for, submit


def _make_cumulative(name: str, function: Callable[..., Any], grad: Callable[..., Any]) -> Operator:
    return Operator(
        name,
        lambda inputs, scalars, axis, result: ((inputs[0].shape, result),),
        lambda xp, x, axis, result: function(x, axis=axis, dtype=result),
        lambda outputs, inputs, scalars, axis, result: cumulative_bodies(name, outputs[0], inputs[0], axis),
        grad=Gradients(grad),
    )


def _from_end(g: Any, axis: int, xp: Any) -> Any:
    return xp.flip(xp.cumsum(xp.flip(g, axis), axis), axis)


def _cumprod_grad(g: Any, a: Any, call: Any, xp: Any) -> Any:
    """For each element the sum over later places of g times the product without it.

    With h_i = g_i + a_(i+1) h_(i+1) that sum is h_i times the product before i: no division, so zeros are no exception.
    """
    axis = call["axis"]
    length = a.shape[axis]
    lead = (slice(None),) * axis
    if not length:
        return None
    sums = [None] * length
    for i in reversed(range(length)):
        own = g[(*lead, slice(i, i + 1))]
        sums[i] = own if i == length - 1 else own + a[(*lead, slice(i + 1, i + 2))] * sums[i + 1]
    one = xp.ones_like(a[(*lead, slice(0, 1))])
    before = xp.cumprod(xp.concatenate([one, a[(*lead, slice(0, length - 1))]], axis), axis)
    return before * xp.concatenate(sums, axis)


CUMSUM = _make_cumulative("cumsum", np.cumsum, lambda g, call, xp: _from_end(g, call["axis"], xp))
CUMPROD = _make_cumulative("cumprod", np.cumprod, _cumprod_grad)


@lru_cache(MOST_PLANS, typed=True)
def _cumulative_plan(op: Operator, base: Any, axis: int, result: np.dtype[Any]) -> Known:
    return signature_for(op, (base,), attributes=(("axis", normal_axis(axis, base.ndim, op.name)), ("result", result)))


def _accumulate(op: Operator, x: Any, axis: int | None, dtype: Any, out: Array | None, initial: int | None) -> Array:
    """`initial`: what the running total begins with, where that is wanted as one more element in front."""
    x = as_array(x)
    if axis is None:
        x, axis = x.reshape(-1), 0
    known = _cumulative_plan(
        op, x._layout, axis, sum_dtype(x, dtype) if out is None else dtype_into(out, dtype, op.name)
    )
    result: Array = submit(known, (x,), device_index(x.device))
    if initial is not None:
        place = normal_axis(axis, x.ndim, op.name)
        shape = (*x.shape[:place], 1, *x.shape[place + 1 :])
        result = concatenate([full(shape, initial, result.dtype, device=x.device), result], place)
    return written(result, out, op.name)


def cumsum(x: Any, /, axis: int | None = None, dtype: Any = None, out: Array | None = None) -> Array:
    """The running sum along an axis (of the flattened array where it is None).

    >>> import dagrun as dr
    >>> dr.cumsum(dr.asarray([1, 2, 3]))
    array([1, 3, 6])
    """
    return _accumulate(CUMSUM, x, axis, dtype, out, None)


def cumprod(x: Any, /, axis: int | None = None, dtype: Any = None, out: Array | None = None) -> Array:
    """The running product along an axis (of the flattened array where it is None)."""
    return _accumulate(CUMPROD, x, axis, dtype, out, None)


def _only_axis(x: Array, axis: int | None, name: str) -> int:
    if axis is None and x.ndim != 1:
        raise ValueError(f"{name}: the array has {x.ndim} axes, expected `axis` to say which one to go along")
    return 0 if axis is None else axis


def cumulative_sum(
    x: Any, /, axis: int | None = None, dtype: Any = None, out: Array | None = None, *, include_initial: bool = False
) -> Array:
    """The running sum along an axis, with `include_initial` from 0 on (array API).

    ValueError for an array of several axes where none is named.

    >>> import dagrun as dr
    >>> dr.cumulative_sum(dr.asarray([1, 2, 3]), include_initial=True)
    array([0, 1, 3, 6])
    """
    x = as_array(x)
    return _accumulate(CUMSUM, x, _only_axis(x, axis, "cumulative_sum"), dtype, out, 0 if include_initial else None)


def cumulative_prod(
    x: Any, /, axis: int | None = None, dtype: Any = None, out: Array | None = None, *, include_initial: bool = False
) -> Array:
    """The running product along an axis, with `include_initial` from 1 on (array API)."""
    x = as_array(x)
    return _accumulate(CUMPROD, x, _only_axis(x, axis, "cumulative_prod"), dtype, out, 1 if include_initial else None)


extend(cumsum=cumsum, cumprod=cumprod)
