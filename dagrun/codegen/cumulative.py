"""Running sums and products along one axis.

Operands (`data`): output, input. Elements are combined one after the other in the output dtype, rounded at each step as
NumPy does. Where a dimension beside the axis is contiguous in both operands, whole vectors of lines run together.

Params, int64 words: 0 length of the axis, 1 its stride in the output, 2 in the input, 3 length of the dimension beside
it (all its lines run together), 4 1 if that is contiguous in both operands, 5, 6 its strides, 7 number of further
dimensions, 8.. those: size, output stride, input stride, innermost first.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.codegen import layout, scalars
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Value

CUMULATIVE_OPS = {"cumsum": "add", "cumprod": "multiply", "cummax": "maximum", "cummin": "minimum"}


def cumulative_kernel(op: str, in_dtype: object, out_dtype: object) -> int:
    """Address of a running `op`, a key of CUMULATIVE_OPS; elements are converted to `out_dtype` first."""
    check_dtypes(in_dtype, out_dtype)
    if op not in CUMULATIVE_OPS:
        raise Unsupported(f"no cumulative operation named {op!r}")
    if target() == "cuda":
        return cuda_kernel("cumulative", op, str(in_dtype), str(out_dtype))
    if "float16" in (str(in_dtype), str(out_dtype)) and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = f"cumulative; {op} {in_dtype} {out_dtype}"
    return compile_kernel(key, lambda: _cumulative_ir(op, str(in_dtype), str(out_dtype), entry_name(key)))


def cumulative_params(
    shape: Sequence[int], out_strides: Sequence[int], in_strides: Sequence[int], axis: int, out_itemsize: int,
    in_itemsize: int,
) -> bytes:  # fmt: skip
    """The params block; `axis` is not negative, strides are in bytes."""
    if 0 in shape:
        return layout.pack((0,) * 8)
    others = [k for k in range(len(shape)) if k != axis]
    strides = [[of[k] for k in others] for of in (out_strides, in_strides)]
    dims = layout.merged(layout.dimensions([shape[k] for k in others], strides))
    unit = (out_itemsize, in_itemsize)
    beside = next((dim for dim in dims if dim[1] == unit), None)
    if beside is None:
        beside = dims[0] if dims else (1, (0, 0))
    if dims:
        dims.remove(beside)
    head = (shape[axis], out_strides[axis], in_strides[axis], beside[0], int(beside[1] == unit), *beside[1], len(dims))
    return layout.pack((*head, *layout.outer_words(dims)))


def _cumulative_ir(op: str, in_dtype: str, out_dtype: str, name: str) -> str:
    e = Emitter()
    words = [e.load_at("%params", k) for k in range(8)]
    n, out_axis, in_axis, beside, contiguous, out_step, in_step, outer = words
    with e.when(n.equals(0)):
        e.give_back(0)
    out = e.slot("pointer", e.load_at("%data", 0, "pointer"))
    source = e.slot("pointer", e.load_at("%data", 1, "pointer"))
    is_contiguous = contiguous.differs(0)
    lanes = 128 // max(ITEMSIZE[in_dtype], ITEMSIZE[out_dtype])
    together = e.select(is_contiguous, beside & -lanes, 0)

    def lines(column_out: Value, column_in: Value, width: int) -> None:
        value = e.slot(out_dtype, e.load(column_in, in_dtype, width).to(out_dtype), width)
        e.store(column_out, value.get())
        with e.loop(n - 1) as i:
            step = i + 1
            x = e.load(e.offset(column_in, step * in_axis), in_dtype, width).to(out_dtype)
            value.set(scalars.apply(CUMULATIVE_OPS[op], [value.get(), x]))
            e.store(e.offset(column_out, step * out_axis), value.get())

    with layout.rows(e, outer, 8, [out, source]):
        with e.vector_loop(together, lanes) as column:
            lines(e.element(out.get(), column, out_dtype), e.element(source.get(), column, in_dtype), lanes)
        with e.loop(beside - together) as rest:
            column = together + rest
            lines(e.offset(out.get(), column * out_step), e.offset(source.get(), column * in_step), 1)
    e.finish()
    return e.module(name)
