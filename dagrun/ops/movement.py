"""Copies: between devices, between dtypes, of layouts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, as_dtype, extend
from dagrun.codegen.elementwise import elementwise
from dagrun.core import device_index, native
from dagrun.devices import Device
from dagrun.devices import device as find_device
from dagrun.ops.elementwise import CAST, MOST_PLANS, copied, elementwise_bodies
from dagrun.record import (
    Body,
    Gradients,
    Known,
    Operator,
    apply,
    composed,
    crossing_bodies,
    layout,
    signature_for,
    submit,
)


def _lower_copy(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any]) -> tuple[Body, ...]:
    crossing = crossing_bodies(outputs[0], inputs[0], layout)
    if crossing is not None:
        return crossing
    dtype = outputs[0].dtype
    return elementwise_bodies(elementwise("cast", [dtype], dtype, dtype), outputs[0], inputs)


# Goes ahead of compute: what waits for data on another device has nothing else to do.
TO_DEVICE = Operator(
    "to_device",
    lambda inputs, scalars: ((inputs[0].shape, inputs[0].dtype),),
    lambda xp, x: x,
    _lower_copy,
    grad=Gradients(lambda g, call: to_device(g, call.device)),
    lane="copy",
    priority=1,
)


def to_device(x: Array, where: str | Device, /, *, stream: None = None) -> Array:
    """The array on another device: a copy, or the array itself where it is there already.

    `stream` is there for the array standard and must be None: the executor chooses streams.

    >>> import dagrun as dr
    >>> dr.ones(2).to_device("cpu:1").device
    device('cpu:1')
    """
    if stream is not None:
        raise ValueError(f"to_device: stream is {stream!r}, expected None: streams are chosen by the executor")
    target = find_device(where)
    if target is x.device:
        return x
    if target.kind != "cuda" and x.device.kind != "cuda":
        return apply(TO_DEVICE, (x,), device_index(target))
    if not x._layout.contiguous:
        x = copied(x)
    if target.kind == "cuda":
        return apply(TO_DEVICE, (x,), device_index(target))
    result: Array = composed("to_device", _BACK, _fetched, (x,), where=target, origin=x.device)
    return result


def _fetched(x: Array, where: Device, origin: Device) -> Array:
    """A copy of a GPU's array elsewhere: the GPU's streams make it."""
    made = native.empty(layout(x.dtype, x.shape), device_index(where))
    apply(TO_DEVICE, (x,), device_index(x.device), outputs=(made,))
    return made


_BACK = Gradients(lambda g, call: to_device(g, call["origin"]))


def copy_across(operator: Operator, source: Array, target: Array) -> None:
    """Records a copy of contiguous elements into an array of any device; `crossing_bodies` lowers the operator."""
    by = source if source.device.kind == "cuda" and target.device.kind != "cuda" else target
    apply(operator, (source,), device_index(by.device), outputs=(target,))


@lru_cache(MOST_PLANS)
def _cast(base: Any, dtype: np.dtype[Any]) -> Known:
    return signature_for(
        CAST.operator, (base,), attributes=(("mask", (False,)), ("compute", base.dtype), ("result", dtype))
    )


def astype(x: Any, /, dtype: Any, *, copy: bool = True, device: str | Device | None = None) -> Array:
    """The array in another dtype, converted by NumPy's unsafe casting; a copy, unless with `copy=False` none is needed.

    >>> import dagrun as dr
    >>> dr.asarray([1.7, -1.7]).astype("int32")
    array([ 1, -1], dtype=int32)
    """
    x = as_array(x)
    final = as_dtype(dtype)
    moved = x if device is None else to_device(x, device)
    if final != x.dtype:
        found = CAST.memory.again(final, moved)
        if found is None:
            known = _cast(moved._layout, final)
            found = submit(known, (moved,), device_index(moved.device))
            CAST.memory.remember(known, final, moved._layout)
        return found
    return copied(x) if copy and moved is x else moved


def copy(x: Any, /) -> Array:
    """A contiguous copy on the same device."""
    return copied(as_array(x))


extend(
    to_device=to_device,
    astype=astype,
    copy=copy,
    __copy__=copy,
)
