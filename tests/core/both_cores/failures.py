"""Failures, Python callables and interrupts."""

import os
import signal
import threading
from array import array
from typing import Any

from .lab import ADD, COPY_OF, INOUT, LONG, PYTHON, SHIFT, Lab, elementwise, failing, message_of


def poison(lab: Lab) -> Any:
    """A failure reaches what is computed from it, every wait raises it, and overwriting heals."""
    n = lab.start()
    x = lab.array(range(8), 2, 4)
    bad = lab.record("bad", failing(3, -4), x, explain="explained")
    child = lab.record("child", SHIFT, bad)
    free = lab.record("free", SHIFT, x)
    first = lab.error_of(child)
    assert lab.error_of(child) == lab.error_of(bad) == first
    assert set(first) == {
        "sequence", "name", "shapes", "device", "site", "code", "details", "explain", "exception", "delivered",
        "holdings", "driver",
    }  # fmt: skip
    assert first["site"][0].endswith("lab.py") and first["site"][2] == "Lab.record"
    assert lab.values(free) == [1, 2, 3, 4, 5, 6, 7, 8]
    left, right = lab.view(bad, range(2), range(2)), lab.view(bad, range(2), range(2, 4))
    lab.record("update", SHIFT, left, out=left, mode=INOUT)  # reads what is spoilt
    assert lab.error_of(left)["name"] == "bad"
    lab.record("heal", COPY_OF, x, out=bad)
    assert lab.values(bad) == list(range(8))
    lab.record("bad half", failing(), right, out=left, mode=INOUT)
    assert lab.values(right) == [2, 3, 6, 7]  # the other half is sound
    assert lab.error_of(bad)["name"] == lab.error_of(lab.record("sum", ADD, bad, x))["name"] == "bad half"
    lab.record("heal half", COPY_OF, right, out=left)
    assert lab.values(bad) == [2, 3, 2, 3, 6, 7, 6, 7]
    summary = [[f["name"], f["code"], f["details"], f["explain"], f["delivered"]] for f in n.failures(True)]
    assert summary == [["bad", 7, (3, -4, 0, 0), "explained", True], ["bad half", 7, (0, 0, 0, 0), None, True]]
    assert n.failures() == [] and n.stats()["failures"] == 0
    z = lab.array(range(10), 2, 5)
    head = n.view(z, lab.layout(8), 0)
    lab.record("bad head", failing(), head, out=head, mode=INOUT)
    columns = n.view(z, lab.layout(2, 2, strides=(40, 16)), 0)
    lab.record("some of it", COPY_OF, lab.array([0] * 4, 2, 2), out=columns)  # leaves gaps: heals nothing
    assert lab.error_of(z)["name"] == "bad head"
    return [{k: v for k, v in first.items() if k != "site"}, summary]


def first_failure_wins(lab: Lab) -> Any:
    """Of several failures an operation reads, the first in program order is raised."""
    lab.start(2, shuffle_seed=3)
    x = lab.array([1])
    first, second = lab.record("first", failing(), x), lab.record("second", failing(), x)
    assert lab.error_of(lab.record("sum", ADD, second, first))["name"] == "first"
    assert [(f["name"], f["delivered"]) for f in lab.n.failures()] == [("first", True), ("second", False)]
    lab.n.set_hooks(make_error=None)
    return None


def pieces(lab: Lab) -> Any:
    """One error tells of all the tasks that an operation was cut into, and of no other operation."""
    lab.start(2, inline_bytes=LONG)
    x = lab.array([1])
    for cost in (0, 2 * LONG):
        cut = lab.record("cut", failing(), x, pieces=3, cost=cost)
        lab.record("other", failing(), x, cost=cost)
        lab.n.wait_all()
        assert lab.error_of(cut)["name"] == "cut"
        failures = [(f["name"], f["delivered"]) for f in lab.n.failures(True)]
        assert failures == [("cut", True), ("cut", True), ("cut", True), ("other", False)]


