"""Normalisation: for each kept index, the mean and variance of its elements, and the elements made standard by them.

    kernel      data                                            for each kept index k, over its elements
    forward     y, mean, var, x [, w, b]                        y = (x - mean[k]) w[k] / sqrt(var[k] + eps) + b[k]
    backward    x', g, x, mean, var                             the gradient of y in x, times g
    backward    x', w', b', g, x, mean, var, w                  and in w and b

Without w and b they count as 1 and 0. The elements of a kept index are segments of contiguous elements. The variance
is taken in a second pass from the mean, without correction. Sums are taken in vectors along a segment, lanes by
halving, then the elements left over, then segment after segment; where segments are single elements and kept indices
lie side by side, vectors of kept indices go over the segments, to the same sums. float16 is computed in float32, and
mean, var, w, b and their gradients are float32 then.

Params, int64 words: 0 number of kept indices, 1 of segments, 2 length of a segment, 3 bits of eps (float64), then for
y or x', for x, and for g: byte strides of the kept index and of the segment.
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


def normalization_kernel(kind: str, dtype: object, affine: bool) -> int:
    """Address of the kernel "forward" or "backward", with w and b where `affine`."""
    check_dtypes(dtype)
    name = str(dtype)
    if not is_float(name):
        raise Unsupported(f"no normalisation of {name}")
    if target() == "cuda":
        return cuda_kernel("normalization", kind, name, affine)
    if name == "float16" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = f"normalization; {kind} {name} {affine}"
    return compile_kernel(key, lambda: _Kernel(name).text(kind, affine, entry_name(key)))


def normalization_params(
    kept: int, segments: int, length: int, eps: float, strides: Sequence[tuple[int, int]]
) -> bytes:  # fmt: skip
    """The params block; `strides`: kept and segment, of y or x', x, and g (backward only)."""
    pairs = [stride for pair in strides for stride in pair]
    words = (kept, segments, length, struct.unpack("<q", struct.pack("<d", eps))[0], *pairs)
    return layout.pack((*words, *[0] * (10 - len(words))))


class _Kernel:
    def __init__(self, dtype: str) -> None:
        self.e, self.dtype = Emitter(), dtype
        self.wide = "float32" if dtype == "float16" else dtype
        self.lanes = 128 // ITEMSIZE[self.wide]
        self.kept, self.segments, self.length, eps, *self.strides = (self.e.load_at("%params", k) for k in range(10))
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

    def sums(self, terms: Callable[[Value], Callable[[Value, int], Sequence[Value]]], number: int) -> list[Value]:
        """Sums over the elements of a kept index of `terms(segment)(first element, how many)`."""
        e = self.e
        totals = [e.slot(self.wide, e.constant(0.0, self.wide, self.width), self.width) for _ in range(number)]
        with e.loop(self.segments) as s:
            term = terms(s)
            found = self._segment_sums(term, number) if self.width == 1 else term(self.first, self.width)
            for total, value in zip(totals, found, strict=True):
                total.set(total.get() + value)
        return [total.get() for total in totals]

    def _segment_sums(self, term: Callable[[Value, int], Sequence[Value]], number: int) -> list[Value]:
        e = self.e
        vectors = [e.slot(self.wide, e.constant(0.0, self.wide, self.lanes), self.lanes) for _ in range(number)]
        rests = [e.slot(self.wide, 0.0) for _ in range(number)]
        with e.vector_loop(self.length, self.lanes) as i:
            for slot, value in zip(vectors, term(i, self.lanes), strict=True):
                slot.set(slot.get() + value)
        with e.left_over(self.length, self.lanes) as i:
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

    def text(self, kind: str, affine: bool, name: str) -> str:
        """The IR text of a kernel."""
        e, body = self.e, self._forward if kind == "forward" else self._backward
        columns = self.length.equals(1)
        for own in self.strides[0::2] if kind == "backward" else self.strides[0:4:2]:
            columns = columns & own.equals(ITEMSIZE[self.dtype])
        with e.when(columns):
            self.width = self.lanes
            with e.vector_loop(self.kept, self.lanes) as k:
                body(k, affine)
            self.width = 1
            with e.left_over(self.kept, self.lanes) as k:
                body(k, affine)
        with e.when(~columns), e.loop(self.kept) as k:
            body(k, affine)
        e.finish()
        return e.module(name)

    def _forward(self, k: Value, affine: bool) -> None:
        e = self.e
        y, mean_at, var_at, x, *more = (e.load_at("%data", i, "pointer") for i in range(6 if affine else 4))
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
        scale, shift = self.slope(var), None
        if affine:
            scale, shift = scale * self.of(more[0], k), self.of(more[1], k)

        def result(s: Value) -> Callable[[Value, int], Value]:
            place = at(s)

            def value(i: Value, n: int) -> Value:
                made = (self.load(place, i, n) - self.spread(mean, n)) * self.spread(scale, n)
                return made if shift is None else made + self.spread(shift, n)

            return value

        self.write(y, k, result)

    def _backward(self, k: Value, affine: bool) -> None:
        e = self.e
        pointers = [e.load_at("%data", i, "pointer") for i in range(8 if affine else 5)]
        dx, (g, x, mean_at, var_at) = pointers[0], pointers[3:7] if affine else pointers[1:]
        mean, slope = self.of(mean_at, k), self.slope(self.of(var_at, k))

        def both(s: Value, i: Value, n: int) -> tuple[Value, Value]:
            """The gradient of y, and x made standard."""
            gap = self.load(self.segment(x, 1, k, s), i, n) - self.spread(mean, n)
            return self.load(self.segment(g, 2, k, s), i, n), gap * self.spread(slope, n)

        def terms(s: Value) -> Callable[[Value, int], Sequence[Value]]:
            def term(i: Value, n: int) -> Sequence[Value]:
                own, standard = both(s, i, n)
                return [own, own * standard]

            return term

        plain, weighted = self.sums(terms, 2)
        scale = slope
        if affine:
            self.put(pointers[1], k, weighted)
            self.put(pointers[2], k, plain)
            scale = slope * self.of(pointers[7], k)
        count = self.spread(self.count, self.width)
        plain, weighted = plain / count, weighted / count

        def result(s: Value) -> Callable[[Value, int], Value]:
            def value(i: Value, n: int) -> Value:
                own, standard = both(s, i, n)
                return self.spread(scale, n) * (own - self.spread(plain, n) - standard * self.spread(weighted, n))

            return value

        self.write(dx, k, result)
