"""Lengths of vectors, distances and angles between them; names and arguments as in PyTorch."""

from __future__ import annotations

import math
from typing import Any

from dagrun import ops
from dagrun.array import Array, as_array
from dagrun.ops.precision import in_single


def norm(x: Array, p: float, dim: int, keepdim: bool) -> Array:
    """The p-norm along an axis; its gradient at the zero vector is 0."""
    size = ops.abs(x)
    if p in (1.0, math.inf):
        return (ops.sum if p == 1.0 else ops.max)(size, axis=dim, keepdims=keepdim)
    total = ops.sum(ops.square(x) if p == 2.0 else size**p, axis=dim, keepdims=keepdim)
    some = total > 0  # the slope of the root is infinite at 0
    total = ops.where(some, total, 1.0)
    return ops.where(some, ops.sqrt(total) if p == 2.0 else total ** (1 / p), 0.0)


@in_single
def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Array:
    """Vectors along an axis divided by their p-norm, or by eps where that is smaller.

    >>> import dagrun as dr
    >>> dr.nn.functional.normalize(dr.asarray([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    x = as_array(input)
    return x / ops.maximum(norm(x, p, dim, True), eps)


@in_single
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Array:
    """The p-norm of x1 - x2 + eps along the last axis.

    >>> import dagrun as dr
    >>> dr.nn.functional.pairwise_distance(dr.asarray([[3.0, 4.0]]), dr.zeros((1, 2)), eps=0.0)
    array([5.])
    """
    return norm(as_array(x1) - as_array(x2) + eps, p, -1, keepdim)


@in_single
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Array:
    """The cosine of the angle between vectors along an axis; norms below eps count as eps. x1 and x2 broadcast.

    >>> import dagrun as dr
    >>> dr.nn.functional.cosine_similarity(dr.asarray([[1.0, 0.0], [0.0, 2.0]]), dr.asarray([3.0, 0.0]))
    array([1., 0.])
    """
    x1, x2 = ops.broadcast_arrays(as_array(x1), as_array(x2))
    norms = [ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=dim), eps * eps)) for x in (x1, x2)]
    return ops.sum(x1 * x2, axis=dim) / (norms[0] * norms[1])
