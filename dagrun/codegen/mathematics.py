"""Transcendental functions written in emitter arithmetic, without branches, so that loops over them vectorise.

Each has one implementation per dtype: the same bits in a vector, in a remainder and in a strided loop. Reductions and
reconstructions follow fdlibm (Sun Microsystems, 1993); the polynomials are minimax fits (Remez) of our own. No fused
multiply-add. `_in_double` evaluates float32 in float64 and rounds once. What is not here calls the C library, element
by element; the `fallback`s of `sin` and `cos` do so for the few arguments the fast path cannot reduce.

`ACCURACY` holds the largest error of each function; tests/codegen/test_mathematics.py measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dagrun.codegen.formats import (
    ATAN,
    DOUBLE,
    ERF,
    ERF_TAIL,
    FORMATS,
    HALF_PI,
    HALF_PI_REST,
    NORMAL_TAIL,
    WIDE,
    FloatFormat,
)
from dagrun.codegen.values import ITEMSIZE, Value


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial with these coefficients, lowest power first."""
    result = x.like(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _fabs(x: Value) -> Value:
    return x.emitter.intrinsic("fabs", x)


def copysign(magnitude: Value, sign: Value) -> Value:
    return sign.emitter.intrinsic("copysign", magnitude, sign)


def _with_sign(magnitude: Value, sign: Value) -> Value:
    """The sign of `sign` on a magnitude that has none.

    Not by copysign: where `sign` came from float16, LLVM narrows that operand by a runtime function we have not got.
    """
    negative = sign.bitcast(FORMATS[sign.dtype].bits) < 0
    return sign.emitter.select(negative, -magnitude, magnitude)


def _clamp(x: Value, low: float, high: float) -> Value:
    """x within [low, high]; NaN stays."""
    e = x.emitter
    x = e.select(x < low, low, x)
    return e.select(x > high, high, x)


def _in_double(function: Callable[..., Value], in_float64: Callable[..., Value]) -> Callable[..., Value]:
    """`function` in float64 arithmetic for float32 arguments, `in_float64` for float64 ones."""

    def build(*args: Value) -> Value:
        if args[0].dtype == "float64":
            return in_float64(*args)
        return function(*(arg.to("float64") for arg in args)).to("float32")

    return build


def _libm(name: str) -> Callable[..., Value]:
    return lambda *args: args[0].emitter.libm(name, *args)


# -- exponentials -----------------------------------------------------------------------------------------------------


def _nearest(x: Value) -> Value:
    """x rounded to an integer, for |x| < 2^(mantissa - 1)."""
    shift = FORMATS[x.dtype].shift
    return (x + shift) - shift


def _power_of_two(n: Value) -> Value:
    """2^n for an integral n within the range of normal exponents."""
    fmt = FORMATS[n.dtype]
    one = n.like(1.0).bitcast(fmt.bits)
    return (((n + fmt.shift).bitcast(fmt.bits) << fmt.mantissa) + one).bitcast(n.dtype)


def _reduce(x: Value, fmt: FloatFormat) -> tuple[Value, Value, Value]:
    """(n, high, low) with x = n ln(2) + high - low, |high| <= ln(2)/2, high exact."""
    n = _nearest(x * (1 / math.log(2)))
    return n, x - n * fmt.ln2_high, n * fmt.ln2_low


def _exp_reduced(n: Value, high: Value, low: Value | None, fmt: FloatFormat) -> Value:
    """2^n exp(high - low), rounded to subnormals and overflowing to infinity where it must."""
    r = high if low is None else high - low
    tail = r * r * polynomial(r, fmt.exp)
    y = 1.0 + (high + (tail if low is None else tail - low))
    if fmt is WIDE:
        return y * _power_of_two(n)
    half = _nearest(n * 0.5)
    return y * _power_of_two(half) * _power_of_two(n - half)


def exp(x: Value, fmt: FloatFormat | None = None) -> Value:
    fmt = fmt or FORMATS[x.dtype]
    return _exp_reduced(*_reduce(_clamp(x, *fmt.exp_range), fmt), fmt)


def exp2(x: Value) -> Value:
    fmt = FORMATS[x.dtype]
    x = _clamp(x, *(1.45 * limit for limit in fmt.exp_range))
    n = _nearest(x)
    return _exp_reduced(n, (x - n) * math.log(2), None, fmt)


def expm1(x: Value, fmt: FloatFormat | None = None) -> Value:
    e, fmt = x.emitter, fmt or FORMATS[x.dtype]
    n, high, low = _reduce(_clamp(x, fmt.expm1_low, fmt.exp_range[1]), fmt)
    r = high - low
    half = _power_of_two(n - 1.0)
    whole, part = half - 0.5, half * high
    total = whole + part
    lost = (part - (total - whole)) + ((half - whole) - 0.5)
    y = total + (lost + half * (r * r * polynomial(r, fmt.exp) - low))
    return e.select(_fabs(x) < fmt.tiny, x, y + y)


def tanh(x: Value) -> Value:
    """x + x^3 p(x^2) up to 1, then 1 - 2t/(1+t) with t = exp(-2|x|)."""
    e, fmt = x.emitter, FORMATS[x.dtype]
    magnitude = _fabs(x)
    square = x * x
    small = magnitude + magnitude * (square * polynomial(square, fmt.tanh))
    t = _exp_reduced(*_reduce(_clamp(magnitude, 0.0, 25.0) * -2.0, fmt), fmt)
    large = 1.0 - (t + t) / (1.0 + t)
    return _with_sign(e.select(magnitude < 1.0, small, large), x)


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x)), without overflow on either side."""
    e = x.emitter
    decay = exp(-_fabs(x))
    return e.select(x < 0.0, decay, 1.0) / (1.0 + decay)


def silu(x: Value) -> Value:
    return x * sigmoid(x)


def gelu_tanh(x: Value) -> Value:
    """x * sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3), which equals x/2 (1 + tanh(u))."""
    return x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * (x * x * x)))


def softplus(x: Value) -> Value:
    e = x.emitter
    return e.select(x < 0.0, 0.0, x) + log1p(exp(-_fabs(x)))


def logaddexp(a: Value, b: Value) -> Value:
    e = a.emitter
    difference = a - b
    larger = e.select(difference > 0.0, a, b)
    general = larger + log1p(exp(-_fabs(difference)))
    return e.select(a.equals(b), a + math.log(2), e.select(difference.is_nan(), difference, general))


def _sinh_wide(x: Value) -> Value:
    e = expm1(_fabs(x), WIDE)
    return _with_sign(0.5 * (e + e / (e + 1.0)), x)


def _cosh_wide(x: Value) -> Value:
    e = exp(_fabs(x), WIDE)
    return 0.5 * (e + 1.0 / e)


def erf(x: Value) -> Value:
    """x + x p(x^2) up to 1, then 1 - exp(-x^2 - q(x))."""
    e = x.emitter
    magnitude = _fabs(x)
    small = magnitude + magnitude * polynomial(x * x, ERF[x.dtype])
    centre, last, tail = ERF_TAIL[x.dtype]
    y = _clamp(magnitude, 0.0, last)
    large = 1.0 - exp(-(y * y + polynomial(y - centre, tail)))
    return _with_sign(e.select(magnitude < 1.0, small, large), x)


def ndtr(x: Value) -> Value:
    """The normal distribution function; its tail is exp(-x^2/2) times a quotient of polynomials in |x|."""
    e = x.emitter
    if x.dtype == "float64":
        return 0.5 * (1.0 + erf(x * math.sqrt(0.5)))
    last, above, below = NORMAL_TAIL
    magnitude = _clamp(_fabs(x), 0.0, last)
    tail = exp((-0.5 * x) * x) * (polynomial(magnitude, above) / polynomial(magnitude, below))
    return e.select(x < 0.0, tail, 1.0 - tail)


def gelu(x: Value) -> Value:
    return x * ndtr(x)


# -- logarithms -------------------------------------------------------------------------------------------------------


def _split_exponent(x: Value) -> tuple[Value, Value]:
    """(m, k) with x = m 2^k and m in [sqrt(1/2), sqrt(2)), for positive normal x; k as a float."""
    fmt = FORMATS[x.dtype]
    low = x.like(math.sqrt(0.5)).bitcast(fmt.bits)
    one = x.like(1.0).bitcast(fmt.bits)
    unsigned = (x.bitcast(fmt.bits) + (one - low)).to("u" + fmt.bits)
    biased = unsigned >> fmt.mantissa
    whole = x.like(2.0**fmt.mantissa)
    exponent_bias = (1 << (8 * ITEMSIZE[x.dtype] - fmt.mantissa - 2)) - 1
    k = (biased | whole.bitcast("u" + fmt.bits)).bitcast(x.dtype) - (2.0**fmt.mantissa + exponent_bias)
    m = ((unsigned & ((1 << fmt.mantissa) - 1)) + low.to("u" + fmt.bits)).bitcast(x.dtype)
    return m, k


def _log_reduced(f: Value, k: Value, correction: Value | None, fmt: FloatFormat) -> Value:
    """log(1 + f) + k ln(2) + correction, for 1 + f in [sqrt(1/2), sqrt(2))."""
    s = f / (2.0 + f)
    z = s * s
    half_square = 0.5 * f * f
    low = k * fmt.ln2_low if correction is None else k * fmt.ln2_low + correction
    return k * fmt.ln2_high - ((half_square - (s * (half_square + z * polynomial(z, fmt.log)) + low)) - f)


def log(x: Value, fmt: FloatFormat | None = None) -> Value:
    e, fmt = x.emitter, fmt or FORMATS[x.dtype]
    if fmt is WIDE:  # every float32 is a normal float64
        m, k = _split_exponent(x)
    else:
        subnormal = x < fmt.smallest_normal
        m, k = _split_exponent(e.select(subnormal, x * 2.0**fmt.subnormal_power, x))
        k = k - e.select(subnormal, float(fmt.subnormal_power), x.like(0.0))
    special = e.select(x.equals(0.0), -math.inf, e.select(x < 0.0, math.nan, x))
    return e.select((x > 0.0) & (x < math.inf), _log_reduced(m - 1.0, k, None, fmt), special)


def log1p(x: Value, fmt: FloatFormat | None = None) -> Value:
    e, fmt = x.emitter, fmt or FORMATS[x.dtype]
    total = 1.0 + x
    lost = e.select(x < 1.0, x - (total - 1.0), 1.0 - (total - x))
    m, k = _split_exponent(total)
    near = k.equals(0.0)
    f = e.select(near, x, m - 1.0)
    correction = e.select(near, 0.0, lost / total)
    special = e.select(x.equals(-1.0), -math.inf, e.select(x < -1.0, math.nan, x))
    usual = (x > -1.0) & (x < math.inf) & x.differs(0.0)
    return e.select(usual, _log_reduced(f, k, correction, fmt), special)


def _arcsinh_wide(x: Value) -> Value:
    e = x.emitter
    a = _fabs(x)
    y = log1p(a + a * a / (1.0 + e.intrinsic("sqrt", a * a + 1.0)), WIDE)
    return _with_sign(e.select(a < math.inf, y, a), x)


def _arccosh_wide(x: Value) -> Value:
    e = x.emitter
    t = x - 1.0
    y = log1p(t + e.intrinsic("sqrt", t + t + t * t), WIDE)
    return e.select(x < 1.0, math.nan, y)


def _arctanh_wide(x: Value) -> Value:
    a = _fabs(x)
    return _with_sign(0.5 * log1p((a + a) / (1.0 - a), WIDE), x)


def _power_wide(x: Value, y: Value) -> Value:
    """C's pow for values that float32 can hold."""
    e = x.emitter
    magnitude = _fabs(x)
    result = exp(y * log(magnitude, WIDE), WIDE)
    result = e.select(magnitude.equals(1.0) & _fabs(y).equals(math.inf), 1.0, result)
    integral = e.intrinsic("floor", y).equals(y)
    half = 0.5 * y
    odd = integral & e.intrinsic("floor", half).differs(half)
    negative = x.bitcast("int64") < 0
    result = e.select(negative & odd, -result, result)
    result = e.select((x < 0.0) & (x > -math.inf) & ~integral, math.nan, result)
    return e.select(x.equals(1.0) | y.equals(0.0), 1.0, result)


