"""Factors of matrices: Cholesky, QR, singular values, eigenvalues of symmetric matrices; with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dagrun.array import Array
from dagrun.ops.linalg.lapack import as_matrices, lapack_operator, record
from dagrun.ops.linalg.solving import solve
from dagrun.ops.manipulation import matrix_transpose
from dagrun.record import Gradients


class QRResult(NamedTuple):
    """Orthonormal columns and an upper triangle whose product is the matrix."""

    Q: Array
    R: Array


class SVDResult(NamedTuple):
    """Left singular vectors, singular values from the largest on, right singular vectors as rows."""

    U: Array
    S: Array
    Vh: Array


class EighResult(NamedTuple):
    """Eigenvalues in ascending order, and eigenvectors as columns."""

    eigenvalues: Array
    eigenvectors: Array


def _t(x: Any) -> Any:
    return matrix_transpose(x)


def _cholesky_grad(g: Any, y: Any, call: Any, xp: Any) -> Any:
    """Murray 2016, "Differentiation of the Cholesky decomposition"."""
    if call["upper"]:
        g, y = _t(g), _t(y)
    inner = xp.matmul(_t(y), xp.tril(g))
    inner = xp.tril(inner) - 0.5 * inner * xp.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    flow = solve(_t(y), _t(solve(_t(y), _t(inner))))
    return 0.5 * (flow + _t(flow))


def _gaps(x: Any, xp: Any) -> Any:
    """1 / (x_j - x_i) outside of the diagonal, 0 on it."""
    own = xp.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return (1 - own) / (x[..., None, :] - x[..., :, None] + own)


def _eigh_grad(gs: Any, y: Any, z: Any, xp: Any) -> Any:
    """Giles 2008, "Collected matrix derivative results": eigenvalues must differ where vectors are asked for."""
    inner = None if gs[1] is None else xp.matmul(_t(z), gs[1]) * _gaps(y, xp)
    if gs[0] is not None:
        values = gs[0][..., None] * xp.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        inner = values if inner is None else inner + values
    flow = xp.matmul(z, xp.matmul(inner, _t(z)))
    return (0.5 * (flow + _t(flow)),)


def _svd_grad(gs: Any, call: Any, u: Any, s: Any, vh: Any, xp: Any) -> Any:
    """Giles 2008: singular values must differ, and not be 0, where vectors are asked for."""
    gu, gs_values, gvh = gs
    if call["full_matrices"] and (gu is not None or gvh is not None):
        if u.shape[-2] != vh.shape[-1]:
            raise NotImplementedError("svd: vectors of full_matrices=True have no gradient; take full_matrices=False")
    k = s.shape[-1]
    u, vh = u[..., :k], vh[..., :k, :]
    own = xp.eye(k, dtype=s.dtype, device=s.device)
    inner = xp.zeros_like(own) if gs_values is None else gs_values[..., None] * own
    if gu is None and gvh is None:
        return (xp.matmul(u, xp.matmul(inner, vh)),)
    gaps = _gaps(xp.square(s), xp)
    rest = None
    if gu is not None:
        skew = xp.matmul(_t(u), gu)
        inner = inner + gaps * (skew - _t(skew)) * s[..., None, :]
        over = gu / s[..., None, :]
        rest = xp.matmul(over - xp.matmul(u, xp.matmul(_t(u), over)), vh)
    if gvh is not None:
        skew = xp.matmul(vh, _t(gvh))
        inner = inner + s[..., :, None] * (gaps * (skew - _t(skew)))
        over = gvh / s[..., :, None]
        part = xp.matmul(u, over - xp.matmul(xp.matmul(over, _t(vh)), vh))
        rest = part if rest is None else rest + part
    return (xp.matmul(u, xp.matmul(inner, vh)) + rest,)


def _qr_grad(gs: Any, call: Any, y: Any, z: Any, xp: Any) -> Any:
    """Walter and Lehmann 2018, for matrices with no more columns than rows."""
    if (call["mode"] != "reduced" and y.shape[-2] != z.shape[-1]) or z.shape[-2] != z.shape[-1]:
        raise NotImplementedError("qr: gradients are there for mode='reduced' and at least as many rows as columns")
    inner = None if gs[1] is None else xp.matmul(z, _t(gs[1]))
    if gs[0] is not None:
        part = xp.matmul(_t(gs[0]), y)
        inner = -part if inner is None else inner - part
    mirrored = xp.tril(inner, -1)
    mirrored = mirrored + _t(xp.tril(inner))
    flow = xp.matmul(y, mirrored) if gs[0] is None else gs[0] + xp.matmul(y, mirrored)
    return (_t(solve(z, _t(flow))),)


CHOLESKY = lapack_operator(
    "cholesky",
    lambda a, upper: ((a.shape, a.dtype),),
    lambda a, upper: np.linalg.cholesky(a, upper=upper),
    Gradients(_cholesky_grad),
)


def _svd_shapes(a: Any, full_matrices: bool) -> Any:
    *batch, m, n = a.shape
    k = min(m, n)
    rows, columns = (m, n) if full_matrices else (k, k)
    return ((*batch, m, rows), a.dtype), ((*batch, k), a.dtype), ((*batch, columns, n), a.dtype)


def _qr_shapes(a: Any, mode: str) -> Any:
    *batch, m, n = a.shape
    k = m if mode == "complete" else min(m, n)
    return ((*batch, m, k), a.dtype), ((*batch, k, n), a.dtype)


SVD = lapack_operator(
    "svd",
    _svd_shapes,
    lambda a, full_matrices: tuple(np.linalg.svd(a, full_matrices)),
    Gradients(joint=_svd_grad, results=("u", "s", "vh")),
)
QR = lapack_operator("qr", _qr_shapes, lambda a, mode: tuple(np.linalg.qr(a, mode)), Gradients(joint=_qr_grad))
EIGH = lapack_operator(
    "eigh",
    lambda a, uplo: ((a.shape[:-1], a.dtype), (a.shape, a.dtype)),
    lambda a, uplo: tuple(np.linalg.eigh(a, uplo)),
    Gradients(joint=_eigh_grad),
)


def cholesky(a: Any, /, *, upper: bool = False) -> Array:
    """Lower triangles L with L @ Lᵀ = a (upper ones with `upper`), for positive definite matrices; else LinAlgError.

    Only the triangle of a that the result has is read.

        >>> import dagrun as dr
        >>> dr.linalg.cholesky(dr.asarray([[4.0, 2.0], [2.0, 2.0]]))
        array([[2., 0.],
               [1., 1.]])
    """
    return record(CHOLESKY, as_matrices(a, "cholesky", square=True), upper=bool(upper))


def qr(a: Any, /, mode: str = "reduced") -> Any:
    """Orthonormal Q and upper triangles R with Q @ R = a; mode "complete": Q is square, "r": R alone.

    >>> import dagrun as dr
    >>> q, r = dr.linalg.qr(dr.ones((3, 2)))
    >>> q.shape, r.shape
    ((3, 2), (2, 2))
    """
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"qr: mode is {mode!r}, expected 'reduced', 'complete' or 'r'")
    factors = QRResult(*record(QR, as_matrices(a, "qr"), mode="reduced" if mode == "r" else mode))
    return factors.R if mode == "r" else factors


def svd(a: Any, /, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    """U, S and Vh with (U * S) @ Vh = a; S alone where not `compute_uv`; `hermitian` is taken and does nothing.

    >>> import dagrun as dr
    >>> dr.linalg.svd(dr.asarray([[3.0, 0.0], [0.0, 4.0]])).S
    array([4., 3.])
    """
    x = as_matrices(a, "svd", square=hermitian)
    found = SVDResult(*record(SVD, x, full_matrices=bool(full_matrices and compute_uv)))
    return found if compute_uv else found.S


def svdvals(x: Any, /) -> Array:
    """The singular values of matrices, from the largest on."""
    values: Array = svd(x, compute_uv=False)
    return values


def eigh(a: Any, /, UPLO: str = "L") -> EighResult:
    """Eigenvalues and eigenvectors of symmetric matrices, of which the lower ("L") or upper ("U") triangle is read.

    >>> import dagrun as dr
    >>> dr.linalg.eigh(dr.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues
    array([1., 2.])
    """
    if UPLO.upper() not in ("L", "U"):
        raise ValueError(f"eigh: UPLO is {UPLO!r}, expected 'L' or 'U'")
    return EighResult(*record(EIGH, as_matrices(a, "eigh", square=True), uplo=UPLO.upper()))


def eigvalsh(a: Any, /, UPLO: str = "L") -> Array:
    """The eigenvalues of symmetric matrices, in ascending order."""
    return eigh(a, UPLO).eigenvalues
