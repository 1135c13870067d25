"""Normalisation: for each kept index, the mean and variance of its elements, and the elements made standard by them.

    kernel      data                                            for each kept index k, over its elements
    forward     y, mean, var, x [, w, b]                        y = (x - mean[k]) w / sqrt(var[k] + eps) + b
    backward    x', g, x, mean, var                             the gradient of y in x, times g
    backward    x', w', b', g, x, mean, var, w                  and in w and b

The elements of a kept index are segments of contiguous elements. What w and b have one value for:

    weights     w, b                                            w' and b'
    none        none: they count as 1 and 0
    kept        each kept index                                 as w
    segments    each segment of `period` kept indices           a row for each kept index, of its segments
    elements    each element of `period` kept indices           a row for each `block` of kept indices, of its elements

The rows are left for a sum. Where w has a value for each segment or element, a kept index is contiguous; with elements
it is one segment.

The variance is taken in a second pass from the mean, without correction. Sums are taken in vectors along a segment,
lanes by halving, then the elements left over, then segment after segment; where segments are single elements and kept
indices lie side by side, vectors of kept indices go over the segments, to the same sums. float16 is computed in
float32, and mean, var, w, b and their gradients are float32 then.

Params, int64 words: 0 number of kept indices, 1 of segments, 2 length of a segment, 3 bits of eps (float64), then for
y or x', for x, and for g: byte strides of the kept index and of the segment; 10 period, 11 block.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Value, is_float

WEIGHTS = ("none", "kept", "segments", "elements")


def normalization_kernel(kind: str, dtype: object, weights: str) -> int:
    """Address of the kernel "forward" or "backward"; `weights`: one of WEIGHTS."""
    check_dtypes(dtype)
    name = str(dtype)
    if not is_float(name):
        raise Unsupported(f"no normalisation of {name}")
    if target() == "cuda":
        return cuda_kernel("normalization", kind, name, weights)
    if name == "float16" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = f"normalization; {kind} {name} {weights}"
    return compile_kernel(key, lambda: _Kernel(kind, name, weights).text(entry_name(key)))


def sum_lanes(kind: str, wide: str, weights: str) -> int:
    """The lanes of sums: fewer where segments may be short, and a sum is wanted for each."""
    return (64 if (kind, weights) == ("backward", "segments") else 128) // ITEMSIZE[wide]


def normalization_params(
    kept: int, segments: int, length: int, eps: float, strides: Sequence[tuple[int, int]], period: int = 1,
    block: int = 1,
) -> bytes:  # fmt: skip
    """The params block; `strides`: kept and segment, of y or x', x, and g (backward only)."""
    pairs = [stride for pair in strides for stride in pair]
    words = (kept, segments, length, struct.unpack("<q", struct.pack("<d", eps))[0], *pairs)
    return layout.pack((*words, *[0] * (10 - len(words)), period, block))


