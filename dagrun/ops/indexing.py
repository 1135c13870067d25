"""Indexing: views for integers and slices, gathers for integer and boolean arrays; `take`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend
from dagrun.core import device_index, native
from dagrun.ops.elementwise import MOST_PLANS
from dagrun.ops.manipulation import normal_axis
from dagrun.ops.reducing import take_bodies
from dagrun.record import SELECTED, Known, Operator, apply, common_device, layout, signature_for, submit

# ---- basic indexing: integers, slices, None and ... select a view

_BOUND = frozenset((int, type(None)))
EVERYTHING = (None, None, None)  # a slice, in the hashable form


def _frozen_slice(item: slice) -> tuple[int | None, int | None, int | None]:
    parts = item.start, item.stop, item.step
    if type(parts[0]) in _BOUND and type(parts[1]) in _BOUND and type(parts[2]) in _BOUND:
        return parts
    start, stop, step = (None if part is None else operator.index(part) for part in parts)
    return start, stop, step


def basic_key(key: Any) -> tuple[Any, ...] | None:
    """A key of integers, slices, None and ... in a hashable form, slices as tuples; None for any other key."""
    frozen = []
    for item in key if type(key) is tuple else (key,):
        kind = type(item)
        if kind is int or item is None or item is Ellipsis:
            frozen.append(item)
        elif kind is slice:
            frozen.append(_frozen_slice(item))
        elif kind in (bool, np.bool_, Array, np.ndarray, list, tuple) or not hasattr(item, "__index__"):
            return None
        else:
            frozen.append(operator.index(item))
    return tuple(frozen)


def _expand(items: Sequence[Any], used: int, ndim: int, missing: Any) -> list[Any]:
    """The items with ... and missing axes written out; `used`: axes that the items name."""
    if used > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, but {used} were indexed")
    places = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(places) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    place = places[0] if places else len(items)
    return [*items[:place], *[missing] * (ndim - used), *items[place + 1 :]]


@lru_cache(MOST_PLANS)
def _selected(base: Any, frozen: tuple[Any, ...]) -> tuple[Any, int]:
    """Layout of the view that a basic key selects, and the bytes from the array's first element to the view's."""
    shape: list[int] = []
    strides: list[int] = []
    offset, axis = 0, 0
    used = sum(item is not None and item is not Ellipsis for item in frozen)
    for item in _expand(frozen, used, base.ndim, EVERYTHING):
        if item is None:
            shape.append(1)
            strides.append(0)
            continue
        length, stride = base.shape[axis], base.strides[axis]
        if isinstance(item, tuple):
            start, stop, step = slice(*item).indices(length)
            count = len(range(start, stop, step))
            shape.append(count)
            strides.append(stride * step if count > 1 else stride)  # a step past the end may not fit 64 bits
            offset += start * stride if count else 0
        else:
            if not -length <= item < length:
                raise IndexError(f"index {item} is out of bounds for axis {axis} with size {length}")
            offset += (item % length) * stride
        axis += 1
    return layout(base.dtype, tuple(shape), tuple(strides)), offset


def basic_view(x: Array, frozen: tuple[Any, ...]) -> Array:
    """The view that a basic key, in its hashable form, selects."""
    final, offset = _selected(x._layout, frozen)
    return native.view(x, final, x._offset + offset, SELECTED, basic_view, frozen)


# ---- advanced indexing: integer and boolean arrays


@dataclass(frozen=True, slots=True)
class Selection:
    """A key with index arrays: what is known of it when it is recorded, and the arrays themselves.

    `pattern` is hashable: integers, slices as tuples, None, ..., ("bool", b), and ("array", axis) for each index array.
    """

    pattern: tuple[Any, ...]
    arrays: tuple[Array, ...]


def _is_array(item: Any) -> bool:
    return type(item) is tuple and len(item) == 2 and item[0] == "array"


def numpy_key(pattern: tuple[Any, ...], indices: Sequence[Any]) -> tuple[Any, ...]:
    """The key as NumPy takes it, with these index arrays."""
    rest = iter(indices)
    return tuple(
        item
        if type(item) is not tuple
        else next(rest)
        if _is_array(item)
        else item[1]
        if len(item) == 2
        else slice(*item)
        for item in pattern
    )


def selected_shape(base: Any, pattern: tuple[Any, ...], indices: Sequence[Any]) -> tuple[int, ...]:
    """The shape that NumPy's rules give. Values do not matter yet: a probe without memory is indexed with zeros."""
    lengths = list(base.shape)
    for item in pattern:
        if _is_array(item):
            lengths[item[1]] = max(1, lengths[item[1]])
    probe = np.broadcast_to(np.empty((), np.bool_), lengths)
    return probe[numpy_key(pattern, [np.zeros(index.shape, np.intp) for index in indices])].shape


