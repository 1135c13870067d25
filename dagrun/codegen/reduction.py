"""Reductions of any axes of a strided operand into a contiguous output.

Operands (`data`): output, input. The order in which floats are combined is a fixed tree that depends on shape, strides
and dtype alone:

- "inner": runs of the reduced dimension with the smallest stride are cut into blocks of 1024; a block is combined in
  128 bytes of lanes, the lanes by halving, then the elements left over; a strided run is gathered first and has the
  same tree.
- "outer": where the reduced dimensions are strided and a kept one is contiguous, vectors of kept elements are combined
  over blocks of 32 rows.

Blocks are combined pairwise, as a binary counter carries, so the error grows with the logarithm of the length.

Params, int64 words: 0 variant (0 inner, 1 outer), 1 number of outer kept dimensions, 2 of outer reduced dimensions,
3 length of the inner reduced dimension (-1: no output), 4 its stride, 5 length of the inner kept dimension ("outer"
only, else 1), 6 its stride in the output, 7 number of elements per result, 8.. the outer kept dimensions (size, output
stride, input stride), then the outer reduced dimensions (size, input stride), innermost first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes, move_strided
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.scalars import maximum, minimum
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Slot, Value, bits_of, is_float, is_signed

BLOCK = 1024  # elements of a run combined before the binary counter
ROW_BLOCK = 32  # rows combined before the binary counter
TILE = 128  # kept elements that pass over the rows together
_LEVELS = 56  # more than the logarithm of any number of blocks


@dataclass(frozen=True, slots=True)
class ReductionOp:
    """prepare: input value -> compute value; combine: of two; finish: (result, number of elements) -> result."""

    prepare: Callable[[Value, str], Value]
    combine: Callable[[Value, Value], Value]
    identity: Callable[[str], float | int | bool]
    empty: float | int | bool | None = None  # what no elements give, where it is not the identity
    finish: Callable[[Value, Value], Value] = lambda result, count: result


def _convert(x: Value, dtype: str) -> Value:
    return x.to(dtype)


def _truth(x: Value, dtype: str) -> Value:
    return x.differs(0).to(dtype)


def _lowest(dtype: str) -> float | int:
    if is_float(dtype):
        return -math.inf
    return -(1 << (bits_of(dtype) - 1)) if is_signed(dtype) else 0


def _highest(dtype: str) -> float | int:
    if is_float(dtype):
        return math.inf
    return (1 << (bits_of(dtype) - (1 if is_signed(dtype) else 0))) - 1


def _zero(dtype: str) -> float | int:
    return -0.0 if is_float(dtype) else 0  # -0 + x is x for every x


def _square(x: Value, dtype: str) -> Value:
    wide = x.to(dtype)
    return wide * wide


def _sum(a: Value, b: Value) -> Value:
    return a + b


REDUCTION_OPS: dict[str, ReductionOp] = {
    "sum": ReductionOp(_convert, _sum, _zero, empty=0),
    "mean": ReductionOp(_convert, _sum, _zero, 0, lambda result, count: result / count.to(result.dtype)),
    "sum_of_squares": ReductionOp(_square, _sum, _zero, empty=0),
    "prod": ReductionOp(_convert, lambda a, b: a * b, lambda dtype: 1),
    "max": ReductionOp(_convert, maximum, _lowest),
    "min": ReductionOp(_convert, minimum, _highest),
    "any": ReductionOp(_truth, lambda a, b: a | b, lambda dtype: 0),
    "all": ReductionOp(_truth, lambda a, b: a & b, lambda dtype: 1),
    "count_nonzero": ReductionOp(_truth, _sum, lambda dtype: 0),
}
ARGUMENT_OPS = {"argmax": ("max", lambda new, best: new > best), "argmin": ("min", lambda new, best: new < best)}


def reduction_kernel(op: str, in_dtype: object, compute_dtype: object, out_dtype: object) -> int:
    """Address of a reduction; `op` is a key of REDUCTION_OPS or ARGUMENT_OPS.

    Elements are converted to `compute_dtype` first (for any, all and count_nonzero: to whether they are not zero; give
    uint8 for any and all), combined in it, and the result converted to `out_dtype`. "mean" needs a float compute dtype.
    argmax and argmin compare in `compute_dtype` and give the position in C order of the reduced axes; NaN comes first.
    Empty reductions give the identity (max and min: the lowest and highest value; argmax: 0): refuse them before.
    """
    names = (str(in_dtype), str(compute_dtype), str(out_dtype))
    check_dtypes(*names)
    if op not in REDUCTION_OPS and op not in ARGUMENT_OPS:
        raise Unsupported(f"no reduction named {op!r}")
    if names[1] in ("float16", "bool") or (op == "mean" and not is_float(names[1])):
        raise Unsupported(f"{op} does not compute in {names[1]}")
    if target() == "cuda":
        return cuda_kernel("reduction", op, *names)
    if "float16" in names and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = f"reduction; {op} {' '.join(names)}"
    build = _argument_ir if op in ARGUMENT_OPS else _reduction_ir
    return compile_kernel(key, lambda: build(op, *names, entry_name(key)))


def parts_kernels(op: str, in_dtype: object, compute_dtype: object, out_dtype: object) -> tuple[int, int]:
    """Addresses of the two CUDA kernels of a reduction in parts: of the parts from the input, of the result from them.

    Data: parts (results, parts) in the compute dtype, input; then output, parts. Of argmax and argmin parts are int64,
    and the input comes last again. Params: those of `reduction_params`, then the length of a part, as `parts_of` gives
    it.
    """
    names = (str(in_dtype), str(compute_dtype), str(out_dtype))
    own = "int64" if op in ARGUMENT_OPS else names[1]
    return (
        cuda_kernel("reduction", op, *names[:2], own, "reduce_parts"),
        cuda_kernel("reduction", op, *names, "combine_parts"),
    )


def parts_of(op: str, params: bytes, in_itemsize: int, compute_dtype: str) -> tuple[int, int]:
    """(number of parts, their length) of each result, for a reduction of these params on a GPU; one part: no need."""
    of_cuda = import_module("dagrun.codegen.cuda.reduction")
    if op in ARGUMENT_OPS:
        parts: tuple[int, int] = of_cuda.split_argument(params, in_itemsize)
    else:
        parts = of_cuda.split(params, compute_dtype)
    return parts


def reduction_params(
    shape: Sequence[int], strides: Sequence[int], axes: Sequence[int], in_itemsize: int, out_itemsize: int,
    keep_order: bool = False,
) -> bytes:  # fmt: skip
    """The params block for reducing `axes` (non-negative) of an input with these byte strides.

    The output is C-contiguous over the kept axes. `keep_order=True` is for argmax and argmin.
    """
    kept_axes = [axis for axis in range(len(shape)) if axis not in axes]
    kept_shape = [shape[axis] for axis in kept_axes]
    out_strides = layout.contiguous_strides(kept_shape, out_itemsize)
    if 0 in kept_shape:
        return layout.pack((0, 0, 0, -1, 0, 1, 0, 0))
    count = math.prod(shape[axis] for axis in axes)
    reduced = layout.dimensions([shape[axis] for axis in axes], [[strides[axis] for axis in axes]])
    kept = layout.merged(layout.dimensions(kept_shape, [out_strides, [strides[axis] for axis in kept_axes]]))
    if not keep_order:
        reduced.sort(key=lambda dim: abs(dim[1][0]))
    reduced = [(0, (0,))] if count == 0 else layout.merged(reduced) or [(1, (in_itemsize,))]
    (n, (stride,)), *outer = reduced
    unit = next((dim for dim in kept if dim[1][1] == in_itemsize), None)
    if unit is not None and stride != in_itemsize and not keep_order and n > 0:
        kept.remove(unit)
        m, (out_step, _) = unit
        variant = 1
    else:
        m, out_step, variant = 1, 0, 0
    head = (variant, len(kept), len(outer), n, stride, m, out_step, count)
    return layout.pack((*head, *layout.outer_words(kept), *layout.outer_words(outer)))


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What the pieces of one reduction kernel share."""

    e: Emitter
    op: ReductionOp
    in_dtype: str
    compute: str
    out_dtype: str
    n: Value
    stride: Value
    m: Value
    out_step: Value
    total: Value
    reduced_outer: Value
    reduced_word: Value
    out: Slot
    source: Slot

    @property
    def lanes(self) -> int:
        return 128 // ITEMSIZE[self.compute]

    def identity(self, lanes: int = 1) -> Value:
        return self.e.constant(self.op.identity(self.compute), self.compute, lanes)

    def load(self, pointer: Value, lanes: int = 1) -> Value:
        return self.op.prepare(self.e.load(pointer, self.in_dtype, lanes), self.compute)

    def finished(self, result: Value) -> Value:
        if self.op.empty is not None:
            result = self.e.select(self.total.equals(0), self.op.empty, result)
        return self.op.finish(result, self.total).to(self.out_dtype)


