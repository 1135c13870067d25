"""Dropout by uniform random numbers, as one elementwise kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.elementwise import elementwise_kernel
from dagrun.codegen.expression import Constant, Input, Scalar, Select, call, cast
from dagrun.core import device_index
from dagrun.ops.elementwise import elementwise_bodies
from dagrun.record import Body, Gradients, Operator, apply

DRAWN = np.dtype(np.float32)
_SCALARS = (DRAWN, np.dtype(np.float64))


def _infer(inputs: Sequence[Any], scalars: Sequence[Any]) -> Any:
    return ((inputs[0].shape, inputs[0].dtype),)


def _compute(xp: Any, x: Any, u: Any, p: float, scale: float) -> Any:
    wide = DRAWN if x.dtype == np.float16 else x.dtype
    return xp.where(u >= DRAWN.type(p), x.astype(wide) * wide.type(scale), wide.type(0))


def _lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any]) -> tuple[Body, ...]:
    dtype = str(inputs[0].dtype)
    wide = "float32" if dtype == "float16" else dtype
    own = Input(0, dtype) if wide == dtype else cast(Input(0, dtype), wide)
    scaled = call("multiply", own, cast(Scalar(1, "float64"), wide))
    stays = call("greater_equal", Input(1, "float32"), Scalar(0, "float32"))
    kept = Select(stays, scaled, Constant(0.0, wide))
    tree = kept if wide == dtype else cast(kept, dtype)
    return elementwise_bodies(elementwise_kernel(tree), outputs[0], inputs)


DROPOUT = Operator(
    "dropout",
    _infer,
    _compute,
    _lower,
    grad=Gradients(lambda g, u, p, scale: dropout(g, u, p, scale), operands=("x", "u", "p", "scale")),
)


def dropout(x: Array, u: Array, p: float, scale: float) -> Array:
    """x * scale where u >= p, else 0; u is float32 and broadcasts to x."""
    return apply(DROPOUT, (x, u), device_index(x.device), scalars=_SCALARS, values=(p, scale))
