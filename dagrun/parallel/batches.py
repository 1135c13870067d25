"""Batches and results: arrays in tuples, lists and dicts; how they are split by rows, moved and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.devices import Device
from dagrun.parallel.ring import bounds


def arrays_of(batch: Any) -> Iterator[Any]:
    """The arrays of a batch, of dagrun or NumPy, in order."""
    if isinstance(batch, (Array, np.ndarray)):
        yield batch
    elif isinstance(batch, (dict, tuple, list)):
        for item in batch.values() if isinstance(batch, dict) else batch:
            yield from arrays_of(item)


def map_arrays(change: Callable[[Any], Array], batch: Any) -> Any:
    """The batch with `change(x)` for each of its arrays; what is no array stays as it is."""
    if isinstance(batch, (Array, np.ndarray)):
        return change(batch)
    if isinstance(batch, dict):
        return {key: map_arrays(change, item) for key, item in batch.items()}
    if isinstance(batch, (tuple, list)):
        return _rebuilt(batch, [map_arrays(change, item) for item in batch])
    return batch


def _rebuilt(like: Any, items: list[Any]) -> Any:
    """A list, tuple or named tuple of the same type."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def move(batch: Any, place: str | Device) -> Any:
    """Arrays, also in tuples, lists and dicts, on a device.

    >>> import dagrun as dr
    >>> dr.parallel.move({"x": dr.ones(2), "name": "a"}, "cpu:1")
    {'x': array([1., 1.], device='cpu:1'), 'name': 'a'}
    """
    return map_arrays(lambda x: x.to_device(place) if isinstance(x, Array) else asarray(x, device=place), batch)


def row_count(batch: Any) -> int:
    """The length of a batch's arrays along their first axis. ValueError where it has none, or they differ."""
    counts = set()
    for x in arrays_of(batch):
        if x.ndim == 0:
            raise ValueError("batch: an array without axes cannot be split, expected rows along the first axis")
        counts.add(int(x.shape[0]))
    if len(counts) != 1:
        raise ValueError(f"batch: arrays of {sorted(counts) or 'no'} rows, expected one number of rows")
    return counts.pop()


def split_batch(batch: Any, devices: Sequence[Device]) -> list[Any]:
    """Consecutive parts of a batch along its first axis, as even as can be, one on each device.

    A batch of fewer rows than devices is split into as many parts as it has rows, on the first of them.

        >>> import dagrun as dr
        >>> dr.parallel.split_batch(dr.arange(3), [dr.device("cpu:0"), dr.device("cpu:1")])
        [array([0]), array([1, 2], device='cpu:1')]
    """
    rows = row_count(batch)
    count = max(1, min(rows, len(devices)))
    return [
        move(map_arrays(lambda x, start=start, stop=stop: x[start:stop], batch), place)  # type: ignore[misc]
        for (start, stop), place in zip(bounds(rows, count), devices[:count], strict=True)
    ]


def join(parts: Sequence[Any], place: Device) -> Any:
    """Results of the parts joined along their first axis, on one device."""
    first = parts[0]
    if isinstance(first, Array):
        if first.ndim == 0:
            raise ValueError("join: a result without axes, expected one row for each row of the batch")
        moved = [part.to_device(place) for part in parts]
        return moved[0] if len(moved) == 1 else ops.concatenate(moved, 0)
    if isinstance(first, dict):
        return {key: join([part[key] for part in parts], place) for key in first}
    if isinstance(first, (tuple, list)):
        return _rebuilt(first, [join(items, place) for items in zip(*parts, strict=True)])
    if first is None:
        return None
    raise TypeError(f"join: a result is a {type(first).__name__}, expected arrays, or tuples, lists, dicts of them")
