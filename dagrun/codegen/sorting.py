"""sort, argsort and searchsorted on GPUs; the CPU's bodies are native ones (dagrun/native/sorting.cpp)."""

from __future__ import annotations

from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.target import cuda_kernel

TILE = 4096  # elements that a block of threads sorts in shared memory


def sorting_kernel(which: str, dtype: object) -> int:
    """Address of a kernel of kernels/cuda/sorting.cuh: see KINDS of codegen/cuda/sorting.py."""
    check_dtypes(dtype)
    return cuda_kernel("sorting", which, str(dtype))


def sorted_runs(length: int) -> list[int]:
    """The launches that sort a line: the length of tiles, then of the runs that are merged.

    >>> sorted_runs(4096), sorted_runs(10_000)
    ([4096], [4096, 4096, 8192])
    """
    tiles = -(-length // TILE)
    return [TILE, *(TILE << k for k in range(max(0, tiles - 1).bit_length()))]
