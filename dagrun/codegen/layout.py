"""Strided layouts: dimensions put in order and merged in Python, walked by an odometer in IR.

All strides are in bytes. A layout is a list of dimensions, innermost first, each `(size, stride of each operand)`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from dagrun.codegen.emitter import Emitter
from dagrun.codegen.values import Slot, Value

MAX_DIMENSIONS = 64
Dimension: TypeAlias = tuple[int, tuple[int, ...]]


def dimensions(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Dimension]:
    """The dimensions of more than one element, last axis first; `strides` holds one sequence per operand."""
    columns = zip(*strides, strict=True) if strides else iter(((),) * len(shape))
    rows = [(size, tuple(column)) for size, column in zip(shape, columns, strict=True) if size != 1]
    return rows[::-1]


def merged(dims: Sequence[Dimension]) -> list[Dimension]:
    """Neighbours that every operand walks as one dimension, joined."""
    result: list[Dimension] = []
    for size, strides in dims:
        if result:
            inner_size, inner = result[-1]
            if all(outer == step * inner_size for outer, step in zip(strides, inner, strict=True)):
                result[-1] = (inner_size * size, inner)
                continue
        result.append((size, strides))
    return result


def contiguous_strides(shape: Sequence[int], itemsize: int) -> list[int]:
    """The byte strides of a C-contiguous array."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(1, shape[axis + 1])
    return strides


def pack(words: Sequence[int]) -> bytes:
    """Words of a params block: int64, little endian."""
    return struct.pack(f"<{len(words)}q", *words)


def outer_words(dims: Sequence[Dimension]) -> list[int]:
    """What `rows` reads: for each dimension, innermost first, its size and the stride of each operand."""
    return [word for size, strides in dims for word in (size, *strides)]


@contextmanager
def rows(e: Emitter, count: Value, first_word: Value | int, pointers: Sequence[Slot]) -> Iterator[None]:
    """Run the block at every position of `count` outer dimensions, with `pointers` moved to it.

    The dimensions stand in `%params` from word `first_word` as `outer_words` lays them out. No size may be zero. After
    the last position the pointers are back where they began.
    """
    params = e.argument("%params", "pointer")
    start = e.element(params, first_word, "int64")
    counters = e.buffer(8 * MAX_DIMENSIONS)
    with e.loop(count) as level:
        e.store(e.element(counters, level, "int64"), e.constant(0, "int64"))
    level_slot, moved = e.slot("int64"), e.slot("bool")
    words = 1 + len(pointers)
    with e.repeat_while() as again:
        yield
        level_slot.set(0)
        moved.set(False)
        with e.repeat_while() as carry:
            level = level_slot.get()
            with e.when(level < count):
                record = e.element(start, level * words, "int64")
                size = e.load(record, "int64")
                counter = e.element(counters, level, "int64")
                index = e.load(counter, "int64") + 1
                wraps = index.equals(size)
                e.store(counter, e.select(wraps, 0, index))
                for number, pointer in enumerate(pointers):
                    stride = e.load(e.element(record, number + 1, "int64"), "int64")
                    pointer.set(e.offset(pointer.get(), e.select(wraps, stride * (1 - size), stride)))
                moved.set(~wraps)
                level_slot.set(level + 1)
            carry.append(~moved.get() & (level_slot.get() < count))
        again.append(moved.get())
