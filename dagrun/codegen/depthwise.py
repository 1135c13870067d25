"""Convolutions of groups of few channels, such as depthwise ones, without columns: sums over shifted planes.

A plane is copied into scratch memory with its padding, *dealt* by the stride: part (a, b) holds the elements whose row
leaves the rest a and whose column the rest b. All elements that a kernel place reads then lie one after the other, at a
fixed offset, if the results are laid out with rows as long as those of the parts (`Dealt.width`): the sum over kernel
places is one of whole vectors, whatever the stride and the dilation. The elements between rows are not used.

The adjoint in the image takes results laid out so, zero between rows and before the first, and gives the parts of an
image; the adjoint in the weight multiplies such results with the parts, shifted for each kernel place.

The kernels "forward", "to_input" and "to_weight" take the operands of those of `convolution.py`. Each element of y is
the bias and then the sum over channels and kernel places, each of an x that over outputs and kernel places, in
ascending order; each of w is the sum over images, in vectors of places, lanes by halving. The zeros around images and
results count like elements: times an infinity they make NaN.

Params, int64 words: see `_WORDS`, then `Dealt.words`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from dagrun.codegen import layout
from dagrun.codegen.compiler import compile_kernel, entry_name
from dagrun.codegen.convolution import Geometry, Words
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.values import Value

LANES = 32  # elements of a sum that is taken at a time
TOGETHER = 4  # kernel places whose weights are summed at a time
_SUMS = 16  # elements of a vector of sums for weights

_WORDS = (
    "images", "groups", "channels", "outputs",  # channels and outputs of one group
    "x_image", "x_channel", "x_row", "x_column", "y_image", "y_channel",  # byte strides
    "rows", "columns", "out_rows", "out_columns", "row_step", "column_step", "top", "left",
    "taps", "width", "height", "margin", "plane",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dealt:
    """How the planes of a convolution lie in scratch memory; sizes in elements."""

    geometry: Geometry

    def _spans(self, axis: int) -> int:
        """How far the last kernel place is from the first one of its part."""
        g = self.geometry
        return max(k * g.dilation[axis] // g.stride[axis] for k in range(g.kernel[axis]))

    def _length(self, axis: int) -> int:
        """Of a part: all that windows read, and all of the image."""
        g = self.geometry
        return max(g.out[axis] + self._spans(axis), -(-(g.size[axis] + g.padding[axis]) // g.stride[axis]))

    @property
    def width(self) -> int:
        """The length of a row."""
        return self._length(1)

    @property
    def height(self) -> int:
        """The rows of a part."""
        return self._length(0)

    @property
    def margin(self) -> int:
        """The offset of the last kernel place."""
        return self._spans(0) * self.width + self._spans(1)

    @property
    def parts(self) -> int:
        """The parts of a plane."""
        return self.geometry.stride[0] * self.geometry.stride[1]

    @property
    def plane(self) -> int:
        """The elements kept for a part, or for the results of a channel with a margin before them."""
        return -(-(self.margin + self.height * self.width) // LANES) * LANES + LANES

    def nbytes(self, kind: str, channels: int, outputs: int, itemsize: int) -> int:
        """The scratch memory of a task."""
        taps = self.geometry.kernel[0] * self.geometry.kernel[1]
        planes = {
            "forward": channels * self.parts + 1,
            "to_input": outputs + self.parts,
            "to_weight": channels * self.parts + outputs,
        }[kind]
        return (planes * self.plane + (outputs * channels * taps * _SUMS if kind == "to_weight" else 0)) * itemsize

    def words(self, itemsize: int) -> list[int]:
        """The last words of a params block.

        For each column of parts the columns [first, last) that are inside; for each part its first kernel place, and
        the end; for each kernel place, part by part, its offset in all parts and in its own, and its number, in bytes.
        """
        g = self.geometry
        words = []
        for b in range(g.stride[1]):
            bounds = (-(-(edge + g.padding[1] - b) // g.stride[1]) for edge in (0, g.size[1]))
            words += [min(max(bound, 0), self.width) for bound in bounds]
        entries: list[list[tuple[int, int, int]]] = [[] for _ in range(self.parts)]
        for i in range(g.kernel[0]):
            for j in range(g.kernel[1]):
                (row, a), (column, b) = divmod(i * g.dilation[0], g.stride[0]), divmod(j * g.dilation[1], g.stride[1])
                part, place = a * g.stride[1] + b, row * self.width + column
                entries[part].append((part * self.plane + place, place, i * g.kernel[1] + j))
        starts = accumulate((len(own) for own in entries), initial=0)
        return [*words, *starts, *(word * itemsize for own in entries for entry in own for word in entry)]


def depthwise_kernel(kind: str, dtype: object, bias: bool = False) -> int:
    """Address of the kernel "forward", "to_input" or "to_weight"."""
    check_dtypes(dtype)
    key = f"depthwise; {kind} {dtype} {bias}"
    return compile_kernel(key, lambda: _Kernel(str(dtype)).text(kind, bias, entry_name(key)))


def depthwise_params(dealt: Dealt, itemsize: int, **words: int) -> bytes:
    """The params block; `words`: those of `_WORDS` that `dealt` does not say."""
    g = dealt.geometry
    known = {
        "rows": g.size[0], "columns": g.size[1], "out_rows": g.out[0], "out_columns": g.out[1],
        "row_step": g.stride[0], "column_step": g.stride[1], "top": g.padding[0], "left": g.padding[1],
        "taps": g.kernel[0] * g.kernel[1], "width": dealt.width, "height": dealt.height, "margin": dealt.margin,
        "plane": dealt.plane,
    } | words  # fmt: skip
    return layout.pack([*(known[word] for word in _WORDS), *dealt.words(itemsize)])


class _Kernel(Words):
    def __init__(self, dtype: str) -> None:
        super().__init__(Emitter(), dtype, _WORDS)
        e = self.e
        with e.when(self.images.equals(0)):
            e.give_back(0)
        self.parts = self.row_step * self.column_step
        self.part = self.plane * self.item  # bytes
        self.starts = self.column_step * 2 + len(_WORDS)
        self.entries = self.starts + self.parts + 1

    def known(self, number: Value) -> Value:
        """A word after those of `_WORDS`."""
        return self.e.load(self.e.element(self.params, number, "int64"), "int64")

    def lines(self, plane: Value, image: Value, body: Callable[[Value, Value, Value], None]) -> None:
        """body(elements of a part, those of the image, how many) for each row of a part that is inside the image."""
        e = self.e
        with e.loop(self.row_step) as a, e.loop(self.column_step) as b:
            first = self.known(b * 2 + len(_WORDS))
            count = self.known(b * 2 + (len(_WORDS) + 1)) - first
            part = e.offset(plane, (a * self.column_step + b) * self.part)
            with e.loop(self.height) as r:
                row = r * self.row_step + a - self.top
                with e.when((row >= 0) & (row < self.rows)):
                    there = e.offset(
                        image, row * self.x_row + (first * self.column_step + b - self.left) * self.x_column
                    )
                    body(e.element(part, r * self.width + first, self.dtype), there, count)

    def deal(self, image: Value, plane: Value) -> None:
        """The parts of a plane of x."""
        e, step, lanes = self.e, self.column_step * self.x_column, 32 // self.item

        def read(here: Value, there: Value, count: Value) -> None:
            with e.when(step.equals(self.item)):
                self.copy(here, there, count)
            # Every second element: by vectors of all, as long as an element follows the last one that is taken.
            paired = self.column_step.equals(2) & self.x_column.equals(self.item) & (count > 0)
            pairs = e.select(paired, (count - 1) & -lanes, 0)
            with e.vector_loop(pairs, lanes) as c:
                both = e.load(e.element(there, c * 2, self.dtype), self.dtype, 2 * lanes)
                e.store(e.element(here, c, self.dtype), e.even(both))
            rest = e.select(step.equals(self.item), 0, count - pairs)
            with e.loop(rest) as c:
                x = e.load(e.offset(there, (pairs + c) * step), self.dtype)
                e.store(e.element(here, pairs + c, self.dtype), x)

        self.lines(plane, image, read)

    def lay(self, results: Value, plane: Value) -> None:
        """A channel of y in rows of `width`."""
        e, row = self.e, self.out_columns * self.item
        with e.loop(self.out_rows) as r:
            self.copy(e.element(plane, r * self.width, self.dtype), e.offset(results, r * row), self.out_columns)

    def add_up(
        self, sums: Value, rows: Value, sources: tuple[Value, Value, Value, Value, Value], places: tuple[Value, Value],
        offset: Callable[[Value], Value], start: Value,
    ) -> None:  # fmt: skip
        """sums = start + the sum over sources and kernel places [first, last) of weight times plane, for some rows.

        `sources`: how many, the first plane and weight, the bytes to the next ones. `offset(entry of the table)`: where
        in a plane a kernel place reads.
        """
        e, (count, planes, weights, plane_bytes, weight_bytes), (first, last) = self.e, sources, places
        with e.vector_loop(rows * self.width + (LANES - 1), LANES) as i:
            total = e.slot(self.dtype, e.splat(start, LANES), LANES)
            with e.loop(count) as k:
                plane = e.element(e.offset(planes, k * plane_bytes), i, self.dtype)
                own = e.offset(weights, k * weight_bytes)
                with e.loop(last - first) as t:
                    entry = self.entries + (first + t) * 3
                    weight = e.load(e.offset(own, self.known(entry + 2)), self.dtype)
                    x = e.load(e.offset(plane, offset(entry)), self.dtype, LANES)
                    total.set(total.get() + e.splat(weight, LANES) * x)
            e.store(e.element(sums, i, self.dtype), total.get())

    def text(self, kind: str, bias: bool, name: str) -> str:
        """The IR text of a kernel."""
        e = self.e
        written, scratch, second, third = (e.load_at("%data", k, "pointer") for k in range(4))
        self.add = e.load_at("%data", 4, "pointer") if bias else None
        self.weight_bytes = self.taps * self.item  # of an output and a channel
        self.row_bytes = self.channels * self.weight_bytes  # of an output
        if kind == "forward":
            self._forward(second, written, third, scratch)
        elif kind == "to_input":
            self._to_input(written, second, third, scratch)
        else:
            self._to_weight(third, second, written, scratch)
        e.finish()
        return e.module(name)

    def _forward(self, x: Value, y: Value, weight: Value, scratch: Value) -> None:
        e, dealt = self.e, self.parts * self.part  # bytes of the parts of a channel
        sums = e.offset(scratch, self.channels * dealt)
        self.clear(scratch, self.channels * self.parts * self.plane)
        with e.loop(self.images) as n, e.loop(self.groups) as g:
            with e.loop(self.channels) as c:
                image = e.offset(x, n * self.x_image + (g * self.channels + c) * self.x_channel)
                self.deal(image, e.offset(scratch, c * dealt))
            with e.loop(self.outputs) as o:
                output = g * self.outputs + o
                start = e.constant(0.0, self.dtype)
                if self.add is not None:
                    start = e.load(e.element(self.add, output, self.dtype), self.dtype)
                weights = e.offset(weight, output * self.row_bytes)
                sources = (self.channels, scratch, weights, dealt, self.weight_bytes)
                self.add_up(sums, self.out_rows, sources, (e.constant(0, "int64"), self.taps), self.known, start)
                target, row = e.offset(y, n * self.y_image + output * self.y_channel), self.out_columns * self.item
                with e.loop(self.out_rows) as r:
                    here = e.element(sums, r * self.width, self.dtype)
                    self.copy(e.offset(target, r * row), here, self.out_columns)

    def _to_input(self, x: Value, y: Value, weight: Value, scratch: Value) -> None:
        e = self.e
        sums = e.offset(scratch, self.outputs * self.part)
        margin = self.margin * self.item
        self.clear(scratch, self.outputs * self.plane)
        step = self.column_step * self.x_column

        def write(here: Value, there: Value, count: Value) -> None:
            with e.when(step.equals(self.item)):
                self.copy(there, here, count)
            with e.when(step.differs(self.item)), e.loop(count) as c:
                e.store(e.offset(there, c * step), e.load(e.element(here, c, self.dtype), self.dtype))

        with e.loop(self.images) as n, e.loop(self.groups) as g:
            with e.loop(self.outputs) as o:
                results = e.offset(y, n * self.y_image + (g * self.outputs + o) * self.y_channel)
                self.lay(results, e.offset(scratch, o * self.part + margin))
            with e.loop(self.channels) as c:
                image = e.offset(x, n * self.x_image + (g * self.channels + c) * self.x_channel)
                own = e.offset(weight, g * self.outputs * self.row_bytes + c * self.weight_bytes)
                sources = (self.outputs, scratch, own, self.part, self.row_bytes)
                with e.loop(self.parts) as part:
                    places = self.known(self.starts + part), self.known(self.starts + part + 1)
                    offset = lambda entry: margin - self.known(entry + 1)  # noqa: E731
                    start = e.constant(0.0, self.dtype)
                    self.add_up(e.offset(sums, part * self.part), self.height, sources, places, offset, start)
                self.lines(sums, image, write)

    def _to_weight(self, x: Value, y: Value, weight: Value, scratch: Value) -> None:
        e, dealt = self.e, self.parts * self.part
        planes = e.offset(scratch, self.outputs * self.part)
        totals = e.offset(planes, self.channels * dealt)
        vector = _SUMS * self.item
        self.clear(scratch, (self.outputs + self.channels * self.parts) * self.plane)
        count = self.outputs * self.channels * self.taps
        length = self.out_rows * self.width + (_SUMS - 1)

        def add(sums: Value, results: Value, plane: Value, first: Value, together: int) -> None:
            """To the sums of some kernel places those over an image."""
            entries = [self.entries + (first + t) * 3 for t in range(together)]
            places = [e.offset(plane, self.known(entry)) for entry in entries]
            totals = [e.slot(self.dtype, e.constant(0.0, self.dtype, _SUMS), _SUMS) for _ in places]
            with e.vector_loop(length, _SUMS) as i:
                own = e.load(e.element(results, i, self.dtype), self.dtype, _SUMS)
                for total, place in zip(totals, places, strict=True):
                    total.set(total.get() + own * e.load(e.element(place, i, self.dtype), self.dtype, _SUMS))
            for total, entry in zip(totals, entries, strict=True):
                there = e.offset(sums, self.known(entry + 2) * _SUMS)
                e.store(there, e.load(there, self.dtype, _SUMS) + total.get())

        with e.loop(self.groups) as g:
            self.clear(totals, count * _SUMS)
            with e.loop(self.images) as n:
                with e.loop(self.outputs) as o:
                    results = e.offset(y, n * self.y_image + (g * self.outputs + o) * self.y_channel)
                    self.lay(results, e.offset(scratch, o * self.part))
                with e.loop(self.channels) as c:
                    image = e.offset(x, n * self.x_image + (g * self.channels + c) * self.x_channel)
                    self.deal(image, e.offset(planes, c * dealt))
                with e.loop(self.outputs) as o, e.loop(self.channels) as c:
                    sums = e.offset(totals, (o * self.channels + c) * self.taps * vector)
                    here, plane = e.offset(scratch, o * self.part), e.offset(planes, c * dealt)
                    with e.vector_loop(self.taps, TOGETHER) as t:
                        add(sums, here, plane, t, TOGETHER)
                    with e.left_over(self.taps, TOGETHER) as t:
                        add(sums, here, plane, t, 1)
            with e.loop(count) as k:
                folded = e.load(e.offset(totals, k * vector), self.dtype, _SUMS)
                while folded.lanes > 1:
                    low, high = e.halves(folded)
                    folded = low + high
                e.store(e.element(weight, g * count + k, self.dtype), folded)
