"""The reverse walk over the tape: nodes are visited from the newest to the oldest, each once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff.modes import anomaly, holds_nan, line_of
from dagrun.core import native, scopes
from dagrun.record.gradients import GIVEN_CALL, GIVEN_G, GIVEN_XP
from dagrun.record.tape import Leaf, Node, Result, place_of, source

_BEFORE_MODULES = scopes.Scope("loss", "", True)  # what the walk meets before it comes to a module


def key_of(record: Any) -> tuple[int, int]:
    """What `walk` knows a record by."""
    node, index = place_of(record)
    return id(node), index


def fit(g: Any, like: Any, name: str) -> Any:
    """A gradient summed over the axes along which its operand (a layout) was broadcast, in the operand's dtype."""
    if g.shape != like.shape:
        lead = g.ndim - len(like.shape)
        if lead < 0 or any(a not in (b, 1) for a, b in zip(like.shape, g.shape[lead:], strict=True)):
            raise ValueError(f"the gradient of {name} has shape {g.shape}, expected that of its operand, {like.shape}")
        axes = tuple(range(lead)) + tuple(
            lead + i for i, (a, b) in enumerate(zip(like.shape, g.shape[lead:], strict=True)) if a == 1 != b
        )
        g = ops.reshape(ops.sum(g, axis=axes) if axes else g, like.shape)
    return g if g.dtype == like.dtype else ops.astype(g, like.dtype)


def _restore(node: Node, place: int, create_graph: bool) -> Any:
    """What was saved at a place."""
    saved = node.saved
    value = saved[2 * place]
    if type(value) is not Array:
        return value
    plan = node.plan
    if value._version != saved[2 * place + 1]:
        task = value.task
        raise RuntimeError(
            f"the gradient of {plan.name} ({line_of(node)}) needs an array of shape {value.shape} that was "
            f"overwritten since, at {task.file}:{task.line} ({task.name}); compute a new array there, or copy it before"
        )
    result = ~plan.program.reads[place]
    if create_graph and result >= 0:
        return native.alias(value, node if len(plan.call.outputs) == 1 else Result(node, result))
    return value


def _flow(node: Node, gs: list[Any], create_graph: bool) -> Iterable[tuple[int, Any]]:
    """Which operands get a gradient, and the gradients."""
    plan, saved = node.plan, node.saved
    if saved is None:
        raise RuntimeError(
            f"backward through {plan.name} ({line_of(node)}) a second time: what it needs was freed; give "
            "retain_graph=True to the first call"
        )
    flows = []
    for operand, rule, sources in plan.program.steps:
        given: list[Any] = []
        for place in sources:
            if place == GIVEN_G:
                value = gs[0]
                if value is None:  # another result asked: this one contributes zeros
                    value = gs[0] = _zeros_of(node, 0)
            elif type(place) is tuple:
                value = tuple(_restore(node, one, create_graph) for one in place)
            elif place >= 0:
                value = saved[2 * place]
                if type(value) is Array and (create_graph or value._version != saved[2 * place + 1]):
                    value = _restore(node, place, create_graph)
            else:
                value = ops if place == GIVEN_XP else plan.call if place == GIVEN_CALL else gs
            given.append(value)
        flow = rule(*given)
        if operand < 0:
            return enumerate(flow if isinstance(flow, (tuple, list)) else (flow,))
        flows.append((operand, flow))
    return flows


def _tell(node: Node, gs: list[Any]) -> None:
    """Calls the hooks of a node's results, and keeps the gradients that were asked for."""
    for index, hooks in (node.hooks or {}).items():
        for hook in hooks:
            if gs[index] is not None:
                changed = hook(gs[index])
                gs[index] = gs[index] if changed is None else changed
    for index, kept in (node.kept or {}).items():
        if gs[index] is not None:
            kept[0] = gs[index] if kept[0] is None else kept[0] + gs[index]


def _zeros_of(node: Node, index: int) -> Array:
    view = node.plan.call.outputs[index]
    return ops.zeros(view.shape, dtype=view.dtype, device=node.plan.call.device)


def _check_nan(g: Any, node: Node) -> None:
    if holds_nan(g):
        raise FloatingPointError(
            f"the gradient of {node.plan.name} holds a NaN; the operation was recorded at {line_of(node)}"
        )


def walk(
    outputs: Sequence[Array],
    cotangents: Sequence[Array],
    *,
    retain: bool,
    create_graph: bool,
    stops: Sequence[Any] | None = None,
    beyond: bool = False,
) -> dict[tuple[int, int], tuple[Any, Any]]:
    """Gradients of all leaves that the outputs came from: by (id, 0), the leaf and its gradient.

    With `stops`, records of arrays, also theirs, by `key_of` the record; nothing is visited that does not lead to them,
    and what they came from only if it lies `beyond` one of them on the way to another.
    """
    was, observer = native.set_gradients(create_graph), native.set_observer(None)  # anomalies: see `_check_nan`
    autocast = native.set_autocast(None)  # each gradient in the dtype of what it belongs to
    outer = scopes.mark(_BEFORE_MODULES)
    try:
        return _walk(outputs, cotangents, retain or create_graph, create_graph, stops, beyond)
    finally:
        native.set_gradients(was)
        native.set_observer(observer)
        native.set_autocast(autocast)
        scopes.mark(outer)


