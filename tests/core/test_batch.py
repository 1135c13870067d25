"""Prepared graphs: every task runs once and after its predecessors, the most urgent first."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import dagrun as dr
from dagrun.core import native, tracing
from dagrun.core.batch import critical_path_priorities, push_batch


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
    with tracing() as records:
        native.pause(True)  # so that all of it is there when the first task runs
        first = push_batch(predecessors, priorities=priorities)
    order = [record.sequence - first for record in sorted(records, key=lambda record: record.begin_ns)]
    # One worker, and this thread helps while it waits: at most one short task begins beside each of the long path.
    assert order[0] == 0 and order.index(10) <= 2 and order.index(11) <= 4


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task 1 is to come after \[1\]"):
        push_batch([[], [1]])
    with pytest.raises(ValueError, match="1 priorities for 2 tasks"):
        push_batch([[], [0]], priorities=[1])
    push_batch([])
    dr.wait()
