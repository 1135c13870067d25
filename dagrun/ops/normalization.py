"""Normalisation as one native kernel, and its gradient as another.

`normalize` takes x of shape (segments, kept, length): for each kept index the elements of all segments are made to have
mean 0 and variance 1. `normalize_rows` takes x of shape (rows, channels, places) and does so for each row, with weights
for the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.normalization import normalization_kernel, normalization_params
from dagrun.codegen.reduction import reduction_kernel, reduction_params
from dagrun.core import device_index, native
from dagrun.ops.cutting import cut
from dagrun.ops.elementwise import copied
from dagrun.ops.manipulation import expand_dims
from dagrun.ops.mathematics import sqrt
from dagrun.ops.reductions import mean, sum
from dagrun.record import OVERWRITE, READ, WRITE, Body, Gradients, Operand, Operator, apply, layout

PASSES = 4  # over an element, by vectors
BLOCK = 32  # rows whose terms of the gradients of weights are added one after the other
_AXES = (0, 2)  # summed over


def _wide(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _bodies(
    kind: str, views: Sequence[Any], written: int, walked: Sequence[int], weights: str, eps: float
) -> tuple[Body, ...]:
    """The tasks: pieces of the kept indices. `walked`: which operands are y or x', x and g; others have `kept`."""
    x = views[walked[1]]
    address = normalization_kernel(kind, x.dtype, weights)
    segments, kept, length = x.shape
    cost = PASSES * x.nbytes
    bodies = []
    for start, stop in cut(kept, cost) if kept else [(0, 0)]:
        strides = [(views[k].strides[1], views[k].strides[0]) for k in walked]
        params = normalization_params(stop - start, segments, length, eps, strides)
        operands = []
        for k, view in enumerate(views):
            shape = (segments, stop - start, length) if k in walked else (stop - start,)
            step = view.strides[1] if k in walked else view.strides[0]
            mode = WRITE | OVERWRITE if k < written else READ
            operands.append(Operand(k, mode, start * step, layout(view.dtype, shape, view.strides)))
        bodies.append(Body(address, params, tuple(operands), cost * (stop - start) // max(1, kept)))
    return tuple(bodies)


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    x = inputs[0]
    one = ((x.shape[1],), _wide(x.dtype))
    return (x.shape, x.dtype), one, one


def _numpy_forward(xp: Any, x: Any, *affine: Any, eps: float) -> Any:
    wide = x.astype(_wide(x.dtype))
    mean, var = wide.mean(_AXES), wide.var(_AXES)
    y = (wide - mean[:, None]) / xp.sqrt(var + eps)[:, None]
    return (y * affine[0][:, None] + affine[1][:, None] if affine else y), mean, var


def _lower_forward(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    return _bodies("forward", (*outputs, *inputs), 3, (0, 3), "kept" if len(inputs) > 1 else "none", eps)


def _numpy_backward(xp: Any, g: Any, x: Any, mean: Any, var: Any, *w: Any, eps: float) -> Any:
    g, x = g.astype(mean.dtype), x.astype(mean.dtype)
    slope = 1 / xp.sqrt(var + eps)
    standard = (x - mean[:, None]) * slope[:, None]
    plain, weighted = g.sum(_AXES), (g * standard).sum(_AXES)
    count = x.shape[0] * x.shape[2]
    scale = slope * w[0] if w else slope
    dx = scale[:, None] * (g - (plain / count)[:, None] - standard * (weighted / count)[:, None])
    return (dx, weighted, plain) if w else dx


def _infer_backward(inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    g, mean = inputs[0], inputs[2]
    own = (mean.shape, mean.dtype)
    return ((g.shape, g.dtype), own, own) if len(inputs) > 4 else ((g.shape, g.dtype),)


def _lower_backward(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    count = len(outputs)
    return _bodies("backward", (*outputs, *inputs), count, (0, count + 1, count), "kept" if count > 1 else "none", eps)


NORMALIZE_BACK = Operator("normalize_gradient", _infer_backward, _numpy_backward, _lower_backward)


def _rule(g: Any, x: Any, w: Any, mean_: Any, var: Any, eps: float) -> tuple[Any, ...]:
    if not native.gradients():
        operands = (_lies(g), x, mean_, var) if w is None else (_lies(g), x, mean_, var, w)
        flows = apply(NORMALIZE_BACK, operands, device_index(x.device), attributes=(("eps", eps),))
        return (flows,) if w is None else tuple(flows)
    # The gradient is to be differentiated: the same by operators that know how.
    x, g = x.astype(_wide(x.dtype), copy=False), g.astype(_wide(g.dtype), copy=False)
    gap = x - mean(x, _AXES, keepdims=True)
    slope = 1.0 / sqrt(mean(gap * gap, _AXES, keepdims=True) + eps)
    standard = gap * slope
    plain, weighted = sum(g, _AXES, keepdims=True), sum(g * standard, _AXES, keepdims=True)
    count = float(x.shape[0] * x.shape[2])
    scale = slope if w is None else slope * expand_dims(w, -1)
    dx = scale * (g - plain / count - standard * (weighted / count))
    return (dx,) if w is None else (dx, weighted.reshape(-1), plain.reshape(-1))


_RESULTS = ("y", "m", "v")
NORMALIZE = Operator(
    "normalize",
    _infer,
    _numpy_forward,
    _lower_forward,
    grad=Gradients(
        joint=lambda gs, x, m, v, call: _rule(gs[0], x, None, m, v, call["eps"]), operands=("x",), results=_RESULTS
    ),
)
NORMALIZE_AFFINE = Operator(
    "normalize_affine",
    _infer,
    _numpy_forward,
    _lower_forward,
    grad=Gradients(
        joint=lambda gs, x, w, m, v, call: _rule(gs[0], x, w, m, v, call["eps"]),
        operands=("x", "w", "b"),
        results=_RESULTS,
    ),
)


# ---- rows with weights of their own for each channel


Part = Callable[[int, int], Operand]  # of an operand: what a task of rows [start, stop) touches


class _Rows:
    """How rows are cut into tasks. x has shape (rows, channels, places); the weights repeat after `period` rows."""

    def __init__(self, x: Any, w: Any) -> None:
        self.rows, self.channels, self.places = x.shape
        self.period = w.shape[0] // self.channels
        self.weights = "elements" if self.places == 1 else "segments"
        # The terms of the weights' gradients are added row after row within a block, then block after block.
        self.block = BLOCK if self.places == self.period == 1 else 1
        self.blocks = -(-self.rows // self.block)
        self.one_period = self.rows == self.period  # rows have weights of their own, which are cut like them
        unit = 1 if self.one_period else max(self.block, self.period)
        self.cost = PASSES * x.nbytes
        cuts = cut(-(-self.rows // unit), self.cost)
        self.pieces = [(start * unit, min(stop * unit, self.rows)) for start, stop in cuts]

    def row(self, use: int, view: Any, mode: int = READ) -> Part:
        """An operand that has something for each row."""
        return lambda start, stop: Operand(
            use, mode, start * view.strides[0], layout(view.dtype, (stop - start, *view.shape[1:]), view.strides)
        )

    def weight(self, use: int, view: Any) -> Part:
        """Weights."""
        if not self.one_period:
            return lambda start, stop: Operand(use)
        width, step = self.channels, self.channels * view.strides[0]
        return lambda start, stop: Operand(use, READ, start * step, layout(view.dtype, ((stop - start) * width,)))

    def terms(self, use: int, view: Any, which: int) -> Part:
        """The terms of the gradient of w (0) or b (1): the operand has shape (2, blocks, channels)."""
        block, width, step = self.block, self.channels, view.strides[1]
        return lambda start, stop: Operand(
            use, WRITE | OVERWRITE, which * view.strides[0] + start // block * step,
            layout(view.dtype, (-(-stop // block) - start // block, width)),
        )  # fmt: skip

    def bodies(self, kind: str, eps: float, walked: Sequence[Any], parts: Sequence[Part]) -> list[Body]:
        """The tasks; `walked`: y or x', x, and g."""
        address = normalization_kernel(kind, walked[0].dtype, self.weights)
        segments, length = (1, self.channels) if self.weights == "elements" else (self.channels, self.places)
        strides = [(view.strides[0], self.places * view.dtype.itemsize) for view in walked]
        bodies = []
        for start, stop in self.pieces:
            period = stop - start if self.one_period else self.period
            params = normalization_params(stop - start, segments, length, eps, strides, period, self.block)
            operands = tuple(part(start, stop) for part in parts)
            bodies.append(Body(address, params, operands, self.cost * (stop - start) // self.rows))
        return bodies


def _lower_rows(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    x, w, b = inputs
    own = _Rows(x, w)
    written = [own.row(k, view, WRITE | OVERWRITE) for k, view in enumerate(outputs)]
    parts = (*written, own.row(3, x), own.weight(4, w), own.weight(5, b))
    return tuple(own.bodies("forward", eps, (outputs[0], x), parts))


def _infer_rows(inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    x = inputs[0]
    one = ((x.shape[0],), _wide(x.dtype))
    return (x.shape, x.dtype), one, one


def _repeated(w: Any, x: Any) -> Any:
    """Weights as they broadcast to rows of shape (repetitions, period, channels, places)."""
    return w.reshape(-1, x.shape[1], 1)


def _numpy_rows(xp: Any, x: Any, w: Any, b: Any, *, eps: float) -> Any:
    wide = x.astype(_wide(x.dtype))
    mean, var = wide.mean((1, 2)), wide.var((1, 2))
    y = (wide - mean[:, None, None]) / xp.sqrt(var + eps)[:, None, None]
    y = y.reshape(-1, w.shape[0] // x.shape[1], *x.shape[1:]) * _repeated(w, x) + _repeated(b, x)
    return y.reshape(x.shape), mean, var


def _infer_rows_back(inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    g, _, mean, _, w = inputs
    own, like = _Rows(g, w), (w.shape, mean.dtype)
    return (g.shape, g.dtype), like, like, ((2, own.blocks, own.channels), mean.dtype)


def _lower_rows_back(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, eps: float) -> Any:
    (dx, _, _, terms), (g, x, _, _, w) = outputs, inputs
    own = _Rows(x, w)
    parts = [own.row(0, dx, WRITE | OVERWRITE), own.terms(3, terms, 0), own.terms(3, terms, 1)]
    parts += [own.row(4 + k, view) for k, view in enumerate(inputs[:4])]
    bodies = own.bodies("backward", eps, (dx, x, g), [*parts, own.weight(8, w)])
    item, shape = terms.dtype.itemsize, (own.blocks // own.period, w.shape[0])
    params = reduction_params(shape, (w.shape[0] * item, item), (0,), item, item)
    address = reduction_kernel("sum", terms.dtype, terms.dtype, terms.dtype)
    for which in range(2):
        read = Operand(3, READ, which * terms.strides[0], layout(terms.dtype, shape))
        bodies.append(Body(address, params, (Operand(1 + which, WRITE | OVERWRITE), read), terms.nbytes // 2))
    return tuple(bodies)


def _numpy_rows_back(xp: Any, g: Any, x: Any, mean: Any, var: Any, w: Any, *, eps: float) -> Any:
    g, x = g.astype(mean.dtype), x.astype(mean.dtype)
    slope = (1 / xp.sqrt(var + eps))[:, None, None]
    standard = (x - mean[:, None, None]) * slope
    shape = (-1, w.shape[0] // x.shape[1], *x.shape[1:])
    own = (g.reshape(shape) * _repeated(w, x)).reshape(x.shape)
    dx = slope * (own - own.mean((1, 2), keepdims=True) - standard * (own * standard).mean((1, 2), keepdims=True))
    dw, db = ((term.reshape(shape).sum((0, 3))).reshape(-1) for term in (g * standard, g))
    return dx, dw, db, xp.zeros((2, _Rows(x, w).blocks, x.shape[1]), mean.dtype)


NORMALIZE_ROWS_BACK = Operator("normalize_rows_gradient", _infer_rows_back, _numpy_rows_back, _lower_rows_back)


def _rows_rule(g: Any, x: Any, w: Any, mean_: Any, var: Any, eps: float) -> tuple[Any, ...]:
    if not native.gradients():
        operands = (_run(g), x, mean_, var, w)
        return tuple(apply(NORMALIZE_ROWS_BACK, operands, device_index(x.device), attributes=(("eps", eps),)))[:3]
    # The gradient is to be differentiated: the same by operators that know how.
    x, g = x.astype(_wide(x.dtype), copy=False), g.astype(_wide(g.dtype), copy=False)
    shape = (-1, w.shape[0] // x.shape[1], *x.shape[1:])
    gap = x - mean(x, (1, 2), keepdims=True)
    slope = 1.0 / sqrt(mean(gap * gap, (1, 2), keepdims=True) + eps)
    standard = gap * slope
    own = (g.reshape(shape) * _repeated(w, x)).reshape(x.shape)
    dx = slope * (own - mean(own, (1, 2), keepdims=True) - standard * mean(own * standard, (1, 2), keepdims=True))
    return (dx, *(sum(term.reshape(shape), (0, 3)).reshape(-1) for term in (g * standard, g)))


NORMALIZE_ROWS = Operator(
    "normalize_rows",
    _infer_rows,
    _numpy_rows,
    _lower_rows,
    grad=Gradients(
        joint=lambda gs, x, w, m, v, call: _rows_rule(gs[0], x, w, m, v, call["eps"]),
        operands=("x", "w", "b"),
        results=_RESULTS,
    ),
)


def _run(x: Array) -> Array:
    """The array where each row is contiguous, else a copy."""
    item, (_, channels, places) = x.itemsize, x.shape
    lies = (places == 1 or x.strides[2] == item) and (channels == 1 or x.strides[1] == places * item)
    return x if lies else copied(x)


def normalize_rows(x: Array, w: Array, b: Array, eps: float) -> Array:
    """x of shape (rows, channels, places), each row made standard, times w plus b.

    w and b have shape (period * channels,): values for each channel of a row, the same again after `period` rows.
    """
    own = _wide(x.dtype)
    operands = (_run(x), *(_lies(a.astype(own, copy=False)) for a in (w, b)))
    made: tuple[Array, ...] = apply(NORMALIZE_ROWS, operands, device_index(x.device), attributes=(("eps", float(eps)),))
    return made[0]


def _lies(x: Array) -> Array:
    """The array where the last axis is contiguous, else a copy."""
    return x if x.shape[-1] == 1 or x.strides[-1] == x.itemsize else copied(x)


def normalize(x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """x of shape (segments, kept, length) made standard over segments and length, and the mean and variance (kept,).

    With w and b (both or none, of shape (kept,)), the result is multiplied by w and b is added.
    """
    x = _lies(x)
    own = _wide(x.dtype)
    operands: tuple[Array, ...] = (x,)
    if w is not None and b is not None:
        operands = (x, *(_lies(a.astype(own, copy=False)) for a in (w, b)))
    op = NORMALIZE if w is None else NORMALIZE_AFFINE
    made: tuple[Array, Array, Array] = apply(op, operands, device_index(x.device), attributes=(("eps", float(eps)),))
    return made
