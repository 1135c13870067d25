"""Indexed movement: gather (take), assignment (put) and addition in place (add), by one or more index arrays.

One loop serves all three. It walks the *dense* operand, which has an element for each position of the index arrays (and
of the axes that are not indexed); the *indexed* operand is addressed by the indices found there. Indices may be of any
integer dtype; negative ones count from the end, where they may. All are checked before anything is written: the first
position with one out of range gives code OUT_OF_RANGE with error[0] = the index, error[1] = the length of its axis,
error[2] = the position, error[3] = the name (a number) of the axis. Positions are served in order, so the last write
wins and sums have one order.

The dimensions of the dense operand are index dimensions, over which the index arrays vary, and free ones; free ones
before the index dimensions are walked outside of them, the others inside.

Params, int64 words, with K index arrays: 0 number of free dimensions before, 1 of index dimensions but the innermost,
2 of free dimensions after but the innermost, 3 length of the innermost free dimension after (0: check only), 4, 5 its
strides in the indexed and the dense operand, 6 length of the innermost index dimension (0: nothing to do), 7 number of
the first position. Then strides of the innermost index dimension: K index arrays, indexed, dense. Then for each index
array: length, stride and name of its axis, and what is added to negative indices (the length or 0). Then the dimensions
counted in words 0 to 2, each innermost first: size and strides, of the index arrays (index dimensions only), the
indexed and the dense operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from dagrun.codegen import layout, scalars
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Value, is_integer, is_signed

OUT_OF_RANGE = 1  # status code
DIGIT_BITS = 8  # of what positions are sorted by on a GPU: as in kernels/cuda/ordering.cuh
_HEAD = 8  # words


@dataclass(frozen=True, slots=True)
class Index:
    """One index array: its byte strides along the dense operand's dimensions, and the axis it points into."""

    strides: tuple[int, ...]  # 0 where it does not vary
    length: int
    stride: int  # of the axis, in the indexed operand
    name: int  # of the axis, for messages
    back: bool = True  # negative indices count from the end; else they are out of range


def take_kernel(dtype: object, *index_dtypes: object) -> int:
    """Address of dense = indexed[indices]; data: dense (the output), indexed, index arrays."""
    return _kernel("take", f"uint{8 * ITEMSIZE[_checked(dtype)]}", index_dtypes)


def put_kernel(dtype: object, *index_dtypes: object) -> int:
    """Address of indexed[indices] = dense; data: indexed (the output), dense, index arrays."""
    return _kernel("put", f"uint{8 * ITEMSIZE[_checked(dtype)]}", index_dtypes)


def add_kernel(dtype: object, *index_dtypes: object) -> int:
    """Address of indexed[indices] += dense, equal indices in turn; data: indexed (the output), dense, index arrays."""
    if _checked(dtype) == "float16" and target() == "cpu" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    return _kernel("add", str(dtype), index_dtypes)


def sorted_kernels(which: str, dtype: object, *index_dtypes: object) -> tuple[int, int]:
    """Addresses of the CUDA kernels that make items of positions, and that "put" or "add" items in order.

    Data: items (uint64), index arrays; then indexed (the output), dense, items, index arrays. Params: `indexed_params`.
    """
    moved = str(dtype) if which == "add" else f"uint{8 * ITEMSIZE[str(dtype)]}"
    names = [str(index) for index in index_dtypes]
    return cuda_kernel("movement", "items", "uint64", *names), cuda_kernel("movement", f"{which}_sorted", moved, *names)


def ordering_kernel(which: str) -> int:
    """Address of a CUDA kernel that sorts items: "count", "tiles" or "move"; see kernels/cuda/ordering.cuh."""
    return cuda_kernel("ordering", which)


def digits_of(positions: int, elements: int, places: int, slices: int, indices: int) -> int:
    """By how many digits a GPU sorts positions first; see `digits` of codegen/cuda/movement.py."""
    digits: int = import_module("dagrun.codegen.cuda.movement").digits(positions, elements, places, slices, indices)
    return digits


def tiles_of(items: int) -> tuple[int, int]:
    """The length of the tiles in which a GPU sorts items, and how many counts of 32 bits that takes."""
    ordering = import_module("dagrun.codegen.cuda.ordering")
    return ordering.tile_of(items), ordering.counts_of(items)


def indexed_params(
    shape: Sequence[int], dense_strides: Sequence[int], indexed_strides: Sequence[int], index_axes: Sequence[int],
    indices: Sequence[Index], first: int = 0,
) -> bytes:  # fmt: skip
    """The params block of all three kernels.

    `shape` is that of the dense operand, `indexed_strides` are the indexed operand's along the same dimensions: 0 where
    it is addressed by index or broadcast. `index_axes`: the dimensions over which index arrays vary, ascending.
    `first`: the number of the first position, where this is a piece of a larger movement.
    """
    if any(shape[d] == 0 for d in index_axes):
        return layout.pack((0,) * _HEAD)
    free = [d for d in range(len(shape)) if d not in index_axes]
    edge = index_axes[0] if index_axes else 0

    def dims(chosen: Sequence[int], operands: Sequence[Sequence[int]]) -> list[layout.Dimension]:
        strides = [[of[d] for d in chosen] for of in operands]
        return layout.merged(layout.dimensions([shape[d] for d in chosen], strides))

    pair = [indexed_strides, dense_strides]
    before, after = dims([d for d in free if d < edge], pair), dims([d for d in free if d >= edge], pair)
    if any(shape[d] == 0 for d in free):
        before, after = [], [(0, (0, 0))]
    walked = dims(index_axes, [*(index.strides for index in indices), *pair])
    inner = after[0] if after else (1, (0, 0))
    count, steps = walked[0] if walked else (1, (0,) * (len(indices) + 2))
    head = (len(before), max(0, len(walked) - 1), max(0, len(after) - 1), inner[0], *inner[1], count, first)
    axes = [
        word
        for index in indices
        for word in (index.length, index.stride, index.name, index.length if index.back else 0)
    ]
    outer = [word for part in (before, walked[1:], after[1:]) for word in layout.outer_words(part)]
    return layout.pack((*head, *steps, *axes, *outer))