def _begin(e: Emitter, op: ReductionOp, in_dtype: str, compute: str, out_dtype: str) -> tuple[_Kernel, Value, Value]:
    """(the kernel, its variant, its number of outer kept dimensions); returns at once when there is no output."""
    words = [e.load_at("%params", k) for k in range(8)]
    with e.when(words[3] < 0):
        e.give_back(0)
    kernel = _Kernel(
        e, op, in_dtype, compute, out_dtype, n=words[3], stride=words[4], m=words[5], out_step=words[6],
        total=words[7], reduced_outer=words[2], reduced_word=words[1] * 3 + 8,
        out=e.slot("pointer", e.load_at("%data", 0, "pointer")),
        source=e.slot("pointer", e.load_at("%data", 1, "pointer")),
    )  # fmt: skip
    return kernel, words[0], words[1]


def _reduction_ir(op: str, in_dtype: str, compute: str, out_dtype: str, name: str) -> str:
    e = Emitter()
    kernel, variant, kept_outer = _begin(e, REDUCTION_OPS[op], in_dtype, compute, out_dtype)
    with layout.rows(e, kept_outer, 8, [kernel.out, kernel.source]):
        with e.when(variant.equals(0)):
            _inner(kernel)
        with e.when(variant.equals(1)):
            _outer(kernel)
    e.finish()
    return e.module(name)


