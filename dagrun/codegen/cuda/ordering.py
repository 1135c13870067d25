"""A stable sort of 64-bit items by their upper halves, digit by digit; see kernels/cuda/ordering.cuh."""

from __future__ import annotations

from dagrun.codegen.cuda.emitter import entry_name, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, known, register, words_of
from dagrun.codegen.movement import DIGIT_BITS

_DIGITS = 1 << DIGIT_BITS
_BOUND = 512  # threads of a block that kernels are compiled for
_THREADS = _BOUND
_TILE = 128 * _THREADS // 32  # items that a block takes at once
_MOST_TILES = _BOUND
_TEMPLATES = {"count": "count_digits", "tiles": "add_tiles", "move": "move_items"}


def tile_of(items: int) -> int:
    """How many items a block of threads sorts."""
    return _TILE * -(-items // (_TILE * _MOST_TILES))


def counts_of(items: int) -> int:
    """How many counts, of 32 bits, a sort of so many items keeps."""
    return _DIGITS * (-(-items // tile_of(items)) + 1)


def kernel(which: str) -> int:
    """Address of "count", "tiles" or "move"."""
    name = entry_name("ordering", which)
    return known(name) or register(_ordering(name, which))


def _ordering(name: str, which: str) -> CudaKernel:
    def launch(params: bytes) -> Launch:
        items, *rest = words_of(params)
        if which == "tiles":
            return Launch(_DIGITS, _MOST_TILES, 4 * _MOST_TILES)
        counts = _DIGITS * _THREADS // 32
        return Launch(-(-items // rest[0]), _THREADS, 4 * (counts + (_THREADS if which == "move" else 0)))

    return CudaKernel(name, template_kernel(name, "ordering.cuh", _TEMPLATES[which], {}, threads=_BOUND), launch)
