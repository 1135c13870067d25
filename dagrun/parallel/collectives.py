"""Collectives besides the ring: broadcast, all-gather, reduce-scatter, and the sum in one order for any placement."""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.array import Array
from dagrun.devices import Device
from dagrun.devices import device as find_device
from dagrun.errors import DeviceError
from dagrun.ops.creation import empty
from dagrun.ops.joining import concatenate
from dagrun.ops.manipulation import reshape
from dagrun.ops.movement import copy_across, to_device
from dagrun.parallel.ring import add_chunks, bounds, check, chunks, flat, gather_operator, part


def broadcast(x: Array, devices: Sequence[str | Device]) -> list[Array]:
    """The array on each device: copies, and the array itself where it is already.

    >>> import dagrun as dr
    >>> [y.device for y in dr.parallel.broadcast(dr.ones(2), ["cpu:0", "cpu:1"])]
    [device('cpu:0'), device('cpu:1')]
    """
    return [to_device(x, place) for place in devices]


def all_gather(arrays: Sequence[Array], *, axis: int = 0) -> list[Array]:
    """The arrays of all devices joined along an axis, on each device.

    >>> import dagrun as dr
    >>> a, b = dr.zeros(1), dr.ones(1, device="cpu:1")
    >>> dr.parallel.all_gather([a, b])
    [array([0., 1.]), array([0., 1.], device='cpu:1')]
    """
    if not arrays:
        raise ValueError("all_gather: expected at least one array")
    return [concatenate([to_device(x, own.device) for x in arrays], axis) for own in arrays]


def reduce_scatter(arrays: Sequence[Array], *, priority: int = 0) -> list[Array]:
    """Of the elementwise sum of n arrays on n devices, the i-th of n consecutive parts on the i-th device.

    The first axis is cut into n parts whose lengths differ by at most one. Every element is added in the order of the
    arrays.

        >>> import dagrun as dr
        >>> a, b = dr.ones(4), dr.ones(4, device="cpu:1")
        >>> dr.parallel.reduce_scatter([a, b])
        [array([2., 2.]), array([2., 2.], device='cpu:1')]
    """
    check(arrays, "reduce_scatter")
    if arrays[0].ndim == 0:
        raise ValueError("reduce_scatter: arrays without axes cannot be cut; use all_reduce")
    rows = bounds(arrays[0].shape[0], len(arrays))
    width = arrays[0].size // max(1, arrays[0].shape[0])
    lines = [flat(x) for x in arrays]
    results = []
    for own, (start, stop) in zip(arrays, rows, strict=True):
        total = empty((stop - start) * width, own.dtype, device=own.device)
        _sum_into(total, 0, lines, start * width, stop * width, priority)
        results.append(reshape(total, (stop - start, *own.shape[1:])))
    return results


def _sum_into(total: Array, at: int, lines: Sequence[Array], start: int, stop: int, priority: int) -> None:
    """Adds the elements [start, stop) of all lines, in their order, into the elements of `total` from `at` on."""
    for low, high in chunks(start, stop, total.itemsize):
        own = part(total, at + low - start, at + high - start)
        if len(lines) == 1:
            copy_across(gather_operator(priority), part(lines[0], low, high), own)
            continue
        add_chunks(own, part(lines[0], low, high), part(lines[1], low, high), priority)
        for line in lines[2:]:
            add_chunks(own, own, part(line, low, high), priority)


def ordered_all_reduce(
    arrays: Sequence[Array], devices: Sequence[str | Device] | None = None, *, priority: int = 0
) -> list[Array]:
    """The elementwise sum, each element added in the order of the arrays, on each of the devices.

    Unlike in the ring, the bits do not depend on where the arrays lie, and several may lie on one device: the sum over
    four shards of a batch is the same on one, two and four devices. Each device sums its part of the elements and then
    fetches the others' parts: as many bytes travel as in the ring.

        >>> import dagrun as dr
        >>> dr.parallel.ordered_all_reduce([dr.ones(2), dr.ones(2), dr.ones(2, device="cpu:1")], ["cpu:0", "cpu:1"])
        [array([3., 3.]), array([3., 3.], device='cpu:1')]
    """
    check(arrays, "ordered_all_reduce", distinct=False)
    places = list(dict.fromkeys(x.device for x in arrays) if devices is None else map(find_device, devices))
    if len(set(places)) != len(places):
        raise DeviceError(f"ordered_all_reduce: expected devices that differ, got {', '.join(map(str, places))}")
    lines = [flat(x) for x in arrays]
    totals = [empty(lines[0].shape, lines[0].dtype, device=place) for place in places]
    segments = bounds(lines[0].size, len(places))
    for total, (start, stop) in zip(totals, segments, strict=True):
        _sum_into(total, start, lines, start, stop, priority)
    move = gather_operator(priority)
    for d, total in enumerate(totals):
        for other, (start, stop) in enumerate(segments):
            for low, high in chunks(start, stop, total.itemsize) if other != d else ():
                copy_across(move, part(totals[other], low, high), part(total, low, high))
    return [reshape(total, arrays[0].shape) for total in totals]


__all__ = ["all_gather", "broadcast", "ordered_all_reduce", "reduce_scatter"]
