"""Running sums and products; see kernels/cuda/cumulative.cuh."""

from __future__ import annotations

import math

from dagrun.codegen import scalars
from dagrun.codegen.cuda.emitter import entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.cumulative import CUMULATIVE_OPS
from dagrun.codegen.values import ITEMSIZE

_THREADS = 64
_FEW_LINES, _SHORT_AXIS, _TILE = 4096, 64, 1024  # as in cumulative.cuh


def kernel(op: str, in_dtype: str, out_dtype: str) -> int:
    """Address of a running `op`; see codegen/cumulative.py."""
    name = entry_name("cumulative", f"{op} {in_dtype} {out_dtype}")
    return known(name) or register(_cumulative(name, op, in_dtype, out_dtype))


def _cumulative(name: str, op: str, in_dtype: str, out_dtype: str) -> CudaKernel:
    functions = [
        function("convert", [in_dtype], lambda x: x.to(out_dtype)),
        function("combine", [out_dtype, out_dtype], lambda a, b: scalars.apply(CUMULATIVE_OPS[op], [a, b])),
    ]

    def launch(params: bytes) -> Launch:
        n, out_axis, in_axis, beside, _, _, _, outer, *rest = words_of(params)
        lines = beside * math.prod(rest[3 * d] for d in range(outer))
        contiguous = out_axis == ITEMSIZE[out_dtype] and in_axis == ITEMSIZE[in_dtype]
        if contiguous and lines < _FEW_LINES and n >= _SHORT_AXIS:
            return Launch(max(1, lines), _THREADS, _TILE * ITEMSIZE[out_dtype])
        return grid(lines, _THREADS)

    source = template_kernel(
        name, "cumulative.cuh", "cumulate", {"In": in_dtype, "Out": out_dtype}, functions, _THREADS
    )
    return CudaKernel(name, source, launch)
