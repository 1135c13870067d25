"""Affine maps."""

from __future__ import annotations

from typing import Any

from dagrun import ops
from dagrun.array import Array, as_array
from dagrun.autodiff import no_grad
from dagrun.core import native
from dagrun.ops.precision import in_half
from dagrun.record import Gradients
from dagrun.record.tape import Call, attach

# Products with whole matrices: the gradient of the weight has the weight's layout, and no batch of it is summed.
_RULES = Gradients(
    lambda g, weight: g @ weight,
    lambda g, x, xp: xp.matrix_transpose(g) @ x,
    lambda g: g,
    operands=("x", "weight", "bias"),
)


@in_half
def linear(input: Any, weight: Any, bias: Any = None) -> Array:
    """input @ weight.T + bias: input (*, in), weight (out, in), bias (out,), result (*, out).

    ValueError where the lengths do not fit.

        >>> import dagrun as dr
        >>> dr.nn.functional.linear(dr.ones((1, 3)), dr.ones((2, 3)), dr.asarray([0.0, 1.0]))
        array([[3., 4.]])
    """
    input, weight = as_array(input), as_array(weight)
    bias = None if bias is None else as_array(bias)
    if weight.ndim != 2 or input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: an input of shape {input.shape} does not fit a weight of shape {weight.shape}: expected (*, in) "
            "and (out, in)"
        )
    x = input if input.ndim == 2 else ops.reshape(input, (-1, weight.shape[1]))
    y = _linear(x, weight, bias)
    return y if input.ndim == 2 else ops.reshape(y, (*input.shape[:-1], weight.shape[0]))


def _linear(x: Array, weight: Array, bias: Array | None) -> Array:
    with no_grad():
        y = ops.matmul(x, ops.matrix_transpose(weight))
        if bias is not None:
            y = ops.add(y, bias, out=y) if y.dtype == bias.dtype else y + bias
    operands = (x, weight) if bias is None else (x, weight, bias)
    if native.gradients() and any(operand.requires_grad for operand in operands):
        layouts = tuple(operand._layout for operand in operands)
        attach("linear", _RULES, operands, y, Call({}, layouts, (y._layout,), y.device))
    return y


def bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None = None) -> Array:
    """For each output k: input1 . weight[k] . input2; inputs (*, in1) and (*, in2), weight (out, in1, in2).

    >>> import dagrun as dr
    >>> dr.nn.functional.bilinear(dr.ones((1, 2)), dr.ones((1, 3)), dr.ones((4, 2, 3))).tolist()
    [[6.0, 6.0, 6.0, 6.0]]
    """
    out, in1, in2 = weight.shape
    if input1.shape[-1] != in1 or input2.shape[-1] != in2:
        raise ValueError(
            f"bilinear: inputs {input1.shape} and {input2.shape}, weight {weight.shape}: expected (*, in1)"
        )
    left = ops.matmul(input1.reshape(-1, in1), ops.permute_dims(weight, (1, 0, 2)).reshape(in1, out * in2))
    y = ops.matmul(left.reshape(-1, out, in2), ops.expand_dims(input2.reshape(-1, in2), -1))
    y = y.reshape((*input1.shape[:-1], out))
    return y if bias is None else y + bias
