"""Measuring how a training step scales with devices: times, and from the trace what was communicated beside what."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagrun as dr
from dagrun.backends.cpu import UNBOUNDED
from dagrun.cli.arguments import made_up
from dagrun.config import settings
from dagrun.core import lane_limit, tracing
from dagrun.core.trace import TaskRecord
from dagrun.devices import Device
from dagrun.viz.intervals import Interval, common, length, union
from dagrun.viz.style import kind_of

WARM_UP = 3  # steps in which kernels are compiled and memory is taken
TRACED = 3  # steps that the shares come from


@dataclass(frozen=True, slots=True)
class Shares:
    """How communication and the devices' work lay in time. All from 0 to 1."""

    communication: float  # of the busy time of all tasks together
    computing_together: float  # of the time in which any device computed: that in which two or more did
    hidden: float  # of the time in which anything was communicated: that in which some device computed


@dataclass(frozen=True, slots=True)
class Point:
    """One number of devices."""

    devices: int
    rows: int  # of all devices together
    seconds: float  # of a step, the median
    slowest: float  # seconds of the slowest repetition's steps, and of the fastest's
    fastest: float
    rows_per_second: float
    speedup: float  # rows per second over those of one device
    oversubscribed: bool  # more devices than cores
    shares: Shares


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        return os.cpu_count() or 1


@contextmanager
def one_lane(devices: Sequence[Device]) -> Iterator[None]:
    """Within the block every device computes one task at a time, as a device of its own would have one core."""
    for which in devices:
        lane_limit(which, "compute", 1)
    try:
        yield
    finally:
        dr.wait()
        for which in devices:
            lane_limit(which, "compute", settings().cpu_lanes or UNBOUNDED)


def measure(
    model: Any,
    counts: Sequence[int],
    batch: int,
    *,
    weak: bool,
    steps: int,
    repeats: int,
    tell: Callable[[], None] = lambda: None,
) -> list[Point]:
    """The training step of a model on cpu:0 ... for each count: `batch` rows in all, or for each device where `weak`.

    Each time is the median of `repeats`, each of `steps` steps recorded one after another and then waited for.
    """
    from dagrun.examples import data_parallel

    points: list[Point] = []
    for count in counts:
        devices = [dr.device(f"cpu:{k}") for k in range(count)]
        rows = batch * count if weak else batch
        with one_lane(devices):
            replicas, optimizers = data_parallel.replicate(model, devices)
            part = made_up(model, rows)

            def run(steps: int, replicas: Any = replicas, optimizers: Any = optimizers, part: Any = part) -> float:
                began = time.perf_counter()
                for _ in range(steps):
                    data_parallel.step(model, replicas, optimizers, part)
                dr.wait()
                return time.perf_counter() - began

            run(WARM_UP)
            times = [run(steps) / steps for _ in range(repeats)]
            with tracing() as records:
                run(TRACED)
        seconds = statistics.median(times)
        rate = rows / seconds
        speedup = rate / (points[0].rows_per_second / points[0].speedup) if points else float(count)
        points.append(
            Point(count, rows, seconds, max(times), min(times), rate, speedup, count > cores(), shares(records))
        )
        tell()
    return points


def shares(records: Sequence[TaskRecord]) -> Shares:
    """What a trace says about communication (collectives and copies between devices) beside compute."""
    moving: list[TaskRecord] = []
    computing: list[TaskRecord] = []
    for record in records:
        if record.ran:
            (computing if kind_of(record) in ("compute", "python") else moving).append(record)
    moved = union((r.begin_ns, r.end_ns) for r in moving)
    of_device = {
        device: union((r.begin_ns, r.end_ns) for r in computing if r.device == device)
        for device in {r.device for r in computing}
    }
    computed = union(interval for busy in of_device.values() for interval in busy)
    work = sum(r.duration_ns for r in (*moving, *computing))
    return Shares(
        communication=_ratio(sum(r.duration_ns for r in moving), work),
        computing_together=_ratio(length(_twice(list(of_device.values()))), length(computed)),
        hidden=_ratio(length(common(moved, computed)), length(moved)),
    )


def _twice(lists: Sequence[Sequence[Interval]]) -> list[Interval]:
    """The times that two or more of the unions cover."""
    return union(interval for i, one in enumerate(lists) for other in lists[i + 1 :] for interval in common(one, other))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
