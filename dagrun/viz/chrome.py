"""A trace for Perfetto and Chrome, in the Trace Event Format.

Format: "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
A device is a process, a worker in one of its lanes a thread, a task a complete event ("X"), an edge a flow ("s" to
"f"). Times are in microseconds.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from dagrun.core.trace import TaskRecord
from dagrun.viz.style import device_order, lane_order, rows_of

Event = dict[str, Any]
Place = tuple[int, int]  # process and thread number


def save_chrome_trace(
    records: Sequence[TaskRecord], path: str | PathLike[str], *, edges: Literal["crossing", "all", "none"] = "crossing"
) -> Path:
    """Write a trace to open at https://ui.perfetto.dev or chrome://tracing. Returns the path.

    Arrows follow what tasks read from others: with ``edges="crossing"`` those from one row to another, with ``"all"``
    every edge, WAR and WAW too. Equal records give equal files.
    """
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        file.write(",\n".join(json.dumps(event) for event in chrome_events(records, edges)))
        file.write("\n]}\n")
    return path


def chrome_events(records: Sequence[TaskRecord], edges: Literal["crossing", "all", "none"] = "crossing") -> list[Event]:
    """The events of a trace: first the names of its rows, then tasks and arrows by time."""
    if edges not in ("crossing", "all", "none"):
        raise ValueError(f'edges is "crossing", "all" or "none", not {edges!r}')
    ran = {record.sequence: record for record in sorted(records, key=lambda r: r.sequence) if record.ran}
    names, place_of = _places(list(ran.values()))
    zero_ns = min((record.begin_ns for record in ran.values()), default=0)
    timed: list[tuple[int, Event]] = []
    for record in ran.values():
        timed.append((record.begin_ns, _task(record, place_of[record.sequence], ran, zero_ns)))
    if edges != "none":
        timed += _arrows(ran, place_of, zero_ns, every=edges == "all")
    timed.sort(key=lambda pair: pair[0])  # stable: where times are equal, tasks come before the arrows bound to them
    return names + [event for _, event in timed]


def _places(ran: Sequence[TaskRecord]) -> tuple[list[Event], dict[int, Place]]:
    """The names of processes and threads, and the thread in which each task is drawn."""
    devices = sorted({record.device for record in ran}, key=device_order)
    events: list[Event] = []
    place_of: dict[int, Place] = {}
    for process, device in enumerate(devices, 1):
        events += _names("process", process, 0, device)
        mine = [record for record in ran if record.device == device]
        rows = rows_of(mine, lambda record: (lane_order(record.lane), record.lane, record.worker))
        for thread, (((_, lane, worker), copy), tasks) in enumerate(rows.items(), 1):
            more = f" ({copy + 1})" if copy else ""
            events += _names("thread", process, thread, f"{lane}: {worker}{more}")
            place_of |= {record.sequence: (process, thread) for record in tasks}
    return events, place_of


def _names(kind: str, process: int, thread: int, name: str) -> list[Event]:
    order = thread if kind == "thread" else process
    return [
        {"ph": "M", "name": f"{kind}_name", "pid": process, "tid": thread, "args": {"name": name}},
        {"ph": "M", "name": f"{kind}_sort_index", "pid": process, "tid": thread, "args": {"sort_index": order}},
    ]


def _task(record: TaskRecord, place: Place, ran: Mapping[int, TaskRecord], zero_ns: int) -> Event:
    by_kind: dict[str, list[int]] = defaultdict(list)
    for sequence, kind in record.predecessors:
        by_kind[kind].append(sequence)
    waited_for = [ran[sequence].end_ns for sequence, _ in record.predecessors if sequence in ran]
    arguments: Event = {"sequence": record.sequence}
    if record.shapes:
        arguments["shapes"] = record.shapes
    if record.file:
        arguments["line"] = f"{record.file}:{record.line}" + (f" in {record.function}" if record.function else "")
    if by_kind:
        arguments["waits for"] = {kind: sorted(sequences) for kind, sequences in sorted(by_kind.items())}
    if record.priority:
        arguments["priority"] = record.priority
    if record.recorded_ns:
        ready_ns = max([record.recorded_ns, *waited_for])
        arguments["recorded to begin (us)"] = _us(record.begin_ns - record.recorded_ns)
        arguments["ready to begin (us)"] = _us(max(0, record.begin_ns - ready_ns))
    event: Event = {
        "ph": "X",
        "name": record.name,
        "cat": record.lane + (",failed" if record.failed else ""),
        "pid": place[0],
        "tid": place[1],
        "ts": _us(record.begin_ns - zero_ns),
        "dur": _us(record.duration_ns),
        "args": arguments,
    }
    if record.failed:
        arguments["failed"] = True
        event |= {"name": f"{record.name} (failed)", "cname": "terrible"}
    return event


def _arrows(
    ran: Mapping[int, TaskRecord], place_of: Mapping[int, Place], zero_ns: int, every: bool
) -> list[tuple[int, Event]]:
    timed: list[tuple[int, Event]] = []
    number = 0
    for later in ran.values():
        for sequence, kind in later.predecessors:
            if sequence not in ran:
                continue
            crossing = kind == "RAW" and place_of[sequence] != place_of[later.sequence]
            if not (every or crossing):
                continue
            number += 1
            earlier = ran[sequence]
            # Each end lies inside its task, a nanosecond off the border, so that it cannot bind to a neighbour.
            leave_ns = max(earlier.begin_ns, earlier.end_ns - 1)
            arrive_ns = min(later.begin_ns + 1, later.end_ns)
            common: Event = {"name": kind, "cat": kind, "id": number}
            for phase, record, at_ns in (("s", earlier, leave_ns), ("f", later, arrive_ns)):
                process, thread = place_of[record.sequence]
                bound: Event = {"bp": "e"} if phase == "f" else {}
                timed.append(
                    (at_ns, {"ph": phase, **common, **bound, "pid": process, "tid": thread, "ts": _us(at_ns - zero_ns)})
                )
    return timed


def _us(nanoseconds: int) -> float:
    return round(nanoseconds / 1000, 3)
