"""softmax, log-softmax and their gradients; what both families of kernels over lines share."""

from __future__ import annotations

import math

from dagrun.codegen.cuda.emitter import computes, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.lines import vector_lanes
from dagrun.codegen.mathematics import exp, log
from dagrun.codegen.scalars import maximum
from dagrun.codegen.values import ITEMSIZE

_STAGED, _RESULTS, _KEPT_BYTES = 8, 16, 36864  # as in lines.cuh, these and those
_MANY_LINES, _SHORT_LINE, FEWEST_THREADS = 4096, 64, 64
_MOST_THREADS = 256


def kernel(kind: str, dtype: str) -> int:
    """Address of the kernel `kind` of SOFTMAX; see codegen/softmax.py."""
    name = entry_name(kind, dtype)
    operands = 3 if kind.endswith("_back") else 2
    return known(name) or register(
        lines_kernel(name, kind, {"Dtype": dtype}, operands, 0, vector_lanes([dtype]), [])
    )  # fmt: skip


def lines_kernel(
    name: str, template: str, types: dict[str, str], operands: int, own: int, lanes: int, more: list[str]
) -> CudaKernel:
    """A kernel of lines.cuh; `own`: how many words of the params are the kernel's own; `more`: functions of its own."""
    wide = computes(types["Dtype"])
    functions = [
        function("exp", [wide], exp),
        function("log", [wide], log),
        function("maximum", [wide, wide], maximum),
        f"  static constexpr DAGRUN_METHOD int lanes() {{ return {lanes}; }}",
        *more,
    ]

    def launch(params: bytes) -> Launch:
        length, way, beside, dims, *rest = words_of(params)
        rest = rest[2 * operands + own :]
        lines = beside * math.prod(rest[d * (1 + operands)] for d in range(dims))
        if length < 0 or way != 0:
            return grid(0 if length < 0 else lines, 64)
        item = ITEMSIZE[wide]
        threads, bytes_each = _MOST_THREADS, (-(-length // 32) * 32 + lanes) * item
        most = (length + 31 + lanes) * item * (FEWEST_THREADS // lanes)
        if (lines >= _MANY_LINES or length <= _SHORT_LINE) and most <= _KEPT_BYTES:
            while threads // lanes * bytes_each > _KEPT_BYTES:
                threads //= 2
            return grid(lines * lanes, threads, threads // lanes * bytes_each)
        while threads > 32 and threads > length // 4:
            threads //= 2
        return Launch(grid(lines, 1).blocks, threads, staged_words(length, threads, item) * item)

    source = template_kernel(name, "lines.cuh", template, types | {"Wide": wide}, functions, _MOST_THREADS)
    return CudaKernel(name, source, launch)


def staged_words(length: int, threads: int, item: int) -> int:
    """The words of shared memory, of `item` bytes, with which a block goes over a line (Together of lines.cuh)."""
    return _RESULTS + (length if length * item <= _KEPT_BYTES else _STAGED * threads)
