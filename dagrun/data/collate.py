"""From samples to a batch of NumPy arrays, and from there to dagrun arrays on one device or split over several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Number
from typing import Any

import numpy as np

from dagrun.array import DTYPES, Array, asarray
from dagrun.devices import Device


def _rebuilt(like: Any, items: list[Any]) -> Any:
    """A list, tuple or named tuple of the same type."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def collate(samples: Sequence[Any]) -> Any:
    """Stacks samples along a new first axis: arrays and numbers become arrays, within tuples, lists and dicts.

    Everything else, such as strings, becomes a list with one item for each sample. ValueError where the samples do not
    have one structure or one shape.

        >>> from dagrun import data
        >>> data.collate([(1.0, "a"), (2.0, "b")])
        (array([1., 2.]), ['a', 'b'])
    """
    if not samples:
        raise ValueError("collate: expected at least one sample")
    first = samples[0]
    if isinstance(first, dict):
        if any(not isinstance(sample, dict) or sample.keys() != first.keys() for sample in samples):
            raise ValueError(f"collate: expected dicts with the keys {', '.join(map(repr, first))} for every sample")
        return {key: collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        if any(not isinstance(sample, (tuple, list)) or len(sample) != len(first) for sample in samples):
            raise ValueError(f"collate: expected {len(first)} items in every sample, got others too")
        return _rebuilt(first, [collate(items) for items in zip(*samples, strict=True)])
    if isinstance(first, (np.generic, Number)) and set(map(type, samples)) == {type(first)}:
        return np.asarray(samples)
    if isinstance(first, (np.ndarray, np.generic, Number, Array)):
        arrays = [sample.numpy() if isinstance(sample, Array) else np.asarray(sample) for sample in samples]
        shapes = {x.shape for x in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"collate: samples have shapes {', '.join(map(str, sorted(shapes)))}, expected one: "
                "bring them to one shape with a transform, or pass collate_fn"
            )
        return np.stack(arrays)
    return list(samples)


def convert(batch: Any, place: Callable[[np.ndarray[Any, Any]], Any]) -> Any:
    """The batch with `place(x)` for each NumPy array of a dtype that dagrun has, within tuples, lists and dicts."""
    if isinstance(batch, np.ndarray):
        known = batch.dtype in DTYPES or batch.dtype.newbyteorder("=") in DTYPES
        return place(batch) if known else batch
    if isinstance(batch, dict):
        return {key: convert(value, place) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return _rebuilt(batch, [convert(item, place) for item in batch])
    return batch


def to_device(x: np.ndarray[Any, Any], device: Device | None, own: bool) -> Array:
    """A dagrun array of the values. Where the caller gives the array away (`own`), a CPU device takes its memory."""
    if own and x.base is None and x.flags.c_contiguous and x.dtype.isnative and (device is None or _is_host(device)):
        x.flags.writeable = False
        return asarray(x, device=device, copy=False)
    return asarray(x, device=device)


def _is_host(device: Device) -> bool:
    return device.kind == "cpu"


def split_bounds(length: int, parts: int) -> list[tuple[int, int]]:
    """Consecutive parts of a batch, as (first, end), whose lengths differ by at most one; the first are the longer.

    >>> split_bounds(5, 2)
    [(0, 3), (3, 5)]
    """
    quotient, remainder = divmod(length, parts)
    ends = [i * quotient + min(i, remainder) for i in range(parts + 1)]
    return list(pairwise(ends))


def to_devices(x: np.ndarray[Any, Any], devices: Sequence[Device], own: bool) -> tuple[Array, ...]:
    """The rows of an array in consecutive parts, one on each device."""
    if x.ndim == 0:
        raise ValueError("devices: expected arrays with a batch axis to split, got one of shape ()")
    if own:
        x.flags.writeable = False
    lend = own and x.base is None and x.flags.c_contiguous and x.dtype.isnative
    return tuple(
        asarray(x[first:end], device=device, copy=False if lend and _is_host(device) else None)
        for (first, end), device in zip(split_bounds(len(x), len(devices)), devices, strict=True)
    )
