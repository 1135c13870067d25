"""Products of integers, booleans and float16; see kernels/cuda/plain_gemm.cuh."""

from __future__ import annotations

import math

from dagrun.codegen.cuda.emitter import CudaEmitter, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of


def kernel(dtype: str) -> int:
    """Address of C = A @ B; see codegen/plain_gemm.py."""
    name = entry_name("plain_gemm", dtype)
    return known(name) or register(_plain_gemm(name, dtype))


def _plain_gemm(name: str, dtype: str) -> CudaKernel:
    total = {"bool": "uint8", "float16": "float32"}.get(dtype, dtype)
    functions = [
        function("zero", [], lambda: CudaEmitter().constant(0, total)),
        function("convert", [dtype], lambda x: x.to(total)),
        function("multiply_add", [total] * 3, lambda t, a, b: t | (a & b) if dtype == "bool" else t + a * b),
        function("finish", [total], lambda x: x.to(dtype)),
    ]

    def launch(params: bytes) -> Launch:
        m, n, *rest = words_of(params)
        return grid(m * n * math.prod(rest[9 + 4 * d] for d in range(rest[8])))

    source = template_kernel(name, "plain_gemm.cuh", "plain_gemm", {"Dtype": dtype, "Sum": total}, functions, THREADS)
    return CudaKernel(name, source, launch)
