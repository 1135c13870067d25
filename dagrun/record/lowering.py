"""What an operation runs on a GPU: kernels, products and copies, or its `compute` on the Python lane.

The bodies of a signature are made when it is first recorded on a GPU, once for each; launches are packed here, so that
the executor needs nothing of Python to make them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from dagrun.backends import cuda
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.registry import (
    MOST_OPERANDS,
    MOST_PARAMS,
    MOST_SCALARS,
    CublasGemm,
    CudaKernel,
    MemoryCopy,
    include_directory,
    kernel_at,
    register,
)
from dagrun.codegen.target import lowering_for, target
from dagrun.config import settings
from dagrun.core import native
from dagrun.core.engine import LANES
from dagrun.record.operator import OVERWRITE, READ, WRITE, Body, Operand, Operator

LAUNCH, GEMM, COPY = 0, 1, 2  # as in Kernel::Kind of dagrun/native/task.h
_DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType
_SINGLE, _SINGLE_TF32, _DOUBLE = 68, 77, 70  # cublasComputeType_t: CUBLAS_COMPUTE_32F, ..._32F_FAST_TF32, ..._64F
COPY_PIECE = 1 << 23  # bytes of one copy between CPU and GPU: what is staged at a time, in pinned memory


def _function_of(body: Body, gpu: int) -> tuple[int, ...]:
    """What `set_bodies` of the core takes for one body."""
    kernel = kernel_at(body.address)
    if isinstance(kernel, MemoryCopy):
        return COPY, 0, 0, 0, 0, 0, 0
    if isinstance(kernel, CublasGemm):
        if not cuda.has_blas():
            raise Unsupported("there is no cuBLAS")
        single = _SINGLE_TF32 if kernel.dtype == "float32" and settings().cuda_tf32 else _SINGLE
        return GEMM, 0, 0, 0, 0, _DATA_TYPES[kernel.dtype], _DOUBLE if kernel.dtype == "float64" else single
    assert isinstance(kernel, CudaKernel)
    if len(body.operands) > MOST_OPERANDS or len(body.params) > 8 * MOST_PARAMS:
        raise Unsupported("a kernel's argument has no room for it")
    launch = kernel.launch(body.params)
    address = cuda.function_of(gpu, kernel.name, kernel.source, str(include_directory()), launch.shared_bytes)
    return LAUNCH, address, launch.blocks, launch.threads, launch.shared_bytes, 0, 0


def _kernels_of(
    operator: Operator, outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], named: dict[str, Any],
    gpu: int,
) -> tuple[Any, ...] | None:  # fmt: skip
    """The bodies of an operation as `set_bodies` takes them; None where it has no kernels."""
    if operator.lower is None or len(scalars) > MOST_SCALARS:
        return None
    try:
        with lowering_for("cuda"):
            bodies = operator.lower(outputs, inputs, scalars, **named)
        if bodies is None:
            return None
        return tuple((_function_of(body, gpu), body.params, body.cost, uses_of(body)) for body in bodies)
    except (Unsupported, KeyError):  # KeyError: the address of a CPU body, of a family without CUDA kernels
        return None


def uses_of(body: Body) -> tuple[tuple[int, int, int, Any], ...]:
    """How a body uses its operands, as the core takes it."""
    return tuple((use.index, use.offset, use.mode, use.layout) for use in body.operands)


def whole_operands(operator: Operator, outputs: int, inputs: int) -> tuple[Operand, ...]:
    """How `compute` uses its operands."""
    mode = READ | WRITE if operator.updates else WRITE | OVERWRITE
    return tuple(Operand(i, mode) for i in range(outputs)) + tuple(Operand(outputs + i) for i in range(inputs))


def _lower(signature: Any, gpu: int) -> None:
    """Gives a signature its bodies on a GPU; called by the core when it is first recorded there."""
    operator, outputs, inputs, scalars, named = signature.origin
    bodies = _kernels_of(operator, outputs, inputs, scalars, named, gpu)
    lane, fallback = operator.lane, None
    if bodies is None:
        body = Body(0, b"", whole_operands(operator, len(outputs), len(inputs)), 1 << 20)
        bodies = ((0, b"", body.cost, uses_of(body)),)
        lane, fallback = "python", partial(_compute, operator, outputs + inputs, len(outputs), named, scalars)
    native.set_bodies(signature, gpu + 1, bodies, LANES[lane], operator.priority, fallback)


# ---- the Python lane


def _scalar_of(packed: bytes, dtype: np.dtype[Any]) -> Any:
    """The Python scalar that `pack_scalar` packed."""
    value = np.frombuffer(packed, dtype, 1)[0]
    return value.item()


def _compute(
    operator: Operator, layouts: tuple[Any, ...], count: int, attributes: dict[str, Any], scalars: tuple[Any, ...],
    operands: Any, packed: bytes,
) -> None:  # fmt: skip
    values = tuple(_scalar_of(packed[8 * i : 8 * i + 8], dtype) for i, dtype in enumerate(scalars))
    compute_on_gpu(operator, layouts, count, attributes, values, operands)


def compute_on_gpu(
    operator: Operator, layouts: tuple[Any, ...], count: int, attributes: dict[str, Any], values: tuple[Any, ...],
    operands: Any,
) -> None:  # fmt: skip
    """Runs `compute` on the memory of a GPU: operands are (memory, offset) pairs, outputs first.

    With the platform's arrays where they will do; else, and where they turn out not to, with NumPy on copies, which
    also says better what is wrong.
    """
    platform = cuda.platform()
    with platform.computing(operands[0][0].gpu), np.errstate(all="ignore"):
        arrays = cuda.arrays_of(operands, layouts)
        if operator.takes != "host" and not (operator.updates or operator.explain):
            try:
                results = operator.compute(platform.xp, *arrays[count:], *values, **attributes)
                results = (results,) if count == 1 else tuple(results)
                for output, result in zip(arrays[:count], results, strict=True):
                    operator.check_shape(result.shape, output.shape)
                for output, result in zip(arrays[:count], results, strict=True):
                    output[...] = result.astype(output.dtype, copy=False)
                return
            except Exception:
                if operator.takes == "device":
                    raise
        _compute_on_host(operator, arrays, count, attributes, values)


def _compute_on_host(
    operator: Operator, arrays: Sequence[Any], count: int, attributes: dict[str, Any], values: tuple[Any, ...]
) -> None:
    platform = cuda.platform()
    held = [platform.to_host(x) for x in arrays]
    outputs, inputs = held[:count], held[count:]
    if operator.updates:
        operator.compute(np, *outputs, *inputs, *values, **attributes)
    else:
        for x in inputs:
            x.flags.writeable = False
        results = operator.compute(np, *inputs, *values, **attributes)
        results = (results,) if count == 1 else results
        for output, result in zip(outputs, results, strict=True):
            operator.check_shape(np.shape(result), output.shape)
            np.copyto(output, result, casting="unsafe")
    for x, values_of_x in zip(arrays[:count], outputs, strict=True):
        platform.from_host(x, values_of_x)


# ---- copies between memories


def crossing_bodies(output: Any, source: Any, layout_of: Any) -> tuple[Body, ...] | None:
    """Copies of C-contiguous arrays between the memory of a GPU and any other; None where no GPU takes part."""
    if target() != "cuda":
        return None
    address = register(MemoryCopy())
    count = max(1, -(-output.nbytes // COPY_PIECE))
    bounds = [output.size * i // count for i in range(count + 1)]
    itemsize = output.dtype.itemsize
    bodies = []
    for start, stop in pairwise(bounds):
        piece = layout_of(output.dtype, (stop - start,))
        uses = (Operand(0, WRITE | OVERWRITE, start * itemsize, piece), Operand(1, READ, start * itemsize, piece))
        bodies.append(Body(address, struct.pack("<q", piece.nbytes), uses, 2 * piece.nbytes))
    return tuple(bodies)


native.set_hooks(lower=_lower)
