"""Reductions: sums, products, extremes, means, counts, and where the extremes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod as product_of
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, as_dtype, extend
from dagrun.codegen.target import target
from dagrun.core import device_index
from dagrun.ops.creation import full
from dagrun.ops.elementwise import MOST_PLANS, written
from dagrun.ops.manipulation import broadcast_to, normal_axes
from dagrun.ops.mathematics import add, divide, maximum, minimum, multiply
from dagrun.ops.reducing import bodies_in_parts, parts_on_gpu, reduction_bodies
from dagrun.ops.selection import as_condition
from dagrun.ops.selection import where as choose
from dagrun.record import Gradients, Known, Memory, Operator, signature_for, submit

Axis = int | Sequence[int] | None

PARTS_BYTES = 1 << 16  # of arrays that a GPU may reduce in parts


# `parts`: on a GPU, the number of parts of each result, and the dtype of these; they are a second result.


def infer_reduction(
    inputs: Sequence[Any], scalars: Sequence[Any], *, axes: tuple[int, ...], keepdims: bool, result: Any,
    parts: tuple[int, str] | None = None,
) -> Any:  # fmt: skip
    shape = inputs[0].shape
    kept = tuple(n for i, n in enumerate(shape) if i not in axes)
    final = tuple(1 if i in axes else n for i, n in enumerate(shape)) if keepdims else kept
    if parts is None:
        return ((final, result),)
    return (final, result), ((product_of(kept) * parts[0],), np.dtype(parts[1]))


def make_reduction(
    name: str,
    function: Callable[..., Any],
    grad: Callable[..., Any] | None = None,
    *,
    takes_dtype: bool = False,
    one_axis: bool = False,
) -> Operator:
    """A reduction from its NumPy function; `name` is also that of its kernel in `codegen`."""

    def compute(
        xp: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool, result: Any, parts: tuple[int, str] | None = None
    ) -> Any:
        options = {"dtype": result} if takes_dtype else {}
        axis = (axes[0] if axes else None) if one_axis else axes
        made = function(x, axis=axis, keepdims=keepdims, **options)
        return made if parts is None else (made, xp.zeros(np.size(made) * parts[0], parts[1]))

    def lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], **attributes: Any) -> Any:
        if len(outputs) == 2:
            made, parts = outputs
            return bodies_in_parts(name, made, parts, inputs[0], attributes["axes"]) if target() == "cuda" else None
        return reduction_bodies(name, outputs[0], inputs[0], attributes["axes"], attributes["keepdims"])

    return Operator(name, infer_reduction, compute, lower, grad=None if grad is None else Gradients(grad))


def spread(g: Any, call: Any, xp: Any) -> Any:
    """A reduced array with its axes back, as a view of the operand's shape."""
    if not call["keepdims"]:
        g = xp.expand_dims(g, call["axes"])
    return xp.broadcast_to(g, call.inputs[0].shape)


def _prod_grad(g: Any, a: Any, call: Any, xp: Any) -> Any:
    """The product of the others: exclusive running products from both ends, so that zeros are no exception."""
    axes = call["axes"]
    if not axes:
        return g
    kept = [axis for axis in range(a.ndim) if axis not in axes]
    order = (*kept, *axes)
    moved = xp.permute_dims(a, order)
    flat = xp.reshape(moved, (*[a.shape[axis] for axis in kept], product_of([a.shape[axis] for axis in axes])))
    if not flat.shape[-1]:
        return None
    one = xp.ones_like(flat[..., :1])
    before = xp.cumprod(xp.concatenate([one, flat[..., :-1]], -1), -1)
    after = xp.flip(xp.cumprod(xp.concatenate([one, xp.flip(flat, -1)[..., :-1]], -1), -1), -1)
    others = xp.permute_dims(xp.reshape(before * after, moved.shape), np.argsort(order))
    return spread(g, call, xp) * others


