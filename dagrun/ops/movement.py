"""Copies: between devices, between dtypes, of layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, extend
from dagrun.array.array import _dtype
from dagrun.codegen.elementwise import elementwise
from dagrun.core import device_index
from dagrun.devices import Device, device
from dagrun.ops.elementwise import CAST, COPY, elementwise_bodies, record
from dagrun.record import Body, Operator, apply


def _lower_copy(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any]) -> tuple[Body, ...]:
    dtype = outputs[0].dtype
    return elementwise_bodies(elementwise("cast", [dtype], dtype, dtype), outputs[0], inputs)


# Goes ahead of compute: what waits for data on another device has nothing else to do.
TO_DEVICE = Operator(
    "to_device",
    lambda inputs, scalars: ((inputs[0].shape, inputs[0].dtype),),
    lambda xp, x: x,
    _lower_copy,
    lane="copy",
    priority=1,
)


def to_device(x: Array, where: str | Device, /) -> Array:
    """The array on another device: a copy, or the array itself where it is there already.

    >>> import dagrun as dr
    >>> dr.ones(2).to_device("cpu:1").device
    device('cpu:1')
    """
    target = device(where)
    if target is x.device:
        return x
    return apply(TO_DEVICE, (x,), device_index(target))  # type: ignore[no-any-return]


def astype(x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
    """The array in another dtype, converted as NumPy's unsafe casting does.

    >>> import dagrun as dr
    >>> dr.asarray([1.7, -1.7]).astype("int32")
    array([ 1, -1], dtype=int32)
    """
    final = _dtype(dtype)
    if final == x.dtype:
        return record(COPY, x) if copy else x
    return apply(  # type: ignore[no-any-return]
        CAST.operator,
        (x,),
        device_index(x.device),
        attributes=(("mask", (False,)), ("compute", x.dtype), ("result", final)),
    )


def copy(x: Array, /) -> Array:
    """A contiguous copy on the same device."""
    return record(COPY, x)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether a dtype (or an array's) can be cast to another by NumPy's safe rule."""
    return bool(np.can_cast(getattr(from_, "dtype", from_), to))


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that an operation on these arrays, dtypes and Python scalars would have."""
    return np.result_type(*(value.dtype if isinstance(value, Array) else value for value in arrays_and_dtypes))


extend(to_device=to_device, astype=astype, copy=copy, __copy__=copy, __deepcopy__=lambda self, memo: copy(self))
