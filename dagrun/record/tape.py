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
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.core import native
from dagrun.record.gradients import Gradients, Program

MOST_VIEW_PLANS = 1 << 14
_array_type = native.Array

# One recorded operation, `Node(plan, parents, saved)`: `plan` is what the nodes of one signature share, `parents` the
# record that each operand came from (or None), `saved` what its rules read, each followed by its version (or 0 for a
# scalar); None once it was freed. Further fields: `sequence`, larger than those of all nodes before; `site`, the user's
# line; `hooks` and `kept`, by result, what to call with its gradient and where to keep it; `token`, see `Family`.
Node = native.Node
sequence_now = native.sequence  # nodes made from now on have larger numbers


class Leaf:
    """An array that asked for gradients: where they gather."""

    __slots__ = ("dtype", "grad", "hooks", "shape", "site", "token")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.grad: Any = None
        self.hooks: list[Callable[[Any], Any]] | None = None
        self.token: Any = None
        self.site = native.site()


class Result:
    """One of several results of a node."""

    __slots__ = ("index", "node", "token")

    def __init__(self, node: Any, index: int) -> None:
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


class Plan:
    """What nodes share."""

    __slots__ = ("call", "name", "program")

    def __init__(self, name: str, call: Call, program: Program) -> None:
        self.name, self.call, self.program = name, call, program


class Context:
    """What autodiff needs to know of a signature, worked out once for it."""

    __slots__ = ("_plans", "attributes", "gradients", "inputs", "mask", "name", "outputs", "scalars", "updates")

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
        self._plans: dict[Any, Plan] = {}  # by device and wanted operands

    def plan(self, device: Any, wanted: int) -> Plan:
        """The plan of nodes of this signature on a device, where some operands (a bit for each) need gradients."""
        known = self._plans.get((device, wanted))
        if known is None:
            call = Call(self.attributes, self.inputs, self.outputs, device)
            program = self.gradients.program(wanted, len(self.inputs))
            known = self._plans[device, wanted] = Plan(self.name, call, program)
        return known

    def recipe(self, device: Any, bits: int) -> tuple[Plan, tuple[int, ...], tuple[tuple[str, int], ...]] | None:
        """How the native core makes nodes where the input arrays `bits` are tracked; None: by `record_node`.

        The plan, for each operand the array among the inputs (-1 for a scalar), and what to save: "r" the result,
        "a" an input array, or a scalar by its kind.
        """
        arrays, numbers, kinds = 0, 0, []
        for scalar in self.mask:
            if scalar:
                dtype = self.scalars[numbers]
                kinds.append(({"f8": "d", "f4": "s"}.get(dtype.str[1:], dtype.kind.replace("b", "?")), numbers))
                numbers += 1
            else:
                kinds.append(("a", arrays))
                arrays += 1
        operands = tuple(index if kind == "a" else -1 for kind, index in kinds)
        plan = self.plan(device, sum(1 << k for k, index in enumerate(operands) if index >= 0 and bits >> index & 1))
        reads = tuple(kinds[which] if which >= 0 else ("r", 0) for which in plan.program.reads)
        return None if any(kind == "f" for kind, _ in reads) else (plan, operands, reads)  # "f": float16


