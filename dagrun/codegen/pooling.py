"""Pooling over windows of planes: the largest element and its place, the mean, and their adjoints.

A window is a product of a range of rows and a range of columns, as tables in the params say, so padding, dilation,
ceil_mode and adaptive pooling are one kernel.

    kernel     data                       for each plane
    max        values, places, x          values = the largest of each window (NaN wins), places = row * width + column
    mean       y, x                       y = sum of each window / divisor
    spread     x, y                       x = sum of y / divisor over the windows that hold it: the adjoint of mean
    pick       y, x, places               y[i] = x[places[i]]
    put        x, y, places               x = 0; x[places[i]] += y[i], i ascending: the adjoint of pick

Elements of a window are walked row by row; float16 is summed in float32. Planes of outputs, of y in spread, and all
planes of pick and put are contiguous; places are int32.

Params, int64 words: see `_WORDS`; then for each output row, then for each output column: its first row (column), the
number of them, and its factor of the divisor; then the dimensions outside of the planes: size and the stride of each
operand, innermost first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.target import cuda_kernel, cuda_params, target
from dagrun.codegen.values import ITEMSIZE, Slot, Value, bits_of, is_float, is_signed

KINDS = {"max": 3, "mean": 2, "spread": 2, "pick": 3, "put": 3}  # how many operands
_WORDS = (
    "dims", "out_rows", "out_columns", "rows", "columns", "row_stride", "column_stride", "row_dilation",
    "column_dilation",
    "first", "after", "step", "count", "factor",  # columns whose windows differ by one shift only: see `Windows.run`
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one axis: for each output place its first element, how many, and its factor of the divisor."""

    table: tuple[tuple[int, int, int], ...]
    dilation: int = 1

    def run(self) -> tuple[int, int, int, int, int]:
        """The longest run [first, after) of full windows at even steps: first, after, step, elements, factor."""
        full = max((row[1] for row in self.table), default=0)
        best, start = (0, 0, 1), 0
        while start < len(self.table):
            stop = start + 1
            step = self.table[stop][0] - self.table[start][0] if stop < len(self.table) else 1
            while (
                stop < len(self.table)
                and self.table[stop][1:] == self.table[start][1:]
                and self.table[stop][0] - self.table[stop - 1][0] == step
            ):
                stop += 1
            if self.table[start][1] == full and stop - start > best[1] - best[0]:
                best = (start, stop, step)
            start = stop
        factor = self.table[best[0]][2] if self.table else 1
        return *best, full, factor


def pooling_kernel(kind: str, dtype: object) -> int:
    """Address of the kernel `kind`, one of KINDS; mean and spread need a float."""
    check_dtypes(dtype)
    name = str(dtype)
    if kind in ("mean", "spread") and not is_float(name):
        raise Unsupported(f"no pooling {kind} of {name}")
    if target() == "cuda":
        return cuda_kernel("pooling", kind, name)
    if name == "float16" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = f"pooling; {kind} {name}"
    build = _places_ir if kind in ("pick", "put") else _windows_ir
    return compile_kernel(key, lambda: build(kind, name, entry_name(key)))


def pooling_params(
    size: tuple[int, int], rows: Windows, columns: Windows, strides: tuple[int, int], shape: Sequence[int],
    outer: Sequence[Sequence[int]],
) -> bytes:  # fmt: skip
    """The params block. `size`: of a plane of x, with byte `strides`; `shape`, `outer`: of what is outside planes."""
    if 0 in shape:
        return layout.pack([0] * len(_WORDS))
    dims = layout.merged(layout.dimensions(shape, outer))
    if target() == "cuda":
        from_tables = (rows.table, columns.table), (rows.dilation, columns.dilation)
        return cuda_params("pooling", size, *from_tables, strides, dims)
    head = (len(dims), len(rows.table), len(columns.table), *size, *strides, rows.dilation, columns.dilation)
    tables = [word for axis in (rows, columns) for row in axis.table for word in row]
    return layout.pack([*head, *columns.run(), *tables, *layout.outer_words(dims)])


class _Plane:
    """What the kernels over windows share."""

    def __init__(self, e: Emitter, dtype: str) -> None:
        self.e, self.dtype = e, dtype
        self.word = {name: e.load_at("%params", k) for k, name in enumerate(_WORDS)}
        self.params = e.argument("%params", "pointer")

    def __getattr__(self, name: str) -> Value:
        return self.word[name]

    def window(self, number: Value) -> tuple[Value, Value, Value]:
        """First element, number of elements and factor of row `number`, or of column `number - out_rows`."""
        place = self.e.element(self.params, number * 3 + len(_WORDS), "int64")
        first, count, factor = (self.e.load(self.e.offset(place, 8 * k), "int64") for k in range(3))
        return first, count, factor

    def load(self, pointer: Value, lanes: int, step: int) -> Value:
        """Every `step`-th of contiguous elements."""
        x = self.e.load(pointer, self.dtype, lanes * step)
        if step == 1:
            return x
        mask = ", ".join(f"i32 {k * step}" for k in range(lanes))
        text = f"shufflevector {x.type} {x.name}, {x.type} poison, <{lanes} x i32> <{mask}>"
        return self.e.emit(text, self.dtype, lanes)


def _lowest(dtype: str) -> float | int:
    if is_float(dtype):
        return float("-inf")
    return -(1 << (bits_of(dtype) - 1)) if is_signed(dtype) else 0


