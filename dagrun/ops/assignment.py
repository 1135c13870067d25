"""Assignment: x[key] = value, through views, integer arrays and boolean arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend, is_weak
from dagrun.core import device_index
from dagrun.ops.elementwise import cast_into, check_writable, copied, fits, record
from dagrun.ops.indexing import (
    EVERYTHING,
    Selection,
    basic_key,
    basic_view,
    check_indices,
    numpy_key,
    selected_shape,
    selection,
    single_axis,
)
from dagrun.ops.promotion import check_fits
from dagrun.ops.selection import WHERE
from dagrun.record import Operator, apply, common_device


def _compute_set(xp: Any, target: Any, *rest: Any, pattern: tuple[Any, ...]) -> None:
    *indices, value = rest
    target[numpy_key(pattern, indices)] = value


SET = Operator("setitem", lambda inputs, scalars, **attributes: (), _compute_set, updates=True)


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
    chosen = selection(x, key)
    shape = selected_shape(x, chosen.pattern, chosen.arrays)
    if 0 in shape or not x.size:
        check_indices(x, chosen)
    simple = single_axis(x, chosen)
    if simple is not None:
        x, axis = simple
        chosen = Selection((*(EVERYTHING,) * axis, ("array", axis)), chosen.arrays)
    if type(value) is not Array:
        value = asarray(value, x.dtype if is_weak(value) else None, device=x.device)
    value = _fitting(value, shape)
    common_device("setitem", [x, *chosen.arrays, value])
    inputs = tuple(copied(array) if array._buffer == x._buffer else array for array in (*chosen.arrays, value))
    apply(SET, inputs, device_index(x.device), outputs=(x,), attributes=(("pattern", chosen.pattern),))


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
