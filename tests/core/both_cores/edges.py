"""What waits for what, and what a trace says of it."""

import itertools
import random
from typing import Any

from .lab import ADD, COPY, COPY_OF, INOUT, LONG, SHIFT, Lab, failing


def diamond(lab: Lab) -> Any:
    """One producer, two in the middle that do not wait for each other, one consumer::

    a ── left ──┐
      └─ right ─┴─ join
    """
    n = lab.start()
    n.pause(True)
    x = lab.array([1, 2, 3])
    a = lab.record("a", SHIFT, x)
    left, right = lab.record("left", SHIFT, a, scalars=(10.0,)), lab.record("right", SHIFT, a, scalars=(20.0,))
    join = lab.record("join", ADD, left, right)
    waiting = lab.waiting()
    assert waiting == [
        ["a", "ready", []], ["left", "pending", ["a"]], ["right", "pending", ["a"]],
        ["join", "pending", ["left", "right"]],
    ]  # fmt: skip
    assert not n.is_ready(join) and n.is_ready(x)
    assert lab.values(join) == [34, 36, 38]
    assert n.is_ready(join) and n.wait(join) is join
    return waiting


def hazards(lab: Lab) -> Any:
    """RAW, WAR and WAW on a whole array; a slice of it that nothing else touches is free."""
    n = lab.start()
    n.pause(True)
    x, one = lab.array([1, 2, 3, 4], 2, 2), lab.array([1, 1, 1, 1], 2, 2)
    before = lab.record("reads", COPY_OF, x)
    lab.record("writes", ADD, one, one, out=x)
    after = lab.record("reads again", COPY_OF, x)
    lab.record("updates", SHIFT, x, out=x, mode=INOUT)
    waiting = lab.waiting()
    assert waiting == [
        ["reads", "ready", []], ["writes", "pending", ["reads"]], ["reads again", "pending", ["writes"]],
        ["updates", "pending", ["reads again", "writes"]],
    ]  # fmt: skip
    assert [lab.values(v) for v in (before, after, x)] == [[1, 2, 3, 4], [2] * 4, [3] * 4]
    return waiting


def column_blocks(lab: Lab) -> Any:
    """Writes to disjoint columns of one buffer do not wait for each other; readers wait for what they meet."""
    n = lab.start()
    n.pause(True)
    x = lab.array(range(32), 4, 8)
    left, right = lab.view(x, range(4), range(3)), lab.view(x, range(4), range(3, 8))
    even = lab.view(x, range(4), range(0, 8, 2))
    top = lab.view(x, range(1), range(8))
    lab.record("left", SHIFT, left, out=left, mode=INOUT, scalars=(100.0,))
    lab.record("right", SHIFT, right, out=right, mode=INOUT, scalars=(200.0,))
    lab.record("top", COPY_OF, top)
    lab.record("even", COPY_OF, even)
    lab.record("left again", SHIFT, left, out=left, mode=INOUT)
    lab.record("across rows", COPY_OF, n.view(x, lab.layout(4), 48))  # columns 6, 7, and 0, 1 of the next row
    y = lab.array(range(32), 4, 8)
    even, odd, second = (lab.view(y, range(4), range(*r)) for r in ((0, 8, 2), (1, 7, 2), (1, 2)))
    lab.record("odd", SHIFT, odd, out=odd, mode=INOUT)
    lab.record("even", SHIFT, even, out=even, mode=INOUT)
    lab.record("second", COPY_OF, second)  # of another stride: waits for the even columns to be safe
    waiting = lab.waiting()
    assert waiting[:3] == [["left", "ready", []], ["right", "ready", []], ["top", "pending", ["left", "right"]]]
    assert waiting[4] == ["left again", "pending", ["even", "left", "top"]]
    assert waiting[5:] == [
        ["across rows", "pending", ["left again", "right"]], ["odd", "ready", []], ["even", "ready", []],
        ["second", "pending", ["even", "odd"]],
    ]  # fmt: skip
    assert lab.values(x)[:8] == [101, 102, 103, 203, 204, 205, 206, 207]
    return waiting


def regions(lab: Lab) -> Any:
    """The region of a view holds its bytes, and is the same on all cores."""
    rng = random.Random(5)
    found = []
    for _ in range(400):
        shape = tuple(rng.choice([0, 1, 1, 2, 3, 4, 5]) for _ in range(rng.randint(0, 4)))
        strides = tuple(rng.choice([-1, 1]) * 8 * rng.choice([0, 1, 2, 3, 4, 6, 8, 12, 24]) for _ in shape)
        layout = lab.layout(*shape, strides=strides)
        lo, hi, stride, width = layout.region
        for index in itertools.product(*map(range, shape)):
            first = sum(i * s for i, s in zip(index, strides))
            assert lo <= first and first + 8 <= hi
            assert not stride or all((b - lo) % stride < width for b in range(first, first + 8))
        assert layout is lab.layout(*shape, strides=strides)
        found.append([*layout.region, layout.size, layout.nbytes, layout.ndim, layout.contiguous, *layout.shape])
    plain = lab.layout(2, 3)
    assert (plain.strides, plain.contiguous, plain.dtype, plain.region) == ((24, 8), True, "f8", (0, 48, 0, 0))
    return found


def traced(lab: Lab) -> Any:
    """A trace says of each task what it is, what it touches, what it waited for, and that it ran."""
    n = lab.start(inline_bytes=LONG)  # no task runs where it is recorded while there is a trace
    x = lab.array(range(8), 2, 4)
    n.trace(True)
    n.pause(True)
    y = lab.record("y", SHIFT, x)
    column = lab.view(y, range(2), range(1, 2))
    lab.record("column", SHIFT, column, out=column, mode=INOUT, lane=COPY, priority=2)
    lab.record("z", ADD, y, y)
    lab.record("bad", failing(), x)
    memory = n.export(y)
    lab.record("y again", COPY_OF, x, out=y)
    del memory
    tasks, events = n.trace(False)
    assert n.trace(False) == ([], [])
    base, buffer = tasks[0][0], x._buffer
    runs = {event[0]: event for event in events}
    found = []
    for sequence, name, shapes, device, lane, site, priority, recorded, accesses, predecessors in tasks:
        _, begin, end, worker, stream, failed = runs[sequence]
        assert 0 < recorded <= begin <= end and stream == -1 and isinstance(worker, str) and site[0].endswith("lab.py")
        placed = [[a[0] - buffer, *a[1:]] for a in accesses]
        edges = [[p - base, kind] for p, kind in predecessors]
        found.append([sequence - base, name, shapes, device, lane, site[1:], priority, placed, sorted(edges), failed])
    assert [task[1] for task in found] == ["y", "column", "z", "bad", "detach", "y again"]
    assert found[1][4] == "copy" and found[1][7] == [[1, 8, 48, 32, 8, True], [1, 8, 48, 32, 8, False]]
    assert found[2][8] == [[0, "RAW"], [1, "RAW"]]
    assert [task[9] for task in found] == [False, False, False, True, False, False]
    return found
