"""Losses composed of operators. `reduction`: "mean", "sum" or "none". Cross-entropy stands in `softmax.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, as_array, asarray, is_weak
from dagrun.nn.functional.activations import logsigmoid
from dagrun.nn.functional.vectors import cosine_similarity, pairwise_distance
from dagrun.ops.formulas import Formula
from dagrun.ops.precision import in_single
from dagrun.record import Gradients, composed


def reduced(values: Array, reduction: str) -> Array:
    """A loss's values as they are, their mean, or their sum."""
    if reduction == "none":
        return values
    if reduction == "mean":
        return ops.mean(values)
    if reduction == "sum":
        return ops.sum(values)
    raise ValueError(f"reduction {reduction!r}, expected 'none', 'mean' or 'sum'")


def _both(input: Any, target: Any) -> tuple[Array, Array]:
    """Input and target as arrays; a Python number as a target is one of the input's dtype, without axes."""
    x = as_array(input)
    return x, target if isinstance(target, Array) else asarray(
        target, x.dtype if is_weak(target) else None, device=x.device
    )


def _same_shape(name: str, input: Any, target: Any, one_for_all: bool = False) -> tuple[Array, Array]:
    """Input and target of equal shapes, or a target without axes that counts for all elements, where that is allowed.

    Other shapes that would broadcast are refused: (n, 1) with (n,) is a mistake that would train on n * n pairs.
    """
    x, t = _both(input, target)
    if x.shape != t.shape and not (one_for_all and t.ndim == 0):
        raise ValueError(
            f"{name}: a target of shape {t.shape} for an input of shape {x.shape}, expected the same shape"
            + (" or one number" if one_for_all else "" if t.ndim else "; dr.full_like(input, number) makes one")
        )
    return x, t


def _weighted(name: str, values: Array, weight: Array | None, reduction: str) -> Array:
    """As `reduced`, where each value counts as much as its weight says: the mean is that of the weights."""
    if weight is None:
        return reduced(values, reduction)
    if weight.shape != values.shape:
        raise ValueError(f"{name}: weight of shape {weight.shape}, expected the input's shape {values.shape}")
    if reduction == "mean":
        return ops.sum(values * weight) / ops.sum(weight)
    return reduced(values * weight, reduction)


@in_single
def mse_loss(input: Array, target: Array | float, reduction: str = "mean", weight: Array | None = None) -> Array:
    """(input - target)**2; the mean is weighted where there are weights.

    >>> import dagrun as dr
    >>> dr.nn.functional.mse_loss(dr.asarray([1.0, 2.0]), dr.asarray([1.0, 4.0])).item()
    2.0
    """
    input, target = _same_shape("mse_loss", input, target, one_for_all=True)
    return _weighted("mse_loss", ops.square(input - target), weight, reduction)


@in_single
def l1_loss(input: Array, target: Array | float, reduction: str = "mean", weight: Array | None = None) -> Array:
    """|input - target|; the mean is weighted where there are weights."""
    input, target = _same_shape("l1_loss", input, target, one_for_all=True)
    return _weighted("l1_loss", ops.abs(input - target), weight, reduction)


