"""What `DAGRUN_DEBUG` prints on standard error while a program runs; made from the trace, so it costs nothing when off.

Level 1: each task as it was recorded, with the user's line. 2: also when and where it began and ended. 3: also what it
came after. 4: also the bytes it touches, and again and again what is in flight. Each level has all of those below.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERVAL_SECONDS = 0.05  # between two looks at the trace


class Debugger:
    """Prints what a core has traced since the last look: a thread looks while the program runs, `close` at its end."""

    def __init__(self, core: Any, level: int) -> None:
        self._core, self._level = core, level
        self._names: dict[int, str] = {}  # of tasks that were printed and whose end was not
        self._early: list[tuple[Any, ...]] = []  # runs of tasks recorded after the last look
        self._origin = 0  # ns: when the first task was recorded
        self._lock = threading.RLock()  # held while somebody else takes the trace
        self._closed = threading.Event()
        core.trace(True)
        threading.Thread(target=self._follow, name="dagrun debug", daemon=True).start()

    def _follow(self) -> None:
        while not self._closed.wait(INTERVAL_SECONDS):
            self.look()

    def look(self) -> None:
        """Prints what was traced since the last look."""
        with self._lock:
            if not self._closed.is_set():
                self.show(*self._core.trace(True))

    def close(self) -> None:
        """The last look."""
        self.look()
        self._closed.set()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within the block somebody else takes the trace, and hands what it took to `show`."""
        with self._lock:
            self.look()
            try:
                yield
            finally:
                self._core.trace(True)

    def show(self, tasks: list[tuple[Any, ...]], events: list[tuple[Any, ...]]) -> None:
        """Prints traced tasks and their runs."""
        lines = [line for task in tasks for line in self._task_lines(task)]
        if self._level >= 2:
            lines += self._run_lines(events)
        if self._level >= 4 and lines:
            lines.append(self._state_line())
        if lines:
            print("\n".join(lines), file=sys.stderr, flush=True)

    def _task_lines(self, task: tuple[Any, ...]) -> Iterator[str]:
        sequence, name, shapes, where, lane, (file, line, function), _, recorded, accesses, predecessors = task
        self._origin = self._origin or recorded
        if self._level >= 2:
            self._names[sequence] = name
        yield f"dagrun task {sequence}: {name} {shapes} on {where} {lane}, recorded at {file}:{line} in {function}"
        if self._level >= 3 and predecessors:
            yield f"dagrun edges {sequence}: after {', '.join(f'{before} ({kind})' for before, kind in predecessors)}"
        if self._level >= 4:
            for buffer, lo, hi, stride, width, write in accesses:
                rows = f", {width} of every {stride}" if stride else ""
                yield f"dagrun access {sequence}: {'writes' if write else 'reads'} buffer {buffer} [{lo}, {hi}){rows}"

    def _run_lines(self, events: list[tuple[Any, ...]]) -> list[str]:
        events = self._early + events
        self._early = [event for event in events if event[0] not in self._names]
        found = []
        for sequence, begin, end, worker, stream, failed in events:
            if sequence not in self._names:
                continue
            name = f"{sequence}: {self._names.pop(sequence)} on {worker}"
            name += f" for stream {stream}" if stream >= 0 else ""
            took = f" ({(end - begin) / 1000:.1f} us){', failed' if failed else ''}"
            found.append((begin, f"dagrun begin {name} at {(begin - self._origin) / 1e9:.6f} s"))
            found.append((end, f"dagrun end {name} at {(end - self._origin) / 1e9:.6f} s{took}"))
        return [line for _, line in sorted(found, key=lambda pair: pair[0])]

    def _state_line(self) -> str:
        tasks = [
            f"{sequence} {name} {state}" + (f" after {', '.join(map(str, sorted(before)))}" if before else "")
            for sequence, state, name, _, _, _, before in self._core.unfinished(100)
        ]
        counters = ", ".join(f"{name} {value}" for name, value in self._core.stats().items())
        return f"dagrun state: {'; '.join(tasks) or 'nothing in flight'}; {counters}"
