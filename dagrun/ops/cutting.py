"""How an operation is cut into tasks: by shape and dtype alone, so that values never depend on lanes or load.

A CUDA kernel takes the whole operation: it has threads enough for all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dagrun.codegen.target import target

# Below this many bytes one task is best: its cost is that of several hand-overs. Above, enough for 16 cores.
PIECE_BYTES = 1 << 21
MOST_PIECES = 16


def cut(length: int, moved_bytes: int) -> list[tuple[int, int]]:
    """The pieces [start, stop) of an axis of `length` elements, for an operation that moves so many bytes.

    >>> cut(10, 1000)
    [(0, 10)]
    >>> cut(10, 3 * PIECE_BYTES)
    [(0, 3), (3, 6), (6, 10)]
    """
    if target() == "cuda":
        return [(0, length)]
    count = max(1, min(MOST_PIECES, moved_bytes // PIECE_BYTES, length))
    bounds = [length * i // count for i in range(count + 1)]
    return list(pairwise(bounds))


def outermost(shape: Sequence[int]) -> int:
    """The axis to cut along: the first with more than one element, or -1."""
    return next((axis for axis, length in enumerate(shape) if length > 1), -1)
