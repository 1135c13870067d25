"""Named arrays as the payload of a record: names, dtypes, shapes, raw bytes. The layout is in docs/records.md."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from dagrun.array import Array

# A dtype's code is its place here; new ones are added at the end only.
DTYPES = tuple(map(np.dtype, ("?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")))
_COUNT = struct.Struct("<I")
_ENTRY = struct.Struct("<HBB")  # length of the name, dtype, number of axes
ALIGNMENT = 8


def padding(nbytes: int) -> int:
    """Bytes to add to come to a multiple of eight."""
    return -nbytes % ALIGNMENT


def encode(arrays: Mapping[str, Any]) -> bytes:
    """The payload of a dict of arrays. TypeError for dtypes that dagrun has not, ValueError for long names."""
    parts, data = [_COUNT.pack(len(arrays))], []
    for name, value in arrays.items():
        x = value.numpy() if isinstance(value, Array) else np.asarray(value)
        dtype = x.dtype.newbyteorder("<")
        if dtype not in DTYPES:
            raise TypeError(f"array {name!r} has dtype {x.dtype}, expected one of {', '.join(map(str, DTYPES))}")
        text = name.encode()
        if len(text) > 0xFFFF:
            raise ValueError(f"a name of {len(text)} bytes, expected at most 65535: {name[:40]!r}...")
        parts += [_ENTRY.pack(len(text), DTYPES.index(dtype), x.ndim), text, struct.pack(f"<{x.ndim}Q", *x.shape)]
        raw = x.astype(dtype, copy=False).tobytes()
        data += [raw, b"\0" * padding(len(raw))]
    head = b"".join(parts)
    return b"".join([head, b"\0" * padding(len(head)), *data])


class _Cursor:
    """A place in a payload; refuses to go beyond its end."""

    def __init__(self, payload: memoryview) -> None:
        self.payload, self.at = payload, 0

    def take(self, nbytes: int, what: str) -> memoryview:
        left = len(self.payload) - self.at
        if nbytes > left:
            raise ValueError(f"{what} needs {nbytes} bytes, but {left} are left of the payload")
        self.at += nbytes
        return self.payload[self.at - nbytes : self.at]

    def align(self) -> None:
        if any(self.take(padding(self.at), "padding")):
            raise ValueError("padding is not zero")


def decode(payload: memoryview) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a payload, as read-only views of it. ValueError where it is none."""
    cursor = _Cursor(payload)
    (count,) = _COUNT.unpack(cursor.take(_COUNT.size, "the number of arrays"))
    entries: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for i in range(count):  # each takes bytes of the payload, so a hostile count ends soon
        length, code, ndim = _ENTRY.unpack(cursor.take(_ENTRY.size, f"the entry of array {i}"))
        name = str(cursor.take(length, f"the name of array {i}"), "utf-8")
        shape = struct.unpack(f"<{ndim}Q", cursor.take(8 * ndim, f"the shape of array {name!r}"))
        if code >= len(DTYPES):
            raise ValueError(f"array {name!r} has dtype code {code}, expected 0 to {len(DTYPES) - 1}")
        if name in entries:
            raise ValueError(f"two arrays are named {name!r}")
        entries[name] = DTYPES[code], shape
    cursor.align()
    arrays = {}
    for name, (dtype, shape) in entries.items():
        raw = cursor.take(dtype.itemsize * math.prod(shape), f"array {name!r} of {dtype}{shape}")
        flat = np.frombuffer(raw, np.uint8)
        if dtype.kind == "b" and flat.size and np.max(flat) > 1:
            raise ValueError(f"array {name!r} of bool holds the byte {np.max(flat)}, expected 0 or 1")
        try:
            arrays[name] = flat.view(dtype).reshape(shape)
        except (ValueError, OverflowError) as error:  # an empty array whose other lengths are beyond NumPy's
            raise ValueError(f"array {name!r} has the impossible shape {shape}") from error
        cursor.align()
    if cursor.at != len(payload):
        raise ValueError(f"{len(payload) - cursor.at} bytes follow the last array")
    for x in arrays.values():
        x.flags.writeable = False
    return arrays
