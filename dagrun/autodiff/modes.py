"""Switches of the calling thread: whether gradients are recorded, and whether NaNs are looked for."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from typing import Any

from dagrun.core import native


class _Switch(ContextDecorator):
    """A context manager and decorator that records gradients, or does not, in the calling thread."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._were: list[bool] = []  # a decorated function may call itself

    def _recreate_cm(self) -> _Switch:
        return _Switch(self._on)  # each call of a decorated function, in whatever thread, has its own

    def __enter__(self) -> None:
        self._were.append(native.set_gradients(self._on))

    def __exit__(self, *failure: Any) -> None:
        native.set_gradients(self._were.pop())


def no_grad() -> _Switch:
    """Operations in the block (or the decorated function) are not recorded for gradients.

    >>> import dagrun as dr
    >>> x = dr.ones(2, requires_grad=True)
    >>> with dr.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    return _Switch(False)


def enable_grad() -> _Switch:
    """Records gradients in the block, also inside `no_grad`."""
    return _Switch(True)


def is_grad_enabled() -> bool:
    """Whether the calling thread records how gradients flow."""
    return native.gradients()


class _Anomaly(threading.local):
    on = False


anomaly = _Anomaly()


class detect_anomaly(ContextDecorator):  # noqa: N801  (a context manager, named like a function)
    """In the block, the first operation or gradient whose result holds a NaN raises FloatingPointError with its line.

    Every operation on tracked arrays is waited for: for finding faults, not for training.
    """

    def __enter__(self) -> None:
        self._was, anomaly.on = anomaly.on, True

    def __exit__(self, *failure: Any) -> None:
        anomaly.on = self._was


__all__ = ["anomaly", "detect_anomaly", "enable_grad", "is_grad_enabled", "no_grad"]