@in_single
def smooth_l1_loss(input: Array, target: Array, reduction: str = "mean", beta: float = 1.0) -> Array:
    """d**2 / (2 beta) where |d| < beta, else |d| - beta / 2 (Girshick 2015, equation 3)."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta}, expected no negative number")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return huber_loss(input, target, reduction, beta) / beta


def _huber(xp: Any, a: Any, b: Any, delta: float) -> Any:
    size = xp.absolute(a - b)
    return xp.where(size < delta, 0.5 * (size * size), delta * (size - 0.5 * delta))


def _huber_slope(xp: Any, g: Any, a: Any, b: Any, delta: float) -> Any:
    return g * xp.maximum(xp.minimum(a - b, delta), -delta)


def _huber_inside(xp: Any, h: Any, g: Any, a: Any, b: Any, delta: float) -> Any:
    """The derivative of the slope in a, times h."""
    return xp.where(xp.absolute(a - b) < delta, h * g, 0.0)


_HUBER_SLOPE = Formula(
    "huber_gradient",
    _huber_slope,
    Gradients(
        lambda g, b, c, call, xp: _huber_slope(xp, g, b, c, call["delta"]),
        lambda g, a, b, c, call, xp: _huber_inside(xp, g, a, b, c, call["delta"]),
        lambda g, a, b, c, call, xp: -_huber_inside(xp, g, a, b, c, call["delta"]),
    ),
)
_HUBER = Formula(
    "huber",
    _huber,
    Gradients(
        lambda g, a, b, call: _HUBER_SLOPE(g, a, b, delta=call["delta"]),
        lambda g, a, b, call: -_HUBER_SLOPE(g, a, b, delta=call["delta"]),
    ),
)


@in_single
def huber_loss(
    input: Array, target: Array | float, reduction: str = "mean", delta: float = 1.0, weight: Array | None = None
) -> Array:
    """d**2 / 2 where |d| < delta, else delta * (|d| - delta / 2) (Huber 1964), times the weight if there is one."""
    input, target = _same_shape("huber_loss", input, target, one_for_all=True)
    if delta <= 0:
        raise ValueError(f"huber_loss: delta is {delta}, expected a positive number")
    dtype = np.result_type(input.dtype, target.dtype)
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    values = _HUBER(input.astype(dtype, copy=False), target.astype(dtype, copy=False), delta=float(delta))
    if weight is not None and weight.shape != values.shape:
        raise ValueError(f"huber_loss: weight of shape {weight.shape}, expected the input's shape {values.shape}")
    return reduced(values if weight is None else values * weight, reduction)


def _logarithm(p: Array) -> Array:
    return ops.maximum(ops.log(p), -100.0)


def _cross_entropies(input: Array, target: Array) -> Array:
    return -(target * _logarithm(input) + (1 - target) * _logarithm(1 - input))


# At 0 and 1 the slope of the logarithm is infinite: there the denominator is limited.
_CROSS_ENTROPIES = Gradients(
    lambda g, a, b, xp: g * (a - b) / xp.maximum(a * (1 - a), 1e-12),
    lambda g, a: g * (_logarithm(1 - a) - _logarithm(a)),
)


@in_single
def binary_cross_entropy(input: Array, target: Array, weight: Array | None = None, reduction: str = "mean") -> Array:
    """-(target * log(input) + (1 - target) * log(1 - input)); the logarithms are not below -100.

    The slope is (input - target) / max(input * (1 - input), 1e-12); both limits are PyTorch's. The input holds
    probabilities; from logits, `binary_cross_entropy_with_logits` is exact.

        >>> import dagrun as dr
        >>> dr.nn.functional.binary_cross_entropy(dr.asarray([0.0, 0.5]), dr.asarray([1.0, 1.0]), reduction="none")
        array([100.        ,   0.69314718])
    """
    input, target = _same_shape("binary_cross_entropy", input, target)
    values = composed("binary_cross_entropy", _CROSS_ENTROPIES, _cross_entropies, (input, target))
    return reduced(values if weight is None else values * weight, reduction)


@in_single
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    """The binary cross-entropy of sigmoid(input), exact for any size of input.

    `pos_weight` multiplies the loss of positive targets.

        >>> import dagrun as dr
        >>> dr.nn.functional.binary_cross_entropy_with_logits(dr.asarray([1e4]), dr.asarray([1.0])).item()
        0.0
    """
    input, target = _same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        values = (1 - target) * input - logsigmoid(input)
    else:
        values = (1 - target) * input - (1 + (pos_weight - 1) * target) * logsigmoid(input)
    return reduced(values if weight is None else values * weight, reduction)


@in_single
def kl_div(input: Array, target: Array, reduction: str = "mean", log_target: bool = False) -> Array:
    """target * (log(target) - input): the input holds log-probabilities (Kullback and Leibler 1951).

    Also "batchmean": the sum over the first axis's length, which is the divergence's definition.
    """
    input, target = _both(input, target)
    if log_target:
        values = ops.exp(target) * (target - input)
    else:
        some = target > 0
        values = ops.where(some, target * (ops.log(ops.where(some, target, 1.0)) - input), 0.0)
    if reduction == "batchmean":
        return ops.sum(values) / input.shape[0]
    return reduced(values, reduction)


@in_single
def poisson_nll_loss(
    input: Array, target: Array, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Array:
    """exp(input) - target * input, or input - target * log(input + eps); `full` adds Stirling's term for the rest."""
    input, target = _both(input, target)
    values = ops.exp(input) - target * input if log_input else input - target * ops.log(input + eps)
    if full:
        large = ops.where(target > 1, target, 1.0)
        stirling = large * ops.log(large) - large + 0.5 * ops.log(2 * math.pi * large)
        values = values + ops.where(target > 1, stirling, 0.0)
    return reduced(values, reduction)


