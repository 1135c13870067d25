"""Indexed movement along one axis: take, put and scatter-add.

One loop serves all three: the *indexed* operand is addressed by the index, the *dense* one by its position. Indices may
be of any integer dtype; negative ones count from the end. All are checked before anything is written: the first one out
of range gives code OUT_OF_RANGE with error[0] = the index, error[1] = the length of the axis, error[2] = its position.
Positions are served in order, so the last write wins and sums have one order.

Params, int64 words: 0 number of indices, 1 stride of the index array, 2 length of the indexed axis, 3, 4 strides of
that axis in the indexed and the dense operand, 5 number of dimensions before the axis, 6 of further dimensions after
it, 7 length of the innermost dimension after it, 8, 9 its strides, 10.. the dimensions before, then the further ones
after: size, stride in the indexed, stride in the dense operand, innermost first.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.codegen import layout, scalars
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.values import ITEMSIZE, Value, is_integer, is_signed

OUT_OF_RANGE = 1  # status code


def take_kernel(dtype: object, index_dtype: object) -> int:
    """Address of dense = indexed[index]; data: dense (the output), indexed, index."""
    return _kernel("take", f"uint{8 * ITEMSIZE[_checked(dtype)]}", index_dtype)


def put_kernel(dtype: object, index_dtype: object) -> int:
    """Address of indexed[index] = dense; data: indexed (the output), dense, index."""
    return _kernel("put", f"uint{8 * ITEMSIZE[_checked(dtype)]}", index_dtype)


def scatter_add_kernel(dtype: object, index_dtype: object) -> int:
    """Address of indexed[index] += dense, equal indices in turn; data: indexed (the output), dense, index."""
    if _checked(dtype) == "float16" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    return _kernel("add", str(dtype), index_dtype)


def indexed_params(
    shape: Sequence[int], indexed_strides: Sequence[int], dense_strides: Sequence[int], axis: int,
    index_count: int, index_stride: int,
) -> bytes:  # fmt: skip
    """The params block of all three kernels.

    `shape` is that of the indexed operand; the dense one has the same shape but `index_count` along `axis`, and as many
    strides. Either may be broadcast (stride 0) where it is read.
    """
    if 0 in shape[:axis] or 0 in shape[axis + 1 :] or index_count == 0:
        return layout.pack((0, 0, shape[axis], 0, 0, 0, 0, 1, 0, 0))
    before, after = (
        layout.merged(layout.dimensions(shape[part], [indexed_strides[part], dense_strides[part]]))
        for part in (slice(0, axis), slice(axis + 1, None))
    )
    length, (indexed_step, dense_step) = after[0] if after else (1, (0, 0))
    head = (index_count, index_stride, shape[axis], indexed_strides[axis], dense_strides[axis],
            len(before), max(0, len(after) - 1), length, indexed_step, dense_step)  # fmt: skip
    return layout.pack((*head, *layout.outer_words(before), *layout.outer_words(after[1:])))


def _checked(dtype: object) -> str:
    check_dtypes(dtype)
    return str(dtype)


def _kernel(which: str, dtype: str, index_dtype: object) -> int:
    index = _checked(index_dtype)
    if not is_integer(index):
        raise Unsupported(f"indices must be integers, not {index}")
    key = f"movement; {which} {dtype} {index}"
    return compile_kernel(key, lambda: _movement_ir(which, dtype, index, entry_name(key)))


def _movement_ir(which: str, dtype: str, index_dtype: str, name: str) -> str:
    e = Emitter()
    words = [e.load_at("%params", k) for k in range(10)]
    count, index_stride, bound = words[:3]
    index_base = e.load_at("%data", 2, "pointer")
    output_is_indexed = which != "take"
    indexed = e.slot("pointer", e.load_at("%data", 0 if output_is_indexed else 1, "pointer"))
    dense = e.slot("pointer", e.load_at("%data", 1 if output_is_indexed else 0, "pointer"))

    def wrapped(position: Value) -> tuple[Value, Value]:
        """(the index as written, counted from the start)"""
        raw = e.load(e.offset(index_base, position * index_stride), index_dtype).to("int64")
        return raw, e.select(raw < 0, raw + bound, raw) if is_signed(index_dtype) else raw

    with e.loop(count) as position:
        raw, index = wrapped(position)
        with e.when((index < 0) | (index >= bound)):
            error = e.argument("%error", "pointer")
            for word, value in enumerate((raw, bound, position)):
                e.store(e.element(error, word, "int64"), value)
            e.give_back(OUT_OF_RANGE)
    with e.when(count.equals(0)):
        e.give_back(0)
    with layout.rows(e, words[5], 10, [indexed, dense]), e.loop(count) as position:
        _, index = wrapped(position)
        there = e.slot("pointer", e.offset(indexed.get(), index * words[3]))
        here = e.slot("pointer", e.offset(dense.get(), position * words[4]))
        with layout.rows(e, words[6], words[5] * 3 + 10, [there, here]):
            _run(e, which, dtype, there.get(), here.get(), words[7], words[8], words[9])
    e.finish()
    return e.module(name)


def _run(
    e: Emitter, which: str, dtype: str, indexed: Value, dense: Value, n: Value, indexed_step: Value, dense_step: Value
) -> None:
    """One run of the innermost dimension."""

    def element(there: Value, here: Value, lanes: int = 1) -> None:
        if which == "take":
            e.store(here, e.load(there, dtype, lanes))
        elif which == "put":
            e.store(there, e.load(here, dtype, lanes))
        else:
            e.store(there, scalars.apply("add", [e.load(there, dtype, lanes), e.load(here, dtype, lanes)]))

    lanes = 64 // ITEMSIZE[dtype]
    contiguous = indexed_step.equals(ITEMSIZE[dtype]) & dense_step.equals(ITEMSIZE[dtype])
    with e.when(contiguous):
        with e.vector_loop(n, lanes) as i:
            element(e.element(indexed, i, dtype), e.element(dense, i, dtype), lanes)
        with e.left_over(n, lanes) as i:
            element(e.element(indexed, i, dtype), e.element(dense, i, dtype))
    with e.when(~contiguous), e.loop(n) as i:
        element(e.offset(indexed, i * indexed_step), e.offset(dense, i * dense_step))
