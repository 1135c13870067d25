"""Scenarios that every core must pass, each in a process of its own: `python both_cores.py native|python SCENARIO`.

A scenario asserts what must hold and returns what must be equal on all cores. Arrays hold float64; bodies are Python
functions behind C pointers, so that they can wait for each other, count, and fail.
"""

import ctypes
import faulthandler
import importlib.machinery
import importlib.util
import itertools
import json
import os
import random
import signal
import struct
import sys
import threading
import weakref
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "dagrun"
FLOAT64 = 12  # how NumPy numbers it
READ, WRITE, OVERWRITE = 1, 2, 4
OUT, INOUT = WRITE | OVERWRITE, READ | WRITE
COMPUTE, COPY, COMMUNICATION, PYTHON = range(4)
LONG = 1 << 20  # a cost at which no task runs where it is recorded


def native_file() -> Path | None:
    """The extension module, where it was built."""
    names = [PACKAGE / f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    return next((name for name in names if name.exists()), None)


def load(core: str) -> ModuleType:
    """A core by itself, without the package around it."""
    if core == "native":
        spec = importlib.util.spec_from_file_location("dagrun._native", native_file())
    else:
        folder = PACKAGE / "core" / "fallback"
        spec = importlib.util.spec_from_file_location(
            "fallback", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BODY = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_double),
    ctypes.POINTER(ctypes.c_int64),
)  # fmt: skip
kept: list[Any] = []


def address_of(body: Callable[..., int]) -> int:
    """Where C finds a Python function body(data, params, scalars, error)."""
    pointer = BODY(body)
    kept.append(pointer)
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def elementwise(function: Callable[..., float]) -> int:
    """The body that puts function(*inputs, *scalars) into its output; parameters: see `Lab.record`."""

    def body(data: Any, params: Any, scalars: Any, error: Any) -> int:
        rows, columns, operands, count = params[0:4]
        for i, j in itertools.product(range(rows), range(columns)):
            at = [data[k] + i * params[4 + 2 * k] + j * params[5 + 2 * k] for k in range(operands)]
            inputs = [ctypes.c_double.from_address(where).value for where in at[1:]]
            ctypes.c_double.from_address(at[0]).value = function(*inputs, *scalars[0:count])
        return 0

    return address_of(body)


ADD, MULTIPLY, SHIFT = (elementwise(f) for f in (lambda a, b: a + b, lambda a, b: a * b, lambda a, b=1.0: a + b))
COPY_OF = elementwise(lambda a: a)


class CoreError(Exception):
    """What `make_error` makes of a failure."""


