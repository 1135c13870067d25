"""Kernels that go over lines of elements along one axis several times: softmax and what is made like it.

Three ways, chosen by strides alone: lines that are contiguous in every operand are walked by vectors ("inner"); where
neighbouring lines are, a vector of lines is walked together ("across"); otherwise one line at a time, by elements.

Params, int64 words, with K operands: 0 length of a line (-1: nothing to do), 1 way (0 inner, 1 across, 2 neither),
2 number of neighbouring lines, 3 number of further dimensions, 4.. strides along the line (K), then strides of the
neighbours (K), then words of the kernel's own, then the further dimensions: size, stride of each operand, innermost
first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dagrun.codegen import layout
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.values import ITEMSIZE, Value

Combine = Callable[[Value, Value], Value]


def lines_params(
    length: int, steps: Sequence[int], shape: Sequence[int], strides: Sequence[Sequence[int]], itemsizes: Sequence[int],
    whole: Sequence[bool], own: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """The params block. `steps`: byte strides along the line; `shape`, `strides`: of the dimensions beside it.

    `whole`: which operands have an element for each place of a line, not one for all of it. `itemsizes`: of each.
    """
    if 0 in shape:
        return layout.pack((-1, 0, 0, 0, *[0] * (2 * len(steps)), *own))
    inner = all(step == item for step, item, full in zip(steps, itemsizes, whole, strict=True) if full)
    dims = layout.merged(layout.dimensions(shape, strides))
    unit = tuple(itemsizes)
    beside = next((dim for dim in dims if dim[1] == unit), None)
    way = 0 if inner else 2 if beside is None else 1
    if beside is None or inner:
        beside = dims[0] if dims else (1, (0,) * len(steps))
    if dims:
        dims.remove(beside)
    head = (length, way, beside[0], len(dims), *steps, *beside[1])
    return layout.pack((*head, *own, *layout.outer_words(dims)))


class Lines:
    """The line that the code is written for, and how its elements are reached."""

    def __init__(self, e: Emitter, dtypes: Sequence[str], own: int = 0) -> None:
        self.e, self.dtypes = e, list(dtypes)
        count = len(dtypes)
        self.length, self.way, self.beside, self.dims, *rest = (e.load_at("%params", k) for k in range(4 + 2 * count))
        self.steps, self.besides = rest[:count], rest[count:]
        self.own = [e.load_at("%params", 4 + 2 * count + k) for k in range(own)]
        with e.when(self.length < 0):
            e.give_back(0)
        self.first_dim = 4 + 2 * count + own
        self.bases = [e.slot("pointer", e.load_at("%data", k, "pointer")) for k in range(count)]
        self.inner, self.width = False, 1
        self.places: list[Value] = []

    def wide(self, k: int) -> str:
        """The dtype in which values of an operand are computed."""
        return "float32" if self.dtypes[k] == "float16" else self.dtypes[k]

    def run(self, line: Callable[[], None], lanes: int) -> None:
        """Writes the code of `line` for every line, in each of the three ways."""
        e = self.e
        is_inner, across = self.way.equals(0), self.way.equals(1)
        with layout.rows(e, self.dims, self.first_dim, self.bases):
            with e.when(is_inner), e.loop(self.beside) as c:
                self._at(c, True, 1)
                line()
            together = e.select(across, self.beside & -lanes, 0)
            with e.vector_loop(together, lanes) as c:
                self._at(c, False, lanes)
                line()
            with e.loop(e.select(is_inner, 0, self.beside - together)) as c:
                self._at(together + c, False, 1)
                line()

    def _at(self, c: Value, inner: bool, width: int) -> None:
        self.inner, self.width = inner, width
        self.places = [self.e.offset(b.get(), c * step) for b, step in zip(self.bases, self.besides, strict=True)]

    def load(self, k: int, i: Value, lanes: int) -> Value:
        """Element i of operand k, or `lanes` of them, as a value to compute with."""
        place = self.e.offset(self.places[k], i * self.steps[k])
        return self.e.load(place, self.dtypes[k], lanes).to(self.wide(k))

    def store(self, k: int, i: Value, value: Value) -> None:
        self.e.store(self.e.offset(self.places[k], i * self.steps[k]), value.to(self.dtypes[k]))

    def load_one(self, k: int) -> Value:
        """The line's own element of operand k (one for each line that is walked together)."""
        return self.e.load(self.places[k], self.dtypes[k], self.width).to(self.wide(k))

    def store_one(self, k: int, value: Value) -> None:
        self.e.store(self.places[k], value.to(self.dtypes[k]))

    def constant(self, value: float | int, dtype: str) -> Value:
        """A value for each line."""
        return self.e.constant(value, dtype, self.width)

    def spread(self, value: Value, lanes: int) -> Value:
        """What belongs to the line, for `lanes` of its elements."""
        return self.e.splat(value, lanes) if self.inner and lanes > 1 else value

    def each(self, body: Callable[[Value, int], None], lanes: int) -> None:
        """body(first element, how many) over the line."""
        e = self.e
        if self.inner:
            with e.vector_loop(self.length, lanes) as i:
                body(i, lanes)
            with e.left_over(self.length, lanes) as i:
                body(i, 1)
        else:
            with e.loop(self.length) as i:
                body(i, self.width)

    def reduce(
        self, value: Callable[[Value, int], Value], combine: Combine, start: float | int, dtype: str, lanes: int
    ) -> Value:
        """All values of the line combined: vectors in order, their lanes by halving, then the elements left over."""
        e = self.e
        total = e.slot(dtype, e.constant(start, dtype, self.width), self.width)
        vector = e.slot(dtype, e.constant(start, dtype, lanes), lanes) if self.inner else total

        def add(i: Value, count: int) -> None:
            slot = vector if self.inner and count > 1 else total
            slot.set(combine(slot.get(), value(i, count)))

        self.each(add, lanes)
        if not self.inner:
            return total.get()
        folded = vector.get()
        while folded.lanes > 1:
            folded = combine(*e.halves(folded))
        return combine(folded, total.get())


def vector_lanes(dtypes: Sequence[str]) -> int:
    """How many elements the kernels take at a time."""
    return 32 // max(4, *(ITEMSIZE[dtype] for dtype in dtypes))
