"""Functions that make gradients of functions: gradients, Jacobians, recomputation, gradients of the user's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from dagrun import ops
from dagrun.array import Array, as_array
from dagrun.autodiff.backward import key_of, leads_to, seeds, walk
from dagrun.autodiff.modes import enable_grad, no_grad
from dagrun.autodiff.trees import flatten, unflatten
from dagrun.core import native
from dagrun.ops import random
from dagrun.ops.manipulation import SAME_ELEMENTS
from dagrun.ops.precision import autocast
from dagrun.record.gradients import Gradients
from dagrun.record.tape import Call, Leaf, Node, Plan, attach, mark_results, place_of, sequence_now, source


def _input(x: Any) -> Array:
    """An array of its own for one call: the gradient stops at its record, and goes on from there where x is tracked."""
    x = as_array(x)
    if x.dtype.kind != "f":
        raise TypeError(
            f"an argument of dtype {x.dtype} has no gradient, expected a floating dtype; cast it, or hold it"
        )
    if x._tracked:
        return native.view(x, x._layout, x._offset, SAME_ELEMENTS)
    own = native.alias(x)
    own.requires_grad = True
    return own


def _boundary(outputs: Sequence[Array], since: int) -> list[Any]:
    """The leaves, and the records made before `since`, that the outputs were computed from."""
    found: dict[tuple[int, int], Any] = {}
    stack = [record for record in map(source, outputs) if record is not None]
    seen = set()
    while stack:
        record = stack.pop()
        node, _ = place_of(record)
        if type(node) is Leaf or node.sequence < since:
            found[key_of(record)] = record
        elif id(node) not in seen:
            seen.add(id(node))
            stack += [parent for parent in node.parents if parent is not None]
    return list(found.values())


def gradients(
    outputs: Any, inputs: Any, grad_outputs: Any = None, *, retain_graph: bool | None = None,
    create_graph: bool = False, allow_unused: bool = False,
) -> Any:  # fmt: skip
    """The gradients of `outputs` (an array or several) with respect to `inputs`, in their structure; `.grad` stays.

    `grad_outputs`: gradients of the outputs, ones for outputs of one element. Inputs that the outputs do not depend on
    raise RuntimeError, or give None with `allow_unused`.

        >>> import dagrun as dr
        >>> x = dr.asarray(3.0, requires_grad=True)
        >>> dr.gradients(x * x, x)
        array(6.)
    """
    ys, _ = flatten(outputs)
    xs, shape = flatten(inputs)
    starts = seeds(ys, None if grad_outputs is None else flatten(grad_outputs)[0], "gradients")
    records = [source(x) for x in xs]
    for x, record in zip(xs, records, strict=True):
        if record is None:
            raise RuntimeError(f"gradients: an input of shape {x.shape} does not require gradients")
    retain = create_graph if retain_graph is None else retain_graph
    found = walk(ys, starts, retain=retain, create_graph=create_graph, stops=records, beyond=True)
    results: list[Array | None] = []
    for x, record in zip(xs, records, strict=True):
        hit = found.get(key_of(record))
        if hit is not None:
            results.append(hit[1])
        elif leads_to(ys, record):  # by piecewise constant functions only
            results.append(ops.zeros_like(x.detach()))
        elif allow_unused:
            results.append(None)
        else:
            raise RuntimeError(
                f"gradients: the outputs do not depend on an input of shape {x.shape}; allow_unused=True gives None"
            )
    return unflatten(shape, results)


def _pulled(
    pairs: Sequence[tuple[Array, Array]], records: Sequence[Any], *, retain: bool, graph: bool
) -> list[Array | None]:
    """The gradients that reach the records from outputs with gradients of their own; None where nothing does."""
    if not pairs:
        return [None] * len(records)
    found = walk(*map(list, zip(*pairs, strict=True)), retain=retain, create_graph=graph, stops=records)
    return [found[key_of(record)][1] if key_of(record) in found else None for record in records]


def _filled(gradients: Sequence[Array | None], likes: Sequence[Array]) -> list[Array]:
    """Gradients, zeros for those that are None."""
    return [ops.zeros_like(x) if g is None else g for g, x in zip(gradients, likes, strict=True)]


class _Traced:
    """One call of a function on inputs of its own."""

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[Any], chosen: Sequence[int], options: Any
    ) -> None:
        given = list(arguments)
        self.inputs: list[Array] = []
        self.shapes: list[Any] = []
        for place in chosen:
            leaves, shape = flatten(given[place])
            own = [_input(leaf) for leaf in leaves]
            self.inputs += own
            self.shapes.append((shape, len(own)))
            given[place] = unflatten(shape, own)
        self.records = [source(x) for x in self.inputs]
        since = sequence_now()
        self.value = function(*given, **options)
        outputs = [y for y in flatten(self.value)[0] if isinstance(y, Array)]
        own_keys = set(map(key_of, self.records))
        # Recorded as well where others than this call's inputs are tracked: then it may be differentiated again.
        self.higher = any(x._tracked and type(x._node) is not Leaf for x in self.inputs) or any(
            key_of(record) not in own_keys for record in _boundary(outputs, since)
        )

    def structured(self, results: Sequence[Array]) -> list[Any]:
        rest = iter(results)
        return [unflatten(shape, [next(rest) for _ in range(n)]) for shape, n in self.shapes]

    def pull(self, outputs: Sequence[Array], starts: Sequence[Array], *, retain: bool, graph: bool) -> list[Array]:
        tracked = [(y, g) for y, g in zip(outputs, starts, strict=True) if source(y) is not None]
        return _filled(_pulled(tracked, self.records, retain=retain, graph=graph), self.inputs)


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns (value, gradient) of `function`, which returns an array of one element.

    `argnums`: the position of the argument to differentiate by, or several (a tuple of gradients then). Arguments may
    be nested lists, tuples and dicts of arrays; the gradient has the same structure. With `has_aux` the function
    returns (value, anything), and so does this: ((value, anything), gradient).

        >>> import dagrun as dr
        >>> value, gradient = dr.value_and_grad(lambda x: (x * x).sum())(dr.asarray([1.0, 2.0]))
        >>> value, gradient
        (array(5.), array([2., 4.]))
    """
    several = not isinstance(argnums, int)
    chosen: Sequence[int] = argnums if not isinstance(argnums, int) else (argnums,)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        for place in chosen:
            if not -len(arguments) <= place < len(arguments):
                raise ValueError(
                    f"grad: argnums {argnums}, but the function was called with {len(arguments)} arguments"
                )
        with enable_grad():
            traced = _Traced(function, arguments, chosen, options)
        value = traced.value[0] if has_aux else traced.value
        if not isinstance(value, Array):
            raise TypeError(f"grad: the function returned a {type(value).__name__}, expected an array of one element")
        graph = traced.higher and native.gradients()
        starts = seeds([value], None, "grad")
        found = traced.structured(traced.pull([value], starts, retain=graph, graph=graph))
        value = value if graph else value.detach()
        return (value, traced.value[1]) if has_aux else value, tuple(found) if several else found[0]

    return call


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of `function`; see `value_and_grad`. Applied twice: second derivatives.

    >>> import dagrun as dr
    >>> cube = lambda x: x * x * x
    >>> dr.grad(cube)(dr.asarray(2.0)), dr.grad(dr.grad(cube))(dr.asarray(2.0))
    (array(12.), array(12.))
    """
    both = value_and_grad(function, argnums, has_aux=has_aux)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        value, gradient = both(*arguments, **options)
        return (gradient, value[1]) if has_aux else gradient

    return call


def vjp(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of `function(*arguments)` and its pullback: from gradients of the value to those of the arguments.

    >>> import dagrun as dr
    >>> value, pullback = dr.vjp(lambda x: x * x, dr.asarray([1.0, 2.0]))
    >>> pullback(dr.asarray([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    with enable_grad():
        traced = _Traced(function, arguments, range(len(arguments)), {})
    outputs, shape = flatten(traced.value)
    graph = traced.higher and native.gradients()

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        given = cotangents[0] if len(cotangents) == 1 else cotangents
        starts = seeds(outputs, flatten(given)[0], "vjp")
        return tuple(traced.structured(traced.pull(outputs, starts, retain=True, graph=graph)))

    return unflatten(shape, outputs if graph else [y.detach() for y in outputs]), pullback


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of `function(*primals)` and its derivative in the direction of `tangents`.

    Computed as the pullback of the pullback, which is linear in its gradient (Townsend 2017, "A new trick for
    calculating Jacobian vector products").

        >>> import dagrun as dr
        >>> dr.jvp(lambda x: x * x, (dr.asarray([1.0, 2.0]),), (dr.asarray([1.0, 1.0]),))
        (array([1., 4.]), array([2., 4.]))
    """
    with enable_grad():
        traced = _Traced(function, primals, range(len(primals)), {})
        outputs, shape = flatten(traced.value)
        directions = [as_array(t) for t in flatten(list(tangents))[0]]
        for x, t in zip(traced.inputs, directions, strict=True):
            if x.shape != t.shape:
                raise ValueError(f"jvp: a tangent of shape {t.shape} for an argument of shape {x.shape}")
        starts = [ops.zeros_like(y) for y in outputs]
        for g in starts:
            g.requires_grad = True
        pulled = traced.pull(outputs, starts, retain=True, graph=True)
    graph = native.gradients() and (traced.higher or any(t._tracked for t in directions))
    pairs = [(p, t.astype(p.dtype, copy=False)) for p, t in zip(pulled, directions, strict=True) if p._tracked]
    derivative = _filled(_pulled(pairs, [source(g) for g in starts], retain=graph, graph=graph), outputs)
    return unflatten(shape, outputs if graph else [y.detach() for y in outputs]), unflatten(shape, derivative)


