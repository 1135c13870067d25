"""Every CUDA kernel there is, but for expressions that programs make: for compilers to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.convolution import convolution_kernel
from dagrun.codegen.cuda.direct_convolution import direct_kernel
from dagrun.codegen.cuda.implicit_gemm import Tile, pack_kernel, product_kernel
from dagrun.codegen.cuda.registry import CudaKernel, kernel_at
from dagrun.codegen.cuda.sorting import KINDS as SORTS
from dagrun.codegen.cumulative import CUMULATIVE_OPS, cumulative_kernel
from dagrun.codegen.elementwise import elementwise, elementwise_kernel
from dagrun.codegen.expression import Input, Scalar, Select, call, cast
from dagrun.codegen.movement import add_kernel, ordering_kernel, put_kernel, sorted_kernels, take_kernel
from dagrun.codegen.normalization import WEIGHTS, normalization_kernel
from dagrun.codegen.philox import KINDS, philox_kernel
from dagrun.codegen.plain_gemm import plain_gemm_kernel
from dagrun.codegen.pooling import KINDS as POOLS
from dagrun.codegen.pooling import pooling_kernel
from dagrun.codegen.recurrent import STEPS, step_kernel
from dagrun.codegen.reduction import ARGUMENT_OPS, REDUCTION_OPS, parts_kernels, reduction_kernel
from dagrun.codegen.scalars import SCALAR_OPS
from dagrun.codegen.softmax import CLASSES, SOFTMAX, classes_kernel, softmax_kernel
from dagrun.codegen.sorting import sorting_kernel
from dagrun.codegen.target import lowering_for
from dagrun.codegen.transposition import transposition_kernel
from dagrun.codegen.updates import update_kernel
from dagrun.codegen.values import DTYPES

FLOATS = ("float16", "float32", "float64")


def every_kernel(dtypes: tuple[str, ...] = DTYPES) -> list[CudaKernel]:
    """The kernels of all families whose operands have one of these dtypes."""
    found = {}
    with lowering_for("cuda"):
        for make in _requests(dtypes):
            try:
                kernel = kernel_at(make())
            except Unsupported:
                continue  # not defined for this dtype on the CPU either
            assert isinstance(kernel, CudaKernel)
            found[kernel.name] = kernel
    return list(found.values())


def _requests(dtypes: tuple[str, ...]) -> Iterator[Callable[[], int]]:
    for d in dtypes:
        for op in SCALAR_OPS.values():
            yield lambda d=d, op=op: elementwise_kernel(call(op.name, *(Input(k, d) for k in range(op.arity))))
        for target in DTYPES:
            yield lambda d=d, target=target: elementwise("cast", [d], target, target)
        yield lambda d=d: elementwise("where", ["bool", d, d], d, d, [False, True, False])
        for kind in KINDS:
            yield lambda d=d, kind=kind: philox_kernel(kind, d)
        for kind in POOLS:
            yield lambda d=d, kind=kind: pooling_kernel(kind, d)
        wide = "float32" if d == "float16" else "uint8" if d == "bool" else d
        for op in REDUCTION_OPS:
            compute = "uint8" if op in ("any", "all") else wide
            yield lambda d=d, op=op, compute=compute: reduction_kernel(op, d, compute, d)
            for half in (0, 1):
                yield lambda d=d, op=op, compute=compute, half=half: parts_kernels(op, d, compute, d)[half]
        for op in ARGUMENT_OPS:
            yield lambda d=d, op=op, wide=wide: reduction_kernel(op, d, wide, "int64")
            for half in (0, 1):
                yield lambda d=d, op=op, wide=wide, half=half: parts_kernels(op, d, wide, "int64")[half]
        for op in CUMULATIVE_OPS:
            yield lambda d=d, op=op: cumulative_kernel(op, d, "float64" if d.startswith("float") else "int64")
        for make in (take_kernel, put_kernel, add_kernel):
            yield lambda d=d, make=make: make(d, "int64")
            yield lambda d=d, make=make: make("float32", "uint8", "int32") if d == "float32" else make(d, "int32")
        for which in ("put", "add"):
            for step in (0, 1):
                yield lambda d=d, which=which, step=step: sorted_kernels(which, d, "int64", "int32")[step]
        for which in ("count", "tiles", "move"):
            yield lambda which=which: ordering_kernel(which)
        for which in SORTS:
            yield lambda d=d, which=which: sorting_kernel(which, d)
        yield lambda d=d: transposition_kernel(d)
        yield lambda d=d: plain_gemm_kernel(d)
        for kind in ("unfold", "fold"):
            yield lambda d=d, kind=kind: convolution_kernel(kind, d)
        if d in ("float16", "float32"):
            yield lambda d=d: pack_kernel(d)
            for rows, columns in ((128, 128), (64, 128), (64, 64)):
                for tensor in sorted({True, d == "float16"}):
                    tile = Tile(d, tensor, rows, columns)
                    yield lambda tile=tile: product_kernel("convolve_images", tile)
                    yield lambda tile=tile: product_kernel("convolve_weights", tile)
        if d in FLOATS:
            for kind in ("convolve_direct", "spread_direct", "correlate_direct"):
                yield lambda d=d, kind=kind: direct_kernel(kind, d)
            for kind in SOFTMAX:
                yield lambda d=d, kind=kind: softmax_kernel(kind, d)
            for kind in CLASSES:
                for weighted in (False, True):
                    yield lambda d=d, kind=kind, weighted=weighted: classes_kernel(kind, d, "int64", weighted)
            for weights in WEIGHTS:
                for kind in ("forward", "backward"):
                    yield lambda d=d, kind=kind, weights=weights: normalization_kernel(kind, d, weights)
            for name in STEPS:
                yield lambda d=d, name=name: step_kernel(name, d)
            yield lambda d=d: update_kernel(_momentum(d), [d, d, d], [d], 2)


def _momentum(d: str) -> list:
    p, v, g = (Input(k, d) for k in range(3))
    speed = call("add", call("multiply", v, Scalar(0, d)), g)
    step = call("multiply", speed, call("multiply", Scalar(1, d), Scalar(2, d)))
    finite = call("isfinite", Scalar(2, d))
    return [Select(finite, call("subtract", p, step), p), cast(speed, d)]
