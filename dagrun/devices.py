"""Device labels: what a program says about where its arrays are. The only thing that changes from one machine to many.

>>> device("cpu:0")
device('cpu:0')
>>> device("cpu") is device("cpu:0")
True
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dagrun.errors import DeviceError

KINDS = ("cpu", "cuda", "sim")
MOST = 256  # devices of one kind


class Device:
    """A place for arrays: a kind and a number. Equal labels are one object, so `is` compares devices."""

    __slots__ = ("kind", "number")

    kind: str
    number: int

    def __init__(self, kind: str, number: int) -> None:
        self.kind = kind
        self.number = number

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"

    def __repr__(self) -> str:
        return f"device('{self}')"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return device, (str(self),)


_known: dict[tuple[str, int], Device] = {}


def device(label: str | Device) -> Device:
    """The device of a label such as "cpu:0", "cuda:1" or "sim:0"; the number defaults to 0.

    Any "cpu:k" is a device of its own with its own memory accounting, on the same cores. Raises DeviceError.

        >>> device("cpu:1").number
        1
    """
    if isinstance(label, Device):
        return label
    match = re.fullmatch(r"([a-z]+)(?::(\d+))?", label) if isinstance(label, str) else None
    if match is None or match[1] not in KINDS or int(match[2] or 0) >= MOST:
        raise DeviceError(
            f"no device {label!r}: expected a label such as 'cpu:0', of kind {', '.join(KINDS)}, number below {MOST}"
        )
    key = match[1], int(match[2] or 0)
    if key not in _known:
        _known[key] = Device(*key)
    return _known[key]


def devices() -> tuple[Device, ...]:
    """The devices that this program has named so far, cpu:0 first; there is one for every label that is used."""
    device("cpu:0")
    return tuple(_known[key] for key in sorted(_known))


_default: ContextVar[Device] = ContextVar("dagrun_default_device", default=device("cpu:0"))  # noqa: B039 (a Device never changes)


def current_device() -> Device:
    """The device that new arrays are made on: that of the innermost `default_device`, else cpu:0."""
    return _default.get()


@contextmanager
def default_device(label: str | Device) -> Iterator[Device]:
    """Within the block, new arrays are made on this device unless told otherwise.

    >>> with default_device("cpu:1") as d:
    ...     print(d)
    cpu:1
    """
    chosen = device(label)
    token = _default.set(chosen)
    try:
        yield chosen
    finally:
        _default.reset(token)
