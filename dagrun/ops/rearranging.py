"""Rows and columns in other places: stacks, splits, turns, insertions, deletions; composed of other operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray
from dagrun.ops.indexing import take
from dagrun.ops.joining import concatenate, concatenated_parts, split
from dagrun.ops.manipulation import broadcast_to, expand_dims, flip, moveaxis, normal_axis, ravel, reshape, swapaxes


def atleast_3d(x: Any, /) -> Array:
    """The array, or a view with three axes: a vector along the second, a matrix in the first two."""
    x = as_array(x)
    return x if x.ndim >= 3 else reshape(x, (1, -1, 1)) if x.ndim < 2 else expand_dims(x, 2)


def column_stack(arrays: Any, /) -> Array:
    """Vectors as the columns of a matrix; matrices side by side."""
    parts = concatenated_parts(arrays, "column_stack")
    return concatenate([reshape(part, (-1, 1)) if part.ndim < 2 else part for part in parts], 1)


def dstack(arrays: Any, /) -> Array:
    """Arrays joined along the third axis."""
    return concatenate([atleast_3d(part) for part in concatenated_parts(arrays, "dstack")], 2)


def hsplit(x: Any, /, indices_or_sections: int | Sequence[int]) -> list[Array]:
    """`split` along the second axis, of vectors along their only one."""
    x = as_array(x)
    if x.ndim == 0:
        raise ValueError("hsplit: the array has no axes, expected at least one")
    return split(x, indices_or_sections, 1 if x.ndim > 1 else 0)


def vsplit(x: Any, /, indices_or_sections: int | Sequence[int]) -> list[Array]:
    """`split` along the first axis of at least two."""
    return split(_of_axes(x, 2, "vsplit"), indices_or_sections, 0)


def dsplit(x: Any, /, indices_or_sections: int | Sequence[int]) -> list[Array]:
    """`split` along the third axis."""
    return split(_of_axes(x, 3, "dsplit"), indices_or_sections, 2)


def _of_axes(x: Any, least: int, name: str) -> Array:
    x = as_array(x)
    if x.ndim < least:
        raise ValueError(f"{name}: the array has {x.ndim} axes, expected at least {least}")
    return x


def fliplr(x: Any, /) -> Array:
    """A view with the order of the columns reversed."""
    return flip(_of_axes(x, 2, "fliplr"), 1)


def flipud(x: Any, /) -> Array:
    """A view with the order of the rows reversed."""
    return flip(_of_axes(x, 1, "flipud"), 0)


def rot90(x: Any, /, k: int = 1, axes: Sequence[int] = (0, 1)) -> Array:
    """A view turned k times by a quarter, from the first axis named towards the second.

    >>> import dagrun as dr
    >>> dr.rot90(dr.asarray([[1, 2], [3, 4]]))
    array([[2, 4],
           [1, 3]])
    """
    x = as_array(x)
    if len(axes) != 2:
        raise ValueError(f"rot90: axes {tuple(axes)}, expected two")
    first, second = (normal_axis(axis, x.ndim, "rot90") for axis in axes)
    if first == second:
        raise ValueError(f"rot90: axes {tuple(axes)} of an array of {x.ndim} axes are one, expected two")
    match k % 4:
        case 0:
            return reshape(x, x.shape)
        case 1:
            return swapaxes(flip(x, second), first, second)
        case 2:
            return flip(x, (first, second))
        case _:
            return flip(swapaxes(x, first, second), second)


def rollaxis(x: Any, /, axis: int, start: int = 0) -> Array:
    """A view with an axis moved before another; `moveaxis` says it more clearly."""
    x = as_array(x)
    place = normal_axis(axis, x.ndim, "rollaxis")
    before = start + x.ndim if start < 0 else start
    if not 0 <= before <= x.ndim:
        raise np.exceptions.AxisError(start, x.ndim + 1, "rollaxis: start")
    return moveaxis(x, place, before - (place < before))


def append(x: Any, /, values: Any, axis: int | None = None) -> Array:
    """A copy with values joined to the end along an axis (flattened first where it is None).

    >>> import dagrun as dr
    >>> dr.append(dr.asarray([1, 2]), 3)
    array([1, 2, 3])
    """
    parts = concatenated_parts([x, values], "append")
    return concatenate([ravel(part) for part in parts] if axis is None else parts, axis or 0)


def _positions(which: Any, length: int, name: str, stop: int) -> tuple[np.ndarray[Any, Any], bool]:
    """Indices into [0, stop) counted from the front, and whether one number was given. Arrays are read at once."""
    given = which.numpy() if isinstance(which, Array) else which
    if isinstance(given, slice):
        return np.arange(length)[given], False
    indices = np.asarray(given)
    single = indices.ndim == 0
    indices = indices.reshape(-1)
    if indices.dtype == np.bool_ and not single:
        if indices.size != length:
            raise ValueError(f"{name}: a mask of {indices.size} for {length} elements, expected one for each")
        return np.flatnonzero(indices), False
    if indices.size and indices.dtype.kind not in "iub":
        raise IndexError(f"{name}: indices are {indices.dtype}, expected integers, a mask or a slice")
    indices = indices.astype(np.int64)
    wrong = indices[(indices < -length) | (indices >= stop)]
    if wrong.size:
        raise IndexError(f"{name}: index {wrong[0]} is out of range for an axis of length {length}")
    return np.where(indices < 0, indices + length, indices), single


def delete(x: Any, /, obj: Any, axis: int | None = None) -> Array:
    """A copy without the elements at an index, indices, a mask or a slice along an axis (flattened where it is None).

    >>> import dagrun as dr
    >>> dr.delete(dr.asarray([1, 2, 3]), 1)
    array([1, 3])
    """
    x = as_array(x)
    if axis is None:
        x, axis = ravel(x), 0
    place = normal_axis(axis, x.ndim, "delete")
    gone, _ = _positions(obj, x.shape[place], "delete", x.shape[place])
    return take(x, np.delete(np.arange(x.shape[place]), gone), place)


def insert(x: Any, /, obj: Any, values: Any, axis: int | None = None) -> Array:
    """A copy with values put in before an index, or one before each of several, along an axis (flattened: None).

    >>> import dagrun as dr
    >>> dr.insert(dr.asarray([1, 3]), 1, 2)
    array([1, 2, 3])
    """
    x = as_array(x)
    if axis is None:
        x, axis = ravel(x), 0
    place = normal_axis(axis, x.ndim, "insert")
    length = x.shape[place]
    places, single = _positions(obj, length, "insert", length + 1)
    added = (values if isinstance(values, Array) else asarray(values, device=x.device)).astype(x.dtype, copy=False)
    if single:
        added = expand_dims(added, tuple(range(x.ndim - added.ndim))) if added.ndim < x.ndim else added
        added = moveaxis(added, 0, place) if np.ndim(values) else added
        count = added.shape[place]
        places = np.repeat(places, count)
    shape = (*x.shape[:place], places.size, *x.shape[place + 1 :])
    order = np.argsort(np.concatenate([np.arange(length), places - 0.5]), kind="stable")
    return take(concatenate([x, broadcast_to(added, shape)], place), order, place)


def resize(x: Any, /, new_shape: int | Sequence[int]) -> Array:
    """A copy of another size: the elements in order, repeated as often as needed."""
    x = ravel(x)
    shape = (int(new_shape),) if isinstance(new_shape, (int, np.integer)) else tuple(int(n) for n in new_shape)
    if any(length < 0 for length in shape):
        raise ValueError(f"resize: shape {shape} has a negative length, expected none below 0")
    size = int(np.prod(shape))
    if not x.size:
        return asarray(np.zeros(shape, x.dtype), device=x.device)
    return reshape(take(x, np.arange(size) % x.size), shape)