GET = Operator(
    "getitem",
    lambda inputs, scalars, *, pattern: ((selected_shape(inputs[0], pattern, inputs[1:]), inputs[0].dtype),),
    lambda xp, x, *indices, pattern: x[numpy_key(pattern, indices)],
)


def _index_of(item: Any, x: Array) -> Any:
    """One item of an advanced key: an int, a frozen slice, None, ..., a bool, or an array of integers or booleans."""
    basic = basic_key(item) if type(item) is not tuple else None
    if basic is not None:
        return basic[0]
    if isinstance(item, (bool, np.bool_)):
        return bool(item)
    index: Any = item
    if not isinstance(item, (Array, np.ndarray)):
        index = np.asarray(item)
        index = index if index.size else index.astype(np.intp)
    if index.dtype.kind not in "iub":
        raise IndexError(
            f"{item!r} is no index: expected integers, slices, ..., None, or arrays of integers or booleans"
        )
    if index.dtype.kind == "b":
        return index if index.ndim else bool(index)
    index = asarray(index, device=x.device) if not isinstance(index, Array) else index
    return index.astype(np.int64) if index.dtype == np.uint64 else index


def _axes_of(index: Any) -> int:
    if index is None or index is Ellipsis or isinstance(index, bool):
        return 0
    return index.ndim if isinstance(index, (Array, np.ndarray)) and index.dtype == np.bool_ else 1


def selection(x: Array, key: Any) -> Selection:
    """A key with index arrays, taken apart. Boolean arrays become the positions they select: that waits for them."""
    items = [_index_of(item, x) for item in (key if isinstance(key, tuple) else (key,))]
    pattern: list[Any] = []
    arrays: list[Array] = []
    axis = 0
    used = sum(map(_axes_of, items))
    _expand([item if item is Ellipsis else 0 for item in items], used, x.ndim, 0)
    for item in items:
        if item is Ellipsis:
            axis += x.ndim - used
        if isinstance(item, bool):
            pattern.append(("bool", item))
        elif isinstance(item, (Array, np.ndarray)) and item.dtype == np.bool_:
            for positions in _positions(x, item, axis):
                pattern.append(("array", axis))
                arrays.append(asarray(positions, device=x.device))
                axis += 1
        elif isinstance(item, Array):
            common_device("indexing", (x, item))
            pattern.append(("array", axis))
            arrays.append(item)
            axis += 1
        else:
            pattern.append(item)
            axis += _axes_of(item)
    return Selection(tuple(pattern), tuple(arrays))


def _positions(x: Array, mask: Any, axis: int) -> tuple[np.ndarray[Any, Any], ...]:
    for place, length in enumerate(mask.shape, axis):
        if length not in (0, x.shape[place]):  # NumPy takes masks of length 0 for any axis
            raise IndexError(
                f"boolean index of shape {mask.shape} does not match the array of shape {x.shape}: "
                f"axis {place} has size {x.shape[place]}, the mask {length}"
            )
    return np.nonzero(mask.numpy(copy=False) if isinstance(mask, Array) else mask)


def single_axis(x: Array, chosen: Selection) -> tuple[Array, int] | None:
    """Where one index array and basic items around it do: the view that these select, and the array's axis in it.

    Integers count as index arrays in NumPy's rules: they must stand next to the array, or the axes are ordered anew.
    """
    pattern = chosen.pattern
    if len(chosen.arrays) != 1 or any(type(item) is tuple and item[0] == "bool" for item in pattern):
        return None
    place = next(i for i, item in enumerate(pattern) if _is_array(item))
    fancy = [i for i, item in enumerate(pattern) if type(item) is int or i == place]
    if fancy[-1] - fancy[0] + 1 != len(fancy):
        return None
    view = basic_view(x, (*pattern[:place], EVERYTHING, *pattern[place + 1 :]))
    after = sum(type(item) is not int for item in pattern[place + 1 :])
    if Ellipsis in pattern[:place]:
        return view, view.ndim - 1 - after
    return view, sum(type(item) is not int for item in pattern[:place])


