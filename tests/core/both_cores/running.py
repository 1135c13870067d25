"""Where and when tasks run: shuffled, by priority, in bounded lanes, in batches, serially, on streams."""

import random
import threading
from array import array
from typing import Any

from .lab import (
    ADD,
    COMMUNICATION,
    COPY,
    COPY_OF,
    INOUT,
    MULTIPLY,
    PYTHON,
    SHIFT,
    Gate,
    Lab,
    address_of,
    elementwise,
    failing,
    message_of,
)


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
        assert (lab.n.stats()["inlined"] > 0) == ("inline_bytes" in options)
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


def several_recorders(lab: Lab) -> Any:
    """User threads record side by side, each its own chain."""
    lab.start(3)
    results: dict[int, list[float]] = {}

    def run(k: int) -> None:
        x = lab.array([k, 0])
        for _ in range(50):
            x = lab.record("shift", SHIFT, x)
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
    assert not any(n.is_ready(result) for result in results)
    n.set_lane_limit(lab.cpu, COPY, 2)
    assert lab.values(results[1]) == [1]
    n.set_lane_limit(lab.cpu, COPY, 100)
    gate.opened.set()
    assert [lab.values(result) for result in results] == [[1]] * 6


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
    assert [(t[0] - base, t[1], t[6]) for t in tasks] == [
        (0, "node", 0),
        (1, "node", 0),
        (2, "node", 3),
        (3, "node", 0),
    ]
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
