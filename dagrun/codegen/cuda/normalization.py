"""Normalisation and its gradient; see kernels/cuda/normalization.cuh."""

from __future__ import annotations

from dagrun.codegen.cuda.emitter import computes, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.cuda.softmax import FEWEST_THREADS, staged_words
from dagrun.codegen.normalization import sum_lanes
from dagrun.codegen.values import ITEMSIZE, Value

_TEMPLATES = {"forward": "normalize", "backward": "normalize_back"}
_MOST_THREADS, _MOST_OF_ONE_RUN = 1024, 512
_FEW_KEPT, _LONG_SEGMENT, _SEGMENTS_AT_A_TIME, _CACHE_BYTES = 2048, 1024, 1024, 32768  # as in normalization.cuh


def kernel(kind: str, dtype: str, weights: str) -> int:
    """Address of the kernel "forward" or "backward"; see codegen/normalization.py."""
    name = entry_name(_TEMPLATES[kind], f"{dtype} {weights}")
    return known(name) or register(_normalization(name, kind, dtype, weights))


def _slope(shifted: Value) -> Value:
    return 1.0 / shifted.emitter.intrinsic("sqrt", shifted)


def _normalization(name: str, kind: str, dtype: str, weights: str) -> CudaKernel:
    wide = computes(dtype)
    item, lanes = ITEMSIZE[wide], sum_lanes(kind, wide, weights)
    arrays = 1 if kind == "forward" else 2  # gone over more than once; as many sums at a time
    functions = [
        function("slope", [wide], _slope),
        f"  static constexpr DAGRUN_METHOD int lanes() {{ return {lanes}; }}",
        f"  static constexpr DAGRUN_METHOD Weighted weights() {{ return Weighted::{weights.upper()}; }}",
    ]

    def launch(params: bytes) -> Launch:
        kept, segments, length = words_of(params)[:3]
        runs, run = (1, segments * length) if (kind, weights) == ("forward", "segments") else (segments, length)
        if run == 1:
            return grid(kept, 32)
        bytes_each = length * arrays * ITEMSIZE[dtype]
        room = FEWEST_THREADS // lanes * bytes_each <= _CACHE_BYTES
        if segments == 1 and (kept >= _FEW_KEPT or length < _LONG_SEGMENT) and room:
            threads = THREADS
            while threads // lanes * bytes_each > _CACHE_BYTES:
                threads //= 2
            return grid(kept * lanes, threads, threads // lanes * bytes_each)
        threads = 32
        # Enough groups for the segments, and enough threads to write what they hold.
        most = _MOST_OF_ONE_RUN if runs == 1 else _MOST_THREADS
        while threads < min(most, max(segments * lanes, segments * length // 8)):
            threads *= 2
        words = staged_words(run, threads, item) if runs == 1 else arrays * (1 + min(segments, _SEGMENTS_AT_A_TIME))
        return Launch(grid(kept, 1).blocks, threads, words * item)

    types = {"Dtype": dtype, "Wide": wide}
    source = template_kernel(name, "normalization.cuh", _TEMPLATES[kind], types, functions, _MOST_THREADS)
    return CudaKernel(name, source, launch)
