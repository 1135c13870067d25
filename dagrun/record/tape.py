"""The autodiff tape: what remembers how an array was computed, and the hooks that write it while a program records.

An array's `_node` is a `Leaf` (it asked for gradients), a `Node` (an operation's only result) or a `Result` (one of
several). Nodes refer to the nodes they came from and to what their rules named as saved, never to arrays of the user:
so an array that nobody reads again is freed, unless a gradient needs it.

Writes. Views of one buffer share a `Family`. A differentiable write through one of them makes a node for the whole
buffer (what was there before outside the written region, the written value inside), and a new token; an array whose
record carries an older token gets a new one, a view of that node, when it is next used.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from dagrun.core import native
from dagrun.record.gradients import Gradients

_sequence = count(1)
_array_type = native.Array


def sequence_now() -> int:
    """Nodes made from now on have larger numbers."""
    return next(_sequence)


class Leaf:
    """An array that asked for gradients: where they gather."""

    __slots__ = ("dtype", "grad", "hooks", "shape", "site", "token")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.grad: Any = None
        self.hooks: list[Callable[[Any], Any]] | None = None
        self.token: Any = None
        self.site = native.site()


class Node:
    """One recorded operation: its rules, where its operands came from, and what the rules read."""

    __slots__ = ("call", "gradients", "hooks", "kept", "name", "parents", "saved", "sequence", "site", "token")

    def __init__(self, name: str, gradients: Gradients, parents: tuple[Any, ...], call: Call) -> None:
        self.name, self.gradients, self.parents, self.call = name, gradients, parents, call
        self.sequence = next(_sequence)
        self.site = native.site()
        self.saved: (
            dict[str, Any] | None
        ) = {}  # by name: an array and its version, or a scalar and 0; or a list of them
        self.hooks: dict[int, list[Callable[[Any], Any]]] | None = None  # by result
        self.kept: dict[int, list[Any]] | None = None  # gradients that were asked for, by result
        self.token: Any = None


class Result:
    """One of several results of a node."""

    __slots__ = ("index", "node", "token")

    def __init__(self, node: Node, index: int) -> None:
        self.node, self.index, self.token = node, index, None


@dataclass(slots=True)
class Call:
    """What a rule may ask about the operation it belongs to."""

    attributes: dict[str, Any]
    inputs: tuple[Any, ...]  # layouts of the operands, None for scalars
    outputs: tuple[Any, ...]  # layouts of the results
    device: Any

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


class Context:
    """What the hook needs to know of a signature, worked out once for it."""

    __slots__ = ("_calls", "attributes", "gradients", "inputs", "mask", "name", "outputs", "scalars", "updates")

    def __init__(
        self,
        name: str,
        gradients: Gradients,
        attributes: dict[str, Any],
        scalars: tuple[np.dtype[Any], ...],
        inputs: tuple[Any, ...],
        outputs: tuple[Any, ...],
        updates: bool,
    ) -> None:
        self.name, self.gradients, self.attributes, self.scalars = name, gradients, attributes, scalars
        # Which operands are scalars, in the user's order: unless an operator says otherwise they follow the arrays.
        self.mask = attributes.get("mask") or (False,) * len(inputs) + (True,) * len(scalars)
        rest = iter(inputs)
        self.inputs = tuple(None if scalar else next(rest) for scalar in self.mask)
        self.outputs, self.updates = outputs, updates
        if updates:  # the target is an operand, too: it keeps its other elements
            self.inputs = (outputs[0], *self.inputs)
        self._calls: dict[Any, Call] = {}  # by device

    def call(self, device: Any) -> Call:
        """The call of this signature on a device."""
        known = self._calls.get(device)
        if known is None:
            known = self._calls[device] = Call(self.attributes, self.inputs, self.outputs, device)
        return known


def _place(x: Any) -> dict[str, Any]:
    """Where an array lies in its buffer, for the rules of views and writes."""
    return {"view": x._layout, "offset": x._offset, "size": x._extent // x.itemsize}


def shape_of(record: Any) -> tuple[int, ...]:
    """The shape of the array that a record stands for."""
    if type(record) is Leaf:
        return record.shape
    node, index = (record.node, record.index) if type(record) is Result else (record, 0)
    return node.call.outputs[index].shape


def source(x: Any) -> Any:
    """The record that an array's values come from; None where gradients stop."""
    family = x._family
    if family is None or not family.tracked:
        return x._node if x._requires_grad else None
    own = x._node
    if own is None or own.token is not family.token:
        call = Call(_place(x), (None,), (x._layout,), x.device)
        own = Node("view", STRIDED, (family.node,), call)
        own.token = family.token
        x._node = own
    x._requires_grad = True
    return own


def _unpack(scalars: tuple[np.dtype[Any], ...], packed: Any) -> tuple[Any, ...]:
    """The scalars' values, from eight bytes each or from the callable of the Python lane."""
    if not isinstance(packed, bytes):
        return tuple(packed.args[-1]) if scalars else ()
    return tuple(
        (struct.unpack_from("<d" if d.itemsize == 8 else "<f", packed, 8 * i)[0])
        if d.kind == "f" and d.itemsize > 2
        else np.frombuffer(packed, d, 1, 8 * i)[0].item()
        for i, d in enumerate(scalars)
    )


