"""Normalisation as one native kernel, and its gradient as another.

`normalize` takes x of shape (segments, kept, length): for each kept index the elements of all segments are made to have
mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.normalization import normalization_kernel, normalization_params
from dagrun.core import device_index, native
from dagrun.ops.cutting import cut
from dagrun.ops.elementwise import copied
from dagrun.ops.manipulation import expand_dims
from dagrun.ops.mathematics import sqrt
from dagrun.ops.reductions import mean, sum
from dagrun.record import OVERWRITE, READ, WRITE, Body, Gradients, Operand, Operator, apply, layout

PASSES = 4  # over an element, by vectors
_AXES = (0, 2)  # summed over


def _wide(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _bodies(
    kind: str, views: Sequence[Any], written: int, walked: Sequence[int], affine: bool, eps: float
) -> tuple[Body, ...]:
    """The tasks: pieces of the kept indices. `walked`: which operands are y or x', x and g; others have `kept`."""
    x = views[walked[1]]
    address = normalization_kernel(kind, x.dtype, affine)
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
    return _bodies("forward", (*outputs, *inputs), 3, (0, 3), len(inputs) > 1, eps)


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
    return _bodies("backward", (*outputs, *inputs), count, (0, count + 1, count), count > 1, eps)


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