def _extreme_grad(g: Any, a: Any, y: Any, call: Any, xp: Any) -> Any:
    """Shared evenly by equal extremes."""
    taken = xp.equal(a, spread(y, call, xp))
    count = xp.sum(taken, axis=call["axes"], keepdims=call["keepdims"], dtype=g.dtype)
    return xp.where(taken, spread(g / count, call, xp), 0.0)


def _mean_grad(g: Any, call: Any, xp: Any) -> Any:
    x = call.inputs[0]
    return spread(g / float(product_of([x.shape[axis] for axis in call["axes"]]) or 1), call, xp)


SUM = make_reduction("sum", np.sum, spread, takes_dtype=True)
PROD = make_reduction("prod", np.prod, _prod_grad, takes_dtype=True)
MEAN = make_reduction("mean", np.mean, _mean_grad, takes_dtype=True)
MAX = make_reduction("max", np.max, _extreme_grad)
MIN = make_reduction("min", np.min, _extreme_grad)
ALL = make_reduction("all", np.all)
ANY = make_reduction("any", np.any)
COUNT = make_reduction("count_nonzero", np.count_nonzero)
ARGMAX = make_reduction("argmax", np.argmax, one_axis=True)
ARGMIN = make_reduction("argmin", np.argmin, one_axis=True)
_NEED_ELEMENTS = (MAX, MIN, ARGMAX, ARGMIN)


def axes_of(x: Any, axis: Axis, name: str) -> tuple[int, ...]:
    """The axes to reduce, in order; `x` is an array or a layout."""
    return tuple(range(x.ndim)) if axis is None else tuple(sorted(normal_axes(axis, x.ndim, name)))


@lru_cache(MOST_PLANS, typed=True)
def _plan(op: Operator, base: Any, axis: Axis, keepdims: bool, result: np.dtype[Any]) -> Known:
    axes = axes_of(base, axis, op.name)
    if op in _NEED_ELEMENTS and 0 in [base.shape[i] for i in axes]:
        raise ValueError(
            f"{op.name}: an array of shape {base.shape} has no {op.name} over axis {axis}: it is empty there, "
            "expected at least one element"
        )
    return signature_for(op, (base,), attributes=(("axes", axes), ("keepdims", keepdims), ("result", result)))


@lru_cache(MOST_PLANS, typed=True)
def _plan_in_parts(op: Operator, base: Any, axis: Axis, keepdims: bool, result: np.dtype[Any]) -> Known | None:
    """The signature of a reduction in parts; None where one launch will do, or there is something to refuse."""
    axes = axes_of(base, axis, op.name)
    parts = parts_on_gpu(op.name, base, axes, result)
    if parts[0] == 1:
        return None
    attributes = (("axes", axes), ("keepdims", keepdims), ("result", result), ("parts", parts))
    return signature_for(op, (base,), attributes=attributes)


def reduce(op: Operator, x: Array, axis: Axis, keepdims: bool, result: np.dtype[Any]) -> Array:
    along = tuple(axis) if isinstance(axis, list) else axis
    if x._layout.nbytes >= PARTS_BYTES and x.device.kind == "cuda":
        in_parts = _plan_in_parts(op, x._layout, along, bool(keepdims), result)
        if in_parts is not None:
            return submit(in_parts, (x,), device_index(x.device))[0]
    tag = (op, along, keepdims, result)
    found = _memory.again(tag, x)
    if found is None:
        known = _plan(op, x._layout, along, bool(keepdims), result)
        found = submit(known, (x,), device_index(x.device))
        if along is None or type(along) is int:  # True == 1, but is no axis
            _memory.remember(known, tag, x._layout)
    return found


_memory = Memory()

_REST = {SUM: 0, PROD: 1, ALL: True, ANY: False}  # what an element that is left out counts as
_WITH_INITIAL = {SUM: add, PROD: multiply, MAX: maximum, MIN: minimum}


