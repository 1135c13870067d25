"""softmax and log-softmax along an axis, their gradients, and cross-entropy with classes; see `lines.py`.

    kernel               data                                     for each line
    softmax              y, x                                     exp(x - max) / sum of exp(x - max)
    log_softmax          y, x                                     x - max - log(sum of exp(x - max))
    softmax_back         x', g, y                                 y (g - sum of g y)
    log_softmax_back     x', g, y                                 g - exp(y) sum of g
    cross_entropy        loss, lse, w, x, t [, weights]           see below; lse = log(sum of exp(x))
    cross_entropy_back   x', g, x, lse, w, t [, weights]          its gradient times g
    nll                  loss, w, x, t [, weights]                -w x[t]
    nll_back             x', g, w, t                              -w g at t, else 0

t is the class of a line, w its weight: weights[t] (1 without weights), 0 where t is the class to ignore. With smoothing
s over C classes the loss is (1 - s) w (lse - x[t]) + s / C sum of weights[c] (lse - x[c]), and 0 where t is ignored.
Code OUT_OF_RANGE: a class that is neither ignored nor below C; error = class, C; nothing was written. Float16 is
computed in float32, and so are its lse, w and loss.

Own words of the kernels with classes: the class to ignore, the bits of s (float64).
"""

from __future__ import annotations

import struct

from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.lines import Lines, vector_lanes
from dagrun.codegen.mathematics import exp, log
from dagrun.codegen.scalars import maximum
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import Value, is_float, is_integer

OUT_OF_RANGE = 1  # status code
SOFTMAX = ("softmax", "log_softmax", "softmax_back", "log_softmax_back")
CLASSES = ("cross_entropy", "cross_entropy_back", "nll", "nll_back")


def softmax_kernel(kind: str, dtype: object) -> int:
    """Address of the kernel `kind`, one of SOFTMAX, for operands of one float dtype."""
    name = _float(dtype)
    if target() == "cuda":
        return cuda_kernel("softmax", kind, name)
    key = f"softmax; {kind} {name}"
    return compile_kernel(key, lambda: _softmax_ir(kind, name, entry_name(key)))


def classes_kernel(kind: str, dtype: object, class_dtype: object, weighted: bool) -> int:
    """Address of the kernel `kind`, one of CLASSES; with class weights of the dtype that is computed in."""
    name, index = _float(dtype), str(class_dtype)
    check_dtypes(index)
    if not is_integer(index):
        raise Unsupported(f"classes must be integers, not {index}")
    if target() == "cuda":
        return cuda_kernel("classes", kind, name, index, weighted)
    key = f"classes; {kind} {name} {index} {weighted}"
    return compile_kernel(key, lambda: _classes_ir(kind, name, index, weighted, entry_name(key)))


def classes_words(ignored: int, smoothing: float) -> tuple[int, ...]:
    """The kernels' own words of the params block (see `lines_params`)."""
    return ignored, struct.unpack("<q", struct.pack("<d", smoothing))[0]


def _float(dtype: object) -> str:
    check_dtypes(dtype)
    name = str(dtype)
    if not is_float(name):
        raise Unsupported(f"no softmax of {name}")
    if name == "float16" and target() == "cpu" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    return name


def _add(a: Value, b: Value) -> Value:
    return a + b


def _softmax_ir(kind: str, dtype: str, name: str) -> str:
    e = Emitter()
    operands = 3 if kind.endswith("_back") else 2
    lines = Lines(e, [dtype] * operands)
    lanes, wide = vector_lanes([dtype]), lines.wide(0)

    def forward() -> None:
        top = lines.reduce(lambda i, n: lines.load(1, i, n), maximum, float("-inf"), wide, lanes)
        power = lambda i, n: exp(lines.load(1, i, n) - lines.spread(top, n))  # noqa: E731
        if kind == "log_softmax":
            total = log(lines.reduce(power, _add, 0.0, wide, lanes))
            lines.each(
                lambda i, n: lines.store(0, i, lines.load(1, i, n) - lines.spread(top, n) - lines.spread(total, n)),
                lanes,
            )
            return
        if wide != dtype:  # kept in half precision the powers would be rounded twice
            total = lines.reduce(power, _add, 0.0, wide, lanes)
            lines.each(lambda i, n: lines.store(0, i, power(i, n) / lines.spread(total, n)), lanes)
            return

        def kept(i: Value, n: int) -> Value:
            value = power(i, n)
            lines.store(0, i, value)
            return value

        total = lines.reduce(kept, _add, 0.0, wide, lanes)
        lines.each(lambda i, n: lines.store(0, i, lines.load(0, i, n) / lines.spread(total, n)), lanes)

    def backward() -> None:
        def term(i: Value, n: int) -> Value:
            g = lines.load(1, i, n)
            return g * lines.load(2, i, n) if kind == "softmax_back" else g

        total = lines.reduce(term, _add, 0.0, wide, lanes)

        def result(i: Value, n: int) -> None:
            g, y, sum_ = lines.load(1, i, n), lines.load(2, i, n), lines.spread(total, n)
            lines.store(0, i, y * (g - sum_) if kind == "softmax_back" else g - exp(y) * sum_)

        lines.each(result, lanes)

    lines.run(backward if operands == 3 else forward, lanes)
    e.finish()
    return e.module(name)


_OPERANDS = {
    "cross_entropy": ("loss", "lse", "w", "x", "t"),
    "cross_entropy_back": ("dx", "g", "x", "lse", "w", "t"),
    "nll": ("loss", "w", "x", "t"),
    "nll_back": ("dx", "g", "w", "t"),
}


