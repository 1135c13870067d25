"""The life of the engine: chosen, started at the first operation, reconfigured, traced, ended; guarded after a fork."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dagrun.config import settings, worker_count
from dagrun.core.debugging import Debugger
from dagrun.core.trace import Access, TaskRecord
from dagrun.devices import Device, device
from dagrun.errors import DeviceError, holding_line, operation_error

LANES = {"compute": 0, "copy": 1, "communication": 2, "python": 3}


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """How the engine is set up now."""

    core: str  # "native" or "python"
    mode: str  # "async" or "serial"
    workers: int


def _choose() -> tuple[ModuleType, str]:
    wanted = settings().core
    if wanted != "python":
        try:
            return importlib.import_module("dagrun._native"), "native"
        except ImportError as error:
            if wanted == "native":
                raise ImportError(
                    "DAGRUN_CORE is 'native', but the native core is not built: install a C++17 compiler, then dagrun"
                ) from error
            warnings.warn(
                "dagrun runs on its Python executor, which is slower: the native core was not built. "
                "Install a C++17 compiler and then dagrun again, or set DAGRUN_CORE=python to accept this.",
                RuntimeWarning,
                stacklevel=4,
            )
    return importlib.import_module("dagrun.core.fallback"), "python"


native: Any
native, _core_name = _choose()
_package = Path(__file__).parent.parent
native.set_prefix(f"{_package}{os.sep}", f"{_package / 'examples'}{os.sep}")

_options: dict[str, Any] = {}
_running = False


def _defaults() -> dict[str, Any]:
    s = settings()
    return {
        "workers": worker_count(),
        "max_inflight_tasks": s.max_inflight_tasks,
        "max_inflight_bytes": s.max_inflight_bytes,
        "spin_microseconds": s.spin_microseconds,
        "inline_bytes": s.inline_bytes,
        "shuffle_seed": s.shuffle_seed,
        "serial": s.engine == "serial",
        "pin": s.pin,
        "steer": s.steer,
    }


def _start() -> None:
    """Called by the core before the first task: a program that only imports dagrun has no threads, and may fork."""
    global _running
    native.start(**(_defaults() | _options))
    _running = True


def _stop(seconds: float) -> bool:
    global _running
    finished = bool(native.stop(seconds))
    _running = False
    return finished


def configure(**options: Any) -> dict[str, Any]:
    """Finishes all work and starts the engine anew with these options; returns the options in force before.

    Options: workers, max_inflight_tasks, max_inflight_bytes, spin_microseconds, inline_bytes, shuffle_seed, serial,
    pin, steer; what is not named keeps its value.
    """
    global _options
    known = _defaults()
    unknown = set(options) - set(known)
    if unknown:
        raise TypeError(f"no engine option {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    before = known | _options
    if not _stop(3600.0):
        raise RuntimeError(f"the engine cannot be configured: work did not end within an hour\n{native.unfinished(10)}")
    _options = _options | options
    _start()
    return before


@contextmanager
def engine(mode: str) -> Iterator[EngineInfo]:
    """Within the block, operations run "serial" (each before its call returns, in program order) or "async".

    >>> import dagrun as dr
    >>> with dr.engine("serial"):
    ...     print((dr.ones(2) + 1).numpy())
    [2. 2.]
    """
    if mode not in ("serial", "async"):
        raise ValueError(f"engine mode {mode!r}: expected 'serial' or 'async'")
    serial = (_defaults() | _options)["serial"]
    if serial == (mode == "serial"):
        yield engine_info()
        return
    configure(serial=mode == "serial")
    try:
        yield engine_info()
    finally:
        configure(serial=serial)


def engine_info() -> EngineInfo:
    options = _defaults() | _options
    return EngineInfo(_core_name, "serial" if options["serial"] else "async", options["workers"])


# ---- devices

_indices: dict[Device, int] = {}
_openers: dict[str, Callable[[Device], int]] = {}


def open_with(kind: str, opener: Callable[[Device], int]) -> None:
    """Registers how a backend adds a device of its kind to the executor."""
    _openers[kind] = opener


def device_index(which: Device) -> int:
    """The executor's number of a device, opened on first use. Raises DeviceError where its kind cannot be had here."""
    index = _indices.get(which)
    if index is None:
        if which.kind not in _openers:
            raise DeviceError(
                f"{which} cannot be used here: this build of dagrun has no backend for {which.kind!r} devices"
            )
        index = _indices[which] = _openers[which.kind](which)
    return index


def opened_devices() -> tuple[Device, ...]:
    return tuple(_indices)


def lane_limit(which: str | Device, lane: str, limit: int) -> None:
    """Sets how many tasks of a lane kind ("compute", "copy", "communication") a CPU device runs at once."""
    native.set_lane_limit(device_index(device(which)), LANES[lane], limit)


def memory_stats(which: str | Device = "cpu:0", reset_peak: bool = False) -> dict[str, int]:
    """Bytes that a device holds: live_bytes, peak_bytes (since the start or the last reset) and cached_bytes.

    >>> import dagrun as dr
    >>> sorted(dr.memory_stats("cpu:0"))
    ['cached_bytes', 'live_bytes', 'peak_bytes']
    """
    return dict(native.memory_stats(device_index(device(which)), reset_peak))


