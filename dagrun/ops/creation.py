"""New arrays: constants, ranges, identity, and the likes of other arrays."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, as_dtype, asarray, host_view, is_on_gpu, is_weak, leaf
from dagrun.core import device_index, native
from dagrun.devices import Device, current_device
from dagrun.devices import device as find_device
from dagrun.ops.elementwise import FILL, MOST_PLANS, cast_into, fill_plan
from dagrun.ops.promotion import check_fits
from dagrun.record import layout, submit

Shape = int | Sequence[int]

_FLOAT = np.dtype(np.float64)


def _place(label: str | Device | None) -> int:
    return device_index(current_device() if label is None else find_device(label))


def _shape(shape: Shape) -> tuple[int, ...]:
    if type(shape) is int:
        return (shape,)
    return (operator.index(shape),) if hasattr(shape, "__index__") else tuple([operator.index(n) for n in shape])


@lru_cache(MOST_PLANS)
def _contiguous(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape} has a negative length: expected none below 0")
    return layout(dtype, shape)


def empty(shape: Shape, dtype: Any = None, *, device: str | Device | None = None, requires_grad: bool = False) -> Array:
    """An array whose values are not set; float64 unless `dtype` says otherwise."""
    final = _contiguous(_shape(shape), _FLOAT if dtype is None else as_dtype(dtype))
    return leaf(native.empty(final, _place(device)), requires_grad)


def _filled(shape: Shape, value: Any, dtype: np.dtype[Any], device: str | Device | None) -> Array:
    known, scalars = fill_plan(FILL, _contiguous(_shape(shape), dtype), value.__class__)
    check_fits(value, scalars[0])
    return submit(known, (), _place(device), None, scalars, (value,))


def full(
    shape: Shape, fill_value: Any, dtype: Any = None, *, device: str | Device | None = None, requires_grad: bool = False
) -> Array:
    """An array of one value, in that value's dtype unless `dtype` says otherwise. An array as value is broadcast.

    >>> import dagrun as dr
    >>> dr.full((2, 2), 7)
    array([[7, 7],
           [7, 7]])
    """
    if is_weak(fill_value) or isinstance(fill_value, np.generic):
        final = as_dtype(np.asarray(fill_value).dtype if dtype is None else dtype)
        return leaf(_filled(shape, fill_value, final, device), requires_grad)
    if not isinstance(fill_value, Array):
        fill_value = asarray(fill_value, device=device)
    made = empty(
        shape, fill_value.dtype if dtype is None else dtype, device=fill_value.device if device is None else device
    )
    cast_into(fill_value, made)
    return leaf(made, requires_grad)


def zeros(shape: Shape, dtype: Any = None, *, device: str | Device | None = None, requires_grad: bool = False) -> Array:
    """An array of zeros; float64 unless `dtype` says otherwise."""
    return leaf(_filled(shape, 0, _FLOAT if dtype is None else as_dtype(dtype), device), requires_grad)


def ones(shape: Shape, dtype: Any = None, *, device: str | Device | None = None, requires_grad: bool = False) -> Array:
    """An array of ones; float64 unless `dtype` says otherwise.

    >>> import dagrun as dr
    >>> dr.ones(3)
    array([1., 1., 1.])
    """
    return leaf(_filled(shape, 1, _FLOAT if dtype is None else as_dtype(dtype), device), requires_grad)


def empty_like(
    x: Any,
    /,
    dtype: Any = None,
    *,
    shape: Shape | None = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """An array of the shape, dtype and device of another where they are not given, values not set."""
    x = as_array(x)
    final = x.dtype if dtype is None else dtype
    return leaf(empty(x.shape if shape is None else shape, final, device=device or x.device), requires_grad)


def full_like(
    x: Any,
    /,
    fill_value: Any,
    dtype: Any = None,
    *,
    shape: Shape | None = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """An array of one value, with the shape, dtype and device of another where they are not given."""
    x = as_array(x)
    final = x.dtype if dtype is None else dtype
    return leaf(full(x.shape if shape is None else shape, fill_value, final, device=device or x.device), requires_grad)


def zeros_like(
    x: Any,
    /,
    dtype: Any = None,
    *,
    shape: Shape | None = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """Zeros of the shape, dtype and device of another array."""
    return leaf(full_like(x, 0, dtype, shape=shape, device=device), requires_grad)


def ones_like(
    x: Any,
    /,
    dtype: Any = None,
    *,
    shape: Shape | None = None,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """Ones of the shape, dtype and device of another array."""
    return leaf(full_like(x, 1, dtype, shape=shape, device=device), requires_grad)


def arange(
    start: Any = None,
    stop: Any = None,
    step: Any = 1,
    dtype: Any = None,
    *,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """Values from `start` (0 if only one bound is given) below `stop`, `step` apart.

    >>> import dagrun as dr
    >>> dr.arange(3)
    array([0, 1, 2])
    """
    if start is None and stop is None:
        raise TypeError("arange: no bound, expected at least `stop`")
    bounds: tuple[Any, Any] = (0, start) if stop is None else (0 if start is None else start, stop)
    final: Any = None if dtype is None else as_dtype(dtype)
    return leaf(asarray(np.arange(*bounds, step, dtype=final), device=device), requires_grad)


def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Any:
    """`num` values evenly spaced from `start` to `stop`; with `retstep` also the step between them.

    The bounds may be arrays, whose values are read; the spaced values then stand along `axis`.

    >>> import dagrun as dr
    >>> dr.linspace(0, 1, 5)
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    final = None if dtype is None else as_dtype(dtype)
    first, last = _read(start, stop)
    spaced: Any = np.linspace  # its overloads do not know a dtype that may be None
    values, step = spaced(first, last, num, endpoint, True, final, axis)
    made = leaf(asarray(values, device=device), requires_grad)
    return (made, step) if retstep else made


