"""Indexing: views for integers and slices, gathers for integer and boolean arrays; `take`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend, host_view
from dagrun.core import device_index, native
from dagrun.ops.elementwise import MOST_PLANS, written
from dagrun.ops.gathering import dense_shape, gather_bodies, walk_along, walk_of_indices
from dagrun.ops.manipulation import normal_axis
from dagrun.ops.mathematics import maximum, minimum, remainder
from dagrun.record import (
    SELECTED,
    Body,
    Gradients,
    Known,
    Operator,
    apply,
    common_device,
    layout,
    signature_for,
    submit,
)

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
    """A key with index arrays: the view that its basic parts select, and where in it the index arrays stand."""

    view: Array
    arrays: tuple[Array, ...]
    axes: tuple[int, ...]  # of the view, one for each index array
    names: tuple[int, ...]  # the axes of the array that the user indexed, for messages
    place: int  # of the index arrays' dimensions in the result

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is selected."""
        return dense_shape(self.view.shape, self.arrays, self.axes, self.place)


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
    """A key with index arrays, taken apart. Boolean arrays become the positions they select: that waits for them.

    Integers count as index arrays in NumPy's rules. The arrays' dimensions stand where these stand next to each other,
    else first.
    """
    items = [_index_of(item, x) for item in (key if isinstance(key, tuple) else (key,))]
    used = sum(map(_axes_of, items))
    _expand([item if item is Ellipsis else 0 for item in items], used, x.ndim, 0)
    basic: list[Any] = []  # the key without its arrays
    arrays: list[Array] = []
    axes: list[int] = []
    names: list[int] = []
    places: list[tuple[int, int]] = []  # of arrays and integers: in the key, and the view's axes before
    axis = own = 0  # of x, and of the view
    for item in items:
        found: tuple[Any, ...] = ()
        if isinstance(item, bool):  # selects all or nothing of a new axis of length 1
            found = (asarray(np.zeros(int(item), np.intp), device=x.device),)
        elif isinstance(item, (Array, np.ndarray)):
            if item.dtype == np.bool_:
                found = tuple(asarray(positions, device=x.device) for positions in _positions(x, item, axis))
            else:
                common_device("indexing", (x, item))
                found = (item,)
        for array in found:
            places.append((len(basic), own))
            arrays.append(array)
            axes.append(own)
            names.append(axis)
            basic.append(None if isinstance(item, bool) else EVERYTHING)
            own += 1
            axis += not isinstance(item, bool)
        if found:
            continue
        if type(item) is int:
            places.append((len(basic), own))
        elif item is Ellipsis:
            own += x.ndim - used
            axis += x.ndim - used
        else:
            own += 1
        axis += _axes_of(item)
        basic.append(item)
    together = places[-1][0] - places[0][0] + 1 == len(places)
    view = basic_view(x, tuple(basic))
    return Selection(view, tuple(arrays), tuple(axes), tuple(names), places[0][1] if together else 0)


def _positions(x: Array, mask: Any, axis: int) -> tuple[np.ndarray[Any, Any], ...]:
    for place, length in enumerate(mask.shape, axis):
        if length not in (0, x.shape[place]):  # NumPy takes masks of length 0 for any axis
            raise IndexError(
                f"boolean index of shape {mask.shape} does not match the array of shape {x.shape}: "
                f"axis {place} has size {x.shape[place]}, the mask {length}"
            )
    return np.nonzero(host_view(mask) if isinstance(mask, Array) else mask)


def flattened(x: Array, key: Any) -> tuple[Array, Any]:
    """An array and a mask of several axes, with these as one axis where that is a view: then one index does for all."""
    if isinstance(key, (Array, np.ndarray)) and key.dtype == np.bool_ and key.ndim > 1 and x._layout.contiguous:
        own, rest = x.shape[: key.ndim], x.shape[key.ndim :]
        if key.shape == own:
            return x.reshape(prod(own), *rest), key.reshape(-1)
    return x, key


def getitem(x: Array, key: Any, /) -> Array:
    """x[key]: a view for integers, slices, None and ...; a copy for arrays of integers, or of booleans: these wait."""
    frozen = basic_key(key)
    if frozen is not None:
        final, offset = _selected(x._layout, frozen)
        return native.view(x, final, x._offset + offset, SELECTED, basic_view, frozen)
    if type(key) is Array and key.dtype.kind == "i" and x.ndim and x.device is key.device:
        return gather(x, (key,), (0,), 0, (0,))
    chosen = selection(*flattened(x, key))
    if any(index.size for index in chosen.arrays) and not all(index.size for index in chosen.arrays):
        check_indices(chosen)  # NumPy looks also at indices that meet none of the others
    return gather(chosen.view, chosen.arrays, chosen.axes, chosen.place, chosen.names)


def check_indices(chosen: Selection) -> None:
    """Raises what NumPy would for a selection without elements, which leaves nothing that could be waited for."""
    probe = np.broadcast_to(np.empty((), np.bool_), chosen.view.shape)
    indices_first(np, probe, chosen.axes)[tuple(host_view(index) for index in chosen.arrays)]


# ---- take


def explain_index(code: int, details: tuple[int, ...]) -> tuple[type[Exception], str]:
    """What the error of a native body that reads indices means."""
    index, length, position, axis = details
    return (
        IndexError,
        f"index {index} is out of bounds for axis {axis} with size {length} (position {position} of the indices)",
    )


