"""sort, argsort and searchsorted; see kernels/cuda/sorting.cuh."""

from __future__ import annotations

import math

from dagrun.codegen.cuda.emitter import entry_name, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.values import ITEMSIZE, is_float, is_signed

_MOST_THREADS = 512
# template, and what it writes
KINDS = {
    "sort": ("sort_tiles", "VALUES"), "argsort": ("sort_tiles", "POSITIONS"), "tiles": ("sort_tiles", "PLACES"),
    "merge": ("merge_runs", "PLACES"), "merge_sort": ("merge_runs", "VALUES"),
    "merge_argsort": ("merge_runs", "POSITIONS"), "search": ("search", "POSITIONS"),
}  # fmt: skip


def kernel(which: str, dtype: str) -> int:
    """Address of the kernel `which` of KINDS."""
    name = entry_name("sorting", f"{which} {dtype}")
    return known(name) or register(_sorting(name, which, dtype))


def _sorting(name: str, which: str, dtype: str) -> CudaKernel:
    template, gives = KINDS[which]
    item = ITEMSIZE[dtype]
    kind = (
        "TRUTH" if dtype == "bool" else "FLOATING" if is_float(dtype) else "SIGNED" if is_signed(dtype) else "UNSIGNED"
    )
    functions = [
        f"  static constexpr DAGRUN_METHOD int kind() {{ return {kind}; }}",
        f"  static constexpr DAGRUN_METHOD int gives() {{ return {gives}; }}",
    ]

    def launch(params: bytes) -> Launch:
        if template == "search":
            return grid(words_of(params)[0])
        length, _, _, _, dims, *rest = words_of(params)
        lines, run = math.prod(rest[3 * d] for d in range(dims)), rest[3 * dims]
        if template == "merge_runs":
            return grid(lines * length)
        room = 2
        while room < min(run, length):
            room *= 2
        threads = min(_MOST_THREADS, max(32, room // 2))
        return Launch(grid(lines * -(-length // run), 1).blocks, threads, room * (item + 2))

    source = template_kernel(name, "sorting.cuh", template, {"Bits": f"uint{8 * item}"}, functions, _MOST_THREADS)
    return CudaKernel(name, source, launch)
