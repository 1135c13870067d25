"""Copies whose operands are contiguous along different dimensions; see kernels/cuda/transposition.cuh."""

from __future__ import annotations

import math

from dagrun.codegen.cuda.emitter import entry_name, template_kernel
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.values import ITEMSIZE


def kernel(dtype: str) -> int:
    """Address of the copy; see codegen/transposition.py."""
    name = entry_name("transposition", dtype)
    return known(name) or register(_transposition(name, dtype))


def _transposition(name: str, dtype: str) -> CudaKernel:
    item = ITEMSIZE[dtype]
    side = 64 if item < 4 else 32  # of a tile: as in transposition.cuh

    def launch(params: bytes) -> Launch:
        across, _, down, _, dims, *rest = words_of(params)
        tiles = -(-across // side) * -(-down // side) * math.prod(rest[3 * d] for d in range(dims))
        return Launch(grid(tiles, 1).blocks, THREADS, side * (side + 1) * item)

    return CudaKernel(name, template_kernel(name, "transposition.cuh", "transpose", {"Dense": dtype}), launch)
