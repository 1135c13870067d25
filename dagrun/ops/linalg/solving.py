"""Solutions of linear systems, inverses and determinants of square matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dagrun.array import Array, asarray
from dagrun.ops.linalg.lapack import as_matrices, in_float, lapack_operator, record
from dagrun.ops.manipulation import expand_dims, squeeze
from dagrun.record import Gradients, common_device


class SlogdetResult(NamedTuple):
    """Sign and natural logarithm of the magnitude of determinants."""

    sign: Array
    logabsdet: Array


def _of_matrices(a: Any) -> Any:
    return ((a.shape[:-2], a.dtype),)


def _inv_grad(g: Any, y: Any, xp: Any) -> Any:
    turned = xp.matrix_transpose(y)
    return -xp.matmul(turned, xp.matmul(g, turned))


def _solve_grad(g: Any, a: Any, y: Any, xp: Any) -> Any:
    right = solve(xp.matrix_transpose(a), g)
    return -xp.matmul(right, xp.matrix_transpose(y)), right


def _det_grad(g: Any, a: Any, y: Any, xp: Any) -> Any:
    return (g * y)[..., None, None] * xp.matrix_transpose(inv(a))


def _slogdet_grad(gs: Any, a: Any, xp: Any) -> Any:
    return (None if gs[1] is None else gs[1][..., None, None] * xp.matrix_transpose(inv(a)),)


INV = lapack_operator("inv", lambda a: ((a.shape, a.dtype),), np.linalg.inv, Gradients(_inv_grad))
SOLVE = lapack_operator(
    "solve",
    lambda a, b: (((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:]), b.dtype),),
    np.linalg.solve,
    Gradients(joint=_solve_grad),
)
DET = lapack_operator("det", _of_matrices, np.linalg.det, Gradients(_det_grad))
SLOGDET = lapack_operator(
    "slogdet", lambda a: _of_matrices(a) * 2, lambda a: tuple(np.linalg.slogdet(a)), Gradients(joint=_slogdet_grad)
)


def inv(a: Any, /) -> Array:
    """The inverses of square matrices; LinAlgError at the wait where one is singular.

    >>> import dagrun as dr
    >>> dr.linalg.inv(dr.asarray([[2.0, 0.0], [0.0, 4.0]]))
    array([[0.5 , 0.  ],
           [0.  , 0.25]])
    """
    return record(INV, as_matrices(a, "inv", square=True))


def solve(a: Any, b: Any, /) -> Array:
    """x with a @ x = b, for square matrices a; b is a vector where it has one axis, else matrices.

    LinAlgError at the wait where a matrix is singular. `numpy.linalg.solve`.

        >>> import dagrun as dr
        >>> dr.linalg.solve(dr.asarray([[2.0, 0.0], [0.0, 4.0]]), dr.asarray([2.0, 2.0]))
        array([1. , 0.5])
    """
    a = as_matrices(a, "solve", square=True)
    b = in_float(b if isinstance(b, Array) else asarray(b, device=a.device), "solve")
    common_device("solve", (a, b))
    if b.ndim == 0 or b.shape[-2 if b.ndim > 1 else 0] != a.shape[-1]:
        raise ValueError(f"solve: matrices of shape {a.shape} and right sides of shape {b.shape} do not fit")
    dtype = np.result_type(a.dtype, b.dtype)
    a, right = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    if b.ndim > 1:
        return record(SOLVE, a, right)
    return squeeze(record(SOLVE, a, expand_dims(right, -1)), -1)


def det(a: Any, /) -> Array:
    """The determinants of square matrices.

    >>> import dagrun as dr
    >>> dr.linalg.det(dr.asarray([[0.0, 1.0], [1.0, 0.0]])).item()
    -1.0
    """
    return record(DET, as_matrices(a, "det", square=True))


def slogdet(a: Any, /) -> SlogdetResult:
    """Signs and logarithms of the magnitudes of determinants, which may be too large or small for `det`."""
    return SlogdetResult(*record(SLOGDET, as_matrices(a, "slogdet", square=True)))