# -- circular functions -----------------------------------------------------------------------------------------------


def _sine_cosine(r: Value, low: Value | None, fmt: FloatFormat) -> tuple[Value, Value]:
    """(sin, cos) of r + low, |r| <= pi/4, |low| below one unit in the last place of r."""
    z = r * r
    half = 0.5 * z
    if fmt is WIDE:
        return r + r * (z * polynomial(z, fmt.sine)), 1.0 - (half - z * z * polynomial(z, fmt.cosine))
    cube = z * r
    tail = polynomial(z, fmt.sine[1:])
    rest = z * z * polynomial(z, fmt.cosine)
    if low is None:
        sine = r + cube * (fmt.sine[0] + z * tail)
    else:
        sine = r - ((z * (0.5 * low - cube * tail) - low) - cube * fmt.sine[0])
        rest = rest - r * low
    w = 1.0 - half
    return sine, w + (((1.0 - w) - half) + rest)


def _reduce_angle(x: Value) -> tuple[Value, Value, Value]:
    """(n, r, low) with x = n pi/2 + r + low, for |x| <= 2^20; 118 bits of pi/2."""
    n = _nearest(x * (2 / math.pi))
    first = x - n * HALF_PI[0]
    second = n * HALF_PI[1]
    r = first - second
    w = n * HALF_PI_REST[1] - ((first - r) - second)
    high = r - w
    return n, high, (r - high) - w


