"""Assignment: x[key] = value, through views, integer arrays and boolean arrays."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend, is_weak
from dagrun.core import device_index, native
from dagrun.ops.elementwise import cast_into, check_writable, copied, fits, record
from dagrun.ops.gathering import SCRATCH, dense_shape, scatter_bodies, scratch_at, walk_of_indices
from dagrun.ops.indexing import (
    basic_key,
    basic_view,
    check_indices,
    explain_index,
    flattened,
    gather,
    indices_first,
    integers,
    selection,
)
from dagrun.ops.manipulation import normal_axis
from dagrun.ops.promotion import check_fits
from dagrun.ops.selection import WHERE
from dagrun.record import Body, Gradients, Operator, apply, common_device, layout


def values_first(xp: Any, target: Any, indices: Sequence[Any], values: Any, axes: tuple[int, ...], place: int) -> Any:
    """Values for `indices_first(target)[indices]`, which stand as the result of `take` does."""
    shape = dense_shape(target.shape, indices, axes, place)
    count = len(shape) - target.ndim + len(axes)
    return xp.moveaxis(xp.broadcast_to(values, shape), range(place, place + count), range(count))


def _compute_set(
    xp: Any, target: Any, *operands: Any, axes: tuple[int, ...], place: int, names: tuple[int, ...], scratch: int = 0
) -> None:
    values, *indices = operands[1:] if scratch else operands
    indices_first(xp, target, axes)[tuple(indices)] = values_first(xp, target, indices, values, axes, place)


def _lower_set(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axes: Any, place: int, names: Any,
    scratch: int = 0,
) -> tuple[Body, ...] | None:  # fmt: skip
    values, *indices = inputs
    walk = walk_of_indices(outputs[0], indices, axes, place, names)
    return scatter_bodies("put", outputs, values, indices, walk, len(outputs))


def _put(target: Array, values: Array, indices: Sequence[Array], axes: Any, place: int, names: Any) -> None:
    attributes: tuple[tuple[str, Any], ...] = (("axes", axes), ("place", place), ("names", names))
    outputs: tuple[Array, ...] = (target,)
    where = device_index(target.device)
    if target.device.kind == "cuda":
        scratch = scratch_at(target._layout, tuple(index._layout for index in indices), axes, place)
        if scratch:
            outputs += (native.empty(layout(SCRATCH, (scratch,)), where),)
            attributes += (("scratch", scratch),)
    apply(SET, (values, *indices), where, outputs=outputs, attributes=attributes)


def _kept_gradient(g: Any, indices: tuple[Any, ...], call: Any, xp: Any) -> Any:
    """That of the target before: nothing where elements were assigned."""
    rest = xp.copy(g)
    _put(rest, xp.zeros((), dtype=g.dtype, device=g.device), indices, call["axes"], call["place"], call["names"])
    return rest


def _value_gradient(g: Any, indices: tuple[Any, ...], call: Any, xp: Any) -> Any:
    """That of the value: nothing where a later element was assigned to the same place."""
    axes, place = call["axes"], call["place"]
    taken = gather(g, indices, axes, place, call["names"])
    shape = np.broadcast_shapes(*(index.shape for index in indices))
    order = xp.arange(prod(shape), device=g.device).reshape(shape)
    last = xp.empty([g.shape[axis] for axis in axes], dtype=order.dtype, device=g.device)
    own = tuple(range(len(axes)))
    _put(last, order, indices, own, 0, own)
    stays = xp.equal(gather(last, indices, own, 0, own), order)
    return xp.where(stays.reshape(*shape, *(1,) * (taken.ndim - place - len(shape))), taken, 0.0)


# Gradients: of equal indices the last assignment counts, as for values.
SET = Operator(
    "setitem",
    lambda inputs, scalars, **attributes: (),
    _compute_set,
    _lower_set,
    explain_index,
    Gradients(_kept_gradient, _value_gradient, operands=("a", "b", "*indices")),
    updates=True,
)


def setitem(x: Array, key: Any, value: Any) -> None:
    """x[key] = value, in place, cast to x's dtype; the value broadcasts to the selected shape.

    ValueError where it does not; OverflowError for a Python integer that x's dtype does not hold.
    """
    if not (type(value) is Array or is_weak(value) or isinstance(value, np.generic)):
        # NumPy arrays are cast as they are; lists take x's dtype at once, so that integers out of range are found
        value = asarray(value, None if isinstance(value, np.ndarray) else x.dtype, device=x.device)
    frozen = basic_key(key)
    if frozen is not None:
        target = basic_view(x, frozen)
        if type(value) is Array:
            value = _fitting(value, target.shape)
            if value._buffer == target._buffer and value._offset == target._offset and value._layout is target._layout:
                return  # what x[key] += y ends with
        cast_into(value, target)
        return
    check_writable(x)
    if _is_mask(key, x) and (type(value) is not Array or value.size == 1):
        _set_where(x, key, value)
        return
    chosen = selection(*flattened(x, key))
    view, shape = chosen.view, chosen.shape
    if type(value) is not Array:
        value = asarray(value, x.dtype if is_weak(value) else None, device=x.device)
    value = _fitting(value, shape)
    common_device("setitem", [x, *chosen.arrays, value])
    if 0 in shape:
        check_indices(chosen)
        return
    value = value.astype(x.dtype, copy=False)
    inputs = tuple(copied(array) if array._buffer == x._buffer else array for array in (value, *chosen.arrays))
    _put(view, inputs[0], inputs[1:], chosen.axes, chosen.place, chosen.names)


def put_along_axis(x: Array, /, indices: Any, values: Any, axis: int = -1) -> None:
    """Sets elements of x, in place, at the indices that an array of as many axes holds along one: `take_along_axis`.

    `values` broadcast to the indices' shape. Of equal indices the last counts. An index out of range fails when the
    values are computed: IndexError at the wait. NumPy's function of this name.

        >>> import dagrun as dr
        >>> x = dr.zeros((2, 3))
        >>> dr.put_along_axis(x, dr.asarray([[2], [0]]), dr.asarray([[5.0], [7.0]]), axis=1)
        >>> x
        array([[0., 0., 5.],
               [7., 0., 0.]])
    """
    index = integers(indices, x, "put_along_axis")
    if index.ndim != x.ndim:
        raise ValueError(f"put_along_axis: {index.ndim} axes of indices and {x.ndim} of the array, expected the same")
    place = normal_axis(axis, x.ndim, "put_along_axis")
    key: list[Any] = [
        np.arange(length).reshape([-1 if d == k else 1 for k in range(x.ndim)]) for d, length in enumerate(x.shape)
    ]
    key[place] = index
    x[tuple(key)] = values


def _fitting(value: Array, shape: tuple[int, ...]) -> Array:
    """The value without leading axes of length 1 that the selection lacks; ValueError where it does not broadcast."""
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = basic_view(value, (0,))
    if not fits(value.shape, shape):
        raise ValueError(f"could not broadcast a value of shape {value.shape} into a selection of shape {shape}")
    return value


def _is_mask(key: Any, x: Array) -> bool:
    return isinstance(key, (Array, np.ndarray)) and key.dtype == np.bool_ and key.shape == x.shape[: key.ndim] != ()


def _set_where(x: Array, mask: Any, value: Any) -> None:
    """x[mask] = scalar needs no positions, so it does not wait for the mask."""
    if not isinstance(mask, Array):
        mask = asarray(mask, device=x.device)
    mask = basic_view(mask, (Ellipsis, *(None,) * (x.ndim - mask.ndim)))
    if type(value) is Array:
        value = value.reshape(()).astype(x.dtype, copy=False)
    else:
        check_fits(value, x.dtype)
        with np.errstate(all="ignore"):
            value = np.asarray(value).astype(x.dtype)[()]
    record(WHERE, mask, value, x, out=x)


extend(__setitem__=setitem)
