"""How reductions and running sums become tasks: native bodies, cut along axes that do not change the bits."""

from __future__ import annotations

from typing import Any

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cumulative import cumulative_kernel, cumulative_params
from dagrun.codegen.layout import pack
from dagrun.codegen.reduction import parts_kernels, parts_of, reduction_kernel, reduction_params
from dagrun.ops.cutting import cut
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, layout

_ARGUMENTS = ("argmax", "argmin")


def _compute_dtype(kernel: str, source: Any, result: Any) -> str:
    """Booleans are reduced as bytes; float16 is added and multiplied in float32."""
    if kernel in ("any", "all"):
        return "uint8"
    dtype = source.dtype if kernel in ("max", "min", *_ARGUMENTS) else result
    if dtype.kind == "b":
        return "uint8"
    return "float32" if dtype.name == "float16" else str(dtype)


def _params(kernel: str, source: Any, axes: tuple[int, ...], itemsize: int) -> bytes:
    return reduction_params(
        source.shape, source.strides, axes, source.dtype.itemsize, itemsize, keep_order=kernel in _ARGUMENTS
    )


def parts_on_gpu(kernel: str, source: Any, axes: tuple[int, ...], result: Any) -> tuple[int, str]:
    """In how many parts each result is reduced on a GPU, so that few results of many elements keep it busy; in what."""
    compute = _compute_dtype(kernel, source, result)
    params = _params(kernel, source, axes, result.itemsize)
    held = "int64" if kernel in _ARGUMENTS else compute
    return parts_of(kernel, params, source.dtype.itemsize, compute)[0], held


def bodies_in_parts(kernel: str, output: Any, parts: Any, source: Any, axes: tuple[int, ...]) -> tuple[Body, ...]:
    """The two launches of such a reduction; the bits are those of one."""
    compute = _compute_dtype(kernel, source, output.dtype)
    params = _params(kernel, source, axes, output.dtype.itemsize)
    count, length = parts_of(kernel, params, source.dtype.itemsize, compute)
    if parts.size != count * output.size:
        raise Unsupported("the parts are those of another reduction")
    first, second = parts_kernels(kernel, source.dtype, compute, output.dtype)
    params += pack((length,))
    compared = (Operand(2, READ),) if kernel in _ARGUMENTS else ()  # parts are places in it
    return (
        Body(first, params, (Operand(1, WRITE | OVERWRITE), Operand(2, READ)), source.nbytes),
        Body(second, params, (Operand(0, WRITE | OVERWRITE), Operand(1, READ), *compared), parts.nbytes),
    )


def _part(view: Any, axis: int, start: int, stop: int, mode: int, index: int) -> Operand:
    """The piece [start, stop) along one axis of an operand."""
    if (start, stop) == (0, view.shape[axis]):
        return Operand(index, mode)
    shape = (*view.shape[:axis], stop - start, *view.shape[axis + 1 :])
    return Operand(index, mode, start * view.strides[axis], layout(view.dtype, shape, view.strides))


def reduction_bodies(kernel: str, output: Any, source: Any, axes: tuple[int, ...], keepdims: bool) -> tuple[Body, ...]:
    """The tasks of a reduction: cut along the first axis that stays, where that leaves whole trees to each piece."""
    address = reduction_kernel(kernel, source.dtype, _compute_dtype(kernel, source, output.dtype), output.dtype)
    kept = [axis for axis in range(source.ndim) if axis not in axes]
    pieces = [(0, 0)]
    axis = kept[0] if kept and kept[0] == 0 and source.size and source.shape[0] > 1 else -1
    if axis == 0:
        pieces = cut(source.shape[0], source.nbytes)
    bodies = []
    for start, stop in pieces:
        whole = axis < 0 or (start, stop) == (0, source.shape[0])
        shape = source.shape if whole else (stop - start, *source.shape[1:])
        params = reduction_params(
            shape, source.strides, axes, source.dtype.itemsize, output.dtype.itemsize, keep_order=kernel in _ARGUMENTS
        )
        operands = (Operand(0, WRITE | OVERWRITE), Operand(1, READ))
        if not whole:
            operands = (_part(output, 0, start, stop, WRITE | OVERWRITE, 0), _part(source, 0, start, stop, READ, 1))
        bodies.append(Body(address, params, operands, (source.nbytes + output.nbytes) // len(pieces)))
    return tuple(bodies)


def cumulative_bodies(kernel: str, output: Any, source: Any, axis: int) -> tuple[Body, ...]:
    """The one task of a running sum or product."""
    address = cumulative_kernel(kernel, source.dtype, output.dtype)
    params = cumulative_params(
        source.shape, output.strides, source.strides, axis, output.dtype.itemsize, source.dtype.itemsize
    )
    return (Body(address, params, (Operand(0, WRITE | OVERWRITE), Operand(1, READ)), source.nbytes + output.nbytes),)