# -- inner: one result at a time --------------------------------------------------------------------------------------


def _inner(k: _Kernel) -> None:
    e = k.e
    stack = e.buffer(_LEVELS * ITEMSIZE[k.compute])
    count = e.slot("int64", 0)
    pointer = e.slot("pointer", k.source.get())
    with _blocks(k, pointer) as (place, length, _):
        _push(k, stack, ITEMSIZE[k.compute], count.get(), _block_total(k, place, length))
        count.set(count.get() + 1)
    result = _fold(k, stack, ITEMSIZE[k.compute], count.get(), 1)
    e.store(k.out.get(), k.finished(result))


@contextmanager
def _blocks(k: _Kernel, pointer: Slot) -> Iterator[tuple[Value, Value, Value]]:
    """Every block of every run of the reduced dimensions, as (contiguous place, length, address)."""
    e = k.e
    itemsize = e.constant(ITEMSIZE[k.in_dtype], "int64")
    staged = e.buffer(BLOCK * ITEMSIZE[k.in_dtype])
    strided = k.stride.differs(itemsize)
    shift = e.constant(BLOCK.bit_length() - 1, "int64")
    count = (k.n + (BLOCK - 1)) >> shift
    with layout.rows(e, k.reduced_outer, k.reduced_word, [pointer]), e.loop(count) as block:
        start = block * BLOCK
        rest = k.n - start
        length = e.select(rest < BLOCK, rest, BLOCK)
        source = e.offset(pointer.get(), start * k.stride)
        with e.when(strided):
            move_strided(e, staged, itemsize, source, k.stride, length, k.in_dtype)
        yield e.select(strided, staged, source), length, source