def _walk(
    outputs: Sequence[Array], cotangents: Sequence[Array], retain: bool, create_graph: bool, stops: Any, beyond: bool
) -> dict[Any, Any]:
    pending: dict[Node, list[Any]] = {}  # gradients of a node's results
    queue: list[tuple[int, Node]] = []  # those that have some, the newest first
    found: dict[Any, Any] = {}
    wanted = set(map(key_of, stops or ()))
    stopping = {node for node, _ in wanted}
    useful = None if stops is None else _leading(outputs, stopping, beyond)

    def give(record: Any, g: Array) -> None:
        node, index = (record, 0) if type(record) is Node else place_of(record)
        gs = pending.get(node)
        if gs is not None:
            gs[index] = g if gs[index] is None else gs[index] + g
        elif type(node) is Leaf:
            before = found.get((id(node), 0))
            found[(id(node), 0)] = (node, g if before is None else before[1] + g)
        elif useful is None or id(node) in useful or id(node) in stopping:
            count = len(node.plan.call.outputs)
            pending[node] = gs = [g] if count < 2 else [None] * count
            gs[index] = g
            heappush(queue, (-node.sequence, node))

    for y, g in zip(outputs, cotangents, strict=True):
        record = source(y)
        if record is None:
            raise RuntimeError(
                f"an array of shape {y.shape} has no gradient to follow: it does not depend on an array with "
                "requires_grad=True (or was computed under dr.no_grad())"
            )
        give(record, g)
    while queue:
        node = heappop(queue)[1]
        gs = pending.pop(node)
        if node.hooks is not None or node.kept is not None:
            _tell(node, gs)
        if useful is not None:
            for index, g in enumerate(gs):
                if g is not None and (id(node), index) in wanted:
                    found[(id(node), index)] = (node, g)
            if id(node) not in useful:
                continue
        flows = _flow(node, gs, create_graph)
        if not retain:
            node.saved = None
        parents, inputs = node.parents, node.plan.call.inputs
        for k, g in flows:
            parent = parents[k]
            if parent is None or g is None:
                continue
            like = inputs[k]
            if like is not None and like is not g._layout:
                g = fit(g, like, node.plan.name)
            if anomaly.on:
                _check_nan(g, node)
            give(parent, g)
    for key, (leaf, g) in found.items():
        if type(leaf) is Leaf:
            for hook in leaf.hooks or ():
                changed = hook(g)
                g = g if changed is None else changed
            found[key] = (leaf, g)
    return found


def leads_to(outputs: Sequence[Array], record: Any) -> bool:
    """Whether outputs were computed from what a record is of, be it by functions whose gradient is zero."""
    return bool(_leading(outputs, {key_of(record)[0]}, True))


def _leading(outputs: Sequence[Array], targets: set[int], beyond: bool) -> set[int]:
    """The ids of nodes from whose operands a target can be reached; targets are passed only with `beyond`."""
    order: list[Node] = []
    seen: set[int] = set()
    stack = [place_of(r)[0] for r in map(source, outputs) if r is not None]
    while stack:
        node = stack.pop()
        if id(node) in seen or type(node) is Leaf or (not beyond and id(node) in targets):
            continue
        seen.add(id(node))
        order.append(node)
        stack += [place_of(parent)[0] for parent in node.parents if parent is not None]
    useful = set()
    for node in sorted(order, key=lambda node: node.sequence):  # operands come before what is computed from them
        before = (id(place_of(parent)[0]) for parent in node.parents if parent is not None)
        if any(parent in useful or parent in targets for parent in before):
            useful.add(id(node))
    return useful


def seeds(outputs: Sequence[Array], given: Any, name: str) -> list[Array]:
    """The gradients to start from: those given, or ones for outputs of one element."""
    starts = [None] * len(outputs) if given is None else given
    if len(starts) != len(outputs):
        raise ValueError(f"{name}: {len(starts)} gradients for {len(outputs)} outputs")
    made = []
    for y, g in zip(outputs, starts, strict=True):
        if y.dtype.kind != "f":
            raise TypeError(f"{name}: an output of dtype {y.dtype} has no gradient, expected a floating dtype")
        if g is None:
            if y.size != 1:
                raise RuntimeError(
                    f"{name}: an output of shape {y.shape} needs a gradient of that shape, expected one element: "
                    "reduce it first, as with .sum(), or give the gradient"
                )
            g = ops.ones(y.shape, dtype=y.dtype, device=y.device)
        g = g if isinstance(g, Array) else ops.array(g, device=y.device)
        if g.shape != y.shape:
            raise ValueError(f"{name}: a gradient of shape {g.shape} for an output of shape {y.shape}")
        made.append(g if g.dtype == y.dtype else ops.astype(g, y.dtype))
    return made


def backward(y: Array, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
    """Adds the gradients of `y` to `.grad` of every array with `requires_grad=True` that it was computed from.

    `gradient`: that of y, of its shape (1 for an array of one element). The graph is freed unless `retain_graph` (or
    `create_graph`, which also records the gradients, so that they can be differentiated).

        >>> import dagrun as dr
        >>> x = dr.asarray([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        array([2., 4.])
    """
    run_backward([y], None if gradient is None else [gradient], retain_graph=retain_graph, create_graph=create_graph)


def run_backward(
    outputs: Sequence[Array], gradients: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """`backward` from several outputs in one walk."""
    starts = seeds(outputs, gradients, "backward")
    retain = create_graph if retain_graph is None else retain_graph
    found = walk(outputs, starts, retain=retain, create_graph=create_graph)
    taken = {g._buffer for g in starts}
    was = native.set_gradients(create_graph)
    try:
        for leaf, g in found.values():
            if leaf.grad is not None:
                leaf.grad = leaf.grad + g
                continue
            # Gradients may be views of each other; `.grad` is the user's own, to be written as he likes.
            leaf.grad = ops.copy(g) if g._buffer in taken or not g._layout.contiguous else g
            taken.add(g._buffer)
    finally:
        native.set_gradients(was)