def operands_of(kind: str, dtype: str, class_dtype: str) -> list[tuple[str, str]]:
    """The operands of a kernel with classes, but for the weights: name and dtype; what a line has one of is wide."""
    wide = "float32" if dtype == "float16" else dtype
    return [(n, class_dtype if n == "t" else dtype if n in ("x", "dx") else wide) for n in _OPERANDS[kind]]


def _classes_ir(kind: str, dtype: str, class_dtype: str, weighted: bool, name: str) -> str:
    e = Emitter()
    names = [n for n, _ in operands_of(kind, dtype, class_dtype)]
    number = {n: k for k, n in enumerate(names)}
    lines = Lines(e, [d for _, d in operands_of(kind, dtype, class_dtype)], own=2)
    wide = "float32" if dtype == "float16" else dtype
    lanes = vector_lanes([dtype])
    ignored, smoothing = lines.own[0], lines.own[1].bitcast("float64").to(wide)
    weights = e.load_at("%data", len(names), "pointer") if weighted else None
    classes = lines.length
    t = number["t"]

    def check() -> None:
        own = lines.load_one(t).to("int64")
        with e.when(own.differs(ignored) & ((own < 0) | (own >= classes))):
            error = e.argument("%error", "pointer")
            e.store(e.element(error, 0, "int64"), own)
            e.store(e.element(error, 1, "int64"), classes)
            e.give_back(OUT_OF_RANGE)

    if not kind.endswith("_back"):
        lines.run(check, 1)

    def weight(i: Value, n: int) -> Value:
        """The weights of classes: of n of them, or of one for all lines."""
        if weights is None:
            return e.constant(1.0, wide, n)
        if lines.inner:
            return e.load(e.element(weights, i, wide), wide, n)
        one = e.load(e.element(weights, i, wide), wide)
        return e.splat(one, n) if n > 1 else one

    def is_class(i: Value, n: int, own: Value) -> Value:
        """Whether elements are those of the line's class."""
        if not lines.inner:
            return own.equals(e.splat(i, n) if n > 1 else i)
        if n == 1:
            return i.equals(own)
        ahead = own - i  # in 32 bits where it is one of the n: a vector has as many of them as floats
        lane = e.select((ahead >= 0) & (ahead < n), ahead, -1).to("int32")
        return e.splat(lane, n).equals(e.lane_numbers(n, "int32"))

    def at_class(own: Value, valid: Value) -> tuple[Value, Value]:
        """Element and weight of the line's class; both 0 where it is ignored."""
        x = number["x"]
        if lines.width == 1:
            safe = e.select(valid, own, 0)
            one = weight(safe, 1)
            return lines.load(x, safe, 1), e.select(valid, one, 0.0)
        element, found = (e.slot(wide, lines.constant(0.0, wide), lines.width) for _ in range(2))
        with e.loop(lines.length) as i:
            here = is_class(i, lines.width, own)
            element.set(e.select(here, lines.load(x, i, lines.width), element.get()))
            found.set(e.select(here, weight(i, lines.width), found.get()))
        return element.get(), e.select(valid, found.get(), lines.constant(0.0, wide))

    def own_class() -> tuple[Value, Value]:
        own = lines.load_one(t).to("int64")
        return own, own.differs(e.splat(ignored, lines.width) if lines.width > 1 else ignored)

    def scalar(value: Value) -> Value:
        return e.splat(value, lines.width) if lines.width > 1 else value

    def forward() -> None:
        own, valid = own_class()
        element, w = at_class(own, valid)
        lines.store_one(number["w"], w)
        if kind == "nll":
            loss = -(w * element)
            lines.store_one(number["loss"], e.select(valid, loss, 0.0))
            return
        x = number["x"]
        top = lines.reduce(lambda i, n: lines.load(x, i, n), maximum, float("-inf"), wide, lanes)
        total = lines.reduce(
            lambda i, n: exp(lines.load(x, i, n) - lines.spread(top, n)), _add, 0.0, wide, lanes
        )  # fmt: skip
        lse = top + log(total)
        lines.store_one(number["lse"], lse)
        result = e.slot(wide, w * (lse - element), lines.width)
        with e.when(smoothing.differs(0.0)):
            gaps = lines.reduce(
                lambda i, n: weight(i, n) * (lines.spread(lse, n) - lines.load(x, i, n)), _add, 0.0, wide, lanes
            )
            share = smoothing / classes.to(wide)
            result.set(scalar(1.0 - smoothing) * result.get() + scalar(share) * gaps)
        lines.store_one(number["loss"], e.select(valid, result.get(), 0.0))

    def backward() -> None:
        own, valid = own_class()
        g, w = lines.load_one(number["g"]), lines.load_one(number["w"])
        if kind == "nll_back":
            share = -(g * w)

            def place(i: Value, n: int) -> None:
                lines.store(0, i, e.select(is_class(i, n, own), lines.spread(share, n), 0.0))

            lines.each(place, lanes)
            return
        x, lse = number["x"], lines.load_one(number["lse"])
        share = smoothing / classes.to(wide)
        total = lines.reduce(weight, _add, 0.0, wide, lanes) if weighted else scalar(classes.to(wide))
        chosen = scalar(1.0 - smoothing) * w
        powers = chosen + scalar(share) * total

        def result(i: Value, n: int) -> None:
            power = exp(lines.load(x, i, n) - lines.spread(lse, n))
            even = scalar(share) if not lines.inner or n == 1 else e.splat(share, n)
            target = even * weight(i, n)
            target = target + e.select(is_class(i, n, own), lines.spread(chosen, n), 0.0)
            value = lines.spread(g, n) * (lines.spread(powers, n) * power - target)
            lines.store(0, i, e.select(lines.spread(valid, n), value, 0.0))

        lines.each(result, lanes)

    lines.run(backward if kind.endswith("_back") else forward, lanes)
    e.finish()
    return e.module(name)