class _Kernel:
    def __init__(self, kind: str, dtype: str, weights: str) -> None:
        self.e, self.kind, self.dtype, self.weights = Emitter(), kind, dtype, weights
        self.wide = "float32" if dtype == "float16" else dtype
        self.inner = weights in ("segments", "elements")  # there are several weights for a kept index
        self.lanes = sum_lanes(kind, self.wide, weights)
        words = [self.e.load_at("%params", k) for k in range(12)]
        self.kept, self.segments, self.length, eps, *self.strides = words[:10]
        self.period, self.block = words[10:]
        self.runs, self.run = self.segments, self.length  # what is summed: so many runs, so long
        if (kind, weights) == ("forward", "segments"):  # however short the segments, they follow each other
            self.runs, self.run = self.e.constant(1, "int64"), self.segments * self.length
        self.eps = eps.bitcast("float64").to(self.wide)
        self.count = (self.segments * self.length).to(self.wide)
        self.width = 1  # kept indices at once; if more than one, segments are single elements
        self.first = self.e.constant(0, "int64")

    def segment(self, base: Value, operand: int, k: Value, s: Value) -> Value:
        """The first element of segment s of kept index k, of operand 0 (y or x'), 1 (x) or 2 (g)."""
        own, step = self.strides[2 * operand : 2 * operand + 2]
        return self.e.offset(base, k * own + s * step)

    def load(self, place: Value, i: Value, lanes: int) -> Value:
        return self.e.load(self.e.element(place, i, self.dtype), self.dtype, lanes).to(self.wide)

    def spread(self, value: Value, lanes: int) -> Value:
        return value if value.lanes == lanes else self.e.splat(value, lanes)

    def sums(
        self, terms: Callable[[Value], Callable[[Value, int], Sequence[Value]]], number: int,
        weigh: Callable[[Value, Sequence[Value]], Sequence[Value]] = lambda s, found: found,
    ) -> list[Value]:  # fmt: skip
        """Sums over the elements of a kept index of `terms(segment)(first element, how many)`.

        `weigh(segment, its sums)`: what is added of them.
        """
        e = self.e
        totals = [e.slot(self.wide, e.constant(0.0, self.wide, self.width), self.width) for _ in range(number)]
        with e.loop(self.runs) as s:
            term = terms(s)
            found = self._segment_sums(term, number) if self.width == 1 else term(self.first, self.width)
            for total, value in zip(totals, weigh(s, found), strict=True):
                total.set(total.get() + value)
        return [total.get() for total in totals]

    def _segment_sums(self, term: Callable[[Value, int], Sequence[Value]], number: int) -> list[Value]:
        e = self.e
        vectors = [e.slot(self.wide, e.constant(0.0, self.wide, self.lanes), self.lanes) for _ in range(number)]
        rests = [e.slot(self.wide, 0.0) for _ in range(number)]
        with e.vector_loop(self.run, self.lanes) as i:
            for slot, value in zip(vectors, term(i, self.lanes), strict=True):
                slot.set(slot.get() + value)
        with e.left_over(self.run, self.lanes) as i:
            for slot, value in zip(rests, term(i, 1), strict=True):
                slot.set(slot.get() + value)
        sums = []
        for vector, rest in zip(vectors, rests, strict=True):
            folded = vector.get()
            while folded.lanes > 1:
                low, high = e.halves(folded)
                folded = low + high
            sums.append(folded + rest.get())
        return sums

    def write(self, base: Value, k: Value, value: Callable[[Value], Callable[[Value, int], Value]]) -> None:
        """The elements of a kept index of operand 0."""
        e, lanes = self.e, 32 // ITEMSIZE[self.wide]
        with e.loop(self.segments) as s:
            target, own = self.segment(base, 0, k, s), value(s)

            def store(i: Value, n: int) -> None:
                e.store(e.element(target, i, self.dtype), own(i, n).to(self.dtype))

            if self.width > 1:
                store(self.first, self.width)
            else:
                with e.vector_loop(self.length, lanes) as i:
                    store(i, lanes)
                with e.left_over(self.length, lanes) as i:
                    store(i, 1)

    def of(self, base: Value, k: Value) -> Value:
        """A value of a kept index."""
        return self.e.load(self.e.element(base, k, self.wide), self.wide, self.width)

    def put(self, base: Value, k: Value, value: Value) -> None:
        self.e.store(self.e.element(base, k, self.wide), value)

    def slope(self, var: Value) -> Value:
        return 1.0 / self.e.intrinsic("sqrt", var + self.spread(self.eps, self.width))

    def weight(self, base: Value, k: Value, s: Value) -> Callable[[Value, int], Value]:
        """w or b, for n elements of a segment from i on."""
        if self.weights == "kept":
            one = self.of(base, k)
        elif self.weights == "segments":
            index = (k % self.period) * self.segments + s
            one = self.e.load(self.e.element(base, index, self.wide), self.wide)
        else:
            row = self.e.element(base, (k % self.period) * self.length, self.wide)
            return lambda i, n: self.e.load(self.e.element(row, i, self.wide), self.wide, n)
        return lambda i, n: self.spread(one, n)

    def text(self, name: str) -> str:
        """The IR text of the kernel."""
        e, body = self.e, self._forward if self.kind == "forward" else self._backward
        count = self.kept if self.inner else self._columns(body)
        with e.loop(count) as k:
            body(k)
        e.finish()
        return e.module(name)

    def _columns(self, body: Callable[[Value], None]) -> Value:
        """Vectors of kept indices, where segments are single elements and kept indices lie side by side.

        Returns how many kept indices are left.
        """
        e, columns = self.e, self.length.equals(1)
        for own in self.strides[0::2] if self.kind == "backward" else self.strides[0:4:2]:
            columns = columns & own.equals(ITEMSIZE[self.dtype])
        with e.when(columns):
            self.width = self.lanes
            with e.vector_loop(self.kept, self.lanes) as k:
                body(k)
            self.width = 1
            with e.left_over(self.kept, self.lanes) as k:
                body(k)
        return e.select(columns, 0, self.kept)

    def _forward(self, k: Value) -> None:
        e, weighted = self.e, self.weights != "none"
        y, mean_at, var_at, x, *more = (e.load_at("%data", i, "pointer") for i in range(6 if weighted else 4))
        at = lambda s: self.segment(x, 1, k, s)  # noqa: E731

        def element(s: Value) -> Callable[[Value, int], Sequence[Value]]:
            place = at(s)
            return lambda i, n: [self.load(place, i, n)]

        mean = self.sums(element, 1)[0] / self.spread(self.count, self.width)

        def squared(s: Value) -> Callable[[Value, int], Sequence[Value]]:
            place = at(s)

            def term(i: Value, n: int) -> Sequence[Value]:
                gap = self.load(place, i, n) - self.spread(mean, n)
                return [gap * gap]

            return term

        var = self.sums(squared, 1)[0] / self.spread(self.count, self.width)
        self.put(mean_at, k, mean)
        self.put(var_at, k, var)
        slope = self.slope(var)

        def result(s: Value) -> Callable[[Value, int], Value]:
            place = at(s)
            w, b = [self.weight(base, k, s) for base in more] if more else (None, None)
            elements = self.weights == "elements"
            scale = slope * w(self.first, self.width) if w and not elements else slope

            def value(i: Value, n: int) -> Value:
                made = (self.load(place, i, n) - self.spread(mean, n)) * self.spread(scale, n)
                if w and elements:
                    made = made * w(i, n)
                return made + b(i, n) if b else made

            return value

        self.write(y, k, result)

    def _backward(self, k: Value) -> None:
        e, weighted = self.e, self.weights != "none"
        pointers = [e.load_at("%data", i, "pointer") for i in range(8 if weighted else 5)]
        dx, (g, x, mean_at, var_at) = pointers[0], pointers[3:7] if weighted else pointers[1:]
        mean, slope = self.of(mean_at, k), self.slope(self.of(var_at, k))
        weight = lambda s: self.weight(pointers[7], k, s)  # noqa: E731

        def both(s: Value, i: Value, n: int) -> tuple[Value, Value]:
            """The gradient of y, and x made standard."""
            gap = self.load(self.segment(x, 1, k, s), i, n) - self.spread(mean, n)
            return self.load(self.segment(g, 2, k, s), i, n), gap * self.spread(slope, n)

        def terms(s: Value) -> Callable[[Value, int], Sequence[Value]]:
            w = weight(s) if self.weights == "elements" else None

            def term(i: Value, n: int) -> Sequence[Value]:
                own, standard = both(s, i, n)
                own = own * w(i, n) if w else own
                return [own, own * standard]

            return term

        def weigh(s: Value, found: Sequence[Value]) -> Sequence[Value]:
            if self.weights != "segments":
                return found
            for base, value in zip(pointers[1:3], reversed(found), strict=True):
                self.put(base, k * self.segments + s, value)
            return [weight(s)(self.first, 1) * value for value in found]

        plain, weighed = self.sums(terms, 2, weigh)
        scale = slope
        if self.weights == "kept":
            self.put(pointers[1], k, weighed)
            self.put(pointers[2], k, plain)
            scale = slope * self.of(pointers[7], k)
        count = self.spread(self.count, self.width)
        plain, weighed = plain / count, weighed / count
        rows = self._rows(pointers[1:3], k) if self.weights == "elements" else []

        def result(s: Value) -> Callable[[Value, int], Value]:
            w = weight(s) if self.inner else None

            def value(i: Value, n: int) -> Value:
                own, standard = both(s, i, n)
                for row, more in zip(rows, (own * standard, own), strict=False):
                    there = e.element(row, i, self.wide)
                    e.store(there, e.load(there, self.wide, n) + more)
                own = own * w(i, n) if w else own
                return self.spread(scale, n) * (own - self.spread(plain, n) - standard * self.spread(weighed, n))

            return value

        self.write(dx, k, result)

    def _rows(self, bases: Sequence[Value], k: Value) -> list[Value]:
        """The rows of w' and b' that a kept index is added to; the first of a block finds zeros."""
        e = self.e
        rows = [e.element(base, k / self.block * self.length, self.wide) for base in bases]
        with e.when((k % self.block).equals(0)), e.loop(self.length) as i:
            for row in rows:
                e.store(e.element(row, i, self.wide), e.constant(0.0, self.wide))
        return rows
