"""Nested lists, tuples and dicts of arrays: taken apart into their leaves, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves, and what `unflatten` needs to put them back; dicts in the order of their keys' insertion.

    >>> flatten({"w": 1, "b": [2, 3]})[0]
    [1, 2, 3]
    """
    leaves: list[Any] = []

    def take(node: Any) -> Any:
        if isinstance(node, dict):
            return type(node), [(key, take(value)) for key, value in node.items()]
        if isinstance(node, (list, tuple)):
            return type(node), [take(value) for value in node]
        leaves.append(node)
        return None

    return leaves, take(tree)


def unflatten(shape: Any, leaves: Sequence[Any]) -> Any:
    """The tree that `flatten` took apart, with other leaves."""
    rest = iter(leaves)

    def put(node: Any) -> Any:
        if node is None:
            return next(rest)
        kind, items = node
        if issubclass(kind, dict):
            return kind((key, put(value)) for key, value in items)
        made = [put(item) for item in items]
        return kind(*made) if hasattr(kind, "_fields") else kind(made)

    return put(shape)
