"""Ctrl-C between two steps of training, never within one."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """In the block the first Ctrl-C waits for the next `check()`, which raises KeyboardInterrupt; the second does not.

    Only where Python's own handler is in place, and in the main thread: elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self._pending = self._installed = False

    def __enter__(self) -> Interrupts:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *failure: Any) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending:
            raise KeyboardInterrupt
        self._pending = True
        print("\ntraining stops after this step; Ctrl-C again stops at once", file=sys.stderr)

    def check(self) -> None:
        """Raises what came since the last time."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
