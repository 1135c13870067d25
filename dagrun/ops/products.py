"""How matrix products become tasks: BLAS calls on blocks of a fixed table, plain loops for what BLAS does not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun.codegen.gemm import gemm_kernel, gemm_params
from dagrun.codegen.plain_gemm import plain_gemm_kernel, plain_gemm_params
from dagrun.codegen.target import target
from dagrun.ops.cutting import cut
from dagrun.ops.elementwise import broadcast_strides
from dagrun.record import OVERWRITE, WRITE, Body, Operand, layout

# A cut costs BLAS time, because it packs one side once for each piece: in two along the longer of rows and columns up
# to 7 %, along the shorter up to 16 %. So products below WHOLE multiply-adds are one task, larger ones two, and those
# of more than 2 * LENGTH rows or columns one for each LENGTH.
# A product with a vector waits for memory, of which two cores get more than one.
WHOLE = 1 << 23
WHOLE_WITH_VECTOR = 1 << 18
LENGTH = 1024
MOST_PIECES = 16


def pieces_of(m: int, n: int, k: int) -> tuple[int, int]:
    """(axis, number of pieces) of the product of m x k and k x n matrices: axis -2 are rows, -1 columns.

    >>> pieces_of(64, 256, 784), pieces_of(4096, 10, 784), pieces_of(200, 200, 200)
    ((-1, 2), (-2, 4), (-2, 1))
    """
    axis, longer = (-2, m) if m >= n else (-1, n)
    whole = WHOLE if min(m, n) > 1 else WHOLE_WITH_VECTOR
    if m * n * k < whole or longer == 1 or target() == "cuda":
        return axis, 1
    return axis, 2 if min(m, n) == 1 else min(MOST_PIECES, max(2, longer // LENGTH))


def product_bodies(output: Any, a: Any, b: Any) -> tuple[Body, ...] | None:
    """The tasks of a matrix product; None where BLAS is not there or does not take the layout."""
    if a.dtype != output.dtype or b.dtype != output.dtype:
        return None
    bodies = _blas_bodies(output, a, b)
    if bodies is None and (output.dtype.kind in "biu" or output.dtype.itemsize == 2):
        return _plain_bodies(output, a, b)
    return bodies


def _blas_bodies(output: Any, a: Any, b: Any) -> tuple[Body, ...] | None:
    address = gemm_kernel(output.dtype)
    if address is None:
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
        operands = _piece(output, k, axis, start, stop, (own_c, own_a, own_b)) if pieces > 1 else _WHOLE
        bodies.append(Body(address, params, operands, cost))
    return tuple(bodies)


_WHOLE = (Operand(0, WRITE | OVERWRITE), Operand(1), Operand(2))


def _piece(output: Any, k: int, axis: int, start: int, stop: int, strides: Sequence[tuple[int, ...]]) -> Any:
    """The operands of rows (axis -2) or columns (-1) [start, stop) of a product; `strides` of C, A and B, broadcast."""
    *batch, m, n = output.shape
    rows, columns = (stop - start, n) if axis == -2 else (m, stop - start)
    sizes = (rows, columns), (rows, k), (k, columns)
    parts = [layout(output.dtype, (*batch, *size), own) for size, own in zip(sizes, strides, strict=True)]
    own_c, own_a, own_b = strides
    return (
        Operand(0, WRITE | OVERWRITE, start * own_c[axis], parts[0]),
        Operand(1, offset=start * own_a[-2] if axis == -2 else 0, layout=parts[1]),
        Operand(2, offset=start * own_b[-1] if axis == -1 else 0, layout=parts[2]),
    )


def _plain_bodies(output: Any, a: Any, b: Any) -> tuple[Body, ...]:
    """The tasks of a product of integers, booleans or float16: pieces of rows."""
    *batch, m, n = output.shape
    k = a.shape[-1]
    own_c, own_a, own_b = (broadcast_strides(view, (*batch, *view.shape[-2:])) for view in (output, a, b))
    address = plain_gemm_kernel(output.dtype)
    # A multiplication and an addition take as long as moving two bytes.
    cost = max(output.nbytes + a.nbytes + b.nbytes, 2 * output.size * k)
    pieces = cut(m, cost) if output.size else [(0, m)]
    bodies = []
    for start, stop in pieces:
        params = plain_gemm_params((*batch, stop - start, n), k, own_c, own_a, own_b, output.dtype.itemsize)
        operands = _piece(output, k, -2, start, stop, (own_c, own_a, own_b)) if len(pieces) > 1 else _WHOLE
        bodies.append(Body(address, params, operands, cost // len(pieces)))
    return tuple(bodies)
