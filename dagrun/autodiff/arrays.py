"""What arrays know of gradients: `requires_grad`, `grad`, `backward`, `detach`, hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend
from dagrun.autodiff.backward import backward
from dagrun.core import native
from dagrun.ops.movement import copy as copied
from dagrun.record.tape import Leaf, Node, place_of, source


def _requires_grad(x: Array) -> bool:
    return x._tracked


def _set_requires_grad(x: Array, on: bool) -> None:
    record = source(x)
    if on and record is None:
        if x.dtype.kind != "f":
            raise TypeError(f"requires_grad: an array of dtype {x.dtype} has no gradient, expected a floating dtype")
        x._node = Leaf(x.shape, x.dtype)
        x._requires_grad = True
        if x._family is not None:
            x._family.root = x._node
    elif not on and record is not None:
        if type(record) is not Leaf:
            raise RuntimeError("requires_grad = False on an array that was computed: use x.detach()")
        x._node = None
        x._requires_grad = False
        if x._family is not None:
            x._family.root = None


def requires_grad_(x: Array, requires_grad: bool = True) -> Array:
    """Asks for gradients of this array (or no longer); returns it."""
    _set_requires_grad(x, requires_grad)
    return x


def _kept(x: Array) -> list[Any] | None:
    """Where the gradient of a computed array was asked to be kept."""
    record = source(x)
    node, index = place_of(record)
    return node.kept.get(index) if type(node) is Node and node.kept else None


def _grad(x: Array) -> Array | None:
    record = source(x)
    if type(record) is Leaf:
        return record.grad
    kept = _kept(x)
    return None if kept is None else kept[0]


def _set_grad(x: Array, value: Array | None) -> None:
    record = source(x)
    if value is not None and (not isinstance(value, Array) or value.shape != x.shape):
        what = f"an array of shape {value.shape}" if isinstance(value, Array) else f"a {type(value).__name__}"
        raise ValueError(f"grad: {what}, expected None or an array of shape {x.shape}")
    kept = _kept(x)
    if kept is not None:
        kept[0] = value
        return
    if type(record) is not Leaf:
        if value is None:
            return
        raise RuntimeError("grad: only arrays with requires_grad=True hold gradients; call requires_grad_() first")
    record.grad = value


def retain_grad(x: Array) -> None:
    """Keeps the gradient of a computed array in its `grad`, too."""
    record = source(x)
    if record is None:
        raise RuntimeError("retain_grad: the array does not require gradients")
    if type(record) is Leaf:
        return
    node, index = place_of(record)
    node.kept = node.kept or {}
    node.kept.setdefault(index, [None])


class RemovableHook:
    """Takes a hook away again with `remove()`."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        """The hook is no longer called."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


def register_hook(x: Array, hook: Callable[[Array], Any]) -> RemovableHook:
    """Calls `hook(gradient)` when the array's gradient is complete; what it returns, if not None, replaces it."""
    record = source(x)
    if record is None:
        raise RuntimeError("register_hook: the array does not require gradients")
    node, index = place_of(record)
    if type(node) is Leaf:
        node.hooks = hooks = node.hooks if node.hooks is not None else []
    else:
        node.hooks = node.hooks or {}
        hooks = node.hooks.setdefault(index, [])
    hooks.append(hook)
    return RemovableHook(hooks, hook)


def detach(x: Array) -> Array:
    """The same memory as an array through which no gradients flow."""
    return native.alias(x)


def _is_leaf(x: Array) -> bool:
    return source(x) is None or type(x._node) is Leaf


def _deep_copy(x: Array, memo: dict[int, Any]) -> Array:
    """A copy of a leaf is a leaf, with a copy of its gradient; any other copy is recorded, as an operation."""
    record = source(x)
    if type(record) is not Leaf:
        return copied(x)
    twin = requires_grad_(copied(detach(x)))
    twin.grad = copy.deepcopy(record.grad, memo)
    return twin


def _restore(values: np.ndarray[Any, Any], label: str, requires_grad: bool) -> Array:
    return requires_grad_(asarray(values, device=label), requires_grad)


def _reduce(x: Array) -> tuple[Any, ...]:
    return _restore, (x.numpy(), str(x.device), type(source(x)) is Leaf)


extend(
    __deepcopy__=_deep_copy,
    __reduce__=_reduce,
    backward=backward,
    detach=detach,
    grad=property(_grad, _set_grad, doc="The gradient that `backward` gathered here, or None."),
    is_leaf=property(_is_leaf, doc="Whether the array was not computed from arrays that require gradients."),
    register_hook=register_hook,
    requires_grad=property(_requires_grad, _set_requires_grad, doc="Whether operations on it are recorded."),
    requires_grad_=requires_grad_,
    retain_grad=retain_grad,
)