@in_single
def gaussian_nll_loss(
    input: Array, target: Array, var: Array | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Array:
    """(log(var) + (input - target)**2 / var) / 2 (Nix and Weigend 1994); variances below eps count as eps.

    `var`: of the input's shape, one for each of its lines (*, 1) or (*,), or one number for all.
    """
    input, target = _both(input, target)
    _, var = _both(input, var)
    if var.ndim == input.ndim - 1 and var.shape == input.shape[:-1]:
        var = ops.expand_dims(var, -1)
    limited = ops.where(var < eps, var * 0 + eps, var)
    # The limit does not change the gradient: that of the limited value is passed on, as in PyTorch.
    limited = var + (limited - var).detach()
    values = 0.5 * (ops.log(limited) + ops.square(input - target) / limited)
    return reduced(values + 0.5 * math.log(2 * math.pi) if full else values, reduction)


@in_single
def hinge_loss(input: Array, target: Array, margin: float = 1.0, reduction: str = "mean") -> Array:
    """max(0, margin - target * input) for targets -1 and 1 (Cortes and Vapnik 1995)."""
    input, target = _same_shape("hinge_loss", input, target, one_for_all=True)
    return reduced(ops.relu(margin - target * input), reduction)


@in_single
def multi_margin_loss(
    input: Array,
    target: Array,
    p: int = 1,
    margin: float = 1.0,
    weight: Array | None = None,
    reduction: str = "mean",
) -> Array:
    """The mean over other classes of max(0, margin - input[target] + input[other])**p (Crammer and Singer 2001).

    input (N, C), target (N,) class numbers.
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p is {p}, expected 1 or 2")
    classes = input.shape[-1]
    column = ops.expand_dims(target, -1)
    numbers = ops.arange(classes, dtype=target.dtype, device=input.device)
    right = numbers == column
    of_target = ops.sum(ops.where(right, input, 0.0), axis=-1, keepdims=True)
    terms = ops.relu(margin - of_target + input)
    terms = ops.square(terms) if p == 2 else terms
    if weight is not None:
        terms = terms * ops.expand_dims(ops.take(weight, target), -1)
    return reduced(ops.sum(ops.where(right, 0.0, terms), axis=-1) / classes, reduction)


@in_single
def soft_margin_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """log(1 + exp(-target * input)) for targets -1 and 1."""
    input, target = _same_shape("soft_margin_loss", input, target, one_for_all=True)
    return reduced(ops.softplus(-target * input), reduction)


@in_single
def multilabel_margin_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """The sum over classes named and classes not named of max(0, 1 - input[named] + input[other]), divided by C.

    input (N, C) or (C,); target of the same shape holds class numbers up to the first -1.
    """
    input, target = _same_shape("multilabel_margin_loss", input, target)
    classes = input.shape[-1]
    counts = ops.cumprod((target >= 0).astype(input.dtype), axis=-1)  # 1 up to the first -1, then 0
    chosen = ops.where(counts > 0, target, 0)
    numbers = ops.arange(classes, dtype=target.dtype, device=input.device)
    named = ops.any((chosen[..., None] == numbers) & (counts[..., None] > 0), axis=-2)
    right = ops.take_along_axis(input, chosen, -1)
    terms = ops.relu(1 - right[..., None] + input[..., None, :]) * counts[..., None]
    values = ops.sum(ops.where(named[..., None, :], 0.0, terms), axis=(-2, -1)) / classes
    return reduced(values, reduction)


@in_single
def multilabel_soft_margin_loss(
    input: Array, target: Array, weight: Array | None = None, reduction: str = "mean"
) -> Array:
    """The mean over classes of the binary cross-entropies of logits: input and target (N, C), weight (C,)."""
    input, target = _same_shape("multilabel_soft_margin_loss", input, target)
    values = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return reduced(ops.mean(values if weight is None else values * weight, axis=-1), reduction)


@in_single
def triplet_margin_with_distance_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    distance_function: Any = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """`triplet_margin_loss` with a distance of the user's, `pairwise_distance` unless given."""
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = ops.minimum(far, distance(positive, negative))
    return reduced(ops.relu(near - far + margin), reduction)


@in_single
def hinge_embedding_loss(input: Array, target: Array, margin: float = 1.0, reduction: str = "mean") -> Array:
    """input for target 1, max(0, margin - input) for target -1."""
    input, target = _same_shape("hinge_embedding_loss", input, target, one_for_all=True)
    values = ops.where(ops.equal(target, 1), input, ops.relu(margin - input))
    return reduced(values, reduction)


@in_single
def margin_ranking_loss(
    input1: Array, input2: Array, target: Array, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    """max(0, -target * (input1 - input2) + margin): target 1 where the first should be larger, else -1."""
    return reduced(ops.relu(-target * (input1 - input2) + margin), reduction)


@in_single
def triplet_margin_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) (Balntas et al. 2016); arrays (N, D).

    `swap`: the negative is compared with the nearer of anchor and positive.
    """
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(ops.relu(near - far + margin), reduction)


@in_single
def contrastive_loss(x1: Array, x2: Array, target: Array, margin: float = 1.0, reduction: str = "mean") -> Array:
    """d**2 / 2 for similar pairs (target 0), max(0, margin - d)**2 / 2 for others (target 1), d the distance of rows.

    Hadsell, Chopra and LeCun 2006, equation 4. x1 and x2 (N, D), target (N,).
    """
    squared = ops.sum(ops.square(x1 - x2), axis=-1)
    # The slope of the root is infinite at 0: there the gradient of the distance is taken as 0.
    apart = squared > 0
    distance = ops.where(apart, ops.sqrt(ops.where(apart, squared, 1.0)), 0.0)
    values = 0.5 * ((1 - target) * squared + target * ops.square(ops.relu(margin - distance)))
    return reduced(values, reduction)


@in_single
def cosine_embedding_loss(
    input1: Array, input2: Array, target: Array, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    """1 - cosine for target 1, max(0, cosine - margin) for target -1; inputs (N, D), target (N,)."""
    cosine = cosine_similarity(input1, input2, dim=-1)
    return reduced(ops.where(ops.equal(target, 1), 1 - cosine, ops.relu(cosine - margin)), reduction)
