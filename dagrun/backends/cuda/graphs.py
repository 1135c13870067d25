"""CUDA graphs: what a program launches on one GPU, captured once and launched again at once (not for users yet).

Run the program once before it is captured: kernels are compiled, optimizers make their state.

    with capture("cuda:0") as graph:
        step(x, y)
    x[...] = batch  # the graph names memory: feed it where it was captured
    graph.replay()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagrun.core import device_index, native
from dagrun.devices import Device, device


class Graph:
    """What `capture` captured: kernels, products and copies within one device, ordered by their operands.

    It keeps all memory that it reads and writes. Arrays made within the block are written again by every replay.
    """

    def __init__(self, which: Device) -> None:
        self.device = which
        self._graph: Any = None

    @property
    def nodes(self) -> int:
        """How many launches it is made of."""
        return int(self._captured().nodes)

    def replay(self) -> None:
        """Records one more run, an operation like any other: it comes after what was recorded before, and failures
        come home at the wait, with the line that was captured. RuntimeError with the serial engine."""
        self._captured().replay()

    def _captured(self) -> Any:
        if self._graph is None:
            raise RuntimeError(
                f"the graph of {self.device} is not there: its capture has not ended, or it was given up"
            )
        return self._graph


@contextmanager
def capture(where: str | Device) -> Iterator[Graph]:
    """Captures what this thread records in the block, all on this CUDA device; then runs it once, and waits.

    RuntimeError, naming the operation and its line, for what cannot be captured: other devices, copies from or to the
    CPU (every run would see the values of the first), operations that run in Python, waits and reads. Then, and
    where the block raises, there is no graph; what was recorded before has run.
    """
    which = device(where)
    native.begin_capture(device_index(which))
    graph = Graph(which)
    try:
        yield graph
    except BaseException:
        native.end_capture(True)
        raise
    graph._graph = native.end_capture(False)