def check_indices(x: Array, chosen: Selection) -> None:
    """Raises what NumPy would, for selections without elements: nobody could wait for their failure."""
    probe = np.broadcast_to(np.empty((), np.bool_), x.shape)
    probe[numpy_key(chosen.pattern, [index.numpy(copy=False) for index in chosen.arrays])]


def getitem(x: Array, key: Any, /) -> Array:
    """x[key]: a view for integers, slices, None and ...; a copy for arrays of integers, or of booleans: these wait."""
    frozen = basic_key(key)
    if frozen is not None:
        final, offset = _selected(x._layout, frozen)
        return native.view(x, final, x._offset + offset, SELECTED, basic_view, frozen)
    if type(key) is Array and key.dtype.kind == "i" and x.size and x.device is key.device:
        return _take(x, key, 0)
    chosen = selection(x, key)
    simple = single_axis(x, chosen)
    if simple is not None:
        if not simple[0].size:
            check_indices(x, chosen)
        return _take(simple[0], chosen.arrays[0], simple[1])
    if 0 in selected_shape(x, chosen.pattern, chosen.arrays):
        check_indices(x, chosen)
    attributes = (("pattern", chosen.pattern),)
    return apply(GET, (x, *chosen.arrays), device_index(x.device), attributes=attributes)


# ---- take


def _explain_take(code: int, details: tuple[int, ...]) -> tuple[type[Exception], str]:
    return (
        IndexError,
        f"index {details[0]} is out of bounds for an axis of size {details[1]} (position {details[2]} of the indices)",
    )


def _infer_take(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    x, indices = inputs
    return (((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype),)


TAKE = Operator(
    "take", _infer_take, lambda xp, x, indices, axis: xp.take(x, indices, axis=axis), take_bodies, _explain_take
)


@lru_cache(MOST_PLANS)
def _take_plan(base: Any, index: Any, axis: int) -> Known:
    return signature_for(TAKE, (base, index), attributes=(("axis", axis),))


def _take(x: Array, index: Array, axis: int) -> Array:
    return submit(_take_plan(x._layout, index._layout, axis), (x, index), device_index(x.device))


def _integers(indices: Any, x: Array, name: str) -> Array:
    index = indices if isinstance(indices, Array) else asarray(indices, device=x.device)
    if index.dtype.kind not in "iu":
        if index.size or isinstance(indices, Array):
            raise TypeError(f"{name}: indices are {index.dtype}, expected integers")
        index = index.astype(np.int64)
    common_device(name, (x, index))
    return index.astype(np.int64) if index.dtype == np.uint64 else index


def take(x: Any, indices: Any, /, axis: int | None = None) -> Array:
    """Elements at integer `indices` along an axis (of the flattened array where it is None); negative ones count back.

    An index out of range fails when the values are computed: IndexError at the wait, with this line.

        >>> import dagrun as dr
        >>> dr.take(dr.asarray([10, 20, 30]), dr.asarray([2, 0]))
        array([30, 10])
    """
    x = as_array(x)
    if axis is None:
        x, axis = x.reshape(-1), 0
    index, place = _integers(indices, x, "take"), normal_axis(axis, x.ndim, "take")
    if not x.size:
        check_indices(x, Selection((("array", place),), (index,)))
    return _take(x, index, place)


TAKE_ALONG = Operator(
    "take_along_axis",
    lambda inputs, scalars, axis: (
        (
            np.broadcast_shapes(
                (*inputs[0].shape[:axis], 1, *inputs[0].shape[axis + 1 :]),
                inputs[1].shape,
            ),
            inputs[0].dtype,
        ),
    ),
    lambda xp, x, indices, axis: xp.take_along_axis(x, indices, axis),
)


def take_along_axis(x: Any, indices: Any, /, axis: int = -1) -> Array:
    """Elements at the indices that another array of the same number of axes, such as `argsort`'s, holds along one axis.

    An index out of range fails when the values are computed: IndexError at the wait.

        >>> import dagrun as dr
        >>> dr.take_along_axis(dr.asarray([[3, 1], [2, 9]]), dr.asarray([[1], [0]]), 1)
        array([[1],
               [2]])
    """
    x = as_array(x)
    index = _integers(indices, x, "take_along_axis")
    if index.ndim != x.ndim:
        raise ValueError(f"take_along_axis: {index.ndim} axes of indices and {x.ndim} of values, expected the same")
    place = normal_axis(axis, x.ndim, "take_along_axis")
    return apply(TAKE_ALONG, (x, index), device_index(x.device), attributes=(("axis", place),))


extend(__getitem__=getitem, take=take)
