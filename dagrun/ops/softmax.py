"""softmax, log-softmax and the losses of classes, each as one native kernel with its gradient as another.

The rules of second derivatives are written with operators: they serve where a gradient is itself recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.lines import lines_params
from dagrun.codegen.softmax import classes_kernel, classes_words, softmax_kernel
from dagrun.core import device_index, native
from dagrun.ops.cutting import cut
from dagrun.ops.manipulation import expand_dims
from dagrun.ops.reductions import sum
from dagrun.ops.selection import where
from dagrun.record import OVERWRITE, READ, WRITE, Body, Gradients, Operand, Operator, apply, layout

LINE_COST = 8  # an element takes as long as moving so many times its bytes

Strides = tuple[int, ...]


def _bodies(
    address: int, shape: tuple[int, ...], axis: int, views: Sequence[Any], strides: Sequence[Strides], written: int,
    own: Sequence[int] = (), rest: tuple[Operand, ...] = (),
) -> tuple[Body, ...]:  # fmt: skip
    """The tasks of a kernel over the lines of `shape` along an axis; `strides` of each operand, 0 where it has none."""
    itemsizes = [view.dtype.itemsize for view in views]
    others = [d for d in range(len(shape)) if d != axis]
    along = next((d for d in others if shape[d] > 1), -1)
    cost = LINE_COST * int(np.prod(shape)) * max(itemsizes[0], 4)
    bodies = []
    for start, stop in cut(shape[along], cost) if along >= 0 else [(0, 1)]:
        part = tuple((stop - start) if d == along else shape[d] for d in range(len(shape)))
        params = lines_params(
            shape[axis], [lie[axis] for lie in strides], [part[d] for d in others],
            [[lie[d] for d in others] for lie in strides], itemsizes, [view.ndim == len(shape) for view in views], own,
        )  # fmt: skip
        operands = []
        for k, (view, lie) in enumerate(zip(views, strides, strict=True)):
            own_part = tuple(1 if lie[d] == 0 and d == axis else part[d] for d in range(len(shape)))
            mode = WRITE | OVERWRITE if k < written else READ
            offset = start * lie[along] if along >= 0 else 0
            operands.append(Operand(k, mode, offset, layout(view.dtype, own_part, lie)))
        share = cost * (stop - start) // max(1, shape[along]) if along >= 0 else cost
        bodies.append(Body(address, params, (*operands, *rest), share))
    return tuple(bodies)


# ---- softmax and log-softmax


def _lower(kind: str) -> Callable[..., tuple[Body, ...]]:
    def lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> tuple[Body, ...]:
        views = (*outputs, *inputs)
        address = softmax_kernel(kind, outputs[0].dtype)
        return _bodies(address, outputs[0].shape, axis, views, [view.strides for view in views], 1)

    return lower


def _wide(xp: Any, x: Any) -> Any:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _numpy_softmax(xp: Any, x: Any, *, axis: int) -> Any:
    power = xp.exp(_wide(xp, x) - _wide(xp, x).max(axis, keepdims=True, initial=-np.inf))
    return power / power.sum(axis, keepdims=True)


def _numpy_log_softmax(xp: Any, x: Any, *, axis: int) -> Any:
    shifted = _wide(xp, x) - _wide(xp, x).max(axis, keepdims=True, initial=-np.inf)
    return shifted - xp.log(xp.exp(shifted).sum(axis, keepdims=True))


def _numpy_softmax_back(xp: Any, g: Any, y: Any, *, axis: int) -> Any:
    g, y = _wide(xp, g), _wide(xp, y)
    return y * (g - (g * y).sum(axis, keepdims=True))


def _numpy_log_softmax_back(xp: Any, g: Any, y: Any, *, axis: int) -> Any:
    g, y = _wide(xp, g), _wide(xp, y)
    return g - xp.exp(y) * g.sum(axis, keepdims=True)


def _same(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    return ((inputs[0].shape, inputs[0].dtype),)


def _softmax_rule(g: Any, y: Any, call: Any) -> Any:
    return _along(SOFTMAX_BACK, (g, y), call["axis"])


def _log_softmax_rule(g: Any, y: Any, call: Any) -> Any:
    return _along(LOG_SOFTMAX_BACK, (g, y), call["axis"])


def _softmax_back_by_y(g: Any, a: Any, b: Any, call: Any) -> Any:
    axis = call["axis"]
    return g * (a - sum(a * b, axis, keepdims=True)) - a * sum(g * b, axis, keepdims=True)


def _log_softmax_back_by_y(g: Any, a: Any, b: Any, call: Any, xp: Any) -> Any:
    return -g * xp.exp(b) * sum(a, call["axis"], keepdims=True)


SOFTMAX = Operator("softmax", _same, _numpy_softmax, _lower("softmax"), grad=Gradients(_softmax_rule))
LOG_SOFTMAX = Operator(
    "log_softmax", _same, _numpy_log_softmax, _lower("log_softmax"), grad=Gradients(_log_softmax_rule)
)
SOFTMAX_BACK: Operator = Operator(
    "softmax_gradient",
    _same,
    _numpy_softmax_back,
    _lower("softmax_back"),
    grad=Gradients(lambda g, b, call: _along(SOFTMAX_BACK, (g, b), call["axis"]), _softmax_back_by_y),
)
LOG_SOFTMAX_BACK: Operator = Operator(
    "log_softmax_gradient",
    _same,
    _numpy_log_softmax_back,
    _lower("log_softmax_back"),
    grad=Gradients(lambda g, b, call, xp: g - sum(g * xp.exp(b), call["axis"], keepdims=True), _log_softmax_back_by_y),
)


def _along(op: Operator, operands: tuple[Array, ...], axis: int) -> Array:
    return apply(op, operands, device_index(operands[0].device), attributes=(("axis", axis),))


def softmax(x: Array, axis: int) -> Array:
    """exp(x) over its sum along an axis (not negative), of any finite values."""
    return _along(SOFTMAX, (x,), axis)


def log_softmax(x: Array, axis: int) -> Array:
    """The logarithm of `softmax`."""
    return _along(LOG_SOFTMAX, (x,), axis)


# ---- losses of classes: x has shape (n, classes, ...), targets and losses (n, ...)


def _line_strides(view: Any, ndim: int) -> Strides:
    """The byte strides along the axes of x, 0 along the classes where a view has one element for a line."""
    return view.strides if view.ndim == ndim else (view.strides[0], 0, *view.strides[1:])


def _lower_classes(kind: str, written: int) -> Callable[..., tuple[Body, ...]]:
    def lower(
        outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, ignored: int, smoothing: float,
        weighted: bool, classes: int,
    ) -> tuple[Body, ...]:  # fmt: skip
        views = [*outputs, *inputs]
        rest = (Operand(len(views) - 1),) if weighted else ()
        if weighted:
            views.pop()
        shape = next(view for view in views if view.ndim == len(views[-1].shape) + 1).shape
        x = outputs[0] if kind.endswith("_back") else inputs[0]
        address = classes_kernel(kind, x.dtype, views[-1].dtype, weighted)
        strides = [_line_strides(view, len(shape)) for view in views]
        return _bodies(address, shape, 1, views, strides, written, classes_words(ignored, smoothing), rest)

    return lower


def _explain(code: int, details: tuple[int, ...]) -> tuple[type[Exception], str]:
    return IndexError, f"class {details[0]} is out of range, expected 0 to {details[1] - 1} or ignore_index"


def _loss_dtype(x: Any) -> Any:
    return np.dtype(np.float32) if x.dtype == np.float16 else x.dtype


def _infer_losses(kind: str) -> Callable[..., Any]:
    def infer(inputs: Sequence[Any], scalars: Sequence[Any], **attributes: Any) -> Any:
        x = inputs[0]
        one = ((x.shape[0], *x.shape[2:]), _loss_dtype(x))
        return (one,) * (3 if kind == "cross_entropy" else 2)

    return infer


def _one_hot(xp: Any, t: Any, classes: int) -> Any:
    """Whether an element is that of its line's class."""
    return xp.expand_dims(t, 1) == xp.arange(classes).reshape(-1, *(1,) * (t.ndim - 1))