def _windows_ir(kind: str, dtype: str, name: str) -> str:
    e = Emitter()
    p = _Plane(e, dtype)
    with e.when(p.out_rows.equals(0) | p.out_columns.equals(0)):
        e.give_back(0)
    operands = [e.slot("pointer", e.load_at("%data", k, "pointer")) for k in range(KINDS[kind])]
    image = operands[0] if kind == "spread" else operands[-1]
    wide = "float32" if dtype == "float16" and kind != "max" else dtype
    lanes = 32 // max(4, ITEMSIZE[dtype])
    contiguous = p.column_stride.equals(ITEMSIZE[dtype])
    tables = (p.out_rows + p.out_columns) * 3 + len(_WORDS)

    def reduce(row: Window, column: Window, target: Value, width: int, step: int) -> None:
        """`width` neighbouring windows, whose elements lie `step` apart (1 and 0: one window)."""
        first = row.first * p.columns + column.first
        total = e.slot(wide, e.constant(_lowest(dtype) if kind == "max" else 0, wide, width), width)
        lane = e.constant(0, "int32") if width == 1 else e.lane_numbers(width, "int32") * step
        start = first.to("int32")
        found = e.slot("int32", start if width == 1 else e.splat(start, width) + lane, width)
        with e.loop(row.count) as i, e.loop(column.count) as j:
            r, c = row.first + i * p.row_dilation, column.first + j * p.column_dilation
            place = e.offset(image.get(), r * p.row_stride + c * p.column_stride)
            x = p.load(place, width, max(step, 1)) if width > 1 else e.load(place, dtype)
            if kind == "mean":
                total.set(total.get() + x.to(wide))
            else:
                wins = x > total.get()
                if is_float(dtype):
                    wins = wins | x.is_nan()
                here = (r * p.columns + c).to("int32")
                total.set(e.select(wins, x, total.get()))
                found.set(e.select(wins, here if width == 1 else e.splat(here, width) + lane, found.get()))
        if kind == "max":
            e.store(e.element(operands[0].get(), target, dtype), total.get())
            e.store(e.element(operands[1].get(), target, "int32"), found.get())
            return
        divisor = (row.factor * column.factor).to(wide)
        mean = total.get() / (divisor if width == 1 else e.splat(divisor, width))
        e.store(e.element(operands[0].get(), target, dtype), mean.to(dtype))

    def scatter(row: Window, column: Window, source: Value) -> None:
        share = e.load(e.element(operands[1].get(), source, dtype), dtype).to(wide)
        share = share / (row.factor * column.factor).to(wide)
        with e.loop(row.count) as i, e.loop(column.count) as j:
            r, c = row.first + i * p.row_dilation, column.first + j * p.column_dilation
            place = e.offset(image.get(), r * p.row_stride + c * p.column_stride)
            e.store(place, (e.load(place, dtype).to(wide) + share).to(dtype))

    with layout.rows(e, p.dims, tables, operands):
        if kind == "spread":
            _clear(e, image, p.rows * p.columns, dtype)
        with e.loop(p.out_rows) as i:
            row = Window(*p.window(i))
            base = i * p.out_columns
            done = e.slot("int64", 0)  # columns
            if kind != "spread":
                regular = Window(e.constant(0, "int64"), p.count, p.factor)
                for step in (1, 2):
                    # One vector less where loads reach beyond what is needed.
                    room = p.after - p.first - (step - 1)
                    vectors = e.select(contiguous & p.step.equals(step), room, 0)
                    start = e.load(e.element(p.params, (p.out_rows + p.first) * 3 + len(_WORDS), "int64"), "int64")
                    with e.vector_loop(vectors, lanes) as k:
                        own = Window(start + k * step, regular.count, regular.factor)
                        reduce(row, own, base + p.first + k, lanes, step)
                    with e.when(vectors >= lanes):
                        done.set(vectors & -lanes)
            with e.loop(p.out_columns - done.get()) as rest:
                k = rest + e.select(rest < p.first, 0, done.get())
                column = Window(*p.window(p.out_rows + k))
                if kind == "spread":
                    scatter(row, column, base + k)
                else:
                    reduce(row, column, base + k, 1, 0)
    e.finish()
    return e.module(name)


@dataclass(frozen=True, slots=True)
class Window:
    """The rows or the columns of a window while its kernel is written."""

    first: Value
    count: Value
    factor: Value


def _clear(e: Emitter, place: Slot, length: Value, dtype: str) -> None:
    lanes = 32 // ITEMSIZE[dtype]
    with e.vector_loop(length, lanes) as k:
        e.store(e.element(place.get(), k, dtype), e.constant(0, dtype, lanes))
    with e.left_over(length, lanes) as k:
        e.store(e.element(place.get(), k, dtype), e.constant(0, dtype))


def _places_ir(kind: str, dtype: str, name: str) -> str:
    e = Emitter()
    p = _Plane(e, dtype)
    with e.when(p.out_rows.equals(0) | p.out_columns.equals(0)):
        e.give_back(0)
    operands = [e.slot("pointer", e.load_at("%data", k, "pointer")) for k in range(3)]
    (y, x) = operands[:2] if kind == "pick" else operands[1::-1]
    add: Callable[[Value, Value], Value] = lambda a, b: a | b if dtype == "bool" else a + b  # noqa: E731
    tables = (p.out_rows + p.out_columns) * 3 + len(_WORDS)
    with layout.rows(e, p.dims, tables, operands):
        if kind == "put":
            _clear(e, x, p.rows * p.columns, dtype)
        with e.loop(p.out_rows * p.out_columns) as k:
            there = e.element(x.get(), e.load(e.element(operands[2].get(), k, "int32"), "int32").to("int64"), dtype)
            here = e.element(y.get(), k, dtype)
            if kind == "pick":
                e.store(here, e.load(there, dtype))
            else:
                e.store(there, add(e.load(there, dtype), e.load(here, dtype)))
    e.finish()
    return e.module(name)