def memory_report(which: str | Device = "cpu:0", most: int = 10) -> str:
    """What a device's memory is used for: the totals, and the largest arrays with the lines that last wrote them.

    >>> import dagrun as dr
    >>> x = dr.ones((1000, 1000)) * 2
    >>> _ = x.wait()
    >>> print(dr.memory_report(most=1).splitlines()[1].split(" at ")[0])
      8,000,000 bytes of multiply made
    """
    where = device(which)
    stats = memory_stats(where)
    lines = [
        f"{where}: {stats['live_bytes']:,} bytes in use, at most {stats['peak_bytes']:,} so far, "
        f"{stats['cached_bytes']:,} kept for reuse"
    ]
    return "\n".join(lines + [f"  {holding_line(*each)}" for each in native.holdings(device_index(where), most)])


def empty_cache(which: str | Device | None = None) -> None:
    """Gives memory that a device keeps for reuse, or that all devices keep, back to the system: for other libraries.

    Pieces of up to 64 KiB stay. What is in use is not touched. On a GPU it waits for all of the GPU's work.

    >>> import dagrun as dr
    >>> x = dr.zeros(1000000).wait()
    >>> del x
    >>> dr.empty_cache()
    >>> dr.memory_stats()["cached_bytes"] < 1000000
    True
    """
    for each in opened_devices() if which is None else [device(which)]:
        native.trim_memory(device_index(each))


# ---- waiting


def wait() -> None:
    """Blocks until everything recorded so far is done; raises the first failure, in program order, not raised before.

    >>> import dagrun as dr
    >>> x = dr.ones(1000) + 1
    >>> dr.wait()
    """
    native.wait_all()
    failures = [failure for failure in native.failures(True) if not failure["delivered"]]
    if failures:
        error = operation_error(failures[0])
        others = dict.fromkeys((f["name"], *f["site"][:2]) for f in failures[1:])
        others.pop((failures[0]["name"], *failures[0]["site"][:2]), None)
        for name, file, line in list(others)[:3]:
            error.add_note(f"also failed: {name} recorded at {file}:{line}")
        if len(others) > 3:
            error.add_note(f"and {len(others) - 3} more operations failed")
        raise error


def engine_stats() -> dict[str, int | str]:
    """Counters of the engine: tasks recorded, finished, run inline and in flight; bytes pinned; failures; streams.

    >>> import dagrun as dr
    >>> dr.engine_stats()["mode"]
    'async'
    """
    info = engine_info()
    return {"core": info.core, "mode": info.mode, "workers": info.workers, **native.stats()}


_tracing: dict[int, list[TaskRecord]] = {}  # what the blocks that trace now have so far, by its id


@contextmanager
def tracing() -> Iterator[list[TaskRecord]]:
    """Within the block, every task is traced; the list holds the records, in program order, after the block.

    A block within another takes nothing away from it: what it traced is in both lists.
    """
    wait()
    _hand_out_trace()
    with _debugger.aside() if _debugger else nullcontext():
        records: list[TaskRecord] = []
        _tracing[id(records)] = records
        native.trace(True)
        try:
            yield records
        finally:
            native.wait_all()
            _hand_out_trace()
            del _tracing[id(records)]
            if _tracing:
                native.trace(True)


def _hand_out_trace() -> None:
    """Ends tracing, and gives what was traced to every block that traces, and to who debugs."""
    if _tracing:
        traced = native.trace(False)
        found = list(_records(*traced))
        for records in _tracing.values():
            records.extend(found)
        if _debugger:
            _debugger.show(*traced)


def _records(tasks: list[tuple[Any, ...]], events: list[tuple[Any, ...]]) -> Iterator[TaskRecord]:
    ran = {event[0]: event for event in events}
    for sequence, name, shapes, where, lane, site, priority, recorded, accesses, predecessors in tasks:
        _, begin, end, worker, stream, failed = ran.get(sequence, (0, 0, 0, "", -1, False))
        file, line, function = site
        yield TaskRecord(
            sequence=sequence,
            name=name,
            device=where,
            lane=lane,
            worker=f"{where} stream {stream}" if stream >= 0 else worker,
            file=file,
            line=line,
            function=function,
            accesses=tuple(Access(*access) for access in accesses),
            predecessors=tuple(predecessors),
            recorded_ns=recorded,
            begin_ns=begin,
            end_ns=end,
            shapes=shapes,
            priority=priority,
            failed=failed,
        )


# ---- the end


def _at_exit() -> None:
    if not _running:
        return
    in_flight = native.stats()["in_flight"]
    finished = _stop(settings().exit_seconds)
    native.set_hooks(start=None)
    if not finished:
        left = native.stats()["in_flight"]
        print(
            f"dagrun: gave up after {settings().exit_seconds:g} s with {left} of {in_flight} recorded operations "
            "unfinished; call dr.wait() before the program ends, or raise DAGRUN_EXIT_SECONDS",
            file=sys.stderr,
        )
    failures = [failure for failure in native.failures(True) if not failure["delivered"]]
    if failures:
        print(f"dagrun: {len(failures)} operation(s) failed and nothing waited for their results:", file=sys.stderr)
        for failure in failures[:5]:
            print(operation_error(failure), file=sys.stderr)
    if _debugger:
        _debugger.close()
        print(f"dagrun: {engine_stats()}", file=sys.stderr)


_debugger = Debugger(native, settings().debug) if settings().debug else None
native.set_hooks(make_error=operation_error, start=_start)
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=native.after_fork)
