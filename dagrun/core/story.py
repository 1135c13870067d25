"""What a task is doing and what it waits for: stories of one task, and the report of a stuck program."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

from dagrun.config import settings
from dagrun.core.engine import native


@dataclass(frozen=True, slots=True)
class TaskStory:
    """One task: what made an array, where in the user's program, its state now, and the chain of what it waits for."""

    sequence: int  # program order; 0: nothing was recorded
    name: str
    state: str  # "pending", "ready", "running", "launched" or "done"
    file: str
    line: int
    function: str
    waits_for: tuple[TaskStory, ...] = ()

    def story(self) -> str:
        """The task's life in a few lines, with what it waits for indented below it.

        >>> import dagrun as dr
        >>> x = dr.ones(4) + 1
        >>> print(x.wait().task.story().splitlines()[0].split(" at ")[0])
        add: done, recorded
        """
        return "\n".join(self._lines(0))

    def _lines(self, depth: int) -> list[str]:
        if not self.sequence:
            return ["nothing was recorded: the array was made from finished memory"]
        lines = [
            f"{'  ' * depth}{self.name}: {self.state}, recorded at {self.file}:{self.line} in {self.function} "
            f"(task {self.sequence})"
        ]
        for task in self.waits_for:
            lines += task._lines(depth + 1)
        return lines


def _build(sequence: int, tasks: dict[int, tuple[Any, ...]], depth: int) -> TaskStory:
    _, state, name, _, _, (file, line, function), predecessors = tasks[sequence]
    below = tuple(_build(p, tasks, depth - 1) for p in sorted(predecessors)[:4] if p in tasks) if depth else ()
    return TaskStory(sequence, name, state, file, line, function, below)


def story_of(array: Any) -> TaskStory:
    """The story of the task that last wrote an array."""
    sequence, name, (file, line, function) = native.last_writer(array)
    tasks = {task[0]: task for task in native.unfinished(100_000)} if sequence else {}
    if sequence in tasks:
        return _build(sequence, tasks, depth=8)
    return TaskStory(sequence, name, "done", file, line, function)


def waiting_report(most: int = 3) -> str:
    """What is in flight and what waits for what, with the user's lines: the ends of the longest waits, oldest first."""
    tasks = {task[0]: task for task in native.unfinished(100_000)}
    if not tasks:
        return "nothing is in flight"
    waited_for = {p for task in tasks.values() for p in task[6]}
    ends = [sequence for sequence in sorted(tasks) if sequence not in waited_for][:most]
    lines = [f"{len(tasks)} tasks in flight; what waits for what:"]
    for sequence in ends:
        lines.append(_build(sequence, tasks, depth=12).story())
    return "\n".join(lines)


def _watch(seconds: float) -> None:
    before, reported = -1, False
    while not _stop_watching.wait(seconds):
        stats = native.stats()
        stuck = stats["in_flight"] > 0 and stats["finished"] == before
        if stuck and not reported:
            print(
                f"dagrun watchdog: no task finished for {seconds:g} s\n{waiting_report()}", file=sys.stderr, flush=True
            )
        reported = stuck
        before = stats["finished"]


_stop_watching = threading.Event()


def start_watchdog() -> None:
    """Starts the thread that reports a program without progress, where `DAGRUN_WATCHDOG_SECONDS` asks for it."""
    if settings().watchdog_seconds > 0:
        threading.Thread(
            target=_watch, args=(settings().watchdog_seconds,), name="dagrun watchdog", daemon=True
        ).start()
