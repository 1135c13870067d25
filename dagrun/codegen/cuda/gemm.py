"""Products by cuBLAS."""

from __future__ import annotations

from dagrun.codegen.cuda.registry import CublasGemm, register
from dagrun.codegen.values import is_float


def kernel(dtype: str) -> int | None:
    """Address of the product of floats (float16 is summed in float32), None for others; see codegen/gemm.py."""
    return register(CublasGemm(dtype)) if is_float(dtype) else None
