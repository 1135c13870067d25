"""The ring all-reduce (Patarasu and Yuan 2009) as ordinary tasks.

Each of the n arrays is cut into n segments. In n - 1 steps of reduce-scatter, device d adds the segment that comes
from its left neighbour to its own; after them each device holds one segment summed over all. In n - 1 steps of
all-gather the sums travel on. Every element is added in one fixed order around the ring, whatever runs when: so every
device gets the same bits, on any number of lanes. Segments are moved in chunks that fit a cache, each a task of its
own: chunks of one segment follow each other around the ring without waiting for the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from dagrun.array import Array
from dagrun.codegen.elementwise import elementwise, elementwise_params
from dagrun.core import device_index
from dagrun.devices import Device
from dagrun.errors import DeviceError
from dagrun.ops.creation import empty, zeros_like
from dagrun.ops.manipulation import reshape, view
from dagrun.ops.movement import copy, copy_across, to_device
from dagrun.record import (
    OVERWRITE,
    READ,
    WRITE,
    Body,
    Gradients,
    Operand,
    Operator,
    apply,
    composed,
    crossing_bodies,
    layout,
)

CHUNK_BYTES = 1 << 18  # half of a common second-level cache, for the one read and the one written


def _lower_add(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any]) -> tuple[Body, ...]:
    dtype = outputs[0].dtype
    address = elementwise("add", [dtype, dtype], dtype, dtype)
    params = elementwise_params(
        outputs[0].shape, [view.strides for view in (outputs[0], *inputs)], [dtype.itemsize] * 3
    )
    operands = (Operand(0, WRITE | OVERWRITE), Operand(1, READ), Operand(2, READ))
    return (Body(address, params, operands, 3 * outputs[0].nbytes),)


def _lower_copy(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any]) -> tuple[Body, ...]:
    crossing = crossing_bodies(outputs[0], inputs[0], layout)
    if crossing is not None:
        return crossing
    dtype = outputs[0].dtype
    address = elementwise("cast", [dtype], dtype, dtype)
    params = elementwise_params(outputs[0].shape, [outputs[0].strides, inputs[0].strides], [dtype.itemsize] * 2)
    return (Body(address, params, (Operand(0, WRITE | OVERWRITE), Operand(1, READ)), 2 * outputs[0].nbytes),)


def _same(inputs: Sequence[Any], scalars: Sequence[Any]) -> Any:
    return ((inputs[0].shape, inputs[0].dtype),)


BASE_PRIORITY = 2  # ahead of compute: what waits for another device has nothing else to do


@cache
def reduce_operator(priority: int) -> Operator:
    """The operator that adds a chunk from another device to one's own."""
    return Operator(
        "all_reduce.reduce",
        _same,
        lambda xp, own, other: own + other,
        _lower_add,
        lane="communication",
        priority=BASE_PRIORITY + priority,
    )


@cache
def gather_operator(priority: int) -> Operator:
    """The operator that copies a chunk from another device."""
    return Operator(
        "all_reduce.gather",
        _same,
        lambda xp, other: other,
        _lower_copy,
        lane="communication",
        priority=BASE_PRIORITY + priority,
    )


def check(arrays: Sequence[Array], name: str, *, distinct: bool = True) -> None:
    """Raises where arrays cannot be summed over devices."""
    if not arrays:
        raise ValueError(f"{name}: expected at least one array")
    for array in arrays:
        if not isinstance(array, Array):
            raise TypeError(f"{name}: expected dagrun arrays, got a {type(array).__name__}")
    if len({(array.shape, array.dtype) for array in arrays}) > 1:
        given = ", ".join(f"{array.dtype}{array.shape}" for array in arrays)
        raise ValueError(f"{name}: expected arrays of one shape and dtype, got {given}")
    places = [array.device for array in arrays]
    if distinct and len(set(places)) != len(places):
        raise DeviceError(f"{name}: expected one array on each device, got {', '.join(map(str, places))}")
    if arrays[0].dtype.kind == "b":
        raise TypeError(f"{name}: bool arrays have no sum; cast them to an integer")