class Lab:
    """A core with one CPU device, and short names for what the tests do with it."""

    def __init__(self, core: str) -> None:
        self.n: Any = load(core)
        self.n.set_hooks(make_error=CoreError)
        self.cpu = self.n.add_device("cpu:0", "label 0", 4, 2, 1)

    def start(self, workers: int = 2, **options: Any) -> Any:
        self.n.start(workers=workers, **options)
        return self.n

    def layout(self, *shape: int, strides: tuple[int, ...] | None = None) -> Any:
        return self.n.layout("f8", FLOAT64, 8, shape, strides)

    def array(self, values: Any, *shape: int, device: int = 0) -> Any:
        memory = array("d", values)
        return self.n.from_memory(self.layout(*(shape or (len(memory),))), device, memory, True)

    def values(self, x: Any) -> list[float]:
        memory = memoryview(self.n.export(x)).cast("d")
        indices = itertools.product(*map(range, x.shape))
        return [memory[(x._offset + sum(i * s for i, s in zip(index, x.strides))) // 8] for index in indices]

    def view(self, x: Any, rows: range, columns: range) -> Any:
        shape = (len(rows), len(columns))
        strides = (x.strides[0] * rows.step, x.strides[1] * columns.step)
        offset = rows.start * x.strides[0] + columns.start * x.strides[1]
        return self.n.view(x, self.layout(*shape, strides=strides), x._offset + offset)

    def signature(
        self, name: str, body: int, output: Any, inputs: list[Any], mode: int = OUT, lane: int = COMPUTE, priority: int = 0,
        scalars: int = 0, cost: int = LONG, explain: Any = None, bodies: int = 1,
    ) -> Any:  # fmt: skip
        layouts = [output, *inputs]
        strides = [((0,) * (2 - item.ndim) + item.strides) for item in layouts]
        rows, columns = ((1,) * (2 - output.ndim) + output.shape)[:2]
        numbers = [rows, columns, len(layouts), scalars, *itertools.chain(*strides)]
        params = struct.pack(f"{len(numbers)}q", *numbers)
        operands = ((0, 0, mode, None), *((i, 0, READ, None) for i in range(1, len(layouts))))
        return self.n.Signature(
            name, f"shapes of {name}", (output,), tuple(inputs), ((body, params, cost, operands),) * bodies, lane, priority,
            scalars, "f", 0, 0, explain,
        )  # fmt: skip

    def record(
        self, name: str, body: int, *inputs: Any, out: Any = None, device: int = 0, scalars: tuple[float, ...] = (),
        callable: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        layout = (inputs[0] if out is None else out)._layout
        signature = self.signature(name, body, layout, [x._layout for x in inputs], scalars=len(scalars), **options)
        packed = struct.pack(f"{len(scalars)}d", *scalars)
        return self.n.record(signature, inputs, packed, None if out is None else (out,), device, callable)

    def waiting(self) -> list[list[Any]]:
        """Names of the unfinished tasks, with those each waits for."""
        tasks = self.n.unfinished()
        names = {task[0]: task[2] for task in tasks}
        return [[task[2], task[1], sorted(names[sequence] for sequence in task[6])] for task in tasks]

    def error_of(self, x: Any) -> dict[str, Any]:
        try:
            self.n.wait(x)
        except CoreError as error:
            return error.args[0]
        raise AssertionError("nothing failed")


def message_of(action: Callable[[], object]) -> str:
    """How an action fails."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")


def failing(*details: int) -> int:
    """A body that returns 7 and these details."""

    def body(data: Any, params: Any, scalars: Any, error: Any) -> int:
        for i, detail in enumerate(details):
            error[i] = detail
        return 7

    return address_of(body)


class Gate:
    """A body that stays inside until it is opened, then adds one."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

        def function(value: float) -> float:
            self.entered.set()
            self.opened.wait()
            return value + 1

        self.body = elementwise(function)


# ---------------------------------------------------------------------------------------------------- order


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
        ["a", "ready", []], ["left", "pending", ["a"]], ["right", "pending", ["a"]], ["join", "pending", ["left", "right"]],
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
    """Writes to disjoint columns, steps and rows of one buffer do not wait for each other; readers wait for what they meet."""
    n = lab.start()
    n.pause(True)
    x = lab.array(range(32), 4, 8)
    left, right = lab.view(x, range(4), range(0, 3)), lab.view(x, range(4), range(3, 8))
    even = lab.view(x, range(4), range(0, 8, 2))
    top = lab.view(x, range(0, 1), range(8))
    lab.record("left", SHIFT, left, out=left, mode=INOUT, scalars=(100.0,))
    lab.record("right", SHIFT, right, out=right, mode=INOUT, scalars=(200.0,))
    lab.record("top", COPY_OF, top)
    lab.record("even", COPY_OF, even)
    lab.record("left again", SHIFT, left, out=left, mode=INOUT)
    waiting = lab.waiting()
    assert waiting[:3] == [["left", "ready", []], ["right", "ready", []], ["top", "pending", ["left", "right"]]]
    assert waiting[4] == ["left again", "pending", ["even", "left", "top"]]
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


def random_program(lab: Lab, seed: int) -> list[list[float]]:
    """Some dozens of operations on whole arrays and on blocks, all recorded before any runs."""
    rng = random.Random(seed)
    arrays = [lab.array([rng.randint(0, 9) for _ in range(12)], 3, 4) for _ in range(4)]
    lab.n.pause(True)
    for _ in range(60):
        a, b = rng.randrange(4), rng.randrange(4)
        match rng.randrange(4):
            case 0:
                arrays[a] = lab.record("add", ADD, arrays[a], arrays[b])
            case 1:
                arrays[a] = lab.record("half", MULTIPLY, arrays[a], lab.array([0.5] * 12, 3, 4))
            case 2:
                start = rng.randrange(4)
                block = lab.view(arrays[a], range(3), range(start, 4))
                lab.record("shift", SHIFT, block, out=block, mode=INOUT, scalars=(float(start),))
            case 3 if a != b:
                row = rng.randrange(3)
                to, source = (lab.view(arrays[k], range(row, 3), range(0, 4, 2)) for k in (a, b))
                lab.record("assign", COPY_OF, source, out=to)
    return [lab.values(x) for x in arrays]


def shuffled_values(lab: Lab) -> Any:
    """Values do not depend on the order in which ready tasks are taken, nor on where they run."""
    outcomes = []
    for options in ({"serial": True}, {}, *({"shuffle_seed": seed} for seed in (1, 2, 3)), {"inline_bytes": 1 << 30}):
        lab.start(3, **options)
        outcomes.append([random_program(lab, seed) for seed in range(4)])
        assert lab.n.stop(60.0)
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


def several_recorders(lab: Lab) -> Any:
    """User threads record side by side, each its own chain."""
    lab.start(3)
    results: dict[int, list[float]] = {}

    def run(k: int) -> None:
        x = lab.array([k, 0])
        for _ in range(50):
            x = lab.record("shift", SHIFT, x, cost=0 if k % 2 else LONG)
        results[k] = lab.values(x)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [k + 50, 50] for k in range(4)}


def priorities(lab: Lab) -> Any:
    """Of ready tasks the most urgent runs first, then the first in program order."""
    n = lab.start(1)
    order: list[float] = []
    finished = threading.Event()

    def note(value: float) -> float:
        order.append(value)
        if len(order) == 6:
            finished.set()
        return value

    body = elementwise(note)
    n.pause(True)
    for value, priority in enumerate([0, 0, 5, 1, 5, 0]):
        lab.record("note", body, lab.array([value]), priority=priority)
    n.pause(False)
    finished.wait()
    n.wait_all()
    assert order == [2, 4, 3, 0, 1, 5]


def lane_bounds(lab: Lab) -> Any:
    """A lane takes as many tasks at once as its bound says, beside the other lanes of its device."""
    n = lab.start(3)
    running, most, lock = 0, 0, threading.Lock()

    def count(value: float) -> float:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait()
        with lock:
            running -= 1
        return value

    body = elementwise(count)
    meeting = threading.Barrier(2)  # two at a time must be possible
    n.set_lane_limit(lab.cpu, COPY, 1)
    n.set_lane_limit(lab.cpu, COMMUNICATION, 1)
    for _ in range(4):
        lab.record("a", body, lab.array([0]), lane=COPY)
        lab.record("b", body, lab.array([0]), lane=COMMUNICATION)
    n.wait_all()
    assert most == 2
    n.set_lane_limit(lab.cpu, COPY, 2)
    for _ in range(4):
        lab.record("c", body, lab.array([0]), lane=COPY)
    n.wait_all()
    assert most == 2


def raised_lane_bound(lab: Lab) -> Any:
    """Tasks that a full lane has turned away run when its bound goes."""
    n = lab.start(2)
    gate = Gate()
    n.set_lane_limit(lab.cpu, COPY, 1)
    x = lab.array([0])
    results = [lab.record("gate", gate.body, x, lane=COPY)]
    gate.entered.wait()
    results += [lab.record("copy", SHIFT, x, lane=COPY) for _ in range(5)]
    n.wait(lab.record("last", SHIFT, x))  # by now the other worker has looked at them all
    n.set_lane_limit(lab.cpu, COPY, 100)
    gate.opened.set()
    assert [lab.values(result) for result in results] == [[1]] * 6


# ---------------------------------------------------------------------------------------------------- failures


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
    }  # fmt: skip
    assert first["site"][0] == __file__ and first["site"][2] == "Lab.record"
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
    memory = n.export(held)
    lab.record("write", SHIFT, held, out=held, mode=INOUT, device=small)
    assert lab.error_of(held)["code"] == -1
    assert memoryview(memory).cast("d")[0] == 1
    assert message_of(lambda: n.export(n.empty(lab.layout(1000), small))).startswith("MemoryError")
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
    opened = threading.Event()

    def interrupt(value: float) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        opened.wait()
        return value + 1

    x = lab.record("slow", elementwise(interrupt), lab.array([1]))
    try:
        n.wait(x)
        raise AssertionError("nothing was raised")
    except KeyboardInterrupt:
        opened.set()
    assert lab.values(x) == [2]


# ---------------------------------------------------------------------------------------------------- bounds, memory


def task_bound(lab: Lab) -> Any:
    """No more tasks than the bound are in flight, held back or not; recording goes on when there is room."""
    n = lab.start(2, max_inflight_tasks=8)
    most = 0

    def note(value: float) -> float:
        nonlocal most
        most = max(most, n.stats()["in_flight"])
        return value + 1

    body = elementwise(note)
    for _ in range(3):
        n.pause(True)
        x = lab.array([0])
        for _ in range(50):
            x = lab.record("note", body, x)
        assert lab.values(x) == [50]
    assert 1 <= most <= 8 + 1 and n.stats()["admission_waits"] > 0
    assert n.stats()["in_flight"] == 0 and n.stats()["recorded"] == n.stats()["finished"] == 150


def byte_bound(lab: Lab) -> Any:
    """Memory that only unfinished tasks hold is bounded; an operation above the bound still runs."""
    n = lab.start(2, max_inflight_bytes=1 << 14)
    n.memory_stats(lab.cpu, True)
    n.pause(True)
    x = lab.array([0] * 128)  # one KiB
    for _ in range(100):
        x = lab.record("shift", SHIFT, x)
        assert n.stats()["pinned_bytes"] <= (1 << 14) + 1024
    assert lab.values(x) == [100] * 128
    big = lab.array([1] * 4096)
    assert lab.values(lab.record("big", SHIFT, lab.record("big", SHIFT, big))) == [3] * 4096
    n.wait_all()
    assert n.stats()["pinned_bytes"] == 0


def memory(lab: Lab) -> Any:
    """Bytes are counted in size classes; freed memory is used again, and overwritten where the device says so."""
    device = lab.n.add_device("cpu:1", None, 2, 2, 2, cache_bytes=1 << 20, overwrite_freed=True)
    n = lab.start()
    counts = []

    def count() -> None:
        stats = n.memory_stats(device)
        counts.append([stats["live_bytes"], stats["peak_bytes"], stats["cached_bytes"]])

    for size in (1, 8, 9, 64, 65, 100, 1000, 10_000, 100_000, 1_000_000):
        x = lab.array([1] * size, device=device)
        count()
        del x
        count()
    n.trim_memory(device)
    count()
    x = n.empty(lab.layout(1000), device)
    assert bytes(n.export(x)) == b"\xa5" * 8000
    assert n.memory_stats(device, True)["peak_bytes"] == n.memory_stats(device)["live_bytes"] == 8192
    y = n.view(x, lab.layout(10), 80)
    del x
    assert n.memory_stats(device)["live_bytes"] == 8192  # a view holds it all
    assert message_of(lambda: n.view(y, lab.layout(10), 7928)) == "IndexError: view of bytes [7928, 8008) in a buffer of 8000"
    exported = n.export(y)
    del y
    assert n.memory_stats(device)["live_bytes"] == 8192 and bytes(exported)[:2] == b"\xa5\xa5"  # so does an export
    del exported
    assert n.memory_stats(device)["live_bytes"] == 0
    return counts


def lifetimes(lab: Lab) -> Any:
    """Memory stays while an unfinished task reads it, though all its arrays are gone."""
    device = lab.n.add_device("cpu:1", None, 2, 2, 2, overwrite_freed=True)
    n = lab.start()
    gate = Gate()
    x = lab.array([1, 2], device=device)
    held = lab.record("gate", gate.body, x, device=device)
    gate.entered.wait()
    y = lab.record("shift", SHIFT, held, device=device)
    del x, held
    assert n.memory_stats(device)["live_bytes"] >= 128 and n.stats()["pinned_bytes"] == 32
    gate.opened.set()
    assert lab.values(y) == [3, 4]
    assert n.memory_stats(device)["live_bytes"] == 64


def export_copy_on_write(lab: Lab) -> Any:
    """What was exported never changes; what is written after goes to fresh memory while the export lives, and only then."""
    n = lab.start()
    x = lab.array(range(4))
    old = n.export(x)
    n.trace(True)
    lab.record("one", SHIFT, x, out=x, mode=INOUT)
    assert list(memoryview(old).cast("d")) == [0, 1, 2, 3] and memoryview(old).readonly
    assert lab.values(x) == [1, 2, 3, 4]
    del old
    lab.record("two", SHIFT, x, out=x, mode=INOUT)
    assert lab.values(x) == [2, 3, 4, 5]
    names = [task[1] for task in n.trace(False)[0]]
    assert names == ["detach", "one", "two"]
    kept_memory, memory = n.export(x), memoryview(n.export(x))
    del kept_memory
    part = memory[8:]
    del memory
    lab.record("three", SHIFT, x, out=x, mode=INOUT)
    assert list(part.cast("d")) == [3, 4, 5] and lab.values(x) == [3, 4, 5, 6]  # views of an export hold it
    return names


def lent_memory(lab: Lab) -> Any:
    """Memory given without a copy is read in place, never written, and let go of with its last array."""
    n = lab.start()
    source = array("d", [1, 2, 3])
    alive = weakref.ref(source)
    x = n.from_memory(lab.layout(3), 0, source, False)
    source[0] = 5
    assert lab.values(lab.record("read", SHIFT, x)) == [6, 3, 4]
    lab.record("write", SHIFT, x, out=x, mode=INOUT)
    assert lab.values(x) == [6, 3, 4] and list(source) == [5, 2, 3]
    y = n.from_memory(lab.layout(3), 0, source, False)
    del source
    assert alive() is not None
    del y
    n.wait(x)
    n.wait_all()
    assert alive() is None
    assert "12 bytes" in message_of(lambda: n.from_memory(lab.layout(3), 0, b"x" * 12, True))
    assert message_of(lambda: n.from_memory(lab.layout(3), 0, 12, True)).startswith("TypeError")
    assert n.from_memory(lab.layout(0, 3), 0, b"", True).size == 0


# ---------------------------------------------------------------------------------------------------- modes


def serial(lab: Lab) -> Any:
    """Each task has run, on the thread that recorded it, when its call returns."""
    n = lab.start(2, serial=True)
    ran: list[tuple[float, int]] = []

    def note(value: float) -> float:
        ran.append((value, threading.get_ident()))
        return value + 1

    body = elementwise(note)
    x = lab.array([0])
    for k in range(5):
        x = lab.record("note", body, x)
        assert n.is_ready(x) and len(ran) == k + 1 and n.stats()["in_flight"] == 0
    y = lab.record("python", 0, x, lane=PYTHON, callable=lambda operands: ran.append((9, threading.get_ident())))
    assert n.is_ready(y) and ran == [(value, threading.get_ident()) for value in (0, 1, 2, 3, 4, 9)]
    bad = lab.record("bad", failing(), x)
    assert lab.error_of(lab.record("child", SHIFT, bad))["name"] == "bad"


def batch(lab: Lab) -> Any:
    """A prepared graph runs each task once, after those it names, the urgent first."""
    n = lab.start(1)
    calls = []
    body = address_of(lambda data, params, scalars, error: calls.append(1) or 0)
    # 0 ── 1 ── 3
    #   └─ 2 ──┘
    first, predecessors = array("I", [0, 0, 1, 2, 4]), array("I", [0, 0, 1, 2])
    n.pause(True)
    n.trace(True)
    base = n.push_batch(first, predecessors, 0, "node", body, array("i", [0, 0, 3, 0]))
    waiting = [[task[0] - base, task[1], sorted(p - base for p in task[6])] for task in n.unfinished()]
    assert waiting == [[0, "ready", []], [1, "pending", [0]], [2, "pending", [0]], [3, "pending", [1, 2]]]
    assert n.unfinished(2) == n.unfinished()[:2]
    tasks, events = n.trace(False)
    assert [(t[0] - base, t[1], t[6]) for t in tasks] == [(0, "node", 0), (1, "node", 0), (2, "node", 3), (3, "node", 0)]
    assert [tuple((p - base, kind) for p, kind in t[9]) for t in tasks][3] == ((1, "RAW"), (2, "RAW"))
    assert len(calls) == len(events) == 4
    assert n.push_batch(array("I", [0, 0]), b"", 0, "empty") == base + 4
    for bad in (array("I", [0, 1, 1]), array("I", [0, 0, 9])):
        message = message_of(lambda bad=bad: n.push_batch(bad, array("I", [1]), 0, "bad"))
        assert message == "ValueError: task i of a batch may only come after tasks before it"
    n.wait_all()
    return waiting


def streams(lab: Lab) -> Any:
    """On simulated streams programs have the values of the serial engine, beside tasks of other devices."""
    sim = lab.n.add_device("sim:0", "sim", 3, 1, 1, streams=True, overwrite_freed=True, seed=4)
    n = lab.start(2)
    outcomes = []
    for seed in range(5):
        rng = random.Random(seed)
        arrays = [lab.array([k, 1]) for k in range(3)]
        arrays = [lab.record("to", COPY_OF, x, device=sim, lane=COPY) for x in arrays]
        for _ in range(40):
            a, b = rng.randrange(3), rng.randrange(3)
            arrays[a] = lab.record("sum", ADD, arrays[a], arrays[b], device=sim)
            if rng.random() < 0.3:
                lab.record("shift", SHIFT, arrays[b], out=arrays[b], mode=INOUT, device=sim)
        outcomes.append([lab.values(lab.record("from", COPY_OF, x)) for x in arrays])
    assert n.stats()["streams"] == 5 and n.stats()["stream_launches"] > 200
    assert arrays[0].device == "sim"
    n.trace(True)
    n.wait(lab.record("traced", SHIFT, arrays[0], device=sim))
    ((_, _, _, _, stream, _),) = n.trace(False)[1]
    assert 0 <= stream < 3
    return outcomes


def traced(lab: Lab) -> Any:
    """A trace says of each task what it is, what it touches, what it waited for, and that it ran."""
    n = lab.start()
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
        assert 0 < recorded <= begin <= end and stream == -1 and isinstance(worker, str) and site[0] == __file__
        placed = [[a[0] - buffer, *a[1:]] for a in accesses]
        edges = [[p - base, kind] for p, kind in predecessors]
        found.append([sequence - base, name, shapes, device, lane, site[1:], priority, placed, sorted(edges), failed])
    assert [task[1] for task in found] == ["y", "column", "z", "bad", "detach", "y again"]
    assert found[1][4] == "copy" and found[1][7] == [[1, 8, 48, 32, 8, True], [1, 8, 48, 32, 8, False]]
    assert found[2][8] == [[0, "RAW"], [1, "RAW"]]
    assert [task[9] for task in found] == [False, False, False, True, False, False]
    return found


def user_lines(lab: Lab) -> Any:
    """The user's line is the innermost one outside the package."""
    n = lab.start()
    assert n.here()[0] == __file__ and n.here()[2] == "user_lines"
    x = lab.array([1])
    assert n.last_writer(x) == (0, "", ("<unknown>", 0, "<unknown>"))
    code = compile("def run(f, *arguments, **options):\n    return f(*arguments, **options)", "/user/file.py", "exec")
    user: dict[str, Any] = {}
    exec(code, user)
    n.set_prefix(str(PACKAGE.parent), "/nowhere")
    y = user["run"](lab.record, "y", SHIFT, x)
    sequence, name, site = n.last_writer(y)
    assert sequence > 0 and (name, site) == ("y", ("/user/file.py", 2, "run"))
    assert n.here() == ("<unknown>", 0, "<unknown>")
    n.set_prefix(str(PACKAGE.parent), str(Path(__file__).parent))
    assert n.here()[0] == __file__


def operators(lab: Lab) -> Any:
    """Operators take the signatures that were installed for their operands, and ask the layers above for others."""
    asked: list[Any] = []

    def slow(number: int, left: Any, right: Any, in_place: bool) -> Any:
        asked.append([number, type(left).__name__, type(right).__name__, in_place])
        return len(asked)

    n = lab.start()
    x, y = lab.array([1, 2]), lab.array([10, 20])
    assert message_of(lambda: x + y) == "RuntimeError: operators are not registered yet"
    n.set_hooks(binary_slow=slow)
    assert [x + y, 2 - x, x < 1, 1 < x, x == y, x**2, x @ y, x >> 1] == list(range(1, 9))
    layout = x._layout
    n.install_binary(0, x, y, False, lab.signature("add", ADD, layout, [layout, layout]))
    scaled = lab.signature("scaled", elementwise(lambda a, s: a * s), layout, [layout], scalars=1)
    n.install_binary(2, x, 1.0, False, scaled)
    n.install_binary(2, 1, x, False, scaled)
    n.install_binary(0, x, y, True, lab.signature("add", ADD, layout, [layout, layout], mode=INOUT))
    same = x
    same += y
    assert same is x and lab.values(x) == [11, 22] and x._version == 1
    assert [lab.values(v) for v in (x + y, x * 0.5, 3 * x)] == [[21, 42], [5.5, 11], [33, 66]]
    assert len(asked) == 8
    view = n.view(x, layout, 0)
    view += x  # two views of one buffer: not for the fast way
    other = n.from_memory(layout, n.add_device("cpu:1", None, 1, 1, 1), bytes(16), True)
    assert [x + other, x * True, x * 10**400, x & 1, x | 1, x ^ 1] == [10, 11, 12, 13, 14, 15]
    assert len({x, y, x}) == 2 and hash(x) == hash(x)
    assert (x.dtype, x.shape, x.strides, x.ndim, x.size, x.nbytes, x.itemsize) == ("f8", (2,), (8,), 1, 2, 16, 8)
    assert (x.device, x._node, x._requires_grad, x._offset) == ("label 0", None, False, 0)
    n.Array.total = lambda self: sum(lab.values(self))
    assert x.total() == 33 and type(x) is n.Array and n.Array.__name__ == "Array"
    assert message_of(n.Array).startswith("TypeError: cannot create 'dagrun.Array' instances")
    assert message_of(lambda: n.wait(3)) == "TypeError: expected a dagrun array, got int"
    return asked


def gradient_hook(lab: Lab) -> Any:
    """Operations on arrays that want gradients are shown to the hook, unless it is switched off."""
    shown: list[Any] = []
    n = lab.start()
    n.set_hooks(gradient_hook=lambda *arguments: shown.append(arguments))
    x = lab.array([1])
    lab.record("no", SHIFT, x)
    x._requires_grad = True
    y = lab.record("yes", SHIFT, x)
    assert n.set_gradients(False) is True
    lab.record("off", SHIFT, x)
    assert n.set_gradients(True) is False
    ((signature, inputs, result),) = shown
    assert signature.name == "yes" and signature.outputs == (x._layout,) and inputs == (x,) and result is y
    y._node = shown
    assert y._node is shown


# ---------------------------------------------------------------------------------------------------- life


def restart(lab: Lab) -> Any:
    """The engine ends when its work is done and starts again; its arrays stay; the first operation starts it."""
    n = lab.n
    started: list[int] = []
    assert message_of(lambda: n.empty(lab.layout(1), 0)) == "RuntimeError: the engine has been shut down"
    n.set_hooks(start=lambda: (started.append(1), n.start(workers=1)))
    x = lab.array([0])
    for k in range(4):
        x = lab.record("shift", SHIFT, x)
        assert n.stop(60.0) and len(started) == k + 1
    assert lab.values(x) == [4]
    lab.array([0])
    assert message_of(lambda: n.start(workers=1)) == "RuntimeError: the engine runs already"
    assert n.stop(60.0) and n.stop(60.0)
    assert message_of(lambda: n.start(workers=0)) == "ValueError: workers is 0, expected 1 to 256"


def stop_gives_up(lab: Lab) -> Any:
    """A body that does not return does not keep the process."""
    n = lab.start()
    gate = Gate()
    x = lab.record("stuck", gate.body, lab.array([1]))
    gate.entered.wait()
    assert n.stop(0.01) is False
    assert n.stats()["in_flight"] == 1 and not n.is_ready(x)


def fork(lab: Lab) -> Any:
    """A child reads what was finished; all else raises and nothing hangs."""
    n = lab.start()
    os.register_at_fork(after_in_child=n.after_fork)
    done = lab.record("done", SHIFT, lab.array([1]))
    failed = lab.record("failed", failing(), done)
    n.wait_all()
    gate = Gate()
    pending = lab.record("pending", gate.body, done)
    gate.entered.wait()
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        messages = [
            str(lab.values(done)),
            message_of(lambda: lab.values(pending)),
            message_of(lambda: lab.record("more", SHIFT, done)),
            message_of(lambda: n.empty(lab.layout(1), 0)),
            str(n.is_ready(done)),
            str(n.stop(1.0)),
        ]
        n.wait_all()
        os.write(writable, json.dumps(messages).encode())
        os._exit(0)
    os.close(writable)
    with open(readable) as pipe:
        messages = json.load(pipe)
    os.waitpid(child, 0)
    assert messages[0] == "[2.0]" and messages[4:] == ["True", "True"]
    assert messages[1].startswith("RuntimeError: this array was not finished when the process forked")
    assert "cannot record an operation in a forked child process" in messages[2]
    assert "cannot make an array in a forked child process" in messages[3]
    gate.opened.set()
    assert lab.values(pending) == [3] and lab.error_of(failed)["name"] == "failed"
    return messages


def bad_calls(lab: Lab) -> Any:
    """What does not fit is refused with the same words."""
    n = lab.start()
    x = lab.array([1, 2])
    signature = lab.signature("shift", SHIFT, x._layout, [x._layout])
    messages = [
        message_of(lambda: n.record(signature, (), b"", None, 0, None)),
        message_of(lambda: n.record(signature, (x,), b"12345678", None, 0, None)),
        message_of(lambda: n.record(signature, (x,), b"", (x, x), 0, None)),
        message_of(lambda: n.record(signature, (x,), b"", None, 7, None)),
        message_of(lambda: lab.layout(-1)),
        message_of(lambda: lab.layout(2, strides=(1, 2))),
        message_of(lambda: n.layout("f8", 12, 8, (1,) * 65)),
        message_of(lambda: n.view(x, None, 0)).replace("NoneType", "None"),
    ]
    return messages


SCENARIOS = [
    diamond, hazards, column_blocks, regions, shuffled_values, several_recorders, priorities, lane_bounds,
    raised_lane_bound, poison, first_failure_wins, out_of_memory, python_tasks, interrupted_wait, task_bound, byte_bound,
    memory, lifetimes, export_copy_on_write, lent_memory, serial, batch, streams, traced, user_lines, operators,
    gradient_hook, restart, stop_gives_up, fork, bad_calls,
]  # fmt: skip


def main(core: str, scenario: str) -> None:
    """Prints what the scenario returns; ends with every thread's stack where it hangs."""
    faulthandler.dump_traceback_later(60, exit=True)
    lab = Lab(core)
    result = next(function for function in SCENARIOS if function.__name__ == scenario)(lab)
    if scenario != "stop_gives_up":
        assert lab.n.stop(60.0)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
