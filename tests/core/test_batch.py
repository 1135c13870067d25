"""Prepared graphs: every task runs once and after its predecessors, the most urgent first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import native, tracing
from dagrun.core.batch import critical_path_priorities, push_batch
from dagrun.ops.elementwise import Elementwise, make, plan
from dagrun.record.apply import pack_scalar

FLOATS = (np.dtype(float), np.dtype(float))
SUBTRACT = make("subtract", np.subtract, lambda kinds, out: FLOATS)
MULTIPLY = make("multiply", np.multiply, lambda kinds, out: FLOATS)
Call = tuple[Any, tuple[dr.Array, ...], tuple[dr.Array, ...], bytes]


def call_of(op: Elementwise, out: dr.Array, *operands: Any) -> Call:
    """op(*operands, out=out) as `push_batch` takes it; the last operand may be a float."""
    arrays = tuple(x for x in operands if isinstance(x, dr.Array))
    values = operands[len(arrays) :]
    keys = (*(x._layout for x in arrays), *map(type, values))
    (signature, _), scalars = plan(op, out._layout, *keys)
    return signature, (out,), arrays, b"".join(map(pack_scalar, values, scalars))


def test_a_random_graph_runs_in_order() -> None:
    r = random.Random(0)
    predecessors = [[r.randrange(i) for _ in range(min(i, r.randrange(7)))] for i in range(500)]
    with tracing() as records:
        first = push_batch(predecessors)
    ran = {record.sequence - first: record for record in records}
    assert sorted(ran) == list(range(500))
    for task, before in enumerate(predecessors):
        assert all(ran[other].end_ns <= ran[task].begin_ns for other in before)


def test_the_longest_path_goes_first(engine_options: Callable[..., None]) -> None:
    r"""
    0 --> 1 .. 9 (short)
     \--> 10 --> 11 --> 12 (long)
    """
    engine_options(workers=1)
    predecessors = [[]] + [[0]] * 9 + [[0], [10], [11]]
    priorities = critical_path_priorities(predecessors)
    assert priorities == [4, *[1] * 9, 3, 2, 1]
    assert any(long_path_first(predecessors, priorities) for _ in range(20))


def long_path_first(predecessors: Sequence[Sequence[int]], priorities: Sequence[int]) -> bool:
    with tracing() as records:
        native.pause(True)  # so that all of it is there when the first task runs
        first = push_batch(predecessors, priorities=priorities)
    order = [record.sequence - first for record in sorted(records, key=lambda record: record.begin_ns)]
    # One worker, and this thread helps while it waits: one short task at most starts beside each of the long path, if
    # the worker keeps its core while it hands out the short ones. Without priorities the long path is always last.
    return order[0] == 0 and order.index(10) <= 2 and order.index(11) <= 4


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task 1 is to come after \[1\]"):
        push_batch([[], [1]])
    with pytest.raises(ValueError, match="1 priorities for 2 tasks"):
        push_batch([[], [0]], priorities=[1])
    with pytest.raises(ValueError, match="1 calls for 2 tasks"):
        push_batch([[], [0]], calls=[None])
    push_batch([])
    dr.wait()


def test_what_is_no_native_task_is_refused() -> None:
    x = dr.zeros(3)
    good = call_of(SUBTRACT, x, x, x)
    with pytest.raises(ValueError, match="operands do not fit the signature of subtract"):
        push_batch([[]], calls=[(good[0], (x,), (x,), b"")])
    with pytest.raises(ValueError, match="operands do not fit the signature of subtract"):
        push_batch([[]], calls=[(good[0], (x,), (x, dr.zeros(4)), b"")])
    long = dr.zeros(1 << 21)
    with pytest.raises(
        ValueError, match=r"subtract on cpu:0 is \d+ tasks: a batch takes operations that are one native"
    ):
        push_batch([[]], calls=[call_of(SUBTRACT, long, long, long)])
    held = x.numpy(copy=False)
    with pytest.raises(BufferError, match="exported"):
        push_batch([[]], calls=[good])
    assert held.tolist() == x.tolist() == [0.0] * 3


def random_updates(seed: int, count: int, arrays: int) -> tuple[list[tuple[int, int, int]], list[list[int]]]:
    """a[i] = a[j] - a[k] as (i, j, k), and which of them each comes after: nothing that follows from others."""
    r = random.Random(seed)
    updates, predecessors = [], []
    writer: dict[int, int] = {}
    readers: dict[int, list[int]] = {i: [] for i in range(arrays)}
    for task in range(count):
        i, j, k = (r.randrange(arrays) for _ in range(3))
        last = [writer[i]] if i in writer else []
        before = {writer[x] for x in (j, k) if x in writer} | set(readers[i] or last)
        updates.append((i, j, k))
        predecessors.append(sorted(before))
        readers[j].append(task)
        readers[k].append(task)
        writer[i], readers[i] = task, []
    return updates, predecessors


def check_calls(device: str, seed: int) -> None:
    """A batch of calls runs as its edges say, behind what was recorded before it and ahead of what comes after."""
    updates, predecessors = random_updates(seed, 200, 7)
    rng = np.random.default_rng(seed)
    expected = [rng.standard_normal(40) for _ in range(7)]
    arrays = [dr.asarray(x, device=device) for x in expected]
    for x in arrays:
        x *= 0.5
    calls: Sequence[Call] = [call_of(SUBTRACT, arrays[i], arrays[j], arrays[k]) for i, j, k in updates]
    halves = [call_of(MULTIPLY, x, x, 0.5) for x in arrays]
    push_batch(predecessors, where=device, name="updates", calls=calls)
    push_batch([[]] * len(halves), where=device, calls=halves)
    results = [x + 1 for x in arrays]
    for x in expected:
        x *= 0.5
    for i, j, k in updates:
        expected[i][...] = expected[j] - expected[k]
    for x, y in zip(results, expected, strict=True):
        assert np.array_equal(x.numpy(), y * 0.5 + 1)


@pytest.mark.parametrize("seed", range(6))
def test_calls_run_in_order(device: str, seed: int) -> None:
    check_calls(device, seed)


def test_calls_fail_like_operations(device: str) -> None:
    x = dr.zeros(3, device=device)
    bad = dr.take(x, dr.asarray([9], device=device))
    y, z = dr.zeros(1, device=device), dr.zeros(1, device=device)
    push_batch([[], [0]], where=device, calls=[call_of(SUBTRACT, y, bad, bad), call_of(MULTIPLY, z, y, 2.0)])
    with pytest.raises(IndexError, match="9"):
        z.wait()
    push_batch([[]], where=device, calls=[call_of(SUBTRACT, z, x[:1], x[:1])])
    assert z.tolist() == [0.0]


def test_the_edges_of_a_batch_are_those_given(device: str) -> None:
    r"""
    x += 1 -> 0 -> 1    2 -> y * 2
    """
    x, y, z = (dr.zeros(3, device=device) for _ in range(3))
    dr.wait()
    with tracing() as records:
        native.pause(True)
        x += 1
        calls = [call_of(MULTIPLY, x, x, 2.0), None, call_of(MULTIPLY, y, z, 3.0)]
        first = push_batch([[], [0], []], where=device, calls=calls)
        y * 2
        native.pause(False)
        native.wait_all()
    before, after = records[0].sequence, first + 3
    found = {task.sequence: [x for x, _ in task.predecessors if x >= before] for task in records}
    assert found == {before: [], first: [before], first + 1: [first], first + 2: [], after: [first + 2]}
