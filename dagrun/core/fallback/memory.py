"""Caching memory of one device, and the blocks of it that are shared with the world outside the engine."""

import ctypes
import mmap
import pickle
from collections import defaultdict, deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_SLAB = 1 << 20  # small blocks are carved from slabs of this size
_LARGEST = 1 << 16  # the largest block that is carved

_nothing = ctypes.create_string_buffer(64)
NO_MEMORY = ctypes.addressof(_nothing)  # where empty operands point


def class_size(nbytes: int) -> int:
    """What a block takes: multiples of 64 up to 512, then eight steps to each power of two (at most 12.5 % lost)."""
    step = 64 if nbytes <= 512 else 1 << ((nbytes - 1).bit_length() - 4)
    return max(64, -(-nbytes // step) * step)


class Allocator:
    """Addresses of memory, aligned to 64 bytes; fresh pages cost more than warm ones, so freed blocks are kept.

    Not locked: the executor calls it under its own lock.
    """

    def __init__(self, limit_bytes: int, cache_bytes: int, overwrite_freed: bool) -> None:
        self.limit_bytes = limit_bytes  # refuse to hold more than this; 0: no limit
        self.cache_bytes = cache_bytes  # keep at most this much freed memory
        self.overwrite_freed = overwrite_freed  # fill memory with 0xA5 at release: shows every use after free
        self.live = self.peak = self.cached = 0  # bytes in whole classes
        self._free: dict[int, list[int]] = defaultdict(list)
        self._mapped: dict[int, ctypes.c_char] = {}  # the first byte of a mapping keeps all of it
        self._slab_next = self._slab_end = 0

    def allocate(self, nbytes: int) -> int:
        """An address, or 0 where the limit or the machine refuses."""
        size = class_size(nbytes)
        if self.limit_bytes and self.live + size > self.limit_bytes:
            return 0
        address = self._find(size)
        if not address:
            self.trim()
            address = self._find(size)
        if address:
            self.live += size
            self.peak = max(self.peak, self.live)
        return address

    def release(self, address: int, nbytes: int) -> None:
        """Takes back what `allocate(nbytes)` gave."""
        size = class_size(nbytes)
        if self.overwrite_freed:
            ctypes.memset(address, 0xA5, size)
        self.live -= size
        if size <= _LARGEST or self.cached + size <= self.cache_bytes:
            self._free[size].append(address)
            self.cached += size
        else:
            del self._mapped[address]

    def trim(self) -> None:
        """Gives all cached memory that is not part of a slab back to the system."""
        for size in [size for size in self._free if size > _LARGEST]:
            for address in self._free.pop(size):
                del self._mapped[address]
                self.cached -= size

    def _find(self, size: int) -> int:
        if self._free[size]:
            self.cached -= size
            return self._free[size].pop()
        if size > _LARGEST:
            return self._map(size)
        if self._slab_end - self._slab_next < size:
            slab = self._map(_SLAB)
            if not slab:
                return 0
            self._slab_next, self._slab_end = slab, slab + _SLAB
        self._slab_next += size
        return self._slab_next - size

    def _map(self, nbytes: int) -> int:
        try:
            pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, MemoryError):
            return 0
        first = ctypes.c_char.from_buffer(pages)
        self._mapped[ctypes.addressof(first)] = first
        return ctypes.addressof(first)


@dataclass(slots=True, eq=False)
class Block:
    """Memory that somebody outside the engine also holds (an export) or lends to it (an import)."""

    address: int
    nbytes: int
    memory: Allocator | None  # takes it back; None: external, `base` owns it
    base: object = None
    references: int = 1


class Export:
    """The memory of a block through the buffer protocol; the block lives as long as anybody holds this."""

    block: Block
    dropped: deque[Any]

    def __del__(self) -> None:
        self.dropped.append(self.block)


@lru_cache(maxsize=256)
def _export_type(nbytes: int) -> Any:
    return type("Export", (Export, ctypes.c_char * nbytes), {})


def make_export(block: Block, readonly: bool, dropped: deque[Any]) -> memoryview:
    """The bytes of a block, which was counted as held by one more; `dropped` gets it when nobody looks any more."""
    export = _export_type(block.nbytes).from_address(block.address or NO_MEMORY)
    export.block, export.dropped = block, dropped
    view = pickle.PickleBuffer(export).raw()  # plain bytes, without the type that ctypes gives them
    return view.toreadonly() if readonly else view


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address_of(source: object) -> tuple[int, int]:
    """Address and bytes of a C-contiguous object with the buffer protocol, read-only or not; the caller keeps it alive.

    Raises what the object raises where it has no such memory: TypeError, BufferError, ValueError.
    """
    view = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(source), ctypes.byref(view), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return view.buf or 0, view.len
