"""Threads that load batches ahead of the loop that takes them.

Guarantees:
- Batches are done in any order; each is handed to whoever waits for it, so timing shows nowhere.
- After `close` no thread is left, except one that is stuck in the user's code for `CLOSE_SECONDS`: it is warned of,
  and ends when that code returns.
- Workers know nothing of the iterator they work for, so dropping it closes them.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

CLOSE_SECONDS = 5.0

Load = Callable[[int, Sequence[int], threading.Event], Any]


@dataclass(slots=True)
class Batch:
    """One batch on its way. `result` and `error` are the worker's until `done` is set, the taker's afterwards."""

    number: int
    indices: Sequence[int]
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


def _work(jobs: SimpleQueue[Batch | None], load: Load, stop: threading.Event) -> None:
    while (batch := jobs.get()) is not None:
        try:
            batch.result = load(batch.number, batch.indices, stop)
        except BaseException as error:  # SystemExit too: the taker must not wait for ever
            batch.error = error
        batch.done.set()
        del batch  # the taker's, or garbage: not to be kept until the next one comes


class Workers:
    """Some threads and the queue they take batches from."""

    def __init__(self, count: int, load: Load) -> None:
        self._jobs: SimpleQueue[Batch | None] = SimpleQueue()
        self._stop = threading.Event()
        self._process = os.getpid()
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs, load, self._stop), name=f"dagrun-loader-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, batch: Batch) -> None:
        self._jobs.put(batch)

    def take(self, batch: Batch) -> None:
        """Blocks until the batch is done."""
        if os.getpid() != self._process:
            raise RuntimeError("this loader's worker threads are in the parent process: make a new iterator after fork")
        batch.done.wait()

    def close(self) -> None:
        """Stops the workers after the samples they are at, and waits for them. Does nothing in a forked child."""
        if os.getpid() != self._process:
            return
        self._stop.set()
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            # A cyclic iterator may be collected in one of its own workers.
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        self._threads = []
        if stuck and threading.current_thread().name not in stuck:
            warnings.warn(
                f"{', '.join(stuck)} did not come back from the dataset within {CLOSE_SECONDS:g} s and is left behind",
                RuntimeWarning,
                stacklevel=2,
            )
