"""The recorder in pure Python: a slots class and a bounded deque."""

from __future__ import annotations

from collections import deque

ADD, PUSH = 1, 2

records: deque[tuple[int, int, int, int]] = deque(maxlen=1 << 16)
recorded = 0
last_buffer = 0
live_handles = 0


class Handle:
    """A reference to a region of a numbered buffer."""

    __slots__ = ("buffer", "offset")

    def __init__(self) -> None:
        global last_buffer, live_handles
        last_buffer += 1
        live_handles += 1
        self.buffer = last_buffer
        self.offset = 0

    def __del__(self) -> None:
        global live_handles
        live_handles -= 1

    def __add__(self, other: Handle) -> Handle:
        global recorded
        if type(other) is not Handle:
            return NotImplemented
        output = Handle()
        records.append((output.buffer, self.buffer, other.buffer, ADD))
        recorded += 1
        return output


def _buffers_of(handles: tuple[Handle, ...]) -> tuple[int, int]:
    """Read the buffers of a tuple of one or two handles."""
    if not 1 <= len(handles) <= 2:
        raise TypeError("expected a tuple of one or two handles")
    return handles[0].buffer, handles[1].buffer if len(handles) == 2 else 0


def push(reads: tuple[Handle, ...], writes: tuple[Handle, ...]) -> int:
    """Record a task that reads and writes these handles; returns its sequence number."""
    global recorded
    left, right = _buffers_of(reads)
    output, _ = _buffers_of(writes)
    records.append((output, left, right, PUSH))
    recorded += 1
    return recorded


def counts() -> tuple[int, int]:
    """Return the numbers of records and of live handles."""
    return recorded, live_handles
