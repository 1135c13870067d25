"""How matrix products become tasks: BLAS calls on blocks of a fixed table, plain loops for what BLAS does not take."""

from __future__ import annotations

from typing import Any

from dagrun.codegen.gemm import gemm_kernel, gemm_params
from dagrun.codegen.plain_gemm import plain_gemm_kernel, plain_gemm_params
from dagrun.ops.cutting import cut
from dagrun.ops.elementwise import broadcast_strides
from dagrun.record import OVERWRITE, WRITE, Body, Operand, layout

# Cutting a product costs BLAS 2 to 4 % (it packs the right side once for each piece), so only products that take tens
# of milliseconds are cut: along the rows, into pieces of at least so many.
ROWS = 1024
MOST_PIECES = 16


def product_bodies(output: Any, a: Any, b: Any) -> tuple[Body, ...] | None:
    """The tasks of a matrix product; None where BLAS is not there or does not take the layout."""
    if a.dtype != output.dtype or b.dtype != output.dtype:
        return None
    if output.dtype.kind in "biu" or output.dtype.itemsize == 2:
        return _plain_bodies(output, a, b)
    address = gemm_kernel(output.dtype)
    if address is None:
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
        operands = _rows(output, a, start, stop, own_c, own_a) if pieces > 1 else _WHOLE
        bodies.append(Body(address, params, operands, cost))
    return tuple(bodies)


_WHOLE = (Operand(0, WRITE | OVERWRITE), Operand(1), Operand(2))


def _rows(
    output: Any, a: Any, start: int, stop: int, own_c: tuple[int, ...], own_a: tuple[int, ...]
) -> tuple[Operand, ...]:
    """The operands of rows [start, stop) of a product; `own_...`: strides along the result's batch dimensions."""
    batch = output.shape[:-2]
    parts = [
        layout(view.dtype, (*batch, stop - start, view.shape[-1]), own) for view, own in ((output, own_c), (a, own_a))
    ]
    return (
        Operand(0, WRITE | OVERWRITE, start * own_c[-2], parts[0]),
        Operand(1, offset=start * own_a[-2], layout=parts[1]),
        Operand(2),
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
        operands = _rows(output, a, start, stop, own_c, own_a) if len(pieces) > 1 else _WHOLE
        bodies.append(Body(address, params, operands, cost // len(pieces)))
    return tuple(bodies)