def _circular(which: str) -> Callable[[Value], Value]:
    def build(x: Value) -> Value:
        if x.dtype == "float32":
            e, angle = x.emitter, x.to("float64")
            n = _nearest(angle * (2 / math.pi))
            r = (angle - n * HALF_PI[0]) - n * HALF_PI_REST[0]
            hard = ~(_fabs(x) < 2.0**20)
            fast = _quadrant(which, n, *_sine_cosine(r, None, WIDE)).to("float32")
        else:
            e = x.emitter
            n, r, low = _reduce_angle(x)
            magnitude = _fabs(x)
            hard = ~(magnitude < 2.0**20) | ((_fabs(r) < 2.0**-24) & (magnitude > 0.5))
            fast = _quadrant(which, n, *_sine_cosine(r, low, DOUBLE))
        if which != "cos":
            fast = x.emitter.select(_fabs(x) < 2.0**-30, x, fast)
        return e.fallback(hard, fast, lambda: e.libm(which, x))

    return build


def _quadrant(which: str, n: Value, sine: Value, cosine: Value) -> Value:
    """The wanted function of n pi/2 + r from the sine and cosine of r."""
    e, fmt = n.emitter, FORMATS[n.dtype]
    bits = (n + fmt.shift).bitcast(fmt.bits)
    odd = (bits & 1).differs(0)
    if which == "tan":
        return e.select(odd, -cosine, sine) / e.select(odd, sine, cosine)
    if which == "cos":
        bits = bits + 1
        odd = ~odd
    value = e.select(odd, cosine, sine)
    return e.select((bits & 2).differs(0), -value, value)


