"""Normalisation and its gradient; see kernels/cuda/normalization.cuh."""

from __future__ import annotations

from dagrun.codegen.cuda.emitter import computes, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.normalization import sum_lanes
from dagrun.codegen.values import ITEMSIZE, Value

_TEMPLATES = {"forward": "normalize", "backward": "normalize_back"}
_MOST_THREADS = 512


def kernel(kind: str, dtype: str, weights: str) -> int:
    """Address of the kernel "forward" or "backward"; see codegen/normalization.py."""
    name = entry_name(_TEMPLATES[kind], f"{dtype} {weights}")
    return known(name) or register(_normalization(name, kind, dtype, weights))


def _slope(shifted: Value) -> Value:
    return 1.0 / shifted.emitter.intrinsic("sqrt", shifted)


def _normalization(name: str, kind: str, dtype: str, weights: str) -> CudaKernel:
    wide = computes(dtype)
    lanes = sum_lanes(kind, wide, weights)
    functions = [
        function("slope", [wide], _slope),
        f"  static constexpr DAGRUN_METHOD int lanes() {{ return {lanes}; }}",
        f"  static constexpr DAGRUN_METHOD Weighted weights() {{ return Weighted::{weights.upper()}; }}",
    ]

    def launch(params: bytes) -> Launch:
        words = words_of(params)
        kept, segments, length = words[:3]
        if weights == "elements":
            kept = -(-kept // words[11])
        threads = 32
        # Enough groups for the segments, and enough threads to write what they hold.
        while threads < min(_MOST_THREADS, max(segments * lanes, segments * length // 8)):
            threads *= 2
        return Launch(grid(kept, 1).blocks, threads, 2 * ITEMSIZE[wide] * (threads // lanes))

    types = {"Dtype": dtype, "Wide": wide}
    source = template_kernel(name, "normalization.cuh", _TEMPLATES[kind], types, functions, _MOST_THREADS)
    return CudaKernel(name, source, launch)
