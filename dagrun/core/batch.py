"""Prepared graphs pushed at once: the way in for plans, whose edges are known beforehand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from dagrun.core.engine import device_index, native
from dagrun.devices import Device, device


def critical_path_priorities(predecessors: Sequence[Sequence[int]], costs: Sequence[int] | None = None) -> list[int]:
    """For each task the cost of the longest path from it to the end of the graph: run the largest first.

    `predecessors[i]` are the tasks, all before i, that task i comes after; every cost is 1 where none are given.

        >>> critical_path_priorities([[], [], [0], [2]])
        [3, 1, 2, 1]
    """
    lengths = [1] * len(predecessors) if costs is None else list(costs)
    longest = list(lengths)
    for task in range(len(predecessors) - 1, -1, -1):
        for before in predecessors[task]:
            longest[before] = max(longest[before], lengths[before] + longest[task])
    return longest


def push_batch(
    predecessors: Sequence[Sequence[int]],
    *,
    name: str = "task",
    where: str | Device = "cpu:0",
    function: int = 0,
    priorities: Sequence[int] | None = None,
    calls: Sequence[tuple[Any, tuple[Any, ...], tuple[Any, ...], bytes] | None] | None = None,
) -> int:
    """Records len(predecessors) tasks at once, task i after those in predecessors[i]; gives the first's number.

    Task i runs `calls[i]`: a signature that is one native task on the device, the arrays that it writes and reads, the
    bytes of its scalars. Without calls, or where one is None, it runs the native body at address `function` without
    operands; 0: nothing. Edges among the tasks are those given and no others: of two calls that conflict one must come
    after the other. What the calls read and write orders them with everything recorded before and after. Gradients do
    not know of them. `priorities`: larger ones first among ready tasks, ties in order; see `critical_path_priorities`.

    ValueError where a task is not to come after tasks before it only, where a call is not one native task, and for a
    function on a GPU.

        >>> import dagrun as dr
        >>> first = push_batch([[], [0], [0], [1, 2]])
        >>> dr.wait()
    """
    first = array("I", [0])
    flat = array("I")
    for task, before in enumerate(predecessors):
        if any(not 0 <= other < task for other in before):
            raise ValueError(
                f"push_batch: task {task} is to come after {list(before)}, expected tasks from 0 to {task - 1}"
            )
        flat.extend(before)
        first.append(len(flat))
    order = None if priorities is None else array("i", priorities)
    if order is not None and len(order) != len(predecessors):
        raise ValueError(f"push_batch: {len(order)} priorities for {len(predecessors)} tasks")
    if calls is not None and len(calls) != len(predecessors):
        raise ValueError(f"push_batch: {len(calls)} calls for {len(predecessors)} tasks")
    index = device_index(device(where))
    return int(native.push_batch(first, flat, index, name, function, order, calls))
