"""Tasks, accesses, buffers, the executor and its trace. Knows no mathematics, no NumPy and no CuPy.

`native` is the module that does the work: the C++ extension, or the Python executor where no compiler was there at
installation. Both have the same functions (see `docs/engine.md`); `DAGRUN_CORE` chooses by hand.
"""

from dagrun.core.engine import (
    EngineInfo,
    configure,
    device_index,
    empty_cache,
    engine,
    engine_stats,
    lane_limit,
    memory_report,
    memory_stats,
    native,
    open_with,
    tracing,
    wait,
)
from dagrun.core.story import TaskStory, start_watchdog, story_of, waiting_report
from dagrun.core.trace import Access, TaskRecord

__all__ = [
    "Access",
    "EngineInfo",
    "TaskRecord",
    "TaskStory",
    "configure",
    "device_index",
    "empty_cache",
    "engine",
    "engine_stats",
    "lane_limit",
    "memory_report",
    "memory_stats",
    "native",
    "open_with",
    "story_of",
    "tracing",
    "wait",
    "waiting_report",
]

start_watchdog()