def record_node(context: Context, inputs: tuple[Any, ...], result: Any, packed: Any, in_place: bool) -> None:
    """Writes the node of an operation that was recorded; `packed`: its scalars."""
    operands: Sequence[Any] = inputs
    if context.scalars:
        arrays, rest = iter(inputs), iter(_unpack(context.scalars, packed))
        operands = [next(rest) if scalar else next(arrays) for scalar in context.mask]
    if context.updates:
        operands = (result, *operands)
    device = inputs[0].device if inputs else result.device
    attach(context.name, context.gradients, operands, result, context.call(device), in_place)


def attach(
    name: str, gradients: Gradients, operands: Sequence[Any], result: Any, call: Call, in_place: bool = False
) -> None:
    """Makes `result` (an array or a tuple of them) come from `operands` by these gradients."""
    wanted = 0
    records: list[Any] = []
    for k, x in enumerate(operands):
        record = source(x) if type(x) is _array_type and x.dtype.kind == "f" else None
        records.append(record)
        if record is not None:
            wanted |= 1 << k
    if not wanted and not in_place:
        return
    node = Node(name, gradients, tuple(records), call)
    several = type(result) is tuple
    saved = node.saved
    assert saved is not None
    for which, is_result, index in gradients.reads(wanted):
        if is_result:  # without a record, which would lead back to this node
            x = result[index] if several else result
            saved[which] = native.alias(x), x._version
            continue
        # What the operation itself overwrites is lost to its gradient: see `_collect` in `autodiff.backward`.
        targets = {y._buffer for y in (result if several else (result,))} if in_place else ()
        last = len(operands) if index == gradients.rest else index + 1
        kept = [
            (native.alias(x, r), -1 if x._buffer in targets else x._version) if type(x) is _array_type else (x, 0)
            for x, r in zip(operands[index:last], records[index:last], strict=True)
        ]
        saved[which] = kept if index == gradients.rest else kept[0]
    if in_place:
        for x in result if several else (result,):
            _write(x, node)
    elif not several:
        result._node = node
        result._requires_grad = True
    else:
        for index, x in enumerate(result):
            if x.dtype.kind == "f":
                _mark(x, Result(node, index))
    if observers:
        for observe in observers:
            observe(node, result)


def composed(
    name: str, gradients: Gradients, function: Callable[..., Any], operands: Sequence[Any], **attributes: Any
) -> Any:
    """The value of `function(*operands, **attributes)`, one operation for gradients, whatever it is composed of."""
    was = native.set_gradients(False)
    try:
        result = function(*operands, **attributes)
    finally:
        native.set_gradients(was)
    if was and any(type(x) is _array_type and x._tracked for x in operands):
        results = result if type(result) is tuple else (result,)
        layouts = tuple(x._layout if type(x) is _array_type else None for x in operands)
        call = Call(attributes, layouts, tuple(y._layout for y in results), results[0].device)
        attach(name, gradients, operands, result, call)
    return result


observers: list[Callable[[Node, Any], None]] = []  # called with each node and its results, as soon as it is made


def _mark(x: Any, node: Any) -> None:
    x._node = node
    x._requires_grad = True


def _write(target: Any, node: Node) -> None:
    """A differentiable write: the target's record, and through the family that of all other views of the buffer."""
    family = target._family
    if family is None:
        _mark(target, node)
        return
    before = family.node if family.tracked else family.root
    attributes = _place(target)
    attributes["before"] = (attributes["size"],) if family.tracked or before is None else shape_of(before)
    whole = Node("write", WRITTEN, (before, node), Call(attributes, (None, target._layout), (), target.device))
    family.node, family.token, family.tracked = whole, object(), True
    node.token = family.token
    _mark(target, node)


def record_view(x: Any, view: Any, rule: tuple[Any, ...]) -> None:
    """Writes the node of a view of a tracked array: `rule` is a function and its further arguments."""
    if x.dtype.kind != "f":
        return
    parent = source(x)
    if parent is None:
        return
    gradients, *arguments = rule
    call = Call({"arguments": tuple(arguments)}, (x._layout,), (view._layout,), x.device)
    node = Node("view", gradients, (parent,), call)
    node.token = parent.token
    _mark(view, node)


def guard_write(target: Any) -> None:
    """RuntimeError where a write would change what a leaf's gradients are taken at."""
    family = target._family
    leaf = target._node if target._requires_grad else None
    if leaf is None and family is not None and not family.tracked:
        leaf = family.root
    if type(leaf) is Leaf:
        what = "an array that requires gradients" if leaf is target._node else "a view of an array that requires them"
        raise RuntimeError(
            f"cannot write into {what} (shape {target.shape}): it is a leaf of the graph; use `with dr.no_grad():` to "
            "update parameters, or compute a new array"
        )


# Views that select elements (what follows in `native.view`: a function that selects them, and its further arguments),
# views of a whole buffer, writes into a part of it. Their rules need operators: see `dagrun.autodiff.writes`.
SELECTED, STRIDED, WRITTEN = Gradients(), Gradients(), Gradients()

native.set_hooks(gradient_hook=record_node, view_hook=record_view, write_guard=guard_write)