def _numpy_classes(xp: Any, t: Any, classes: int, ignored: int, weights: Sequence[Any], dtype: Any) -> Any:
    """One-hot rows, the weight of each line, the weights as they broadcast to x."""
    valid = t != ignored
    bad = t[valid & ((t < 0) | (t >= classes))]
    if bad.size:
        raise IndexError(f"class {int(bad[0])} is out of range, expected 0 to {classes - 1} or ignore_index")
    own = weights[0] if weights else xp.ones(classes, dtype)
    hot = _one_hot(xp, t, classes) & xp.expand_dims(valid, 1)
    shaped = own.reshape(-1, *(1,) * (t.ndim - 1))
    return hot, (hot * shaped).sum(1), shaped, valid


def _numpy_cross_entropy(
    xp: Any, x: Any, t: Any, *weights: Any, ignored: int, smoothing: float, weighted: bool, classes: int
) -> Any:
    x = _wide(xp, x)
    hot, w, shaped, valid = _numpy_classes(xp, t, x.shape[1], ignored, weights, x.dtype)
    top = x.max(1)
    lse = top + xp.log(xp.exp(x - xp.expand_dims(top, 1)).sum(1))
    gaps = xp.expand_dims(lse, 1) - x
    loss = (1 - smoothing) * (xp.where(hot, gaps, 0) * shaped).sum(1)
    if smoothing:
        loss = loss + smoothing / x.shape[1] * (shaped * gaps).sum(1)
    return xp.where(valid, loss, 0), lse, w


