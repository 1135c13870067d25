"""The errors that dagrun raises, and how the failure of a task becomes one."""

from __future__ import annotations

from typing import Any


class DagrunError(Exception):
    """Base of the errors that are dagrun's own."""


class OperationError(DagrunError, RuntimeError):
    """A recorded operation failed; raised by every wait for what depends on it.

    It is also an instance of the type that NumPy would have raised (IndexError, MemoryError, ...) or that the user's
    function did raise, which is its `__cause__`.

    Attributes: `operation` (its name), `shapes` (of its operands), `device`, `file`, `line`, `function` (the user's).
    """

    operation: str = ""
    shapes: str = ""
    device: str = ""
    file: str = ""
    line: int = 0
    function: str = ""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return OperationError, self.args, {key: value for key, value in vars(self).items() if not key.startswith("__")}


class DeviceError(DagrunError, ValueError):
    """Operands stand on different devices, or a device does not exist."""


_classes: dict[type[BaseException], type[OperationError]] = {}


def _combined(kind: type[BaseException]) -> type[OperationError]:
    """A class that is both an OperationError and `kind`, where Python can lay out such a thing."""
    if kind not in _classes:
        _classes[kind] = _combine(kind)
    return _classes[kind]


def _combine(kind: type[BaseException]) -> type[OperationError]:
    if not issubclass(kind, Exception) or issubclass(OperationError, kind):
        return OperationError
    try:
        made = type("OperationError", (OperationError, kind), {"__module__": __name__})
        made("probe")
    except TypeError:
        return OperationError
    return made


OUT_OF_MEMORY, DEVICE_FAULT, REFUSED, MOVED = -1, -3, -4, -5


def holding_line(nbytes: int, name: str, site: tuple[str, int, str]) -> str:
    """Says what an array in memory is; `name` is empty where no operation wrote it."""
    return f"{nbytes:,} bytes of {name} made at {site[0]}:{site[1]}" if name else f"{nbytes:,} bytes of an array"


def operation_error(failure: dict[str, Any]) -> OperationError:
    """The exception for what the engine remembers of a failed task (see `failures` of the core)."""
    file, line, function = failure["site"]
    cause = failure["exception"]
    if cause is not None:
        kind, reason = type(cause), f"{type(cause).__name__}: {cause}"
    elif failure["code"] == OUT_OF_MEMORY:
        kind, reason = MemoryError, f"no memory for {failure['details'][0]:,} bytes"
    elif failure["code"] == DEVICE_FAULT:
        lost = (
            f"the GPU of {failure['device']} is lost: {failure['driver']}. This operation was the first that was not "
        )
        kind = RuntimeError
        reason = (
            lost + "finished; it did this, or one that was enqueued with it. All work on that GPU fails from now on"
        )
    elif failure["code"] == REFUSED:
        kind, reason = RuntimeError, f"the GPU's driver refused it: {failure['driver']}"
    elif failure["code"] == MOVED:
        kind, reason = RuntimeError, "an array that it was captured with lies in other memory by now: capture it again"
    elif failure["explain"] is not None:
        kind, reason = failure["explain"](failure["code"], failure["details"])
    else:
        kind, reason = RuntimeError, f"its kernel returned code {failure['code']}"
    message = (
        f"{failure['name']} failed: {reason}\n"
        f"  operation: {failure['name']}: {failure['shapes']} on {failure['device']}\n"
        f"  recorded at: {file}:{line} in {function}"
    )
    for holding in failure["holdings"]:
        message += f"\n  in memory: {holding_line(*holding)}"
    error = _combined(kind)(message)
    error.operation, error.shapes, error.device = failure["name"], failure["shapes"], failure["device"]
    error.file, error.line, error.function = file, line, function
    if cause is not None:
        error.__cause__ = cause
    return error
