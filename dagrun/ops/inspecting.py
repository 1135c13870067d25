"""What is known of arrays and dtypes without their values, and what the array standard asks of its namespace."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun import devices as known_devices
from dagrun.array import Array, as_array
from dagrun.devices import Device
from dagrun.ops.manipulation import normal_axes
from dagrun.ops.reductions import all as all_of


def ndim(x: Any, /) -> int:
    """The number of axes."""
    return x.ndim if isinstance(x, Array) else np.ndim(x)


def shape(x: Any, /) -> tuple[int, ...]:
    """The length of each axis."""
    return x.shape if isinstance(x, Array) else np.shape(x)


def size(x: Any, /, axis: Any = None) -> int:
    """The number of elements, or of those along an axis or several."""
    lengths = shape(x)
    places = range(len(lengths)) if axis is None else normal_axes(axis, len(lengths), "size")
    count = 1
    for place in places:
        count *= lengths[place]
    return count


def array_equiv(x1: Any, x2: Any, /) -> bool:
    """Whether two arrays broadcast together and have equal elements; waits for them."""
    a, b = as_array(x1), as_array(x2)
    try:
        return bool(all_of(a == b))
    except ValueError:
        return False


class NamespaceInfo:
    """What the namespace has (array API: `__array_namespace_info__`)."""

    def capabilities(self) -> dict[str, Any]:
        """Which optional parts of the standard are there, and the most axes of an array (None: no limit)."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> Device:
        """The device of new arrays."""
        return known_devices.current_device()

    def devices(self) -> list[Device]:
        """All devices."""
        return list(known_devices.devices())

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype[Any]]:
        """The dtypes of arrays of Python numbers and of indices."""
        return {"real floating": np.dtype("f8"), "integral": np.dtype("i8"), "indexing": np.dtype("i8")}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, np.dtype[Any]]:
        """The dtypes that arrays can have, by name; those of a kind, or of one of several."""
        names = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
        found = {name: np.dtype(name) for name in names}
        if kind is None:
            return found
        try:
            return {name: dtype for name, dtype in found.items() if np.isdtype(dtype, kind)}
        except (TypeError, ValueError):
            raise ValueError(
                f"dtypes: kind is {kind!r}, expected a kind of the array standard such as 'integral'"
            ) from None


def __array_namespace_info__() -> NamespaceInfo:
    """What this namespace has: devices, dtypes, capabilities (array API)."""
    return NamespaceInfo()
