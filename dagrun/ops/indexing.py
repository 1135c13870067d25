"""Indexing: views for slices, gathers and scatters for integer and boolean arrays, and assignment through all of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend, is_weak
from dagrun.core import device_index
from dagrun.ops.elementwise import cast_into, copied, record
from dagrun.ops.manipulation import _normal, broadcast_to, view
from dagrun.ops.mathematics import WHERE
from dagrun.record import Operator, apply
from dagrun.record.apply import common_device

# ---- basic indexing: integers, slices, None and ...


def _is_basic(item: Any) -> bool:
    return (
        item is None
        or item is Ellipsis
        or isinstance(item, (int, np.integer, slice))
        and not isinstance(item, (bool, np.bool_))
    )


def _expand(key: tuple[Any, ...], ndim: int) -> list[Any]:
    """The key with ... and missing axes written out."""
    if sum(item is Ellipsis for item in key) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    used = sum(_axes_of(item) for item in key)
    if used > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, but {used} were indexed")
    missing: list[Any] = [slice(None)] * (ndim - used)
    if not any(item is Ellipsis for item in key):
        return [*key, *missing]
    place = next(i for i, item in enumerate(key) if item is Ellipsis)
    return [*key[:place], *missing, *key[place + 1 :]]


def _axes_of(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, (bool, np.bool_)):
        return 0
    if isinstance(item, (Array, np.ndarray)) and item.dtype == np.bool_:
        return int(item.ndim)
    return 1


def basic_view(x: Array, key: tuple[Any, ...]) -> Array:
    """The view that integers, slices, None and ... select."""
    shape: list[int] = []
    strides: list[int] = []
    offset, axis = 0, 0
    for item in _expand(key, x.ndim):
        if item is None:
            shape.append(1)
            strides.append(0)
            continue
        length, stride = x.shape[axis], x.strides[axis]
        if isinstance(item, slice):
            start, stop, step = item.indices(length)
            count = len(range(start, stop, step))
            shape.append(count)
            strides.append(stride * step)
            offset += start * stride if count else 0
        else:
            index = operator.index(item)
            if not -length <= index < length:
                raise IndexError(f"index {index} is out of bounds for axis {axis} with size {length}")
            offset += (index % length) * stride
        axis += 1
    return view(x, tuple(shape), tuple(strides), offset)


# ---- advanced indexing


def _index_shape(shape: tuple[int, ...], key: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape that NumPy's rules give; index values do not matter, so all are zero here."""
    probe = np.lib.stride_tricks.as_strided(np.empty((), np.uint8), shape, (0,) * len(shape))
    plain = tuple(np.zeros(item, np.intp) if isinstance(item, tuple) else _thaw(item) for item in key)
    if any(isinstance(item, tuple) for item in key) and 0 in shape:
        probe = np.lib.stride_tricks.as_strided(np.empty((), np.uint8), tuple(n or 1 for n in shape), (0,) * len(shape))
    return probe[plain].shape


def _freeze(item: Any) -> Any:
    return ("slice", item.start, item.stop, item.step) if isinstance(item, slice) else item


def _thaw(item: Any) -> Any:
    return slice(*item[1:]) if isinstance(item, tuple) and item and item[0] == "slice" else item


def _with_arrays(frozen: tuple[Any, ...], indices: Sequence[Any]) -> tuple[Any, ...]:
    """The key again: places that hold ("array",) take the index arrays in order."""
    rest = iter(indices)
    return tuple(next(rest) if item == ("array",) else _thaw(item) for item in frozen)


def _infer_get(inputs: Sequence[Any], scalars: Sequence[Any], *, key: tuple[Any, ...]) -> Any:
    x, *indices = inputs
    shapes = iter(index.shape for index in indices)
    resolved = tuple(next(shapes) if item == ("array",) else item for item in key)
    if 0 in x.shape and any(0 not in index.shape for index in indices):
        axis = next(i for i, n in enumerate(x.shape) if n == 0)
        raise IndexError(f"index is out of bounds for axis {axis} with size 0")
    return ((_index_shape(x.shape, resolved), x.dtype),)


GET = Operator("getitem", _infer_get, lambda xp, x, *indices, key: x[_with_arrays(key, indices)])


def _compute_set(xp: Any, target: Any, *rest: Any, key: tuple[Any, ...], has_value: bool) -> None:
    indices, value = (rest[:-1], rest[-1])
    del has_value
    target[_with_arrays(key, indices)] = value


SET = Operator("setitem", lambda inputs, scalars, **attributes: (), _compute_set, updates=True)


def _split_key(x: Array, key: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
    """A key as a hashable pattern and its index arrays. Boolean arrays become the positions they select: that waits."""
    pattern: list[Any] = []
    arrays: list[Array] = []
    axis = 0
    for item in key:
        if _is_basic(item):
            pattern.append(_freeze(int(item) if isinstance(item, np.integer) else item))
            axis += 0 if item is None or item is Ellipsis else 1
            continue
        index = (
            item
            if isinstance(item, Array)
            else asarray(np.asarray(item) if np.size(item) else np.asarray(item, np.intp), device=x.device)
        )
        if index.dtype == np.bool_:
            mask = index.numpy()
            for place, length in enumerate(mask.shape):
                if (
                    axis + place < x.ndim
                    and Ellipsis not in key[: key.index(item) if not isinstance(item, (Array, np.ndarray)) else 0]
                    and x.shape[axis + place] != length
                ):
                    raise IndexError(
                        f"boolean index of shape {mask.shape} did not match the array of shape {x.shape}: "
                        f"axis {axis + place} has size {x.shape[axis + place]}, the mask {length}"
                    )
            if mask.ndim == 0:
                raise IndexError("a boolean scalar index is not supported: use x[None] or an array of booleans")
            for positions in np.nonzero(mask):
                pattern.append(("array",))
                arrays.append(asarray(positions, device=x.device))
            axis += mask.ndim
            continue
        if index.dtype.kind not in "iu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type, not {index.dtype}")
        if index.device is not x.device:
            common_device("indexing", [x, index])
        pattern.append(("array",))
        arrays.append(index)
        axis += 1
    return tuple(pattern), tuple(arrays)