def _read(*values: Any) -> list[Any]:
    """Numbers and arrays as NumPy takes them; waits for dagrun's arrays."""
    return [host_view(value) if isinstance(value, Array) else value for value in values]


def logspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    base: Any = 10.0,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """`num` values from `base ** start` to `base ** stop`, evenly spaced on a logarithmic scale.

    >>> import dagrun as dr
    >>> dr.logspace(0, 2, 3)
    array([  1.,  10., 100.])
    """
    final = None if dtype is None else as_dtype(dtype)
    first, last, base = _read(start, stop, base)
    return leaf(asarray(np.logspace(first, last, num, endpoint, base, final, axis), device=device), requires_grad)


def geomspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """`num` values from `start` to `stop`, each the same multiple of the one before.

    >>> import dagrun as dr
    >>> dr.geomspace(1, 8, 4)
    array([1., 2., 4., 8.])
    """
    final = None if dtype is None else as_dtype(dtype)
    first, last = _read(start, stop)
    values: Any = np.geomspace(first, last, num, endpoint, final, axis)
    return leaf(asarray(values, device=device), requires_grad)


def eye(
    N: int,
    M: int | None = None,
    k: int = 0,
    dtype: Any = None,
    *,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """Ones on diagonal `k` of N rows and M (or N) columns, zeros elsewhere.

    >>> import dagrun as dr
    >>> dr.eye(2)
    array([[1., 0.],
           [0., 1.]])
    """
    made = zeros((N, N if M is None else M), dtype, device=device)
    made.diagonal(k).fill(1)
    return leaf(made, requires_grad)


def array(
    obj: Any,
    dtype: Any = None,
    *,
    copy: bool | None = True,
    ndmin: int = 0,
    device: str | Device | None = None,
    requires_grad: bool = False,
) -> Array:
    """An array of a copy of the data, as `numpy.array`; `ndmin`: at least so many axes, new ones in front."""
    made = asarray(obj, dtype, device=device, copy=copy or None)
    return leaf(made[(None,) * (ndmin - made.ndim)] if made.ndim < ndmin else made, requires_grad)


def from_dlpack(x: Any, /, *, device: str | Device | None = None, copy: bool | None = None) -> Array:
    """An array of a copy of what another library exports through DLPack, on its GPU or the default device.

    ValueError for `copy=False`. A dagrun array is returned as it is, unless device or `copy` ask for another.
    """
    if isinstance(x, Array):
        return asarray(x, device=device, copy=copy)
    if copy is False:
        raise ValueError("from_dlpack(copy=False): the memory may be written by others while recorded work reads it")
    return asarray(x if is_on_gpu(x) else np.from_dlpack(x), device=device)