def _reduce_some(
    op: Operator, x: Array, axis: Axis, keepdims: bool, result: np.dtype[Any], where: Any, initial: Any = None
) -> Array:
    """`_reduce` of the elements where a mask is true and of an initial value, as NumPy's `where` and `initial`."""
    shape = x.shape
    if where is not True:
        rest = _REST.get(op, initial)
        if rest is None:
            raise ValueError(f"{op.name}: where without initial, expected both: the mask may leave no element")
        x = choose(where, x, x.dtype.type(rest))
        if x.shape != shape:
            raise ValueError(f"{op.name}: a mask of shape {np.shape(where)} does not broadcast to the array's {shape}")
    if initial is None:
        return reduce(op, x, axis, keepdims, result)
    axes = axes_of(x, axis, op.name)
    if op in _NEED_ELEMENTS and 0 in [shape[i] for i in axes]:
        ((final, _),) = infer_reduction((x._layout,), (), axes=axes, keepdims=keepdims, result=result)
        return full(final, result.type(initial), device=x.device)
    return _WITH_INITIAL[op](reduce(op, x, axis, keepdims, result), result.type(initial))


def _reduce_into(
    op: Operator, x: Array, axis: Axis, keepdims: bool, result: np.dtype[Any], where: Any, initial: Any, out: Any
) -> Array:
    """`_reduce_some`, written into an array where one is given."""
    return written(_reduce_some(op, x, axis, keepdims, result, where, initial), out, op.name)


_BOOL, _INT64, _UINT64 = np.dtype(np.bool_), np.dtype(np.int64), np.dtype(np.uint64)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def dtype_into(out: Any, dtype: Any, name: str) -> np.dtype[Any]:
    """The dtype that is summed in on the way into an array: its own, unless another is asked for."""
    if type(out) is not Array:
        raise TypeError(f"{name}: out is a {type(out).__name__}, expected a dagrun array")
    return out.dtype if dtype is None else as_dtype(dtype)


def sum_dtype(x: Array, dtype: Any) -> np.dtype[Any]:
    """NumPy's rule: booleans and integers are summed in int64, or uint64 where unsigned."""
    if dtype is not None:
        return as_dtype(dtype)
    return x.dtype if x.dtype.kind == "f" else _UINT64 if x.dtype.kind == "u" else _INT64


def sum(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = True,
) -> Array:
    """The sum over all elements, or over the axes given; small integers are summed in 64 bits.

    Only elements where a mask is true are taken with `where`; the sum begins with `initial`; `out` is an array of the
    result's shape to write it into, in whose dtype it is summed unless `dtype` says otherwise. The order of additions
    depends on shape and strides alone, so the bits are the same on any number of lanes.

        >>> import dagrun as dr
        >>> dr.sum(dr.asarray([[1, 2], [3, 4]]), axis=0)
        array([4, 6])
    """
    x = as_array(x)
    final = sum_dtype(x, dtype) if out is None else dtype_into(out, dtype, "sum")
    if initial is None and where is True and out is None:
        return reduce(SUM, x, axis, keepdims, final)
    return _reduce_into(SUM, x, axis, keepdims, final, where, initial, out)


def prod(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = True,
) -> Array:
    """The product over all elements, or over the axes given; small integers are multiplied in 64 bits.

    Only elements where a mask is true are taken with `where`; the product begins with `initial`.
    """
    x = as_array(x)
    final = sum_dtype(x, dtype) if out is None else dtype_into(out, dtype, "prod")
    if initial is None and where is True and out is None:
        return reduce(PROD, x, axis, keepdims, final)
    return _reduce_into(PROD, x, axis, keepdims, final, where, initial, out)


def max(
    x: Any,
    /,
    axis: Axis = None,
    out: Array | None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = True,
) -> Array:
    """The largest element; NaN wins. ValueError where there is none.

    `initial` counts as one more element; with it `where` is a mask of those that are taken.
    """
    x = as_array(x)
    if initial is None and where is True and out is None:
        return reduce(MAX, x, axis, keepdims, x.dtype)
    return _reduce_into(MAX, x, axis, keepdims, x.dtype, where, initial, out)