def sine_cosine_of_turn(u: Value) -> tuple[Value, Value]:
    """(sin, cos) of 2 pi u for u in [0, 1), with an exact reduction."""
    n = _nearest(u * 4.0)
    r = (u * 4.0 - n) * (math.pi / 2)
    sine, cosine = _sine_cosine(r, None, WIDE if u.dtype == "float32" else DOUBLE)
    return _quadrant("sin", n, sine, cosine), _quadrant("cos", n, sine, cosine)


def _arctan2_wide(y: Value, x: Value) -> Value:
    """C's atan2 in float64, accurate to float32."""
    e = x.emitter
    a, b = _fabs(y), _fabs(x)
    steep = a > b
    small, large = e.select(steep, b, a), e.select(steep, a, b)
    ratio = small / e.select(large.equals(0.0), 1.0, large)
    ratio = e.select(small.equals(math.inf), 1.0, ratio)
    z = ratio * ratio
    angle = ratio + ratio * (z * polynomial(z, ATAN))
    angle = e.select(steep, math.pi / 2 - angle, angle)
    angle = e.select(x.bitcast("int64") < 0, math.pi - angle, angle)
    angle = e.select(x.is_nan() | y.is_nan(), math.nan, angle)
    return _with_sign(angle, y)


def _arctan_wide(x: Value) -> Value:
    return _arctan2_wide(x, x.like(1.0))


