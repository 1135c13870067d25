"""Graphs and profiles of code as it runs: what `dr.graph` and `dr.profile` are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from dagrun.core import native, tracing
from dagrun.core.scopes import marking
from dagrun.viz.graph import Graph
from dagrun.viz.profile import Profile

_Array = native.Array


def _arrays(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The arrays in nested lists, tuples and dicts, each with the name of its place."""
    if isinstance(value, _Array):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _arrays(item, f"{name}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _arrays(item, f"{name}[{key!r}]")


def graph(function: Callable[..., Any], /, *args: Any, **options: Any) -> Graph:
    """Runs `function(*args, **options)` and gives the graph of the tasks that it recorded.

    Arrays among the arguments and in the result are shown by name. In a notebook the graph shows itself;
    `.render("g.svg")` saves it, `.to_networkx()` and `.to_dot()` give it to other tools.

        >>> import dagrun as dr
        >>> dr.graph(lambda x: x * 2 + x, dr.ones((100, 100)))
        Graph(2 tasks, 1 edges on cpu:0)
    """
    names = function.__code__.co_varnames if hasattr(function, "__code__") else ()
    with tracing() as records, marking() as marks:
        result = function(*args, **options)
    inputs: dict[int, str] = {}
    for i, arg in enumerate(args):
        for name, array in _arrays(arg, names[i] if i < len(names) else f"argument {i}"):
            inputs.setdefault(array._buffer, name)
    for option, value in options.items():
        for name, array in _arrays(value, option):
            inputs.setdefault(array._buffer, name)
    outputs = {array._buffer: name for name, array in _arrays(result, "result")}
    return Graph(records, inputs=inputs, outputs=outputs, scopes=marks.of(record.sequence for record in records))


def profile() -> AbstractContextManager[Profile]:
    """Traces everything recorded within the block; the profile is filled when the block ends.

        >>> import dagrun as dr
        >>> with dr.profile() as p:
        ...     y = dr.ones((100, 100)) + 1
        >>> len(p.operators())
        2

    `print(p.summary())` shows time by operator, use of the lanes, overlap and the critical path;
    `p.save_chrome_trace(path)` writes a trace for Perfetto, `p.save_timeline(path)` a picture.
    """
    return Profile.of_block(tracing())
