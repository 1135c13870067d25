"""What a trace is made of: one record per task, and pure questions about the bytes two tasks touch.

Nothing here knows the executor. The graph, the profile, the timeline and the checker of orderings all read these
records, so each of them can be tested with records written by hand.
"""

from dataclasses import dataclass
from math import gcd
from typing import Literal

EdgeKind = Literal["RAW", "WAR", "WAW"]


@dataclass(frozen=True, slots=True)
class Access:
    """The bytes of one buffer that a task reads or writes: an interval, or the rows of a strided box inside it.

    >>> Access(buffer=1, lo=0, hi=64, stride=16, width=4, write=False).nbytes
    16
    """

    buffer: int  # identity of the buffer, never used twice in one process
    lo: int  # first byte
    hi: int  # one past the last byte
    stride: int  # bytes from row to row; 0 = all of [lo, hi)
    width: int  # bytes of one row: byte b counts when (b - lo) % stride < width; unused when stride is 0
    write: bool

    @property
    def nbytes(self) -> int:
        """The number of bytes touched."""
        return _count(self.lo, self.lo, self.hi, self.stride or 1, 0, self.width if self.stride else 1)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The life of one task: what it is, who asked for it, what it touches, and when it ran."""

    sequence: int  # program order, from 1
    name: str  # operator: "add", "matmul", "copy", "all_reduce.reduce"
    device: str  # "cpu:0"
    lane: str  # "compute" | "copy" | "communication" | "python"
    worker: str  # thread that ran it: "worker 0", "python", "main", "sim:0 stream 2"
    file: str  # the user's line: file, line and function
    line: int
    function: str
    accesses: tuple[Access, ...]
    predecessors: tuple[
        tuple[int, str], ...
    ]  # (sequence, EdgeKind), also those already done when this one was recorded
    recorded_ns: int  # recorded, begin and end are readings of one monotonic clock; 0 = has not happened
    begin_ns: int
    end_ns: int
    shapes: str  # "float32(64, 784), float32(784, 128) -> float32(64, 128)"
    priority: int
    failed: bool

    @property
    def ran(self) -> bool:
        """Whether the body was run to its end, well or badly."""
        return self.begin_ns > 0 and self.end_ns >= self.begin_ns

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from begin to end; 0 for a task that did not run."""
        return self.end_ns - self.begin_ns if self.ran else 0

    @property
    def location(self) -> str:
        """The user's line without folders: ``"train.py:31"``; empty when unknown."""
        return f"{self.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{self.line}" if self.file else ""


def shared_nbytes(a: Access, b: Access) -> int | None:
    """How many bytes two accesses have in common; None when they overlap in a way that is not worked out.

    Exact for intervals, for an interval and a box, and for boxes of equal stride. Boxes of different strides give 0
    where they are certainly apart and None otherwise.

    >>> left = Access(1, 0, 64, 16, 8, True)         # the left half of each row of 16 bytes
    >>> right = Access(1, 8, 64, 16, 8, True)
    >>> shared_nbytes(left, right), shared_nbytes(left, Access(1, 0, 20, 0, 0, False))
    (0, 12)
    """
    low, high = max(a.lo, b.lo), min(a.hi, b.hi)
    if a.buffer != b.buffer or low >= high:
        return 0
    if a.stride and b.stride and a.stride != b.stride:
        return _shared_by_different_strides(a, b)
    stride = a.stride or b.stride or 1
    a_width = min(a.width, stride) if a.stride else stride  # an interval is a box whose rows touch
    b_width = min(b.width, stride) if b.stride else stride
    # Within one period that starts at a's row, a holds [0, a_width) and b [shift, shift + b_width), wrapped around.
    shift = (b.lo - a.lo) % stride
    return sum(
        _count(a.lo, low, high, stride, max(0, start), min(a_width, start + b_width))
        for start in (shift, shift - stride)
    )


def overlap(a: Access, b: Access) -> bool:
    """Whether two accesses may touch a common byte: exact where `shared_nbytes` is, otherwise on the safe side.

    >>> overlap(Access(1, 0, 8, 0, 0, True), Access(1, 8, 16, 0, 0, True))
    False
    """
    return shared_nbytes(a, b) != 0


def conflict(earlier: Access, later: Access) -> EdgeKind | None:
    """The edge that two accesses need, the first being earlier in program order; None when either order will do.

    >>> conflict(Access(1, 0, 8, 0, 0, True), Access(1, 4, 8, 0, 0, False))
    'RAW'
    """
    if not (earlier.write or later.write) or not overlap(earlier, later):
        return None
    if not later.write:
        return "RAW"
    return "WAW" if earlier.write else "WAR"


def conflicts(earlier: TaskRecord, later: TaskRecord) -> tuple[EdgeKind, ...]:
    """The kinds of edges that the accesses of two tasks ask for, in the order RAW, WAW, WAR."""
    found = {conflict(a, b) for a in earlier.accesses for b in later.accesses}
    return tuple(kind for kind in ("RAW", "WAW", "WAR") if kind in found)


def _count(origin: int, low: int, high: int, stride: int, first: int, last: int) -> int:
    """The number of x in [low, high) with first <= (x - origin) % stride < last."""
    if first >= last or low >= high:
        return 0

    def before(x: int) -> int:
        periods, rest = divmod(x - origin, stride)
        return periods * (last - first) + min(max(rest - first, 0), last - first)

    return before(high) - before(low)


def _shared_by_different_strides(a: Access, b: Access) -> int | None:
    # Seen modulo the common divisor both are one row per period: rows apart there are apart everywhere.
    period = gcd(a.stride, b.stride)
    shift = (b.lo - a.lo) % period
    apart = a.width <= shift and shift + b.width <= period
    return 0 if apart or not (a.width and b.width) else None