def _numpy_cross_entropy_back(
    xp: Any, g: Any, x: Any, lse: Any, w: Any, t: Any, *weights: Any, ignored: int, smoothing: float, weighted: bool,
    classes: int,
) -> Any:  # fmt: skip
    x = _wide(xp, x)
    hot, _, shaped, valid = _numpy_classes(xp, t, classes, ignored, weights, x.dtype)
    target = (1 - smoothing) * hot * shaped + smoothing / classes * shaped
    power = target.sum(1, keepdims=True) * xp.exp(x - xp.expand_dims(lse, 1))
    return xp.where(xp.expand_dims(valid, 1), xp.expand_dims(g, 1) * (power - target), 0)


def _numpy_nll(
    xp: Any, x: Any, t: Any, *weights: Any, ignored: int, smoothing: float, weighted: bool, classes: int
) -> Any:
    x = _wide(xp, x)
    hot, w, shaped, _ = _numpy_classes(xp, t, x.shape[1], ignored, weights, x.dtype)
    return -(xp.where(hot, x, 0) * shaped).sum(1), w


def _numpy_nll_back(
    xp: Any, g: Any, w: Any, t: Any, *, ignored: int, smoothing: float, weighted: bool, classes: int
) -> Any:
    return xp.where(_one_hot(xp, t, classes), xp.expand_dims(-(g * w), 1), 0)


def _cross_entropy_rule(gs: Any, x: Any, t: Any, weights: Any, lse: Any, w: Any, call: Any) -> Any:
    g, ignored, smoothing = gs[0], call["ignored"], call["smoothing"]
    if g is None:
        return None
    rest = (weights,) if call["weighted"] else ()
    if not native.gradients():
        return _classes(CROSS_ENTROPY_BACK, (g, x, lse, w, t, *rest), call.attributes)
    # The gradient is to be differentiated: the same by operators that know how. Ignored lines have none, even where g
    # is infinite, as in the mean over no lines.
    g = where(t != ignored, g, 0.0)
    down = nll_back(g * (1 - smoothing), w, t, call.inputs[0], ignored)
    if smoothing:
        even = g * (smoothing / call["classes"])
        shaped = weights.reshape(-1, *(1,) * (t.ndim - 1)) if call["weighted"] else 1.0
        down = down - expand_dims(even, 1) * shaped
    return down - softmax(x, 1) * sum(down, 1, keepdims=True)


