"""Copies of transposed arrays on GPUs, where reading element by element in the output's order would be slow."""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.codegen import layout
from dagrun.codegen.target import cuda_kernel
from dagrun.codegen.values import ITEMSIZE

LEAST = 16  # elements along either dimension from which on tiles are faster


def transposition_kernel(dtype: object) -> int:
    """Address of a copy between operands that are contiguous along different dimensions; data: output, input."""
    return cuda_kernel("transposition", "bool" if str(dtype) == "bool" else f"uint{8 * ITEMSIZE[str(dtype)]}")


def transposition_params(
    shape: Sequence[int], out_strides: Sequence[int], in_strides: Sequence[int], itemsize: int
) -> bytes | None:
    """The params of a copy with these byte strides; None where an elementwise kernel does as well.

    >>> transposition_params((100, 20), (160, 8), (8, 800), 8) is None
    False
    >>> transposition_params((100, 20), (160, 8), (160, 8), 8) is None
    True
    """
    dims = layout.merged(layout.dimensions(shape, [out_strides, in_strides]))
    across = next((d for d in dims if d[1][0] == itemsize), None)
    down = next((d for d in dims if d[1][1] == itemsize), None)
    if across is None or down is None or across is down or min(across[0], down[0]) < LEAST or 0 in shape:
        return None
    others = [d for d in dims if d is not across and d is not down]
    words = (across[0], across[1][1], down[0], down[1][0], len(others), *layout.outer_words(others))
    return layout.pack(words)
