"""The logarithm of a sum of exponentials."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.ops.manipulation import normal_axes, squeeze
from dagrun.ops.mathematics import exp, isfinite, log
from dagrun.ops.reductions import Axis, max, sum
from dagrun.ops.selection import where
from dagrun.record import Gradients, composed


def _run(x: Array, axis: Axis) -> Array:
    largest = max(x, axis=axis, keepdims=True)
    largest = where(isfinite(largest), largest, 0.0)  # an infinity less itself is no number
    return log(sum(exp(x - largest), axis=axis, keepdims=True)) + largest


# The softmax; 0 where all elements are -inf.
_RULES = Gradients(lambda g, a, y: g * exp(a - where(y == -np.inf, 0.0, y)))


def logsumexp(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """log(sum(exp(x))) along an axis, several, or all (None), without overflow; -inf where all elements are.

    TypeError for integers. SciPy's and PyTorch's function of this name.

        >>> import dagrun as dr
        >>> dr.logsumexp(dr.asarray([1000.0, 1000.0]))
        array(1000.69314718)
    """
    x = as_array(x)
    if x.dtype.kind != "f":
        raise TypeError(f"logsumexp: an array of dtype {x.dtype}, expected a floating dtype; use astype")
    if not x.size:
        return log(sum(exp(x), axis=axis, keepdims=keepdims))
    y: Array = composed("logsumexp", _RULES, _run, (x,), axis=axis)
    if keepdims:
        return y
    return squeeze(y, tuple(range(x.ndim)) if axis is None else normal_axes(axis, x.ndim, "logsumexp"))
