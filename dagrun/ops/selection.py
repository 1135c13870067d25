"""Choosing between values: where, clip, nonzero, and assignment through masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend, host_view, is_weak
from dagrun.ops.elementwise import make, plan, record
from dagrun.ops.indexing import take
from dagrun.ops.mathematics import maximum, minimum, positive
from dagrun.ops.promotion import Kind, bounds, by_ufunc
from dagrun.record import Gradients, composed


def _resolve_where(kinds: tuple[Kind, ...], out: np.dtype[Any] | None) -> tuple[np.dtype[Any], np.dtype[Any]]:
    compute, result = by_ufunc(np.maximum)(kinds[1:], out)
    return result if compute is None else compute, result


WHERE = make(
    "where",
    lambda condition, x1, x2: np.where(condition, x1, x2),
    _resolve_where,
    grad=(None, lambda g, a, xp: xp.where(a, g, 0.0), lambda g, a, xp: xp.where(a, 0.0, g)),
)


def where(condition: Any, x1: Any = None, x2: Any = None, /) -> Any:
    """Elements of x1 where the condition is true, else of x2; all three broadcast. With a condition only: `nonzero`.

    >>> import dagrun as dr
    >>> dr.where(dr.asarray([True, False]), 1, dr.asarray([5, 6]))
    array([1, 6])
    """
    if x1 is None and x2 is None:
        return nonzero(condition)
    if x1 is None or x2 is None:
        raise ValueError("where: expected either the condition alone, or both x1 and x2")
    result = WHERE.memory.again(None, condition, x1, x2)
    if result is None:
        chosen = as_condition(condition, x1, x2)
        result = record(WHERE, chosen, x1, x2)
        if chosen is condition and type(x1) is Array and type(x2) is Array:
            layouts = condition._layout, x1._layout, x2._layout
            WHERE.memory.remember(plan(WHERE, None, *layouts)[0], None, *layouts)
    return result


def as_condition(condition: Any, *others: Any) -> Array:
    """A condition as an array of booleans, on the device of the others where it is none yet."""
    if not isinstance(condition, Array):
        device = next((x.device for x in others if isinstance(x, Array)), None)
        condition = asarray(condition, device=device)
    return condition if condition.dtype == np.bool_ else condition != 0


def clip(
    x: Any,
    /,
    min: Any = None,
    max: Any = None,
    out: Array | None = None,
    *,
    a_min: Any = None,
    a_max: Any = None,
) -> Array:
    """x limited to [min, max], also named `a_min` and `a_max`; either may be None.

    >>> import dagrun as dr
    >>> dr.clip(dr.asarray([-2, 0, 9]), 0, 5)
    array([0, 0, 5])
    """
    x = x if isinstance(x, Array) else asarray(x)
    if (a_min is not None and min is not None) or (a_max is not None and max is not None):
        raise ValueError("clip: a bound is given twice, expected one of a_min and min, one of a_max and max")
    min, max = a_min if min is None else min, a_max if max is None else max
    if x.dtype.kind in "iu":  # a bound beyond the dtype limits nothing
        low, high = bounds(x.dtype)
        min = None if is_weak(min) and min <= low else min
        max = None if is_weak(max) and max >= high else max
    if min is None and max is None:
        return positive(x, out=out)
    if out is not None:
        return _clip(x, min, max, out)
    return composed("clip", _CLIP, _clip, (x, min, max))


def _clip(x: Array, min: Any, max: Any, out: Array | None = None) -> Array:
    if max is None:
        return maximum(x, min, out=out)
    return minimum(x if min is None else maximum(x, min), max, out=out)


def _clip_gradient(g: Any, a: Any, b: Any, c: Any, xp: Any) -> Any:
    """All of it to x up to the bounds and at them, beyond to the bound, as in PyTorch; the upper one wins."""
    over = False if c is None else xp.greater(a if b is None else xp.maximum(a, b), c)
    under = False if b is None else xp.logical_and(xp.less(a, b), xp.logical_not(over))
    own = xp.where(xp.logical_or(over, under), 0.0, g)
    return own, None if b is None else xp.where(under, g, 0.0), None if c is None else xp.where(over, g, 0.0)


_CLIP = Gradients(joint=_clip_gradient)


def nonzero(x: Any, /) -> tuple[Array, ...]:
    """Positions of the elements that are not zero, an array for each axis. Their number depends on values: this waits.

    >>> import dagrun as dr
    >>> dr.nonzero(dr.asarray([0, 7, 0, 9]))
    (array([1, 3]),)
    """
    x = x if isinstance(x, Array) else asarray(x)
    return tuple(asarray(positions, device=x.device) for positions in np.nonzero(host_view(x)))


def argwhere(x: Any, /) -> Array:
    """Positions of the elements that are not zero, one per row. Their number depends on values: this waits."""
    x = x if isinstance(x, Array) else asarray(x)
    return asarray(np.argwhere(host_view(x)), device=x.device)


def flatnonzero(x: Any, /) -> Array:
    """Positions in the flattened array of what is not zero. Their number depends on values: this waits."""
    return nonzero(x if not isinstance(x, Array) or x.ndim == 1 else x.reshape(-1))[0]


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Array:
    """Elements of the choice whose condition is the first that is true, else `default`.

    >>> import dagrun as dr
    >>> x = dr.arange(5)
    >>> dr.select([x < 2, x > 3], [x, x * 10], -1)
    array([ 0,  1, -1, -1, 40])
    """
    if len(condlist) != len(choicelist) or not condlist:
        raise ValueError(
            f"select: {len(condlist)} conditions, {len(choicelist)} choices, expected as many, at least one"
        )
    result: Any = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        if (kind := as_array(condition).dtype) != np.bool_:
            raise TypeError(f"select: a condition of {kind}, expected booleans")
        result = where(condition, choice, result)
    return result


def compress(condition: Any, x: Any, /, axis: int | None = None) -> Array:
    """The parts along an axis (of the flattened array where it is None) whose condition is true. This waits for them.

    >>> import dagrun as dr
    >>> dr.compress([True, False, True], dr.asarray([1, 2, 3]))
    array([1, 3])
    """
    x = as_array(x)
    chosen = nonzero(as_condition(condition, x))
    if len(chosen) != 1:
        raise ValueError(f"compress: a condition of {len(chosen)} axes, expected one")
    return take(x, chosen[0], axis)


def extract(condition: Any, x: Any, /) -> Array:
    """The elements of the flattened array whose condition is true. This waits for the condition."""
    x = as_array(x).reshape(-1)
    return compress(as_condition(condition, x).reshape(-1), x)


extend(
    nonzero=nonzero,
    compress=lambda self, condition, axis=None: compress(condition, self, axis),
    clip=lambda self, min=None, max=None, out=None: clip(self, min, max, out),
)