def jacobian(function: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function that returns the matrix of derivatives, of shape (*value's shape, *argument's shape).

    >>> import dagrun as dr
    >>> dr.jacobian(lambda x: x * x)(dr.asarray([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with enable_grad():
            traced = _Traced(function, arguments, (argnums,), options)
        y = traced.value
        graph = traced.higher and native.gradients()
        rows = []
        for i in range(y.size):
            start = ops.zeros(y.size, dtype=y.dtype, device=y.device)
            start[i] = 1
            rows.append(traced.pull([y], [start.reshape(y.shape)], retain=True, graph=graph)[0])
        shape = (*y.shape, *traced.inputs[0].shape)
        return ops.stack(rows).reshape(shape) if rows else ops.zeros(shape, dtype=y.dtype, device=y.device)

    return call


def hessian(function: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function that returns the matrix of second derivatives of a function with a value of one element."""
    return jacobian(grad(function, argnums), argnums)


# ---- recomputation and gradients of the user's own


def _recompute(call: Call, gs: list[Any]) -> tuple[Any, ...]:
    graph = native.gradients()
    with enable_grad(), random.replay(call["draws"]), call["precision"]:
        value = call["function"]()
    outputs = [y for y in flatten(value)[0] if isinstance(y, Array)]
    pairs = [(y, g) for y, g in zip(outputs, gs, strict=True) if g is not None]
    return tuple(_pulled(pairs, call["records"], retain=graph, graph=graph))


_CHECKPOINT = Gradients(joint=_recompute)


class _Checkpoints(threading.local):
    """How many calls of `checkpoint` this thread is in."""

    depth = 0


_checkpoints = _Checkpoints()


def in_checkpoint() -> bool:
    """Whether what this thread records will be computed a second time in backward."""
    return _checkpoints.depth > 0


def checkpoint(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`function(*arguments)`, keeping nothing for backward but its inputs: backward computes it a second time.

    Saves memory for time. The second time the same random numbers are drawn, so dropout is the same. The function must
    give the same results for the same inputs.

        >>> import dagrun as dr
        >>> x = dr.asarray([1.0, 2.0], requires_grad=True)
        >>> dr.checkpoint(lambda x: dr.exp(x).sum(), x).backward()
        >>> bool(dr.allclose(x.grad, dr.exp(x.detach())))
        True
    """
    if not native.gradients():
        return function(*arguments, **options)
    since = sequence_now()
    draws: list[Any] = []
    _checkpoints.depth += 1
    try:
        with random.log_draws(draws):
            value = function(*arguments, **options)
    finally:
        _checkpoints.depth -= 1
    outputs, shape = flatten(value)
    arrays = [y for y in outputs if isinstance(y, Array)]
    records = _boundary(arrays, since)
    fresh = [y.detach() if isinstance(y, Array) else y for y in outputs]
    results = tuple(y for y in fresh if isinstance(y, Array))
    if records and results:
        attributes = {"function": lambda: function(*arguments, **options), "records": records, "draws": draws}
        attributes["precision"] = autocast(native.autocast() or "float32")
        call = Call(attributes, (None,) * len(records), tuple(y._layout for y in results), results[0].device)
        program = _CHECKPOINT.program((1 << len(records)) - 1, len(records))
        node = Node(Plan("checkpoint", call, program), tuple(records), ())
        mark_results(results, node)
    return unflatten(shape, fresh)


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose gradient is its own: it returns (value, pullback), and the pullback gets the value's gradients.

    The pullback returns the gradient of the argument, or a tuple with one (or None) for each; it uses array operations.

        >>> import dagrun as dr
        >>> @dr.custom_gradient
        ... def clipped(x):
        ...     return dr.clip(x, 0, 1), lambda g: g  # straight through
        >>> x = dr.asarray([2.0], requires_grad=True)
        >>> clipped(x).sum().backward()
        >>> x.grad
        array([1.])
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with no_grad():
            value, pullback = function(*arguments, **options)
        if not native.gradients():
            return value
        results = value if isinstance(value, tuple) else (value,)
        fresh = tuple(y.detach() for y in results)  # a value may be one of the arguments
        operands = tuple(arguments)

        def joint(gs: list[Any]) -> Any:
            flows = pullback(*_filled(gs, results))
            return flows if isinstance(flows, (tuple, list)) else (flows,)

        layouts = tuple(getattr(x, "_layout", x) for x in operands)
        made = Call({}, layouts, tuple(y._layout for y in fresh), fresh[0].device)
        name = getattr(function, "__name__", "custom_gradient")
        attach(name, Gradients(joint=joint), operands, fresh if isinstance(value, tuple) else fresh[0], made)
        return fresh if isinstance(value, tuple) else fresh[0]

    return call
