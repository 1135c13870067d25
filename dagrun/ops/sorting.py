"""Order: sort, argsort, searchsorted, unique."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend
from dagrun.core import device_index
from dagrun.ops.elementwise import cast_into
from dagrun.ops.manipulation import flip, normal_axis, ravel
from dagrun.record import Operator, apply, common_device


def _same(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    return ((inputs[0].shape, inputs[0].dtype),)


def _positions(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int, descending: bool) -> Any:
    return ((inputs[0].shape, np.dtype(np.int64)),)


def _argsort(xp: Any, x: Any, *, axis: int, descending: bool) -> Any:
    if not descending:
        return xp.argsort(x, axis=axis, kind="stable")
    last = x.shape[axis] - 1
    return xp.flip(last - xp.argsort(xp.flip(x, axis), axis=axis, kind="stable"), axis)


SORT = Operator("sort", _same, lambda xp, x, axis: xp.sort(x, axis=axis, kind="stable"))
ARGSORT = Operator("argsort", _positions, _argsort)


def _along(x: Any, axis: int | None, name: str) -> tuple[Array, int]:
    """The array and the axis to go along: of the flattened array where it is None."""
    x = as_array(x)
    return (ravel(x), 0) if axis is None else (x, normal_axis(axis, x.ndim, name))


def sort(x: Any, /, axis: int | None = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order along an axis (of the flattened array where it is None); always stable.

    NaN come last, or first where descending.

        >>> import dagrun as dr
        >>> dr.sort(dr.asarray([3, 1, 2]))
        array([1, 2, 3])
    """
    x, place = _along(x, axis, "sort")
    source = flip(x, place) if descending else x
    ordered = apply(SORT, (source,), device_index(x.device), attributes=(("axis", place),))
    return flip(ordered, place) if descending else ordered


def argsort(x: Any, /, axis: int | None = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The indices that put the elements in order along an axis; equal elements keep their order.

    >>> import dagrun as dr
    >>> dr.argsort(dr.asarray([3, 1, 2]))
    array([1, 2, 0])
    """
    x, place = _along(x, axis, "argsort")
    attributes = (("axis", place), ("descending", bool(descending)))
    return apply(ARGSORT, (x,), device_index(x.device), attributes=attributes)


def _sort_in_place(self: Array, axis: int = -1, *, descending: bool = False, stable: bool = True) -> None:
    """Puts the elements in order along an axis, in place, as NumPy's method does; `dr.sort` gives a sorted copy."""
    cast_into(sort(self, axis, descending=descending), self)


SEARCH = Operator(
    "searchsorted",
    lambda inputs, scalars, side: ((inputs[1].shape, np.dtype(np.int64)),),
    lambda xp, x1, x2, side: xp.searchsorted(x1, x2, side=side),
)


def searchsorted(x1: Any, x2: Any, /, side: str = "left") -> Array:
    """Where each element of x2 would be inserted into the sorted one-dimensional x1.

    >>> import dagrun as dr
    >>> dr.searchsorted(dr.asarray([1, 3, 5]), [3, 4])
    array([1, 2])
    """
    values = x2 if isinstance(x2, Array) else None
    x1 = x1 if isinstance(x1, Array) else asarray(x1, device=None if values is None else values.device)
    if x1.ndim != 1 or side not in ("left", "right"):
        raise ValueError(
            f"searchsorted: x1 has {x1.ndim} axes and side is {side!r}, expected one axis, 'left' or 'right'"
        )
    values = asarray(x2, device=x1.device) if values is None else values
    where = common_device("searchsorted", [x1, values])
    return apply(SEARCH, (x1, values), device_index(where), attributes=(("side", side),))


def unique(x: Any, /, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """The distinct elements, sorted; on request also their first places, the inverse and counts, as a tuple.

    Their number depends on values: this waits.
    """
    x = as_array(x)
    extras: Any = {"return_index": return_index, "return_inverse": return_inverse, "return_counts": return_counts}
    found: Any = np.unique(x.numpy(copy=False), **extras)
    if isinstance(found, tuple):
        return tuple(asarray(part, device=x.device) for part in found)
    return asarray(found, device=x.device)


def unique_values(x: Any, /) -> Array:
    """The distinct elements, sorted. Their number depends on values: this waits."""
    return unique(x)


extend(sort=_sort_in_place, argsort=argsort, searchsorted=searchsorted)
