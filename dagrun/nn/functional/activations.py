"""Activations, composed of operators where they are none of their own. `inplace` is taken and does nothing."""

from __future__ import annotations

from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn.functional.softmax import softmax
from dagrun.ops import random


def relu(input: Array, inplace: bool = False) -> Array:
    """x where positive, else 0 (Nair and Hinton 2010)."""
    return ops.relu(input)


def sigmoid(input: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return ops.sigmoid(input)


def tanh(input: Array) -> Array:
    """The hyperbolic tangent."""
    return ops.tanh(input)


def silu(input: Array, inplace: bool = False) -> Array:
    """x * sigmoid(x) (Hendrycks and Gimpel 2016, Elfwing et al. 2018)."""
    return ops.silu(input)


def leaky_relu(input: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    """x where positive, else negative_slope * x (Maas et al. 2013)."""
    return ops.where(input > 0, input, input * negative_slope)


def prelu(input: Array, weight: Array) -> Array:
    """leaky_relu with learned slopes: one, or one for each channel (axis 1) (He et al. 2015)."""
    slope = weight
    if weight.size != 1:
        if input.ndim < 2 or input.shape[1] != weight.size:
            raise ValueError(f"prelu: {weight.size} slopes for an input of shape {input.shape}, expected (N, C, *)")
        slope = ops.reshape(weight, (weight.size, *(1,) * (input.ndim - 2)))
    return ops.where(input > 0, input, input * slope)


def elu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """x where positive, else alpha * (exp(x) - 1) (Clevert et al. 2016)."""
    # The exponential of the negative part only: elsewhere it may overflow, and infinity times 0 is no gradient.
    return ops.where(input > 0, input, alpha * ops.expm1(ops.minimum(input, 0.0)))


def selu(input: Array, inplace: bool = False) -> Array:
    """The scaled elu that keeps mean 0 and variance 1 (Klambauer et al. 2017, equation 2)."""
    return 1.0507009873554805 * elu(input, 1.6732632423543772)


def celu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)) (Barron 2017)."""
    return ops.where(input > 0, input, alpha * ops.expm1(ops.minimum(input, 0.0) / alpha))


def gelu(input: Array, approximate: str = "none") -> Array:
    """x times the normal distribution function at x, or its "tanh" approximation (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        return ops.gelu_tanh(input)
    if approximate != "none":
        raise ValueError(f"gelu: approximate is {approximate!r}, expected 'none' or 'tanh'")
    return ops.gelu(input)


def mish(input: Array, inplace: bool = False) -> Array:
    """x * tanh(softplus(x)) (Misra 2019)."""
    return input * tanh(ops.softplus(input))


def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above `threshold`."""
    smooth = ops.softplus(input) if beta == 1.0 else ops.softplus(input * beta) / beta
    return ops.where(input * beta > threshold, input, smooth)


def logsigmoid(input: Array) -> Array:
    """log(sigmoid(x)) without overflow."""
    return -ops.softplus(-input)


def hardtanh(input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Array:
    """x limited to [min_val, max_val] (Collobert 2004); slope 0 at the limits."""
    inside = (input > min_val) & (input < max_val)
    return ops.where(inside, input, ops.clip(input.detach(), min_val, max_val))


def relu6(input: Array, inplace: bool = False) -> Array:
    """x limited to [0, 6] (Krizhevsky 2010)."""
    return hardtanh(input, 0.0, 6.0)


def hardsigmoid(input: Array, inplace: bool = False) -> Array:
    """relu6(x + 3) / 6 (Courbariaux et al. 2015)."""
    return relu6(input + 3.0) / 6.0


def hardswish(input: Array, inplace: bool = False) -> Array:
    """x * relu6(x + 3) / 6 (Howard et al. 2019)."""
    return input * hardsigmoid(input)


def softsign(input: Array) -> Array:
    """x / (1 + |x|) (Glorot and Bengio 2010)."""
    return input / (1 + ops.abs(input))


def tanhshrink(input: Array) -> Array:
    """x - tanh(x)."""
    return input - tanh(input)


def threshold(input: Array, threshold: float, value: float, inplace: bool = False) -> Array:
    """x where above the threshold, else the value."""
    return ops.where(input > threshold, input, value)


def glu(input: Array, dim: int = -1) -> Array:
    """The first half along an axis, times the sigmoid of the second (Dauphin et al. 2017)."""
    length = input.shape[dim]
    if length % 2:
        raise ValueError(f"glu: axis {dim} of an input of shape {input.shape} has no halves: {length} is odd")
    first, second = ops.split(input, 2, axis=dim)
    return first * sigmoid(second)


def softmin(input: Array, dim: int = -1, dtype: Any = None) -> Array:
    """The softmax of -x along an axis."""
    return softmax(-input, dim, dtype)


__all__ = [
    "celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu",
    "relu", "relu6", "selu", "sigmoid", "silu", "softmin", "softplus", "softsign", "tanh", "tanhshrink", "threshold",
]  # fmt: skip


def hardshrink(input: Array, lambd: float = 0.5) -> Array:
    """x outside of [-lambd, lambd], else 0."""
    return ops.where(ops.abs(input) <= lambd, 0.0, input)


def softshrink(input: Array, lambd: float = 0.5) -> Array:
    """x less lambd above it, x plus lambd below -lambd, else 0."""
    if lambd < 0:
        raise ValueError(f"softshrink: lambd is {lambd}, expected no negative number")
    return ops.where(input > lambd, input - lambd, ops.where(input >= -lambd, 0.0, input + lambd))


def rrelu(
    input: Array, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Array:
    """leaky_relu with a slope drawn for each element in training, else the middle one (Xu et al. 2015)."""
    if not lower <= upper:
        raise ValueError(f"rrelu: slopes from {lower} to {upper}, expected the lower one first")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    dtype = "float64" if input.dtype.itemsize == 8 else "float32"
    drawn = random.uniform(lower, upper, input.shape, dtype, device=input.device)
    return ops.where(input > 0, input, input * drawn.astype(input.dtype, copy=False))


def gumbel_softmax(logits: Array, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Array:
    """softmax((logits + g) / tau) with g from Gumbel's distribution (Jang et al. 2017).

    `hard`: one-hot values of the largest, with the gradient of the soft ones. `eps` limits what g is the logarithm of.
    """
    drawn = random.random(logits.shape, "float64" if logits.dtype.itemsize == 8 else "float32", device=logits.device)
    noise = -ops.log(ops.maximum(-ops.log1p(-drawn), eps))  # drawn is in [0, 1)
    soft = softmax((logits + noise.astype(logits.dtype, copy=False)) / tau, dim)
    if not hard:
        return soft
    largest = ops.argmax(soft, axis=dim, keepdims=True)
    axis = dim % soft.ndim
    shape = tuple(-1 if place == axis else 1 for place in range(soft.ndim))
    places = ops.arange(soft.shape[axis], device=soft.device).reshape(shape)
    return (places == largest).astype(soft.dtype) - soft.detach() + soft
