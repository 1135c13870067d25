"""Linear algebra: `dagrun.linalg`, with the names of `numpy.linalg` and of the array standard.

Products run in BLAS kernels (`products.py`); factors, solutions and determinants are computed by NumPy's LAPACK
(`lapack.py`), are recorded like any other operation, and have gradients.
"""

from typing import Any

from numpy.linalg import LinAlgError

from dagrun.array import Array
from dagrun.ops.linalg.factors import cholesky, eigh, eigvalsh, qr, svd, svdvals
from dagrun.ops.linalg.norms import cond, matrix_norm, norm, vector_norm
from dagrun.ops.linalg.products import cross, matmul, multi_dot, outer, tensordot, vecdot
from dagrun.ops.linalg.ranks import lstsq, matrix_power, matrix_rank, pinv
from dagrun.ops.linalg.solving import det, inv, slogdet, solve
from dagrun.ops.manipulation import diagonal as _diagonal
from dagrun.ops.manipulation import matrix_transpose
from dagrun.ops.reductions import sum as _sum


def diagonal(x: Any, /, *, offset: int = 0) -> Array:
    """Views of the diagonals of matrices in the last two axes."""
    return _diagonal(x, offset, -2, -1)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """The sums of the diagonals of matrices in the last two axes."""
    return _sum(diagonal(x, offset=offset), -1, dtype)


__all__ = [
    "LinAlgError", "cholesky", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "lstsq", "matmul",
    "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "multi_dot", "norm", "outer", "pinv", "qr",
    "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip
