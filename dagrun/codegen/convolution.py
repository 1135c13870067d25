"""Convolutions of images, and the columns that they multiply: im2col, col2im, and products with them by BLAS.

All kernels walk one geometry: images of `channels` planes, and for each place of the kernel and each output place the
element under it (zero beyond the edge). The matrix of *columns* has a row for each (channel, kernel row, kernel column)
and a column for each output place. The convolutions never make it whole: a task goes through its images in chunks,
several small images or some rows of a large one, whose columns fit the cache.

    kernel          data                                does, for each image n and group g
    unfold          columns, x                          columns[n] = columns of x[n]
    fold            x, columns                          x[n] = sum of the columns over the elements they were read from
    forward         y, scratch, x, w [, bias]           y[n, g] = w[g] @ columns of x[n, g] (+ bias)
    to_input        x, scratch, y, w                    x[n, g] = fold of w[g]^T @ y[n, g]: the adjoint in x
    to_weight       w, scratch, y, x                    w[g] = sum over n of y[n, g] @ (columns of x[n, g])^T: in w

Outputs stand first. y, columns and an x that is written are C-contiguous but for their outermost stride; w is
contiguous. Sums over images and places go in ascending order.

Params, int64 words: see `_WORDS`, then, on CPUs, for each kernel row the output rows [first, last) that read inside,
then the same for each kernel column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.gemm import PLAIN, TRANSPOSED, call_gemm, declare_gemm, find_blas, link_blas
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Value

PRODUCTS = ("forward", "to_input", "to_weight")
KINDS = ("unfold", "fold", *PRODUCTS)
_WORDS = (
    "images", "groups", "channels", "outputs",  # channels and outputs of one group
    "rows", "columns", "kernel_rows", "kernel_columns", "out_rows", "out_columns",
    "row_step", "column_step", "row_dilation", "column_dilation", "top", "left",
    "chunk_images", "chunk_rows",
    "x_image", "x_group", "x_channel", "x_row", "x_column",  # byte strides
    "y_image", "y_channel", "w_group", "w_row",  # byte strides; w_row: of a row of w[g] as a matrix
    "scratch",  # bytes of the first part of the scratch memory
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a convolution in two dimensions, each pair (rows, columns)."""

    size: tuple[int, int]  # of an image
    kernel: tuple[int, int]
    out: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]  # above and to the left

    @property
    def places(self) -> int:
        """How many output places an image has."""
        return self.out[0] * self.out[1]

    @property
    def pointwise(self) -> bool:
        """Whether the kernel is one element that reads each element once, so that an image is its own columns."""
        return self.kernel == (1, 1) and self.out == self.size and self.padding == (0, 0)

    def inside(self, axis: int) -> list[int]:
        """For each place of the kernel along an axis: the first output place that reads inside, and the one after."""
        bounds = []
        for k in range(self.kernel[axis]):
            shift = self.padding[axis] - k * self.dilation[axis]
            first = -(-shift // self.stride[axis])
            after = (self.size[axis] - 1 + shift) // self.stride[axis] + 1
            first = min(max(first, 0), self.out[axis])
            bounds += [first, min(max(after, first), self.out[axis])]
        return bounds


def convolution_kernel(kind: str, dtype: object, bias: bool = False) -> int:
    """Address of the kernel `kind`, one of KINDS. Unsupported: products of other dtypes than BLAS has, or no BLAS."""
    check_dtypes(dtype)
    name = str(dtype)
    if target() == "cuda":
        return cuda_kernel("convolution", kind, name, bias)
    if kind not in PRODUCTS:
        key = f"convolution; {kind} {name}"
        return compile_kernel(key, lambda: _fold_ir(kind, name, entry_name(key)))
    blas = find_blas()
    if blas is None or name not in ("float32", "float64"):
        raise Unsupported(f"convolutions of {name} need a BLAS that takes it")
    link_blas(blas)
    key = f"convolution; {kind} {name} {blas.index_bits} {bias}"
    return compile_kernel(key, lambda: _product_ir(kind, name, blas.index_bits, bias, entry_name(key)))


def convolution_params(geometry: Geometry, **words: int) -> bytes:
    """The params block; `words`: those of `_WORDS` that `geometry` does not say, 0 where not given."""
    pairs = (
        geometry.size, geometry.kernel, geometry.out, geometry.stride, geometry.dilation, geometry.padding,
    )  # fmt: skip
    known = dict(zip(_WORDS[4:16], [word for pair in pairs for word in pair], strict=True)) | words
    unknown = set(known) - set(_WORDS)
    if unknown:
        raise TypeError(f"no words of a convolution: {sorted(unknown)}")
    inside = [] if target() == "cuda" else [*geometry.inside(0), *geometry.inside(1)]
    return layout.pack([*(known.get(word, 0) for word in _WORDS), *inside])


class Words:
    """The words of a params block by their names, and runs of contiguous elements."""

    def __init__(self, e: Emitter, dtype: str, names: Sequence[str]) -> None:
        self.e, self.dtype, self.item = e, dtype, ITEMSIZE[dtype]
        self.word = {name: e.load_at("%params", k) for k, name in enumerate(names)}
        self.params = e.argument("%params", "pointer")

    def __getattr__(self, name: str) -> Value:
        return self.word[name]

    def copy(self, target: Value, source: Value, length: Value) -> None:
        """Contiguous elements; short runs are one or two vectors that may overlap."""
        e, lanes = self.e, 32 // self.item

        def move(start: Value | int, count: int) -> None:
            x = e.load(e.element(source, start, self.dtype), self.dtype, count)
            e.store(e.element(target, start, self.dtype), x)

        long, half = length >= lanes, length >= lanes // 2
        with e.when(long):
            with e.vector_loop(length, lanes) as c:
                move(c, lanes)
            move(length - lanes, lanes)
        with e.when(half & ~long):
            move(0, lanes // 2)
            move(length - lanes // 2, lanes // 2)
        with e.when(~half), e.loop(length) as c:
            move(c, 1)

    def clear(self, target: Value, length: Value) -> None:
        """Zeros into contiguous elements."""
        self.fill(target, length, self.e.constant(0, self.dtype))

    def fill(self, target: Value, length: Value, value: Value) -> None:
        e, lanes = self.e, 32 // self.item
        with e.vector_loop(length, lanes) as c:
            e.store(e.element(target, c, self.dtype), e.splat(value, lanes))
        with e.left_over(length, lanes) as c:
            e.store(e.element(target, c, self.dtype), value)


class _Windows(Words):
    """The loops over kernel places and output places of one image."""

    def __init__(self, e: Emitter, dtype: str) -> None:
        super().__init__(e, dtype, _WORDS)

    def _bounds(self, number: Value) -> tuple[Value, Value]:
        place = self.e.element(self.params, number * 2 + len(_WORDS), "int64")
        return self.e.load(place, "int64"), self.e.load(self.e.offset(place, 8), "int64")

    def walk(self, image: Value, columns: Value, step: Value, first_row: Value, rows: Value, *, adds: bool) -> None:
        """Reads `rows` output rows of an image into its columns (`step`: bytes from row to row), or adds them to it.

        `image` is the first element of its first channel, `columns` the first element of its first row.
        """
        e, w = self.e, self
        line = e.slot("pointer", columns)
        row_bytes = w.out_columns * self.item
        unit = (w.column_step * w.x_column).equals(self.item)
        with e.loop(w.channels) as channel, e.loop(w.kernel_rows) as i:
            top, bottom = self._bounds(i)
            plane = e.offset(image, channel * w.x_channel + (i * w.row_dilation - w.top) * w.x_row)
            with e.loop(w.kernel_columns) as j:
                left, right = self._bounds(w.kernel_rows + j)
                shift = (left * w.column_step + j * w.column_dilation - w.left) * w.x_column
                length = right - left
                with e.loop(rows) as r:
                    place = first_row + r
                    there = e.offset(plane, place * w.row_step * w.x_row + shift)
                    here = e.offset(line.get(), r * row_bytes)
                    inside = (place >= top) & (place < bottom)
                    if adds:
                        self._add(e.element(here, left, self.dtype), there, e.select(inside, length, 0), unit)
                    else:
                        self._read(here, there, left, right, inside, unit)
                line.set(e.offset(line.get(), step))

    def _read(self, here: Value, there: Value, left: Value, right: Value, inside: Value, unit: Value) -> None:
        e, w = self.e, self
        with e.when(~inside):
            self.clear(here, w.out_columns)
        with e.when(inside):
            target = e.element(here, left, self.dtype)
            with e.when(unit):
                self.copy(target, there, right - left)
            with e.when(~unit), e.loop(right - left) as c:
                x = e.load(e.offset(there, c * (w.column_step * w.x_column)), self.dtype)
                e.store(e.element(target, c, self.dtype), x)
            with e.loop(left) as c:
                e.store(e.element(here, c, self.dtype), e.constant(0, self.dtype))
            with e.loop(w.out_columns - right) as c:
                e.store(e.element(here, right + c, self.dtype), e.constant(0, self.dtype))

    def _add(self, here: Value, there: Value, length: Value, unit: Value) -> None:
        e, w, lanes = self.e, self, 32 // self.item

        def add(target: Value, c: Value, lanes: int = 1) -> None:
            old, more = (e.load(p, self.dtype, lanes) for p in (target, e.element(here, c, self.dtype)))
            wide = "float32" if self.dtype == "float16" else self.dtype
            total = old | more if self.dtype == "bool" else old.to(wide) + more.to(wide)
            e.store(target, total.to(self.dtype))

        with e.when(unit):
            with e.vector_loop(length, lanes) as c:
                add(e.element(there, c, self.dtype), c, lanes)
            with e.left_over(length, lanes) as c:
                add(e.element(there, c, self.dtype), c)
        with e.when(~unit), e.loop(length) as c:
            add(e.offset(there, c * (w.column_step * w.x_column)), c)


def _fold_ir(kind: str, dtype: str, name: str) -> str:
    """unfold and fold: one image after the other."""
    e = Emitter()
    w = _Windows(e, dtype)
    first, second = (e.load_at("%data", k, "pointer") for k in range(2))
    x, columns = (first, second) if kind == "fold" else (second, first)
    step = w.out_rows * w.out_columns * w.item
    with e.loop(w.images) as n:
        image, own = e.offset(x, n * w.x_image), e.offset(columns, n * w.y_image)
        if kind == "fold":
            w.clear(image, w.channels * w.rows * w.columns)
        w.walk(image, own, step, e.constant(0, "int64"), w.out_rows, adds=kind == "fold")
    e.finish()
    return e.module(name)


def _product_ir(kind: str, dtype: str, index_bits: int, bias: bool, name: str) -> str:
    e = Emitter()
    with e.when(e.load_at("%params", 0).equals(0)):
        e.give_back(0)
    declare_gemm(e, dtype, index_bits)
    w = _Windows(e, dtype)
    pointers = [e.load_at("%data", k, "pointer") for k in range(5 if bias else 4)]
    written, scratch, second, third = pointers[:4]
    x, y, weight = {
        "forward": (second, written, third),
        "to_input": (written, second, third),
        "to_weight": (third, second, written),
    }[kind]
    matrix, gathered = scratch, e.offset(scratch, w.scratch)
    plain, transposed = (e.constant(flag, "int32") for flag in (PLAIN, TRANSPOSED))
    integer = f"int{index_bits}"
    places = w.out_rows * w.out_columns
    taps = w.channels * w.kernel_rows * w.kernel_columns
    # A kernel of one element that reads each element once: an image is its own matrix of columns.
    itself = places.equals(w.rows * w.columns) & (w.kernel_rows * w.kernel_columns).equals(1)
    itself = itself & w.x_column.equals(w.item) & w.x_row.equals(w.columns * w.item) & (w.top | w.left).equals(0)
    itself = itself & (w.x_channel >= places * w.item)

    def multiply(flags: Sequence[Value], sizes: Sequence[Value], ps: Sequence[Value], ld: Sequence[Value], beta: Value):  # type: ignore[no-untyped-def] # fmt: skip
        call_gemm(e, dtype, flags, [s.to(integer) for s in sizes], ps, [s.to(integer) for s in ld], beta)

    zero, one = e.constant(0.0, dtype), e.constant(1.0, dtype)
    with e.loop((w.images + (w.chunk_images - 1)) / w.chunk_images) as chunk:
        first = chunk * w.chunk_images
        rest = w.images - first
        count = e.select(rest < w.chunk_images, rest, w.chunk_images)
        alone = count.equals(1)
        if kind == "to_input":
            with e.loop(count) as n:
                w.clear(e.offset(x, (first + n) * w.x_image), w.groups * w.channels * w.rows * w.columns)
        with e.loop(w.groups) as group, e.loop((w.out_rows + (w.chunk_rows - 1)) / w.chunk_rows) as block:
            row = block * w.chunk_rows
            left = w.out_rows - row
            rows = e.select(left < w.chunk_rows, left, w.chunk_rows)
            own = rows * w.out_columns  # columns of one image
            width = own * count
            step = width * w.item
            images = e.offset(x, first * w.x_image + group * w.x_group)
            results = e.offset(y, first * w.y_image + group * w.outputs * w.y_channel + row * w.out_columns * w.item)
            weights = e.offset(weight, group * w.w_group)
            direct = itself & alone
            columns = e.select(direct, e.offset(images, row * w.x_row), matrix)
            leading = e.select(direct, w.x_channel, step) / w.item  # of the columns
            result = e.select(alone, results, gathered)
            across = e.select(alone, w.y_channel, step) / w.item  # leading dimension of the result

            def each_line(body, results=results, own=own, step=step, count=count, alone=alone):  # type: ignore[no-untyped-def] # fmt: skip
                """Calls body(line of y, line of what was gathered), where several images share a chunk."""
                with e.when(~alone), e.loop(count) as n, e.loop(w.outputs) as o:
                    there = e.offset(results, n * w.y_image + o * w.y_channel)
                    body(there, e.offset(gathered, o * step + n * own * w.item), own)

            if kind != "forward":
                each_line(lambda there, here, length: w.copy(here, there, length))
            if kind != "to_input":
                with e.when(~direct), e.loop(count) as n:
                    image = e.offset(images, n * w.x_image)
                    w.walk(image, e.offset(matrix, n * own * w.item), step, row, rows, adds=False)
            row_length = w.w_row / w.item
            if kind == "forward":
                if bias:
                    with e.loop(w.outputs) as o:
                        value = e.load(e.element(pointers[4], group * w.outputs + o, dtype), dtype)
                        w.fill(e.offset(result, o * across * w.item), width, value)
                multiply((plain, plain), (w.outputs, width, taps), (weights, columns, result),
                         (row_length, leading, across), one if bias else zero)  # fmt: skip
                each_line(lambda there, here, length: w.copy(there, here, length))
            elif kind == "to_input":
                multiply((transposed, plain), (taps, width, w.outputs), (weights, result, columns),
                         (row_length, across, leading), zero)  # fmt: skip
                with e.when(~direct), e.loop(count) as n:
                    image = e.offset(images, n * w.x_image)
                    w.walk(image, e.offset(matrix, n * own * w.item), step, row, rows, adds=True)
            else:
                beta = e.select((first | row).equals(0), zero, one)
                multiply((plain, transposed), (w.outputs, taps, width), (result, columns, weights),
                         (across, leading, row_length), beta)  # fmt: skip
    e.finish()
    return e.module(name)
