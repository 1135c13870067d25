"""Pseudo-inverses, ranks, least squares, powers."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, host_view
from dagrun.core import native
from dagrun.ops.creation import eye, full
from dagrun.ops.linalg.factors import svdvals
from dagrun.ops.linalg.lapack import as_matrices, lapack_operator, record
from dagrun.ops.linalg.products import matmul
from dagrun.ops.linalg.solving import inv
from dagrun.ops.manipulation import broadcast_to
from dagrun.ops.reductions import any as any_of
from dagrun.ops.reductions import count_nonzero
from dagrun.ops.reductions import max as max_of
from dagrun.record import Gradients


def _pinv_grad(g: Any, a: Any, y: Any, xp: Any) -> Any:
    """Golub and Pereyra 1973."""
    turned, g_turned = xp.matrix_transpose(y), xp.matrix_transpose(g)
    inside = xp.matmul(turned, xp.matmul(g, turned))
    left = xp.matmul(xp.matmul(g_turned, y), turned)
    right = xp.matmul(turned, xp.matmul(y, g_turned))
    return left - xp.matmul(a, xp.matmul(y, left)) + right - xp.matmul(xp.matmul(right, y), a) - inside


PINV = lapack_operator(
    "pinv",
    lambda a, rtol, hermitian: (((*a.shape[:-2], a.shape[-1], a.shape[-2]), a.dtype),),
    lambda a, rtol, hermitian: np.linalg.pinv(a, np.asarray(rtol), hermitian),
    Gradients(_pinv_grad),
)


def pinv(a: Any, /, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Array:
    """The pseudo-inverses of matrices (Moore 1920, Penrose 1955).

    Singular values up to `rtol` (`rcond`; 1e-15 unless given) times the largest count as 0. An array, which is read at
    once, has one for each matrix.
    """
    a = as_matrices(a, "pinv", square=hermitian)
    if rcond is not None and rtol is not None:
        raise ValueError(f"pinv: rcond={rcond} and rtol={rtol} are two names of one number, expected one")
    cut = rtol if rcond is None else rcond
    return record(PINV, a, rtol=1e-15 if cut is None else _fixed(np.asarray(cut).tolist()), hermitian=bool(hermitian))


def _fixed(value: Any) -> Any:
    """Nested lists as tuples."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value


def matrix_rank(A: Any, tol: float | None = None, hermitian: bool = False, *, rtol: float | None = None) -> Array:
    """How many singular values of matrices are above `tol`: `rtol` times the largest, or the dtype's epsilon times the
    longer side. A vector has rank 0 if it is zero, else 1."""
    a = as_array(A)
    if a.ndim < 2:
        return any_of(a).astype(np.int64)
    sizes = svdvals(a)
    if not sizes.shape[-1]:
        return full(sizes.shape[:-1], 0, np.int64, device=a.device)
    if tol is None:
        share = max(a.shape[-2:]) * float(np.finfo(sizes.dtype).eps) if rtol is None else rtol
        return count_nonzero(sizes > max_of(sizes, -1, keepdims=True) * share, -1)
    return count_nonzero(sizes > tol, -1)


def matrix_power(a: Any, n: int, /) -> Array:
    """Square matrices multiplied n times with themselves; their inverses where n is negative."""
    a = as_array(a)
    count = operator.index(n)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise np.linalg.LinAlgError(f"matrix_power: an array of shape {a.shape}, expected square matrices")
    if count < 0:
        a, count = inv(a), -count
    if count == 0:
        return broadcast_to(eye(a.shape[-1], dtype=a.dtype, device=a.device), a.shape).copy()
    result: Array | None = None
    square = a
    while True:
        if count & 1:
            result = square if result is None else matmul(result, square)
        count >>= 1
        if not count:
            assert result is not None
            return result
        square = matmul(square, square)


def lstsq(a: Any, b: Any, /, rcond: float | None = None) -> tuple[Array, Array, int, Array]:
    """Least squares: x with the smallest |a @ x - b|, its squared residuals, the rank of a, the singular values of a.

    The shape of the residuals depends on the rank: this waits. NotImplementedError where gradients are asked for.
    """
    a, b = as_array(a), as_array(b)
    if native.gradients() and (a._tracked or b._tracked):
        raise NotImplementedError("lstsq has no gradient; compute dr.linalg.pinv(a) @ b, or call it under dr.no_grad()")
    x, residuals, rank, sizes = np.linalg.lstsq(host_view(a), host_view(b), rcond)
    return asarray(x, device=a.device), asarray(residuals, device=a.device), int(rank), asarray(sizes, device=a.device)
