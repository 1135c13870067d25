"""Convolutions of groups with few channels as sums over windows: how they are lowered for CUDA.

The result is that of the CPU but for the order of sums. float16 is rounded once, at the end.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from dagrun.codegen.convolution import Geometry
from dagrun.codegen.cuda.direct_convolution import TAPS_TOGETHER, Kind, direct_kernel, sums_in
from dagrun.codegen.cuda.implicit_gemm import FULL, product_params
from dagrun.ops.implicit import result_words, source_words, sum_of_parts, window_words
from dagrun.record import OVERWRITE, WRITE, Body, Operand, layout

PART_DEPTH = 1024  # places that a part of a weight sums over, at least


def _parts(x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int) -> int:
    """Into how many parts the adjoint in the weight is cut: so many that its blocks fill a GPU."""
    blocks = outputs * (x[1] // groups) * -(-prod(geometry.kernel) // TAPS_TOGETHER)
    return max(1, min(x[0] * geometry.places // PART_DEPTH, -(-4 * FULL // blocks)))


def scratch_nbytes(
    kind: str, x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any]
) -> int:
    """How much scratch memory the tasks of `kind` need."""
    parts = _parts(x, outputs, geometry, groups)
    sums = np.dtype(sums_in(str(dtype)))
    if kind != "to_weight" or (parts == 1 and sums == dtype):
        return 0
    return parts * outputs * (x[1] // groups) * prod(geometry.kernel) * sums.itemsize


def _body(
    kind: Kind, x: Any, y: Any, geometry: Geometry, groups: int, operands: tuple[Operand, ...], **words: int
) -> Body:
    params = product_params(
        images=x.shape[0], groups=groups, outputs=y.shape[1] // groups, channels=x.shape[1] // groups,
        **window_words(geometry), **source_words(x, groups), **result_words(y, groups), **words,
    )  # fmt: skip
    sums = y.size * (x.shape[1] // groups) * prod(geometry.kernel)
    return Body(direct_kernel(kind, str(x.dtype)), params, operands, x.nbytes + y.nbytes + sums)


def forward_bodies(
    x: Any, y: Any, weight: Any, bias: bool, scratch: Any, geometry: Geometry, groups: int
) -> tuple[Body, ...]:
    """The task of a convolution. Operands: y, scratch, x, w [, bias]."""
    operands = (Operand(0, WRITE | OVERWRITE), Operand(2), Operand(3), *([Operand(4)] if bias else []))
    return (_body("convolve_direct", x, y, geometry, groups, operands, bias=int(bias)),)


def input_bodies(x: Any, y: Any, weight: Any, scratch: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The task of the adjoint in the image. Operands: x, scratch, y, w."""
    operands = Operand(0, WRITE | OVERWRITE), Operand(2), Operand(3)
    return (_body("spread_direct", x, y, geometry, groups, operands),)


def weight_bodies(weight: Any, y: Any, x: Any, scratch: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The tasks of the adjoint in the weight. Operands: w, scratch, y, x."""
    count = _parts(x.shape, y.shape[1], geometry, groups)
    sums = np.dtype(sums_in(str(x.dtype)))
    alone = count == 1 and sums == x.dtype
    parts = layout(sums, (count, weight.size))
    target = Operand(0, WRITE | OVERWRITE) if alone else Operand(1, WRITE | OVERWRITE, 0, parts)
    body = _body("correlate_direct", x, y, geometry, groups, (target, Operand(2), Operand(3)), tiles=count)
    return (body,) if alone else (body, sum_of_parts(weight, parts))
