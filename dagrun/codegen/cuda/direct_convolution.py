"""Convolutions of groups with few channels as sums over windows; see kernels/cuda/direct_convolution.cuh.

    kernel              data                        the same as
    convolve_direct     y, x, w [, bias]            forward of codegen/convolution.py
    spread_direct       x, y, w                     to_input
    correlate_direct    partial weights, y, x       to_weight, for each part of the images' places, as `sums_in` says

Params: the words of `implicit_gemm.PRODUCT_WORDS`, with the channels of a group in `channels` and the number of parts
in `tiles`. y and written images have contiguous planes; the weight is contiguous.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from dagrun.codegen.cuda.emitter import computes, entry_name, template_kernel
from dagrun.codegen.cuda.implicit_gemm import PRODUCT_WORDS
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.values import ITEMSIZE

SIDE_BY_SIDE, TAPS_TOGETHER, SUMMING = 4, 9, 128  # as in the headers
Kind = Literal["convolve_direct", "spread_direct", "correlate_direct"]


def sums_in(dtype: str) -> str:
    """The dtype of sums: float32 for float16."""
    return computes(dtype)


def direct_kernel(kind: Kind, dtype: str) -> int:
    """Address of a kernel for float16, float32 or float64."""
    name = entry_name(kind, dtype)
    types = {"Dtype": dtype, "Sum": sums_in(dtype)}
    source = template_kernel(name, "direct_convolution.cuh", kind, types)
    return known(name) or register(CudaKernel(name, source, partial(_launch, kind, dtype)))


def _launch(kind: Kind, dtype: str, params: bytes) -> Launch:
    w = dict(zip(PRODUCT_WORDS, words_of(params), strict=True))
    if kind == "convolve_direct":
        return grid(w["images"] * w["groups"] * w["outputs"] * -(-w["out_rows"] * w["out_columns"] // SIDE_BY_SIDE))
    if kind == "spread_direct":
        return grid(w["images"] * w["groups"] * w["channels"] * -(-w["rows"] * w["columns"] // SIDE_BY_SIDE))
    chunks = -(-w["kernel_rows"] * w["kernel_columns"] // TAPS_TOGETHER)
    blocks = w["tiles"] * w["groups"] * w["outputs"] * w["channels"] * chunks
    return Launch(max(1, blocks), SUMMING, TAPS_TOGETHER * SUMMING * ITEMSIZE[sums_in(dtype)])