def _arcsin_wide(x: Value) -> Value:
    return _arctan2_wide(x, x.emitter.intrinsic("sqrt", (1.0 - x) * (1.0 + x)))


def _arccos_wide(x: Value) -> Value:
    return _arctan2_wide(x.emitter.intrinsic("sqrt", (1.0 - x) * (1.0 + x)), x)


def _hypot_wide(x: Value, y: Value) -> Value:
    e = x.emitter
    either = _fabs(x).equals(math.inf) | _fabs(y).equals(math.inf)
    return e.select(either, math.inf, e.intrinsic("sqrt", x * x + y * y))


# Largest error over the whole range, in units in the last place, for (float32, float64). Left out: silu and both gelu,
# whose error is that of sigmoid or erf times |x| where the result is tiny, and logaddexp, which cancels where the
# result nears zero.
ACCURACY: dict[str, tuple[float, float]] = {
    "exp": (0.9, 0.9), "exp2": (1.0, 1.1), "expm1": (1.0, 1.1), "log": (0.9, 0.9), "log2": (0.51, 1.0),
    "log10": (0.51, 2.0), "log1p": (0.9, 0.9), "power": (0.6, 1.0), "sin": (0.6, 0.9), "cos": (0.6, 0.9),
    "tan": (1.1, 2.5), "arcsin": (0.51, 1.0), "arccos": (0.51, 1.0), "arctan": (0.51, 1.0), "arctan2": (0.51, 1.0),
    "sinh": (0.6, 2.5), "cosh": (0.6, 2.0), "tanh": (1.4, 1.4), "arcsinh": (0.51, 2.5), "arccosh": (0.51, 2.5),
    "arctanh": (0.51, 2.5), "hypot": (0.51, 1.0), "sigmoid": (2.5, 2.5), "softplus": (1.7, 1.7), "erf": (1.5, 1.5),
}  # fmt: skip

FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "exp": (1, exp),
    "exp2": (1, exp2),
    "expm1": (1, expm1),
    "log": (1, log),
    "log2": (1, _in_double(lambda x: log(x, WIDE) * (1 / math.log(2)), _libm("log2"))),
    "log10": (1, _in_double(lambda x: log(x, WIDE) * (1 / math.log(10)), _libm("log10"))),
    "log1p": (1, log1p),
    "power": (2, _in_double(_power_wide, _libm("pow"))),
    "sin": (1, _circular("sin")),
    "cos": (1, _circular("cos")),
    "tan": (1, _circular("tan")),
    "arcsin": (1, _in_double(_arcsin_wide, _libm("asin"))),
    "arccos": (1, _in_double(_arccos_wide, _libm("acos"))),
    "arctan": (1, _in_double(_arctan_wide, _libm("atan"))),
    "arctan2": (2, _in_double(_arctan2_wide, _libm("atan2"))),
    "sinh": (1, _in_double(_sinh_wide, _libm("sinh"))),
    "cosh": (1, _in_double(_cosh_wide, _libm("cosh"))),
    "tanh": (1, tanh),
    "arcsinh": (1, _in_double(_arcsinh_wide, _libm("asinh"))),
    "arccosh": (1, _in_double(_arccosh_wide, _libm("acosh"))),
    "arctanh": (1, _in_double(_arctanh_wide, _libm("atanh"))),
    "hypot": (2, _in_double(_hypot_wide, _libm("hypot"))),
    "copysign": (2, copysign),
    "logaddexp": (2, logaddexp),
    "sigmoid": (1, sigmoid),
    "silu": (1, silu),
    "gelu": (1, gelu),
    "gelu_tanh": (1, gelu_tanh),
    "softplus": (1, softplus),
    "erf": (1, erf),
    "ndtr": (1, ndtr),
}