def _place(x: Any) -> dict[str, Any]:
    """Where an array lies in its buffer, for the rules of views and writes."""
    return {"view": x._layout, "offset": x._offset, "size": x._extent // x.itemsize}


def place_of(record: Any) -> tuple[Any, int]:
    """The node or leaf of a record, and which of its results the record stands for."""
    return (record.node, record.index) if type(record) is Result else (record, 0)


def shape_of(record: Any) -> tuple[int, ...]:
    """The shape of the array that a record stands for."""
    node, index = place_of(record)
    return node.shape if type(node) is Leaf else node.plan.call.outputs[index].shape


def source(x: Any) -> Any:
    """The record that an array's values come from; None where gradients stop."""
    family = x._family
    if family is None or not family.tracked:
        return x._node if x._requires_grad else None
    own = x._node
    if own is None or own.token is not family.token:
        call = Call(_place(x), (None,), (x._layout,), x.device)
        own = Node(Plan("view", call, STRIDED.program(1, 1)), (family.node,), ())
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
        result = result[0] if type(result) is tuple else result  # what follows is scratch memory
        operands = (result, *operands)
    device = inputs[0].device if inputs else result.device
    records, wanted = _records(operands)
    if wanted or in_place:
        _remember(context.plan(device, wanted), operands, records, result, in_place)


def attach(
    name: str, gradients: Gradients, operands: Sequence[Any], result: Any, call: Call, in_place: bool = False
) -> None:
    """Makes `result` (an array or a tuple of them) come from `operands` by these gradients."""
    records, wanted = _records(operands)
    if wanted or in_place:
        plan = Plan(name, call, gradients.program(wanted, len(operands)))
        _remember(plan, operands, records, result, in_place)


def _records(operands: Sequence[Any]) -> tuple[list[Any], int]:
    """Where operands come from, and a bit for each that needs a gradient."""
    records = [source(x) if type(x) is _array_type and x.dtype.kind == "f" else None for x in operands]
    return records, sum(1 << k for k, record in enumerate(records) if record is not None)


def _remember(plan: Plan, operands: Sequence[Any], records: Sequence[Any], result: Any, in_place: bool) -> None:
    several = type(result) is tuple
    results = result if several else (result,)
    # What the operation itself overwrites is lost to its gradient: see `_restore` in `autodiff.backward`.
    lost = {y._buffer for y in results} if in_place else ()
    saved: list[Any] = []
    for which in plan.program.reads:
        x = operands[which] if which >= 0 else results[~which]
        if type(x) is not _array_type:
            saved += x, 0
        elif which < 0:  # without its record, which would lead back to this node
            saved += native.alias(x), x._version
        else:
            saved += native.alias(x, records[which]), -1 if x._buffer in lost else x._version
    node = Node(plan, tuple(records), tuple(saved))
    if in_place:
        for x in results:
            _write(x, node)
    else:
        mark_results(results, node)
    native.observe(node, result)


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


def mark_results(results: Sequence[Any], node: Any) -> None:
    """Makes arrays the results of a node; those that are no floats have no gradient."""
    for index, x in enumerate(results):
        if x.dtype.kind == "f":
            _mark(x, node if len(results) == 1 else Result(node, index))


def _mark(x: Any, node: Any) -> None:
    x._node = node
    x._requires_grad = True


def _write(target: Any, node: Any) -> None:
    """A differentiable write: the target's record, and through the family that of all other views of the buffer."""
    family = target._family
    if family is None:
        _mark(target, node)
        return
    before = family.node if family.tracked else family.root
    attributes = _place(target)
    attributes["before"] = (attributes["size"],) if family.tracked or before is None else shape_of(before)
    call = Call(attributes, (None, target._layout), (), target.device)
    wanted = 2 if before is None else 3
    whole = Node(Plan("write", call, WRITTEN.program(wanted, 2)), (before, node), ())
    family.node, family.token, family.tracked = whole, object(), True
    node.token = family.token
    _mark(target, node)


def record_view(x: Any, view: Any, rule: tuple[Any, ...]) -> None:
    """Writes the node of a view of a tracked array: `rule` is a function and its further arguments."""
    parent = source(x)
    if parent is None:
        return
    node = Node(_view_plan(x._layout, view._layout, x.device, rule), (parent,), ())
    node.token = parent.token
    _mark(view, node)


@lru_cache(MOST_VIEW_PLANS)
def _view_plan(base: Any, selected: Any, device: Any, rule: tuple[Any, ...]) -> Plan:
    gradients, *arguments = rule
    return Plan("view", Call({"arguments": tuple(arguments)}, (base,), (selected,), device), gradients.program(1, 1))


def guard_write(target: Any) -> None:
    """RuntimeError where a write would change what a leaf's gradients are taken at."""
    family = target._family
    leaf = target._node
    if type(leaf) is not Leaf and family is not None and not family.tracked:
        leaf = family.root
    if type(leaf) is Leaf:
        view = "" if leaf is target._node else "a view of "
        raise RuntimeError(
            f"cannot write into {view}an array that requires gradients (shape {target.shape}): it is a leaf of the "
            "graph; use `with dr.no_grad():` to update parameters, or compute a new array"
        )


# Views that select elements (what follows in `native.view`: a function that selects them, and its further arguments),
# views of a whole buffer, writes into a part of it. Their rules need operators: see `dagrun.autodiff.writes`.
SELECTED, STRIDED, WRITTEN = Gradients(), Gradients(), Gradients()

native.set_hooks(gradient_hook=record_node, view_hook=record_view, write_guard=guard_write)