def _checked(dtype: object) -> str:
    check_dtypes(dtype)
    return str(dtype)


def _kernel(which: str, dtype: str, index_dtypes: Sequence[object]) -> int:
    indices = [_checked(index) for index in index_dtypes]
    if not indices or not all(map(is_integer, indices)):
        raise Unsupported(f"indices must be integers, not {indices}")
    if target() == "cuda":
        return cuda_kernel("movement", which, dtype, *indices)
    key = f"movement; {which} {dtype} {' '.join(indices)}"
    return compile_kernel(key, lambda: _movement_ir(which, dtype, indices, entry_name(key)))


def _movement_ir(which: str, dtype: str, index_dtypes: Sequence[str], name: str) -> str:
    e = Emitter()
    number = len(index_dtypes)
    head = [e.load_at("%params", k) for k in range(_HEAD)]
    before, outer, further, length, indexed_step, dense_step, count, first = head
    steps = [e.load_at("%params", _HEAD + k) for k in range(number + 2)]
    axes = [[e.load_at("%params", _HEAD + number + 2 + 4 * k + j) for j in range(4)] for k in range(number)]
    base = _HEAD + number + 2 + 4 * number
    operands = [e.slot("pointer", e.load_at("%data", k, "pointer")) for k in range(2 + number)]
    indexed, dense = operands[:2] if which != "take" else operands[1::-1]
    indices = operands[2:]
    walked = [*indices, indexed, dense]
    with e.when(count.equals(0)):
        e.give_back(0)

    def index_at(k: int, i: Value) -> tuple[Value, Value]:
        """(index k as written, counted from the start) at place i of the innermost index dimension"""
        raw = e.load(e.offset(indices[k].get(), i * steps[k]), index_dtypes[k]).to("int64")
        return raw, e.select(raw < 0, raw + axes[k][3], raw) if is_signed(index_dtypes[k]) else raw

    position = e.slot("int64", first)
    with layout.rows(e, outer, before * 3 + base, walked), e.loop(count) as i:
        for k in range(number):
            raw, index = index_at(k, i)
            bound, _, axis, _ = axes[k]
            with e.when((index < 0) | (index >= bound)):
                error = e.argument("%error", "pointer")
                for word, value in enumerate((raw, bound, position.get(), axis)):
                    e.store(e.element(error, word, "int64"), value)
                e.give_back(OUT_OF_RANGE)
        position.set(position.get() + 1)
    with e.when(length.equals(0)):
        e.give_back(0)

    def places(i: Value) -> tuple[Value, Value]:
        """The addresses in the indexed and the dense operand."""
        there = i * steps[number]
        for k in range(number):
            there = there + index_at(k, i)[1] * axes[k][1]
        return e.offset(indexed.get(), there), e.offset(dense.get(), i * steps[number + 1])

    single = further.equals(0) & length.equals(1)
    with layout.rows(e, before, base, [indexed, dense]), layout.rows(e, outer, before * 3 + base, walked):
        with e.when(single), e.loop(count) as i:
            _element(e, which, dtype, *places(i))
        with e.when(~single), e.loop(count) as i:
            there, here = (e.slot("pointer", place) for place in places(i))
            with layout.rows(e, further, before * 3 + outer * (number + 3) + base, [there, here]):
                _run(e, which, dtype, there.get(), here.get(), length, indexed_step, dense_step)
    e.finish()
    return e.module(name)


def _element(e: Emitter, which: str, dtype: str, there: Value, here: Value, lanes: int = 1) -> None:
    if which == "take":
        e.store(here, e.load(there, dtype, lanes))
    elif which == "put":
        e.store(there, e.load(here, dtype, lanes))
    else:
        e.store(there, scalars.apply("add", [e.load(there, dtype, lanes), e.load(here, dtype, lanes)]))


def _run(
    e: Emitter, which: str, dtype: str, indexed: Value, dense: Value, n: Value, indexed_step: Value, dense_step: Value
) -> None:
    """One run of the innermost free dimension."""
    lanes = 64 // ITEMSIZE[dtype]
    contiguous = indexed_step.equals(ITEMSIZE[dtype]) & dense_step.equals(ITEMSIZE[dtype])
    with e.when(contiguous):
        with e.vector_loop(n, lanes) as i:
            _element(e, which, dtype, e.element(indexed, i, dtype), e.element(dense, i, dtype), lanes)
        with e.left_over(n, lanes) as i:
            _element(e, which, dtype, e.element(indexed, i, dtype), e.element(dense, i, dtype))
    with e.when(~contiguous), e.loop(n) as i:
        _element(e, which, dtype, e.offset(indexed, i * indexed_step), e.offset(dense, i * dense_step))
