"""How matrix products become tasks: BLAS calls on blocks of a fixed table."""

from __future__ import annotations

from typing import Any

from dagrun.codegen.gemm import gemm_kernel, gemm_params
from dagrun.ops.elementwise import broadcast_strides
from dagrun.record import OVERWRITE, WRITE, Body, Operand, layout

# Cutting a product costs BLAS 2 to 4 % (it packs the right side once for each piece), so only products that take tens
# of milliseconds are cut: along the rows, into pieces of at least so many.
ROWS = 1024
MOST_PIECES = 16


def product_bodies(output: Any, a: Any, b: Any) -> tuple[Body, ...] | None:
    """The tasks of a matrix product; None where BLAS does not take the dtype or the layout."""
    address = gemm_kernel(output.dtype)
    if address is None or a.dtype != output.dtype or b.dtype != output.dtype:
        return None
    *batch, m, n = output.shape
    k = a.shape[-1]
    own_c, own_a, own_b = (broadcast_strides(view, (*batch, *view.shape[-2:])) for view in (output, a, b))
    pieces = max(1, min(MOST_PIECES, m // ROWS)) if n * k >= ROWS * ROWS else 1
    # A product of this many operations takes as long as moving half as many bytes.
    cost = max(output.nbytes + a.nbytes + b.nbytes, output.size * k // 2) // pieces
    bodies = []
    for piece in range(pieces):
        start, stop = m * piece // pieces, m * (piece + 1) // pieces
        params = gemm_params((*batch, stop - start, n), k, own_c, own_a, own_b, output.dtype.itemsize)
        if params is None:
            return None
        rows = [
            layout(view.dtype, (*batch, stop - start, view.shape[-1]), own) if pieces > 1 else None
            for view, own in ((output, own_c), (a, own_a))
        ]
        operands = (
            Operand(0, WRITE | OVERWRITE, start * own_c[-2], rows[0]),
            Operand(1, offset=start * own_a[-2], layout=rows[1]),
            Operand(2),
        )
        bodies.append(Body(address, params, operands, cost))
    return tuple(bodies)
