"""New arrays: constants, ranges, identity, and the likes of other arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray
from dagrun.array.array import _dtype
from dagrun.core import device_index, native
from dagrun.devices import Device, current_device, device
from dagrun.ops.elementwise import FILL, cast_into
from dagrun.record import layout

Shape = int | Sequence[int]


def _place(label: str | Device | None) -> Device:
    return current_device() if label is None else device(label)


def _shape(shape: Shape) -> tuple[int, ...]:
    if isinstance(shape, (int, np.integer)):
        return (int(shape),)
    return tuple(int(length) for length in shape)


def empty(shape: Shape, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array whose values are not set; float64 unless `dtype` says otherwise."""
    final = np.dtype(np.float64) if dtype is None else _dtype(dtype)
    return native.empty(layout(final, _shape(shape)), device_index(_place(device)))  # type: ignore[no-any-return]


def full(shape: Shape, fill_value: Any, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array of one value, in that value's dtype unless `dtype` says otherwise.

    >>> import dagrun as dr
    >>> dr.full((2, 2), 7)
    array([[7, 7],
           [7, 7]])
    """
    if dtype is None:
        dtype = (
            fill_value.dtype if isinstance(fill_value, (Array, np.generic, np.ndarray)) else np.dtype(type(fill_value))
        )
    made = empty(shape, dtype, device=device)
    value = fill_value if isinstance(fill_value, (Array, np.generic, bool, int, float)) else np.asarray(fill_value)[()]
    cast_into(value, made, FILL)
    return made


def zeros(shape: Shape, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array of zeros; float64 unless `dtype` says otherwise."""
    return full(shape, 0, np.float64 if dtype is None else dtype, device=device)


def ones(shape: Shape, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array of ones; float64 unless `dtype` says otherwise.

    >>> import dagrun as dr
    >>> dr.ones(3)
    array([1., 1., 1.])
    """
    return full(shape, 1, np.float64 if dtype is None else dtype, device=device)


def empty_like(x: Array, /, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array of the shape, dtype and device of another, values not set."""
    return empty(x.shape, x.dtype if dtype is None else dtype, device=device or x.device)


def full_like(x: Array, /, fill_value: Any, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array of the shape, dtype and device of another, of one value."""
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype, device=device or x.device)


def zeros_like(x: Array, /, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """Zeros of the shape, dtype and device of another array."""
    return full_like(x, 0, dtype, device=device)


def ones_like(x: Array, /, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """Ones of the shape, dtype and device of another array."""
    return full_like(x, 1, dtype, device=device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: str | Device | None = None,
) -> Array:
    """Values from `start` (0 if only one bound is given) below `stop`, `step` apart.

    >>> import dagrun as dr
    >>> dr.arange(3)
    array([0, 1, 2])
    """
    bounds = (0, start) if stop is None else (start, stop)
    return asarray(np.arange(*bounds, step, dtype=dtype), device=device)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | Device | None = None,
    endpoint: bool = True,
) -> Array:
    """`num` values evenly spaced from `start` to `stop`."""
    return asarray(np.linspace(start, stop, num, endpoint=endpoint, dtype=dtype), device=device)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: str | Device | None = None
) -> Array:
    """Ones on diagonal `k`, zeros elsewhere."""
    return asarray(np.eye(n_rows, n_cols, k=k, dtype=np.float64 if dtype is None else dtype), device=device)


def array(obj: Any, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """An array of a copy of the data, as `numpy.array`."""
    return asarray(obj, dtype, device=device, copy=True)


def from_dlpack(x: Any, /, *, device: str | Device | None = None) -> Array:
    """An array of a copy of what another library exports through DLPack."""
    return asarray(np.from_dlpack(x), device=device, copy=True)