def bounds(size: int, parts: int) -> list[tuple[int, int]]:
    return [(size * i // parts, size * (i + 1) // parts) for i in range(parts)]


def chunks(start: int, stop: int, itemsize: int) -> list[tuple[int, int]]:
    count = max(1, -(-(stop - start) * itemsize // CHUNK_BYTES)) if stop > start else 0
    return [(start + low, start + high) for low, high in bounds(stop - start, count)] if count else []


def flat(array: Array) -> Array:
    """The elements one after another in memory: a view where they lie so, else a copy."""
    return reshape(array if array._layout.contiguous else copy(array), -1)


def part(line: Array, start: int, stop: int) -> Array:
    """The elements [start, stop) of an array of one axis."""
    return view(line, (stop - start,), (line.itemsize,), start * line.itemsize)


def add_chunks(target: Array, left: Array, right: Array, priority: int) -> None:
    """Records `target[...] = left + right`, wherever these lie. What lies on a GPU, or goes to one, travels first."""
    place = target.device
    operands = tuple(
        to_device(x, place) if x.device is not place and "cuda" in (x.device.kind, place.kind) else x
        for x in (left, right)
    )
    apply(reduce_operator(priority), operands, device_index(place), outputs=(target,))


def all_reduce(arrays: Sequence[Array], *, priority: int = 0) -> list[Array]:
    """The elementwise sum of arrays on different devices, as a list with the sum on each device.

    The arrays have one shape and dtype; they are not changed. Every device gets the same bits. Among collectives that
    are ready those of larger `priority` run first. Raises ValueError, TypeError or DeviceError where the arrays do not
    fit together.

        >>> import dagrun as dr
        >>> a, b = dr.ones(3, device="cpu:0"), dr.ones(3, device="cpu:1")
        >>> dr.parallel.all_reduce([a, b])
        [array([2., 2., 2.]), array([2., 2., 2.], device='cpu:1')]
    """
    check(arrays, "all_reduce")
    if len(arrays) == 1:
        return [copy(arrays[0])]
    return list(
        composed(
            "all_reduce", _GRADIENTS, _all_reduce, arrays, devices=tuple(x.device for x in arrays), priority=priority
        )
    )


def _sum_of_gradients(gs: list[Any], call: Any) -> Any:
    """Each input is part of every sum."""
    given = [g for g in gs if g is not None]
    if len(given) == 1:
        return [to_device(given[0], where) for where in call["devices"]]
    filled = [zeros_like(given[0], device=d) if g is None else g for g, d in zip(gs, call["devices"], strict=True)]
    return all_reduce(filled)


_GRADIENTS = Gradients(joint=_sum_of_gradients)


def _all_reduce(*arrays: Array, devices: tuple[Device, ...], priority: int) -> tuple[Array, ...]:
    n = len(arrays)
    sources = [flat(array) for array in arrays]
    sums = [empty(source.shape, source.dtype, device=source.device) for source in sources]
    itemsize, size = sources[0].itemsize, sources[0].size
    segments = bounds(size, n)
    for step in range(n - 1):
        for d in range(n):
            left = (d - 1) % n
            for low, high in chunks(*segments[(d - step - 1) % n], itemsize):
                incoming = part(sources[left] if step == 0 else sums[left], low, high)
                add_chunks(part(sums[d], low, high), part(sources[d], low, high), incoming, priority)
    for step in range(n - 1):
        for d in range(n):
            left = (d - 1) % n
            for low, high in chunks(*segments[(d - step) % n], itemsize):
                copy_across(gather_operator(priority), part(sums[left], low, high), part(sums[d], low, high))
    return tuple(reshape(total, arrays[0].shape) for total in sums)