def _infer_take(
    inputs: Sequence[Any], scalars: Sequence[Any], *, axes: tuple[int, ...], place: int, names: tuple[int, ...],
    back: bool,
) -> Any:  # fmt: skip
    return ((dense_shape(inputs[0].shape, inputs[1:], axes, place), inputs[0].dtype),)


def indices_first(xp: Any, x: Any, axes: tuple[int, ...]) -> Any:
    """A view with the indexed axes before all others, so that `view[indices]` selects."""
    return xp.moveaxis(x, axes, range(len(axes)))


def _compute_take(
    xp: Any, x: Any, *indices: Any, axes: tuple[int, ...], place: int, names: tuple[int, ...], back: bool
) -> Any:
    for index, axis, name in () if back else zip(indices, axes, names, strict=True):
        wrong = xp.flatnonzero(index < 0)
        if wrong.size:
            raise IndexError(explain_index(0, (index.flat[wrong[0]], x.shape[axis], wrong[0], name))[1])
    found = indices_first(xp, x, axes)[indices]
    count = found.ndim - x.ndim + len(axes)
    return xp.moveaxis(found, range(count), range(place, place + count))


def _lower_take(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axes: Any, place: int, names: Any,
    back: bool,
) -> tuple[Body, ...] | None:  # fmt: skip
    x, *indices = inputs
    return gather_bodies(outputs[0], x, indices, walk_of_indices(x, indices, axes, place, names, back))


TAKEN, TAKEN_ALONG = Gradients(), Gradients()  # their rules need the adjoints: see `ops.scattering`
TAKE = Operator("take", _infer_take, _compute_take, _lower_take, explain_index, TAKEN)


@lru_cache(MOST_PLANS)
def _take_plan(
    layouts: tuple[Any, ...], axes: tuple[int, ...], place: int, names: tuple[int, ...], back: bool
) -> Known:
    attributes = (("axes", axes), ("place", place), ("names", names), ("back", back))
    return signature_for(TAKE, layouts, attributes=attributes)


def gather(
    x: Array, indices: tuple[Array, ...], axes: tuple[int, ...], place: int, names: tuple[int, ...], back: bool = True
) -> Array:
    """The operator `take`: elements at indices into `axes`, the indices' dimensions at `place`.

    Negative indices count from the end with `back`, else they are out of range.
    """
    layouts = (x._layout, *(index._layout for index in indices))
    return submit(_take_plan(layouts, axes, place, names, back), (x, *indices), device_index(x.device))


def integers(indices: Any, x: Array, name: str) -> Array:
    index = indices if isinstance(indices, Array) else asarray(indices, device=x.device)
    if index.dtype.kind not in "iu":
        if index.size or isinstance(indices, Array):
            raise TypeError(f"{name}: indices are {index.dtype}, expected integers")
        index = index.astype(np.int64)
    common_device(name, (x, index))
    return index.astype(np.int64) if index.dtype == np.uint64 else index


def take(x: Any, /, indices: Any, axis: int | None = None, out: Array | None = None, mode: str = "raise") -> Array:
    """Elements at integer `indices` along an axis (of the flattened array where it is None); negative ones count back.

    An index out of range fails when the values are computed: IndexError at the wait, with this line. With mode "wrap"
    it goes round, with "clip" it is the nearest in range (and negative ones are 0). `out`: an array to write into.

        >>> import dagrun as dr
        >>> dr.take(dr.asarray([10, 20, 30]), dr.asarray([2, 0]))
        array([30, 10])
    """
    x = as_array(x)
    if axis is None:
        x, axis = x.reshape(-1), 0
    index, place = integers(indices, x, "take"), normal_axis(axis, x.ndim, "take")
    if mode != "raise":
        index = _in_range(index, x.shape[place], mode)
    return written(gather(x, (index,), (place,), place, (place,)), out, "take")


def _in_range(index: Array, length: int, mode: str) -> Array:
    if mode not in ("wrap", "clip"):
        raise ValueError(f"take: mode is {mode!r}, expected 'raise', 'wrap' or 'clip'")
    if not length and index.size:
        raise IndexError("take: an axis without elements has none to take")
    return remainder(index, length) if mode == "wrap" else minimum(maximum(index, 0), length - 1)


def _infer_along(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    x, indices = inputs
    return ((np.broadcast_shapes((*x.shape[:axis], 1, *x.shape[axis + 1 :]), indices.shape), x.dtype),)


def _lower_along(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    x, indices = inputs
    return gather_bodies(outputs[0], x, (indices,), walk_along(x, indices, axis, outputs[0].shape))


TAKE_ALONG = Operator(
    "take_along_axis",
    _infer_along,
    lambda xp, x, indices, axis: xp.take_along_axis(x, indices, axis),
    _lower_along,
    explain_index,
    TAKEN_ALONG,
)


def take_along_axis(x: Any, /, indices: Any, axis: int | None = -1) -> Array:
    """Elements at the indices that another array of the same number of axes, such as `argsort`'s, holds along one axis.

    An index out of range fails when the values are computed: IndexError at the wait.

        >>> import dagrun as dr
        >>> dr.take_along_axis(dr.asarray([[3, 1], [2, 9]]), dr.asarray([[1], [0]]), 1)
        array([[1],
               [2]])
    """
    x = as_array(x)
    index = integers(indices, x, "take_along_axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    if index.ndim != x.ndim:
        raise ValueError(f"take_along_axis: {index.ndim} axes of indices and {x.ndim} of values, expected the same")
    place = normal_axis(axis, x.ndim, "take_along_axis")
    return apply(TAKE_ALONG, (x, index), device_index(x.device), attributes=(("axis", place),))


extend(__getitem__=getitem, take=take)
