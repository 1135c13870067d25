"""softmax, log-softmax, and the losses of classes; names and arguments as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array, as_dtype, asarray
from dagrun.ops import softmax as ops
from dagrun.ops.elementwise import copied
from dagrun.ops.manipulation import normal_axis, reshape
from dagrun.ops.precision import in_single
from dagrun.ops.reductions import sum
from dagrun.record import common_device

REDUCTIONS = ("none", "mean", "sum")


def _floating(name: str, x: Any, dtype: Any) -> Array:
    x = as_array(x)
    if dtype is not None:
        x = x.astype(as_dtype(dtype), copy=False)
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: input of dtype {x.dtype}, expected a floating dtype; use astype or dtype=")
    return x


@in_single
def softmax(input: Any, dim: int = -1, dtype: Any = None) -> Array:
    """exp(x) / sum of exp(x) along an axis, with the largest element subtracted first; float16 by way of float32.

    Same shape as the input; AxisError for an axis it has not, TypeError for integers without `dtype`.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.softmax(dr.asarray([1000.0, 1000.0]))
        array([0.5, 0.5])
    """
    x = _floating("softmax", input, dtype)
    if x.ndim == 0:
        return reshape(softmax(reshape(x, (1,)), 0), ())
    return ops.softmax(x, normal_axis(dim, x.ndim, "softmax"))


@in_single
def log_softmax(input: Any, dim: int = -1, dtype: Any = None) -> Array:
    """The logarithm of `softmax`, exact also where softmax is close to 0.

    >>> import dagrun as dr
    >>> from dagrun.nn import functional as F
    >>> F.log_softmax(dr.asarray([0.0, -1000.0]))
    array([    0., -1000.])
    """
    x = _floating("log_softmax", input, dtype)
    if x.ndim == 0:
        return reshape(log_softmax(reshape(x, (1,)), 0), ())
    return ops.log_softmax(x, normal_axis(dim, x.ndim, "log_softmax"))


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction is {reduction!r}, expected 'none', 'mean' or 'sum'")


def _classes(name: str, input: Any, target: Any, weight: Any) -> tuple[Array, Array, Array | None, bool]:
    """x (n, classes, ...), targets (n, ...), class weights, and whether there is one line only."""
    x = _floating(name, input, None)
    t = target if isinstance(target, Array) else asarray(target, device=x.device)
    common_device(name, [x, t])
    alone = x.ndim == 1
    if alone:
        x, t = reshape(x, (1, -1)), reshape(t, (1, *t.shape))
    if x.ndim < 2 or x.shape[1] == 0 or t.dtype.kind not in "iu" or t.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"{name}: input of shape {x.shape} and target {t.dtype}{t.shape}, expected (n, classes, ...) with at least "
            "one class, and integer classes (n, ...)" + (" or probabilities of the input's shape" * (name[0] == "c"))
        )
    if t.dtype == np.uint64:
        t = t.astype(np.int64)
    w = None
    if weight is not None:
        w = weight if isinstance(weight, Array) else asarray(weight, device=x.device)
        common_device(name, [x, w])
        if w.shape != (x.shape[1],):
            raise ValueError(f"{name}: weight of shape {w.shape}, expected ({x.shape[1]},), one for each class")
        w = w.detach().astype(np.float32 if x.dtype == np.float16 else x.dtype, copy=False)
        w = w if w._layout.contiguous else copied(w)
    return x, t, w, alone


def _reduced(losses: Array, weights: Array, reduction: str, alone: bool, dtype: Any) -> Array:
    if reduction == "none":
        result = reshape(losses, ()) if alone else losses
    elif reduction == "sum":
        result = sum(losses)
    else:
        result = sum(losses) / sum(weights)
    return result.astype(dtype, copy=False)


@in_single
def cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:  # fmt: skip
    """The cross-entropy of logits with classes: -log softmax(input)[target], in one kernel.

    input (n, classes, ...) or (classes,), floating. target: integer classes (n, ...), where `ignore_index` gives no
    loss, or probabilities of the input's shape. `weight` (classes,): a factor for each class. `reduction`: "none"
    (losses of shape (n, ...)), "sum", or "mean" over the lines' weights (over n ... for probabilities).
    `label_smoothing`: the share of the target that is spread evenly (Szegedy et al. 2016). A class out of range fails
    when the values are computed: IndexError at the wait. PyTorch's function of this name.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> round(F.cross_entropy(dr.asarray([[0.0, 0.0], [9.0, 9.0]]), [0, 1]).item(), 6)
        0.693147
    """
    name = "cross_entropy"
    _check_reduction(name, reduction)
    smoothing = float(label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing is {label_smoothing}, expected 0 to 1")
    probabilities = isinstance(target, (Array, np.ndarray)) and target.dtype.kind == "f"
    if probabilities:
        return _with_probabilities(input, target, weight, reduction, smoothing)
    x, t, w, alone = _classes(name, input, target, weight)
    losses, _, weights = ops.cross_entropy(x, t, w, int(ignore_index), smoothing)
    return _reduced(losses, weights, reduction, alone, x.dtype)


def _with_probabilities(input: Any, target: Any, weight: Any, reduction: str, smoothing: float) -> Array:
    x = _floating("cross_entropy", input, None)
    q = target if isinstance(target, Array) else asarray(target, device=x.device)
    common_device("cross_entropy", [x, q])
    if x.shape != q.shape or x.ndim == 0:
        raise ValueError(f"cross_entropy: probabilities of shape {q.shape}, expected the input's shape {x.shape}")
    axis = 0 if x.ndim == 1 else 1
    q = q.astype(x.dtype, copy=False)
    if smoothing:
        q = q * (1 - smoothing) + smoothing / x.shape[axis]
    if weight is not None:
        w = weight if isinstance(weight, Array) else asarray(weight, x.dtype, device=x.device)
        if w.shape != (x.shape[axis],):
            raise ValueError(f"cross_entropy: weight of shape {w.shape}, expected ({x.shape[axis]},)")
        q = q * reshape(w.astype(x.dtype, copy=False), (-1, *(1,) * (x.ndim - axis - 1)))
    losses = -sum(q * ops.log_softmax(x, axis), axis)
    if reduction == "none":
        return losses
    return sum(losses) if reduction == "sum" else sum(losses) / float(losses.size)


@in_single
def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Array:
    """The negative log-likelihood of classes: -input[target], for log-probabilities as `log_softmax` gives them.

    Shapes, weights and reduction as in `cross_entropy` with integer classes.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.nll_loss(dr.asarray([[-1.0, -2.0]]), [1]).item()
        2.0
    """
    _check_reduction("nll_loss", reduction)
    x, t, w, alone = _classes("nll_loss", input, target, weight)
    losses, weights = ops.nll(x, t, w, int(ignore_index))
    return _reduced(losses, weights, reduction, alone, x.dtype)
