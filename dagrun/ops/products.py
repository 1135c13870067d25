"""How matrix products become tasks: BLAS calls on blocks of a fixed table."""

from __future__ import annotations

from typing import Any

from dagrun.codegen.gemm import gemm_kernel, gemm_params
from dagrun.ops.elementwise import broadcast_strides
from dagrun.record import OVERWRITE, WRITE, Body, Operand, layout

# A cut costs BLAS time, because it packs one side once for each piece: in two along the longer of rows and columns up
# to 7 %, along the shorter up to 16 %. So products below WHOLE multiply-adds are one task, larger ones two, and those of
# more than 2 * LENGTH rows or columns one for each LENGTH.
WHOLE = 1 << 23
LENGTH = 1024
MOST_PIECES = 16


def pieces_of(m: int, n: int, k: int) -> tuple[int, int]:
    """(axis, number of pieces) of the product of m x k and k x n matrices: axis -2 are rows, -1 columns.

    >>> pieces_of(64, 256, 784), pieces_of(4096, 10, 784), pieces_of(200, 200, 200)
    ((-1, 2), (-2, 4), (-2, 1))
    """
    axis, longer = (-2, m) if m >= n else (-1, n)
    return axis, 1 if m * n * k < WHOLE else min(MOST_PIECES, max(2, longer // LENGTH))


def product_bodies(output: Any, a: Any, b: Any) -> tuple[Body, ...] | None:
    """The tasks of a matrix product; None where BLAS does not take the dtype or the layout."""
    address = gemm_kernel(output.dtype)
    if address is None or a.dtype != output.dtype or b.dtype != output.dtype:
        return None
    *batch, m, n = output.shape
    k = a.shape[-1]
    own_c, own_a, own_b = (broadcast_strides(view, (*batch, *view.shape[-2:])) for view in (output, a, b))
    axis, pieces = pieces_of(m, n, k)
    # A product of this many operations takes as long as moving half as many bytes.
    cost = max(output.nbytes + a.nbytes + b.nbytes, output.size * k // 2) // pieces
    bodies = []
    for piece in range(pieces):
        start, stop = (output.shape[axis] * i // pieces for i in (piece, piece + 1))
        rows, columns = (stop - start, n) if axis == -2 else (m, stop - start)
        params = gemm_params((*batch, rows, columns), k, own_c, own_a, own_b, output.dtype.itemsize)
        if params is None:
            return None
        if pieces == 1:
            operands = (Operand(0, WRITE | OVERWRITE), Operand(1), Operand(2))
        else:
            sizes, strides = ((rows, columns), (rows, k), (k, columns)), (own_c, own_a, own_b)
            parts = [layout(output.dtype, (*batch, *size), own) for size, own in zip(sizes, strides, strict=True)]
            first = start * own_c[axis], start * own_a[-2] * (axis == -2), start * own_b[-1] * (axis == -1)
            operands = (
                Operand(0, WRITE | OVERWRITE, first[0], parts[0]),
                Operand(1, offset=first[1], layout=parts[1]),
                Operand(2, offset=first[2], layout=parts[2]),
            )
        bodies.append(Body(address, params, operands, cost))
    return tuple(bodies)