class _WithoutWeights:
    """The rule where there are no weights."""

    names = ("gs", "x", "t", "lse", "w", "call")

    def __call__(self, gs: Any, x: Any, t: Any, lse: Any, w: Any, call: Any) -> Any:
        return _cross_entropy_rule(gs, x, t, None, lse, w, call)


def _cross_entropy_operator(weighted: bool) -> Operator:
    rule: Any = _cross_entropy_rule if weighted else _WithoutWeights()
    return Operator(
        "cross_entropy",
        _infer_losses("cross_entropy"),
        _numpy_cross_entropy,
        _lower_classes("cross_entropy", 3),
        _explain,
        Gradients(rule, operands=("x", "t", "weights"), results=("loss", "lse", "w")),
    )


_CROSS_ENTROPY = {weighted: _cross_entropy_operator(weighted) for weighted in (False, True)}
CROSS_ENTROPY_BACK = Operator(
    "cross_entropy_gradient",
    lambda inputs, scalars, **attributes: ((inputs[1].shape, inputs[1].dtype),),
    _numpy_cross_entropy_back,
    _lower_classes("cross_entropy_back", 1),
    _explain,
)
NLL = Operator(
    "nll",
    _infer_losses("nll"),
    _numpy_nll,
    _lower_classes("nll", 2),
    _explain,
    Gradients(
        lambda g, w, t, call: nll_back(g, w, t, call.inputs[0], call["ignored"]),
        operands=("x", "t", "weights"),
        results=("loss", "w"),
    ),
)
# Linear in g: its adjoint picks the element of the class, which is `nll` with the lines' own weights.
NLL_BACK = Operator(
    "nll_gradient",
    lambda inputs, scalars, dtype, **attributes: (
        ((inputs[2].shape[0], attributes["classes"], *inputs[2].shape[1:]), dtype),
    ),
    lambda xp, g, w, t, dtype, **attributes: _numpy_nll_back(xp, g, w, t, **attributes),
    lambda outputs, inputs, scalars, dtype, **attributes: _lower_classes("nll_back", 1)(
        outputs, inputs, scalars, **attributes
    ),
    grad=Gradients(
        lambda g, w, t, call: nll(g, t, None, call["ignored"])[0] * w,
        operands=("a", "w", "t"),
    ),
)


def _classes(op: Operator, operands: tuple[Array, ...], attributes: Any) -> Any:
    return apply(op, operands, device_index(operands[0].device), attributes=tuple(attributes.items()))


def _attributes(x: Any, weights: Any, ignored: int, smoothing: float) -> dict[str, Any]:
    return {
        "ignored": ignored, "smoothing": smoothing, "weighted": weights is not None, "classes": x.shape[1],
    }  # fmt: skip


def cross_entropy(
    x: Array, t: Array, weights: Array | None, ignored: int, smoothing: float
) -> tuple[Array, Array, Array]:
    """For each line its loss, its log of the sum of exponentials, and the weight of its class (0 where ignored)."""
    rest = () if weights is None else (weights,)
    return _classes(_CROSS_ENTROPY[weights is not None], (x, t, *rest), _attributes(x, weights, ignored, smoothing))


def nll(x: Array, t: Array, weights: Array | None, ignored: int) -> tuple[Array, Array]:
    """For each line minus its class's element times the class's weight, and that weight (0 where ignored)."""
    rest = () if weights is None else (weights,)
    return _classes(NLL, (x, t, *rest), _attributes(x, weights, ignored, 0.0))


def nll_back(g: Array, w: Array, t: Array, x: Any, ignored: int) -> Array:
    """The adjoint of `nll` in x, a layout; w: the lines' weights that it gave."""
    attributes = {"dtype": x.dtype, **_attributes(x, None, ignored, 0.0)}
    return _classes(NLL_BACK, (g, w, t), attributes)


__all__ = ["cross_entropy", "log_softmax", "nll", "nll_back", "softmax"]
