"""Which part of a program recorded a task: told by marks while a graph is drawn, and not otherwise.

Modules mark where they begin and end, and through hooks where their part of a backward walk begins. A mark says how
many tasks were recorded before it: what is recorded from there to the next mark belongs to its scope.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dagrun.core.engine import native


class Scope(NamedTuple):
    """A part of a program, such as the backward pass of one layer."""

    path: str = ""  # "LeNet5.features.0"; empty: outside of all scopes
    kind: str = ""  # of the innermost module: "Conv2d"
    backward: bool = False

    def above(self, depth: int) -> Scope:
        """The scope that holds this one, its path having at most `depth` names.

        >>> Scope("LeNet5.features.0", "Conv2d").above(2)
        Scope(path='LeNet5.features', kind='', backward=False)
        """
        names = self.path.split(".")
        return self if len(names) <= depth else Scope(".".join(names[:depth]), "", self.backward)


OUTSIDE = Scope()


class Marks:
    """What was marked in one block, in order."""

    def __init__(self) -> None:
        self.starts: list[int] = []  # tasks recorded before each mark
        self.scopes: list[Scope] = []
        self.hooked: list[Any] = []  # arrays whose gradient marks the backward pass of what made them

    def of(self, sequences: Iterable[int]) -> dict[int, Scope]:
        """The scopes of tasks; those outside of all scopes are left out."""
        found = {}
        for sequence in sequences:
            place = bisect_right(self.starts, sequence - 1)
            if place and self.scopes[place - 1].path:
                found[sequence] = self.scopes[place - 1]
        return found


_marks: Marks | None = None
_now = OUTSIDE


def marks() -> Marks | None:
    """Those of the block that is being marked, if one is."""
    return _marks


def mark(scope: Scope) -> Scope:
    """What is recorded from here on belongs to `scope`; returns the scope before. Does nothing outside of `marking`."""
    global _now
    before = _now
    if _marks is not None:
        _marks.starts.append(native.stats()["recorded"])
        _marks.scopes.append(scope)
        _now = scope
    return before


@contextmanager
def scope(path: str, *, backward: bool = False) -> Iterator[None]:
    """The tasks recorded within the block belong to a scope of this name."""
    before = mark(Scope(path, "", backward))
    try:
        yield
    finally:
        mark(before)


@contextmanager
def marking() -> Iterator[Marks]:
    """Within the block, scopes are marked."""
    global _marks, _now
    before, _marks, _now = (_marks, _now), Marks(), OUTSIDE
    try:
        yield _marks
    finally:
        _marks, _now = before
