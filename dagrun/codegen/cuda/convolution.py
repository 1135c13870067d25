"""unfold (im2col) and fold (col2im); see kernels/cuda/convolution.cuh. Their products are cuBLAS's."""

from __future__ import annotations

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CudaEmitter, computes, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.values import Value

SIDE_BY_SIDE = 4  # output places of a thread of unfold


def kernel(kind: str, dtype: str, bias: bool) -> int:
    """Address of the kernel "unfold" or "fold"; see codegen/convolution.py."""
    if kind not in ("unfold", "fold"):
        raise Unsupported(f"no CUDA kernel does a whole convolution ({kind}): unfold, then multiply")
    name = entry_name(kind, dtype)
    return known(name) or register(_convolution(name, kind, dtype))


def _add(a: Value, b: Value) -> Value:
    wide = computes(a.dtype)
    return a | b if a.dtype == "bool" else (a.to(wide) + b.to(wide)).to(a.dtype)


def _convolution(name: str, kind: str, dtype: str) -> CudaKernel:
    functions = [
        function("zero", [], lambda: CudaEmitter().constant(0, dtype)),
        function("add", [dtype, dtype], _add),
    ]

    def launch(params: bytes) -> Launch:
        images, _, channels, _, rows, columns, _, _, out_rows, out_columns = words_of(params)[:10]
        pieces = -(-out_rows * out_columns // SIDE_BY_SIDE)
        return grid(images * channels * (pieces if kind == "unfold" else rows * columns))

    return CudaKernel(name, template_kernel(name, "convolution.cuh", kind, {"Dtype": dtype}, functions), launch)
