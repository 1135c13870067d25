"""Switches of the calling thread: whether gradients are recorded, and whether NaNs are looked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dagrun import ops
from dagrun.core import native
from dagrun.core.blocks import Block


class _Switch(Block):
    """A context manager and decorator that records gradients, or does not, in the calling thread."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._were: list[bool] = []  # a decorated function may call itself

    def _recreate_cm(self) -> _Switch:
        return _Switch(self._on)

    def __enter__(self) -> None:
        self._were.append(native.set_gradients(self._on))

    def __exit__(self, *failure: Any) -> None:
        native.set_gradients(self._were.pop())


def no_grad(orig_func: Callable[..., Any] | None = None) -> Any:
    """Operations in the block (or the decorated function, also a generator) are not recorded for gradients.

    `with no_grad():`, `@no_grad()` and `@no_grad`.

    >>> import dagrun as dr
    >>> x = dr.ones(2, requires_grad=True)
    >>> with dr.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    return _Switch(False) if orig_func is None else _Switch(False)(orig_func)


def enable_grad(orig_func: Callable[..., Any] | None = None) -> Any:
    """Records gradients in the block (or the decorated function), also inside `no_grad`."""
    return _Switch(True) if orig_func is None else _Switch(True)(orig_func)


def is_grad_enabled() -> bool:
    """Whether the calling thread records how gradients flow."""
    return native.gradients()


class _Anomaly(threading.local):
    on = False


anomaly = _Anomaly()


def holds_nan(x: Any) -> bool:
    """Whether an element is NaN; waits for the array."""
    return x.dtype.kind == "f" and bool(ops.any(ops.isnan(x)))


def line_of(node: Any) -> str:
    """Where the user recorded an operation."""
    file, line, function = native.describe_site(node.site)
    return f"{file}:{line} in {function}"


def _check_results(node: Any, results: Any) -> None:
    for y in results if type(results) is tuple else (results,):
        if holds_nan(y):
            raise FloatingPointError(
                f"{node.plan.name} at {line_of(node)} gave a NaN, in a result of shape {y.shape}; what it was computed "
                "from on tracked arrays held none"
            )


class detect_anomaly(Block):  # noqa: N801  (a context manager, named like a function)
    """In the block, the first operation or gradient whose result holds a NaN raises FloatingPointError with its line.

    Looks at operations on arrays that require gradients, and waits for each: for finding faults, not for training.
    It concerns the calling thread only. A NaN that arises in backward names the line of the forward operation.

        >>> import dagrun as dr
        >>> x = dr.asarray([-1.0], requires_grad=True)
        >>> with dr.detect_anomaly():
        ...     dr.log(x) + 1  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FloatingPointError: log at ... gave a NaN, in a result of shape (1,); ...
    """

    def __init__(self) -> None:
        self._were: list[Any] = []

    def _recreate_cm(self) -> detect_anomaly:
        return detect_anomaly()

    def __enter__(self) -> None:
        self._were.append((anomaly.on, native.set_observer(_check_results)))
        anomaly.on = True

    def __exit__(self, *failure: Any) -> None:
        anomaly.on, observer = self._were.pop()
        native.set_observer(observer)


__all__ = ["anomaly", "detect_anomaly", "enable_grad", "holds_nan", "is_grad_enabled", "line_of", "no_grad"]
