"""Nested lists, tuples and dicts of arrays: taken apart into their leaves, and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves, and what `unflatten` needs to put them back; dicts in the order of their keys' insertion.

    >>> flatten({"w": 1, "b": [2, 3]})[0]
    [1, 2, 3]
    """
    leaves: list[Any] = []
    return leaves, _take(tree, leaves)


def unflatten(shape: Any, leaves: Sequence[Any]) -> Any:
    """The tree that `flatten` took apart, with other leaves."""
    return _put(shape, iter(leaves))


# No closures that call themselves: such a cycle would hold arrays, and the graphs behind them, until it is collected.


def _take(node: Any, leaves: list[Any]) -> Any:
    if isinstance(node, dict):
        return type(node), [(key, _take(value, leaves)) for key, value in node.items()]
    if isinstance(node, (list, tuple)):
        return type(node), [_take(value, leaves) for value in node]
    leaves.append(node)
    return None


def _put(node: Any, rest: Iterator[Any]) -> Any:
    if node is None:
        return next(rest)
    kind, items = node
    if issubclass(kind, dict):
        return kind((key, _put(value, rest)) for key, value in items)
    made = [_put(item, rest) for item in items]
    return kind(*made) if hasattr(kind, "_fields") else kind(made)