def _normal_key(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def getitem(x: Array, key: Any, /) -> Array:
    """x[key]: a view for integers, slices, None and ...; a copy for integer arrays; boolean arrays wait for their values."""
    items = _normal_key(key)
    if all(_is_basic(item) for item in items):
        return basic_view(x, items)
    pattern, arrays = _split_key(x, items)
    _expand(items, x.ndim)
    if len(arrays) == 1 and all(
        item == ("array",) or item == ("slice", None, None, None) or item is Ellipsis for item in pattern
    ):
        axis = _single_axis(pattern, x.ndim)
        return take(x, arrays[0], axis=axis)
    return apply(GET, (x, *arrays), device_index(x.device), attributes=(("key", pattern),))  # type: ignore[no-any-return]


def _single_axis(pattern: tuple[Any, ...], ndim: int) -> int:
    place = pattern.index(("array",))
    if Ellipsis in pattern[:place]:
        return ndim - (len(pattern) - place)
    return place


def setitem(x: Array, key: Any, value: Any) -> None:
    """x[key] = value, in place, cast to x's dtype; the value broadcasts to the selected shape."""
    items = _normal_key(key)
    if not (isinstance(value, (Array, np.generic)) or is_weak(value)):
        value = asarray(value, device=x.device)
    if all(_is_basic(item) for item in items):
        target = basic_view(x, items)
        if isinstance(value, Array):
            while value.ndim > target.ndim and value.shape[0] == 1:
                value = basic_view(value, (0,))
            if np.broadcast_shapes(value.shape, target.shape) != target.shape:
                raise ValueError(
                    f"could not broadcast a value of shape {value.shape} into a selection of shape {target.shape}"
                )
        cast_into(value, target)
        return
    if len(items) == 1 and _is_mask(items[0], x) and (not isinstance(value, Array) or value.size == 1):
        _set_where(x, items[0], value)
        return
    pattern, arrays = _split_key(x, items)
    _expand(items, x.ndim)
    if not isinstance(value, Array):
        value = asarray(value, x.dtype, device=x.device) if is_weak(value) else asarray(value, device=x.device)
    shape = _infer_get((x._layout, *(index._layout for index in arrays)), (), key=pattern)[0][0]
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = basic_view(value, (0,))
    if np.broadcast_shapes(value.shape, shape) != shape:
        raise ValueError(f"could not broadcast a value of shape {value.shape} into a selection of shape {shape}")
    common_device("setitem", [x, *arrays, value])
    if value._buffer == x._buffer:
        value = copied(value)
    apply(
        SET, (*arrays, value), device_index(x.device), outputs=(x,), attributes=(("key", pattern), ("has_value", True))
    )


def _is_mask(item: Any, x: Array) -> bool:
    return isinstance(item, (Array, np.ndarray)) and item.dtype == np.bool_ and item.shape == x.shape


def _set_where(x: Array, mask: Any, value: Any) -> None:
    """x[mask] = scalar needs no positions, so it does not wait for the mask."""
    if not isinstance(mask, Array):
        mask = asarray(mask, device=x.device)
    if isinstance(value, Array):
        value = broadcast_to(value.reshape(()), ())
        value = value.astype(x.dtype, copy=False)
    else:
        value = (
            np.asarray(value).astype(x.dtype)[()] if not is_weak(value) else asarray(value, x.dtype, device=x.device)
        )
    record(WHERE, mask, value, x, out=x)


# ---- take


def _explain_take(code: int, details: tuple[int, ...]) -> tuple[type[Exception], str]:
    return (
        IndexError,
        f"index {details[0]} is out of bounds for an axis of size {details[1]} (at position {details[2]} of the indices)",
    )


def _infer_take(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    x, indices = inputs
    return (((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype),)


TAKE = Operator("take", _infer_take, lambda xp, x, indices, axis: xp.take(x, indices, axis=axis), None, _explain_take)


def take(x: Array, indices: Any, /, *, axis: int | None = None) -> Array:
    """Elements at integer `indices` along an axis (of the flattened array where it is None); negative ones count from the end.

    An index out of range fails when the values are computed: IndexError at the wait, with this line.

        >>> import dagrun as dr
        >>> dr.take(dr.asarray([10, 20, 30]), dr.asarray([2, 0]))
        array([30, 10])
    """
    if axis is None:
        x, axis = x.reshape(-1), 0
    index = indices if isinstance(indices, Array) else asarray(indices, device=x.device)
    if index.dtype.kind not in "iu":
        raise TypeError(f"take: indices are {index.dtype}, expected integers")
    place = _normal(axis, x.ndim, "take")
    where = common_device("take", [x, index])
    return apply(TAKE, (x, index), device_index(where), attributes=(("axis", place),))  # type: ignore[no-any-return]


def nonzero(x: Array, /) -> tuple[Array, ...]:
    """Positions of the elements that are not zero, an array for each axis. Their number depends on values: this waits."""
    return tuple(asarray(positions, device=x.device) for positions in np.nonzero(x.numpy(copy=False)))


extend(__getitem__=getitem, __setitem__=setitem, take=take, nonzero=nonzero)