def _block_total(k: _Kernel, place: Value, length: Value) -> Value:
    """All elements of a contiguous block combined."""
    e, lanes = k.e, k.lanes
    total = e.slot(k.compute, k.identity())
    with e.when(length >= lanes):
        sums = e.slot(k.compute, k.identity(lanes), lanes)
        with e.vector_loop(length, lanes) as i:
            sums.set(k.op.combine(sums.get(), k.load(e.element(place, i, k.in_dtype), lanes)))
        vector = sums.get()
        while vector.lanes > 1:
            vector = k.op.combine(*e.halves(vector))
        total.set(vector)
    left = e.slot(k.compute, k.identity())
    with e.left_over(length, lanes) as i:
        left.set(k.op.combine(left.get(), k.load(e.element(place, i, k.in_dtype))))
    return k.op.combine(total.get(), left.get())


def _push(k: _Kernel, stack: Value, level_nbytes: int, count: Value, value: Value) -> None:
    """Add block number `count` to the binary counter: equal-sized neighbours are combined, older one first."""
    e = k.e
    rest, level = e.slot("int64", count), e.slot("pointer", stack)
    carried = e.slot(k.compute, value, value.lanes)
    with e.loop_while(lambda: (rest.get() & 1).differs(0)):
        older = e.load(level.get(), k.compute, value.lanes)
        carried.set(k.op.combine(older, carried.get()))
        rest.set(rest.get() >> 1)
        level.set(e.offset(level.get(), level_nbytes))
    e.store(level.get(), carried.get())


def _fold(k: _Kernel, stack: Value, level_nbytes: int, count: Value, lanes: int) -> Value:
    """What the binary counter holds, smallest part first."""
    e = k.e
    rest, level = e.slot("int64", count), e.slot("pointer", stack)
    total = e.slot(k.compute, k.identity(lanes), lanes)
    with e.loop_while(lambda: rest.get().differs(0)):
        with e.when((rest.get() & 1).differs(0)):
            total.set(k.op.combine(e.load(level.get(), k.compute, lanes), total.get()))
        rest.set(rest.get() >> 1)
        level.set(e.offset(level.get(), level_nbytes))
    return total.get()


# -- outer: vectors of results over rows ------------------------------------------------------------------------------


def _outer(k: _Kernel) -> None:
    e = k.e
    level_nbytes = TILE * ITEMSIZE[k.compute]
    stack = e.buffer(_LEVELS * level_nbytes)
    staged = e.buffer(TILE * ITEMSIZE[k.out_dtype])
    shift = e.constant(TILE.bit_length() - 1, "int64")
    with e.loop((k.m + (TILE - 1)) >> shift) as tile:
        first = tile * TILE
        rest = k.m - first
        width = e.select(rest < TILE, rest, TILE)
        pointer = e.slot("pointer", e.element(k.source.get(), first, k.in_dtype))
        count = e.slot("int64", 0)
        with layout.rows(e, k.reduced_outer, k.reduced_word, [pointer]):
            row_shift = e.constant(ROW_BLOCK.bit_length() - 1, "int64")
            with e.loop((k.n + (ROW_BLOCK - 1)) >> row_shift) as block:
                start = block * ROW_BLOCK
                rows_left = k.n - start
                rows = e.select(rows_left < ROW_BLOCK, rows_left, ROW_BLOCK)
                corner = e.offset(pointer.get(), start * k.stride)
                for column, lanes in _columns(k, width):
                    total = _row_total(k, e.element(corner, column, k.in_dtype), rows, lanes)
                    _push(k, e.element(stack, column, k.compute), level_nbytes, count.get(), total)
                count.set(count.get() + 1)
        for column, lanes in _columns(k, width):
            result = _fold(k, e.element(stack, column, k.compute), level_nbytes, count.get(), lanes)
            e.store(e.element(staged, column, k.out_dtype), _finished_lanes(k, result))
        target = e.offset(k.out.get(), first * k.out_step)
        move_strided(e, target, k.out_step, staged, e.constant(ITEMSIZE[k.out_dtype], "int64"), width, k.out_dtype)


