"""Every setting that dagrun reads from the environment, in one place.

`settings()` reads them once, on first use; a value that makes no sense is refused with its name and what was expected.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, each named like its variable without the prefix `DAGRUN_`."""

    engine: str = "async"  # "serial": every operation runs before its call returns, in program order
    core: str = "auto"  # "native", "python", or whichever is installed
    workers: int = 0  # worker threads for all CPU devices together; 0: one per core
    cpu_lanes: int = 0  # compute tasks that one CPU device runs at a time; 0: no bound
    max_inflight_tasks: int = 1 << 15  # recorded and unfinished; 0: no bound
    max_inflight_bytes: int = 1 << 28  # memory that finishing what is in flight will free; 0: no bound
    device_memory_bytes: int = 0  # most that one device may hold; 0: what the machine gives
    cache_bytes: int = 1 << 30  # freed memory that a device keeps for reuse
    spin_microseconds: int = 40  # how long an idle thread looks for work before it sleeps
    inline_bytes: int = 2048  # ready operations moving at most this much run where they are recorded
    shuffle_seed: int = 0  # not 0: ready tasks are taken in a seeded random order
    sim_seed: int = 1  # order in which the simulated device completes its work
    cuda_logical: int = 1  # devices that each GPU stands for
    cuda_tf32: bool = False  # float32 products on tensor cores, with 10 bits of mantissa
    cuda_convolution: str = "auto"  # "columns" or "implicit": convolutions go that way wherever they can
    pin: bool = False  # bind worker i to core i
    steer: bool = True  # wake workers on another core than the waking thread's (Linux)
    watchdog_seconds: float = 0.0  # not 0: print what waits for what when a wait makes no progress for so long
    exit_seconds: float = 10.0  # how long pending work is finished for at exit
    debug: int = 0  # printed: 1: tasks as recorded, counters at exit; 2: their runs; 3: edges; 4: accesses, full state
    cache_dir: str = ""  # where compiled kernels are kept; empty: the user's cache folder


_CHOICES = {
    "engine": ("async", "serial"),
    "core": ("auto", "native", "python"),
    "cuda_convolution": ("auto", "columns", "implicit"),
}


def _read(name: str, default: object) -> object:
    variable = "DAGRUN_" + name.upper()
    text = os.environ.get(variable)
    if text is None or text.strip() == "":
        return default
    text = text.strip()
    if name in _CHOICES:
        if text not in _CHOICES[name]:
            raise ValueError(f"{variable} is {text!r}, expected one of {', '.join(map(repr, _CHOICES[name]))}")
        return text
    if isinstance(default, bool):
        if text not in ("0", "1"):
            raise ValueError(f"{variable} is {text!r}, expected 0 or 1")
        return text == "1"
    if isinstance(default, str):
        return text
    try:
        value = float(text) if isinstance(default, float) else int(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}, expected a number such as {default}") from None
    if not value >= 0 or value == float("inf"):
        raise ValueError(f"{variable} is {text}, expected a number that is not negative")
    return value


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings(**{field.name: _read(field.name, field.default) for field in fields(Settings)})  # type: ignore[arg-type]


def worker_count() -> int:
    """How many worker threads the engine starts: `DAGRUN_WORKERS`, or one for each core this process may use."""
    if settings().workers:
        return settings().workers
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        return os.cpu_count() or 1


def cache_directory() -> Path:
    """Where compiled kernels are kept: `$DAGRUN_CACHE_DIR/kernels`, or `~/.cache/dagrun/kernels`. Read at each call."""
    chosen = str(_read("cache_dir", ""))
    return (Path(chosen) if chosen else Path.home() / ".cache" / "dagrun") / "kernels"