def min(
    x: Any,
    /,
    axis: Axis = None,
    out: Array | None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = True,
) -> Array:
    """The smallest element; NaN wins. ValueError where there is none.

    `initial` counts as one more element; with it `where` is a mask of those that are taken.
    """
    x = as_array(x)
    if initial is None and where is True and out is None:
        return reduce(MIN, x, axis, keepdims, x.dtype)
    return _reduce_into(MIN, x, axis, keepdims, x.dtype, where, initial, out)


def all(x: Any, /, axis: Axis = None, out: Array | None = None, keepdims: bool = False, *, where: Any = True) -> Array:
    """Whether every element is true, of those where a mask is true."""
    if where is True and out is None:
        return reduce(ALL, as_array(x), axis, keepdims, _BOOL)
    return _reduce_into(ALL, as_array(x), axis, keepdims, _BOOL, where, None, out)


def any(x: Any, /, axis: Axis = None, out: Array | None = None, keepdims: bool = False, *, where: Any = True) -> Array:
    """Whether some element is true, of those where a mask is true."""
    if where is True and out is None:
        return reduce(ANY, as_array(x), axis, keepdims, _BOOL)
    return _reduce_into(ANY, as_array(x), axis, keepdims, _BOOL, where, None, out)


def count_nonzero(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """How many elements are not zero."""
    return reduce(COUNT, as_array(x), axis, keepdims, _INT64)


def _extreme_place(op: Operator, x: Array, axis: int | None, keepdims: bool) -> Array:
    if axis is None and x.ndim != 1:
        flat = reduce(op, x.reshape(-1), 0, False, _INT64)
        return flat.reshape((1,) * x.ndim) if keepdims else flat
    return reduce(op, x, axis, keepdims, _INT64)


def argmax(x: Any, /, axis: int | None = None, out: Array | None = None, *, keepdims: bool = False) -> Array:
    """Where the largest element is, the first of equals (in the flattened array where `axis` is None).

    >>> import dagrun as dr
    >>> dr.argmax(dr.asarray([1, 9, 9])).item()
    1
    """
    return written(_extreme_place(ARGMAX, as_array(x), axis, keepdims), out, "argmax")


def argmin(x: Any, /, axis: int | None = None, out: Array | None = None, *, keepdims: bool = False) -> Array:
    """Where the smallest element is, the first of equals (in the flattened array where `axis` is None)."""
    return written(_extreme_place(ARGMIN, as_array(x), axis, keepdims), out, "argmin")


def mean_dtype(x: Array, dtype: Any) -> np.dtype[Any]:
    return as_dtype(dtype) if dtype is not None else x.dtype if x.dtype.kind == "f" else _FLOAT64


def mean(
    x: Any,
    /,
    axis: Axis = None,
    dtype: Any = None,
    out: Array | None = None,
    keepdims: bool = False,
    *,
    where: Any = True,
) -> Array:
    """The mean; float64 for integers, summed in float32 for float16. NaN where there are no elements.

    With `where` that of the elements where a mask is true.

    >>> import dagrun as dr
    >>> dr.mean(dr.asarray([[1, 2], [3, 4]]), axis=1)
    array([1.5, 3.5])
    """
    x = as_array(x)
    if out is not None:
        return written(mean(x, axis, dtype, None, keepdims, where=where), out, "mean")
    result = mean_dtype(x, dtype)
    if where is not True:
        mask = broadcast_to(as_condition(where, x), x.shape)
        wide = _FLOAT32 if result == np.float16 else result if result.kind == "f" else _FLOAT64
        total = _reduce_some(SUM, x, axis, keepdims, wide, mask)
        return divide(total, count_nonzero(mask, axis, keepdims=keepdims).astype(wide)).astype(result, copy=False)
    if result.kind != "f":
        return reduce(MEAN, x, axis, keepdims, _FLOAT64).astype(result)
    return reduce(MEAN, x, axis, keepdims, result)


extend(
    sum=sum,
    prod=prod,
    max=max,
    min=min,
    all=all,
    any=any,
    argmax=argmax,
    argmin=argmin,
    mean=mean,
)