def _columns(k: _Kernel, width: Value) -> Iterator[tuple[Value, int]]:
    """Loops over the columns of a tile: vectors, then single ones; yields (first column, lanes) once for each loop."""
    lanes = 2 * k.lanes
    with k.e.vector_loop(width, lanes) as column:
        yield column, lanes
    with k.e.left_over(width, lanes) as column:
        yield column, 1


def _row_total(k: _Kernel, corner: Value, rows: Value, lanes: int) -> Value:
    e = k.e
    sums = e.slot(k.compute, k.identity(lanes), lanes)
    with e.loop(rows) as i:
        sums.set(k.op.combine(sums.get(), k.load(e.offset(corner, i * k.stride), lanes)))
    return sums.get()


def _finished_lanes(k: _Kernel, result: Value) -> Value:
    total = k.total if result.lanes == 1 else k.e.splat(k.total, result.lanes)
    return k.op.finish(result, total).to(k.out_dtype)


# -- argmax, argmin ---------------------------------------------------------------------------------------------------


def _argument_ir(op: str, in_dtype: str, compute: str, out_dtype: str, name: str) -> str:
    """The best block is remembered by its total; its first element equal to that total is the answer."""
    e = Emitter()
    value_op, better = ARGUMENT_OPS[op]
    k, _, kept_outer = _begin(e, REDUCTION_OPS[value_op], in_dtype, compute, out_dtype)
    with layout.rows(e, kept_outer, 8, [k.out, k.source]):
        seen = e.slot("int64", 0)
        best, best_start = e.slot(k.compute, k.identity()), e.slot("int64", -1)
        best_place, best_length = e.slot("pointer", k.source.get()), e.slot("int64", 0)
        pointer = e.slot("pointer", k.source.get())
        with _blocks(k, pointer) as (place, length, address):
            total = _block_total(k, place, length)
            wins = better(total, best.get()) | (best_start.get() < 0)
            if is_float(k.compute):
                wins = wins | (total.is_nan() & ~best.get().is_nan())
            with e.when(wins):
                best.set(total)
                best_start.set(seen.get())
                best_place.set(address)
                best_length.set(length)
            seen.set(seen.get() + length)
        position = e.slot("int64", 0)
        wide = e.buffer(k.lanes * ITEMSIZE[in_dtype])  # stands for a vector that would reach beyond the block

        def differs() -> Value:
            inside = position.get() + 1 < best_length.get()
            element = k.load(e.offset(best_place.get(), position.get() * k.stride))
            same = element.equals(best.get())
            if is_float(k.compute):
                same = same | (element.is_nan() & best.get().is_nan())
            return inside & ~same

        def vector_differs() -> Value:
            inside = position.get() + k.lanes <= best_length.get()
            near = e.select(inside, position.get(), 0)
            place = e.select(inside, e.offset(best_place.get(), near * k.stride), wide)
            elements = k.load(place, k.lanes)
            same = elements.equals(e.splat(best.get(), k.lanes))
            if is_float(k.compute):
                same = same | (elements.is_nan() & e.splat(best.get().is_nan(), k.lanes))
            return inside & ~e.any_lane(same)

        with e.when(best_length.get() > 0):
            with e.when(k.stride.equals(ITEMSIZE[in_dtype])), e.loop_while(vector_differs):
                position.set(position.get() + k.lanes)
            with e.loop_while(differs):
                position.set(position.get() + 1)
            position.set(position.get() + best_start.get())
        e.store(k.out.get(), position.get().to(out_dtype))
    e.finish()
    return e.module(name)