def out_of_memory(lab: Lab) -> Any:
    """What finds no memory fails as an operation does; an array made from memory raises at once."""
    small = lab.n.add_device("cpu:1", None, 2, 2, 2, memory_limit=4096)
    n = lab.start()
    x = lab.array([0] * 1000)
    failure = lab.error_of(lab.record("big", COPY_OF, x, device=small))
    assert (failure["code"], failure["details"][0], failure["device"]) == (-1, 8000, "cpu:1")
    message = message_of(lambda: lab.array([0] * 1000, device=small))
    assert message == "MemoryError: no memory for an array of 8000 bytes on cpu:1"
    held = lab.array([1] * 300, device=small)  # 2400 bytes: its copy finds no room beside it
    large = lab.record("half", COPY_OF, lab.array([1] * 100), device=small)  # 800 bytes
    n.wait(large)
    assert n.holdings(small, 1)[0][:2] == (2400, "")
    assert [row[:2] for row in n.holdings(small, 5)] == [(2400, ""), (800, "half")]
    failed = lab.error_of(lab.record("big", COPY_OF, x, device=small))
    assert [row[:2] for row in failed["holdings"]] == [(2400, ""), (800, "half")]
    assert failed["holdings"][1][2] == n.last_writer(large)[2]
    del large
    memory = n.export(held)
    lab.record("write", SHIFT, held, out=held, mode=INOUT, device=small)
    assert lab.error_of(held)["code"] == -1
    assert memoryview(memory).cast("d")[0] == 1
    assert message_of(lambda: n.export(n.empty(lab.layout(1000), small))).startswith("MemoryError")
    assert message_of(lambda: n.export(n.empty(lab.layout(1 << 45), 0))).startswith("MemoryError")
    assert n.memory_stats(0)["peak_bytes"] < 1 << 45  # what was refused was never held
    assert "too large" in message_of(lambda: lab.layout(1 << 40, 1 << 40))
    return failure["details"]


def python_tasks(lab: Lab) -> Any:
    """Callables get (memory, offset) pairs, run one at a time, and may neither record nor wait."""
    n = lab.start(3)
    x = lab.array(range(8), 2, 4)
    right = lab.view(x, range(2), range(2, 4))
    seen: list[Any] = []

    def double(operands: Any) -> None:
        (out, out_offset), (source, offset) = operands
        seen.append([n.in_task(), memoryview(source).readonly, offset, memoryview(out).readonly, out_offset])
        numbers = memoryview(source).cast("d")[offset // 8 :]
        memoryview(out).cast("d")[:4] = array("d", [2 * numbers[k] for k in (0, 1, 4, 5)])
        seen.append(message_of(lambda: lab.record("inner", SHIFT, x)))
        seen.append(message_of(lambda: n.wait(x)))

    compact = lab.layout(2, 2)
    signature = lab.signature("double", 0, compact, [right._layout], lane=PYTHON)
    y = n.record(signature, (right,), b"", None, 0, double)
    z = lab.record("shift", SHIFT, y)
    assert lab.values(z) == [5, 7, 13, 15] and not n.in_task()
    assert seen[0] == [True, True, 16, False, 0]
    assert seen[1].startswith("RuntimeError: cannot record an operation inside a task")
    assert seen[2].startswith("RuntimeError: cannot wait for an array inside a task")

    def fail(operands: Any) -> None:
        raise ValueError("no such thing")

    failure = lab.error_of(n.record(signature, (right,), b"", None, 0, fail))
    assert failure["code"] == -2 and repr(failure["exception"]) == "ValueError('no such thing')"

    busy, most = 0, 0

    def alone(operands: Any) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        lock.acquire(timeout=0.001)  # lets others run
        busy -= 1

    lock = threading.Lock()
    lock.acquire()
    for _ in range(20):
        n.record(signature, (right,), b"", None, 0, alone)
    n.wait_all()
    assert most == 1
    return seen


def interrupted_wait(lab: Lab) -> Any:
    """Ctrl-C ends a wait; the engine goes on, and so does the array."""
    n = lab.start()
    waiting, opened = threading.Event(), threading.Event()

    def interrupt(value: float) -> float:
        waiting.wait()
        os.kill(os.getpid(), signal.SIGINT)
        opened.wait()
        return value + 1

    x = lab.record("slow", elementwise(interrupt), lab.array([1]))
    try:
        waiting.set()
        n.wait(x)
        raise AssertionError("nothing was raised")
    except KeyboardInterrupt:
        opened.set()
    assert lab.values(x) == [2]


def empty(lab: Lab) -> Any:
    """A result without elements has its failure too, and an overwrite heals it."""
    n = lab.start()
    x = n.empty(lab.layout(0), 0)
    bad = lab.record("bad", failing(), x)
    view = n.view(bad, lab.layout(2, 0), 0)
    child = lab.record("child", COPY_OF, view)
    for _ in range(2):
        for result in (bad, view, child):
            assert lab.error_of(result)["name"] == "bad"
            assert message_of(lambda result=result: n.export(result)).startswith("CoreError")
    n.wait(x)
    lab.record("heal", COPY_OF, x, out=bad)
    n.wait(bad)
    n.wait(view)
    failures = [(f["name"], f["delivered"]) for f in n.failures(True)]
    assert failures == [("bad", True)]
    return failures
