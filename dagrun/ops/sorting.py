"""Order: sort, argsort, searchsorted, unique."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend
from dagrun.core import device_index
from dagrun.ops.manipulation import _normal, flip
from dagrun.record import Operator, apply
from dagrun.record.apply import common_device


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


def sort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order along an axis, NaN last.

    >>> import dagrun as dr
    >>> dr.sort(dr.asarray([3, 1, 2]))
    array([1, 2, 3])
    """
    place = _normal(axis, x.ndim, "sort")
    ordered = apply(SORT, (x,), device_index(x.device), attributes=(("axis", place),))
    return flip(ordered, axis=place) if descending else ordered  # type: ignore[no-any-return]


def argsort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The indices that put the elements in order along an axis; equal elements keep their order."""
    place = _normal(axis, x.ndim, "argsort")
    attributes = (("axis", place), ("descending", bool(descending)))
    return apply(ARGSORT, (x,), device_index(x.device), attributes=attributes)  # type: ignore[no-any-return]


SEARCH = Operator(
    "searchsorted",
    lambda inputs, scalars, side: ((inputs[1].shape, np.dtype(np.int64)),),
    lambda xp, x1, x2, side: xp.searchsorted(x1, x2, side=side),
)


def searchsorted(x1: Array, x2: Any, /, *, side: str = "left") -> Array:
    """Where each element of x2 would be inserted into the sorted one-dimensional x1."""
    if x1.ndim != 1 or side not in ("left", "right"):
        raise ValueError(
            f"searchsorted: x1 has {x1.ndim} axes and side is {side!r}, expected one axis, 'left' or 'right'"
        )
    values = x2 if isinstance(x2, Array) else asarray(x2, device=x1.device)
    where = common_device("searchsorted", [x1, values])
    return apply(SEARCH, (x1, values), device_index(where), attributes=(("side", side),))  # type: ignore[no-any-return]


def unique_values(x: Array, /) -> Array:
    """The distinct elements, sorted. Their number depends on values: this waits."""
    return asarray(np.unique(x.numpy(copy=False)), device=x.device)


unique = unique_values

extend(
    sort=lambda self, axis=-1, **options: sort(self, axis=axis, **options),
    argsort=lambda self, axis=-1, **options: argsort(self, axis=axis, **options),
)
