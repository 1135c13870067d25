"""Transcendental functions written in emitter arithmetic, without branches, so that loops over them vectorise.

Each has one implementation per dtype: the same bits in a vector, in a remainder and in a strided loop. Reductions and
reconstructions follow fdlibm (Sun Microsystems, 1993); the polynomials are minimax fits (Remez) of our own. No fused
multiply-add. `_in_double` evaluates float32 in float64 and rounds once. What is not here calls the C library, element
by element; the `fallback`s of `sin` and `cos` do so for the few arguments the fast path cannot reduce.

Largest error in units in the last place over the whole range, measured by tests/codegen/test_mathematics.py:

    ACCURACY = {name: (float32, float64)}, below; a test fails when a function leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dagrun.codegen.emitter import ITEMSIZE, Value


@dataclass(frozen=True, slots=True)
class _Format:
    """Numbers that depend on the width of the float."""

    bits: str  # the integer dtype of the same width
    mantissa: int
    shift: float  # adding it rounds to an integer, which then stands in the low bits
    ln2_high: float  # few enough bits that a product with any exponent is exact
    ln2_low: float
    smallest_normal: float
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2
    exp_range: tuple[float, float]  # beyond it: zero, infinity
    expm1_low: float  # below it: -1
    log: tuple[float, ...]  # (log((1+s)/(1-s)) / s - 2) / s^2 in s^2, |s| <= 0.1716
    tanh: tuple[float, ...]  # (tanh(x)/x - 1) / x^2 in x^2 on |x| <= 1
    tiny: float  # below it expm1(x) is x
    subnormal_power: int  # scaling that makes subnormals normal
    sine: tuple[float, ...] = ()  # sin(x)/x - 1 over x^2 in x^2 on |x| <= pi/4
    cosine: tuple[float, ...] = ()  # cos(x) - 1 + x^2/2 over x^4 in x^2


_FORMATS = {
    "float32": _Format(
        bits="int32", mantissa=23, shift=1.5 * 2.0**23,
        ln2_high=float.fromhex("0x1.62e4p-1"), ln2_low=1.4286067653302226e-06,
        smallest_normal=2.0**-126,
        exp=(0.5000000078327069, 0.16666666861150087, 0.041666268496855195, 0.008333264243457322,
             0.0013946177582659734, 0.00019918451574804994),
        exp_range=(-104.0, 89.0), expm1_low=-18.0,
        log=(0.6666666564136395, 0.4000033620150395, 0.28537239495224276, 0.23583546967531877),
        tanh=(-0.3333332968776932, 0.13333210073156287, -0.0539539301768401, 0.021788119207901403,
              -0.008602503248441511, 0.003087453912620582, -0.0008466455503337947, 0.00012285829719216535),
        tiny=2.0**-26, subnormal_power=25,
    ),
    "float64": _Format(
        bits="int64", mantissa=52, shift=1.5 * 2.0**52,
        ln2_high=6.93147180369123816490e-01, ln2_low=1.90821492927058770002e-10,
        smallest_normal=2.0**-1022,
        exp=(0.5, 0.16666666666666685, 0.04166666666666673, 0.00833333333331662, 0.0013888888888858558,
             0.00019841269897361927, 2.480158737356999e-05, 2.7557233929241636e-06, 2.755723347351821e-07,
             2.511234860392616e-08, 2.0926915511342845e-09),
        exp_range=(-746.0, 710.0), expm1_low=-40.0,
        log=(0.6666666666666735, 0.3999999999941111, 0.28571428743259186, 0.22222198476235214,
             0.1818356973205571, 0.15313903320815425, 0.14797508117393732),
        tanh=(-0.333333333333333, 0.13333333333329384, -0.05396825396659666, 0.021869488500779317,
              -0.00886323507780882, 0.0035921242463796497, -0.0014558123145219095, 0.0005899347197672898,
              -0.00023884097890419697, 9.62419883341979e-05, -3.808286065774922e-05, 1.4298433821769324e-05,
              -4.770872511229287e-06, 1.2773050586730701e-06, -2.3468420509468731e-07, 2.1516868823273935e-08),
        tiny=2.0**-55, subnormal_power=54,
        sine=(-0.16666666666666632, 0.00833333333332237, -0.00019841269829771162, 2.7557313678639136e-06,
              -2.505075595499569e-08, 1.58966660487674e-10),
        cosine=(0.0416666666666666, -0.0013888888888874064, 2.4801587289443573e-05, -2.755731434067953e-07,
                2.0875721625551483e-09, -1.1359559381060746e-11),
    ),
}  # fmt: skip
_DOUBLE = _FORMATS["float64"]
# float64 arithmetic for results that will be rounded to float32: shorter polynomials, and exponents that stay normal.
_WIDE = replace(
    _DOUBLE,
    exp=_FORMATS["float32"].exp,
    exp_range=(-210.0, 210.0),
    log=(0.666666666758459, 0.3999999560484082, 0.28572111126892336, 0.2217609991301831, 0.19585517840304648),
    sine=(-0.16666666641528882, 0.008333329374335972, -0.00019839331060967787, 2.7182750260253162e-06),
    cosine=(0.04166666662265696, -0.0013888883738324533, 2.4799515948452623e-05, -2.720989657327813e-07),
)
# pi/2 in pieces of 33 bits, as in fdlibm's rem_pio2, and the rest of pi/2 after each piece.
_HALF_PI = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624871116645580e-21)
_HALF_PI_REST = (6.07710050650619224932e-11, 2.02226624879595063154e-21)
# atan(x)/x - 1 over x^2 in x^2 on |x| <= 1, to float32.
_ATAN = (-0.33333333130227377, 0.1999998533310227, -0.1428534333474387, 0.11106369520109918, -0.09054952130494426,
         0.07515374565597191, -0.060686689977278434, 0.04436665963545818, -0.02674569798562923, 0.011910871951144956,
         -0.0033771741713785708, 0.0004491857206114353)  # fmt: skip
# erf(x)/x - 1 in x^2 on |x| <= 1; and -log(erfc(x)) - x^2 in x - centre on [1, last].
_ERF = {
    "float32": (0.1283791670947134, -0.3761263889010326, 0.11283791318394215, -0.026866134015888884,
                0.005223786536992072, -0.0008542703138377241, 0.00011957331079635992, -1.3914062275131255e-05,
                1.0601171042685705e-06),
    "float64": (0.12837916709551256, -0.3761263890318375, 0.11283791670954885, -0.026866170645077875,
                0.005223977624828431, -0.0008548326981425542, 0.0001205533113295582, -1.4925595772180906e-05,
                1.64610084778027e-06, -1.6350396222864617e-07, 1.466032872274226e-08, -1.137495573607015e-09,
                5.960685338520971e-11),
}  # fmt: skip
_ERF_TAIL = {
    "float32": (2.5, 4.0, (1.5568153036316172, 0.35268061419033936, -0.056108160410389456, 0.010853494773325508,
                           -0.002166532209249994, 0.0004309062067087108, -6.182061802504533e-05,
                           2.1686120665137223e-05)),
    "float64": (3.5, 6.0, (1.8624374021657346, 0.26609958865464023, -0.03324694410411484, 0.005225659242819243,
                           -0.0008736908674299141, 0.00014728764442028825, -2.439568238196511e-05,
                           3.889667861808205e-06, -5.78866872544128e-07, 8.520569741352735e-08,
                           -9.776351242489451e-09, -7.957222266856658e-10, -5.59664903893523e-10,
                           6.961747453772851e-11, 1.295609256085932e-10, 1.9406722112907642e-11,
                           -4.703323495884364e-12, -2.4413460638602574e-12, -2.46329662831994e-13)),
}  # fmt: skip


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
    negative = sign.bitcast(_FORMATS[sign.dtype].bits) < 0
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
    shift = _FORMATS[x.dtype].shift
    return (x + shift) - shift


def _power_of_two(n: Value) -> Value:
    """2^n for an integral n within the range of normal exponents."""
    fmt = _FORMATS[n.dtype]
    one = n.like(1.0).bitcast(fmt.bits)
    return (((n + fmt.shift).bitcast(fmt.bits) << fmt.mantissa) + one).bitcast(n.dtype)


def _reduce(x: Value, fmt: _Format) -> tuple[Value, Value, Value]:
    """(n, high, low) with x = n ln(2) + high - low, |high| <= ln(2)/2, high exact."""
    n = _nearest(x * (1 / math.log(2)))
    return n, x - n * fmt.ln2_high, n * fmt.ln2_low


def _exp_reduced(n: Value, high: Value, low: Value | None, fmt: _Format) -> Value:
    """2^n exp(high - low), rounded to subnormals and overflowing to infinity where it must."""
    r = high if low is None else high - low
    tail = r * r * polynomial(r, fmt.exp)
    y = 1.0 + (high + (tail if low is None else tail - low))
    if fmt is _WIDE:
        return y * _power_of_two(n)
    half = _nearest(n * 0.5)
    return y * _power_of_two(half) * _power_of_two(n - half)


def exp(x: Value, fmt: _Format | None = None) -> Value:
    fmt = fmt or _FORMATS[x.dtype]
    return _exp_reduced(*_reduce(_clamp(x, *fmt.exp_range), fmt), fmt)


def exp2(x: Value) -> Value:
    fmt = _FORMATS[x.dtype]
    x = _clamp(x, *(1.45 * limit for limit in fmt.exp_range))
    n = _nearest(x)
    return _exp_reduced(n, (x - n) * math.log(2), None, fmt)


def expm1(x: Value, fmt: _Format | None = None) -> Value:
    e, fmt = x.emitter, fmt or _FORMATS[x.dtype]
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
    e, fmt = x.emitter, _FORMATS[x.dtype]
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


def gelu(x: Value) -> Value:
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
    e = expm1(_fabs(x), _WIDE)
    return _with_sign(0.5 * (e + e / (e + 1.0)), x)


def _cosh_wide(x: Value) -> Value:
    e = exp(_fabs(x), _WIDE)
    return 0.5 * (e + 1.0 / e)


def erf(x: Value) -> Value:
    """x + x p(x^2) up to 1, then 1 - exp(-x^2 - q(x))."""
    e = x.emitter
    magnitude = _fabs(x)
    small = magnitude + magnitude * polynomial(x * x, _ERF[x.dtype])
    centre, last, tail = _ERF_TAIL[x.dtype]
    y = _clamp(magnitude, 0.0, last)
    large = 1.0 - exp(-(y * y + polynomial(y - centre, tail)))
    return _with_sign(e.select(magnitude < 1.0, small, large), x)


# -- logarithms -------------------------------------------------------------------------------------------------------


def _split_exponent(x: Value) -> tuple[Value, Value]:
    """(m, k) with x = m 2^k and m in [sqrt(1/2), sqrt(2)), for positive normal x; k as a float."""
    fmt = _FORMATS[x.dtype]
    low = x.like(math.sqrt(0.5)).bitcast(fmt.bits)
    one = x.like(1.0).bitcast(fmt.bits)
    unsigned = (x.bitcast(fmt.bits) + (one - low)).to("u" + fmt.bits)
    biased = unsigned >> fmt.mantissa
    whole = x.like(2.0**fmt.mantissa)
    exponent_bias = (1 << (8 * ITEMSIZE[x.dtype] - fmt.mantissa - 2)) - 1
    k = (biased | whole.bitcast("u" + fmt.bits)).bitcast(x.dtype) - (2.0**fmt.mantissa + exponent_bias)
    m = ((unsigned & ((1 << fmt.mantissa) - 1)) + low.to("u" + fmt.bits)).bitcast(x.dtype)
    return m, k


def _log_reduced(f: Value, k: Value, correction: Value | None, fmt: _Format) -> Value:
    """log(1 + f) + k ln(2) + correction, for 1 + f in [sqrt(1/2), sqrt(2))."""
    s = f / (2.0 + f)
    z = s * s
    half_square = 0.5 * f * f
    low = k * fmt.ln2_low if correction is None else k * fmt.ln2_low + correction
    return k * fmt.ln2_high - ((half_square - (s * (half_square + z * polynomial(z, fmt.log)) + low)) - f)


def log(x: Value, fmt: _Format | None = None) -> Value:
    e, fmt = x.emitter, fmt or _FORMATS[x.dtype]
    if fmt is _WIDE:  # every float32 is a normal float64
        m, k = _split_exponent(x)
    else:
        subnormal = x < fmt.smallest_normal
        m, k = _split_exponent(e.select(subnormal, x * 2.0**fmt.subnormal_power, x))
        k = k - e.select(subnormal, float(fmt.subnormal_power), x.like(0.0))
    special = e.select(x.equals(0.0), -math.inf, e.select(x < 0.0, math.nan, x))
    return e.select((x > 0.0) & (x < math.inf), _log_reduced(m - 1.0, k, None, fmt), special)


def log1p(x: Value, fmt: _Format | None = None) -> Value:
    e, fmt = x.emitter, fmt or _FORMATS[x.dtype]
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
    y = log1p(a + a * a / (1.0 + e.intrinsic("sqrt", a * a + 1.0)), _WIDE)
    return _with_sign(e.select(a < math.inf, y, a), x)


def _arccosh_wide(x: Value) -> Value:
    e = x.emitter
    t = x - 1.0
    y = log1p(t + e.intrinsic("sqrt", t + t + t * t), _WIDE)
    return e.select(x < 1.0, math.nan, y)


def _arctanh_wide(x: Value) -> Value:
    a = _fabs(x)
    return _with_sign(0.5 * log1p((a + a) / (1.0 - a), _WIDE), x)


def _power_wide(x: Value, y: Value) -> Value:
    """C's pow for values that float32 can hold."""
    e = x.emitter
    magnitude = _fabs(x)
    result = exp(y * log(magnitude, _WIDE), _WIDE)
    result = e.select(magnitude.equals(1.0) & _fabs(y).equals(math.inf), 1.0, result)
    integral = e.intrinsic("floor", y).equals(y)
    half = 0.5 * y
    odd = integral & e.intrinsic("floor", half).differs(half)
    negative = x.bitcast("int64") < 0
    result = e.select(negative & odd, -result, result)
    result = e.select((x < 0.0) & (x > -math.inf) & ~integral, math.nan, result)
    return e.select(x.equals(1.0) | y.equals(0.0), 1.0, result)


# -- circular functions -----------------------------------------------------------------------------------------------


def _sine_cosine(r: Value, low: Value | None, fmt: _Format) -> tuple[Value, Value]:
    """(sin, cos) of r + low, |r| <= pi/4, |low| below one unit in the last place of r; in float64."""
    z = r * r
    half = 0.5 * z
    if fmt is _WIDE:
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
    first = x - n * _HALF_PI[0]
    second = n * _HALF_PI[1]
    r = first - second
    w = n * _HALF_PI_REST[1] - ((first - r) - second)
    high = r - w
    return n, high, (r - high) - w


def _circular(which: str) -> Callable[[Value], Value]:
    def build(x: Value) -> Value:
        if x.dtype == "float32":
            e, angle = x.emitter, x.to("float64")
            n = _nearest(angle * (2 / math.pi))
            r = (angle - n * _HALF_PI[0]) - n * _HALF_PI_REST[0]
            hard = ~(_fabs(x) < 2.0**20)
            fast = _quadrant(which, n, *_sine_cosine(r, None, _WIDE)).to("float32")
        else:
            e = x.emitter
            n, r, low = _reduce_angle(x)
            magnitude = _fabs(x)
            hard = ~(magnitude < 2.0**20) | ((_fabs(r) < 2.0**-24) & (magnitude > 0.5))
            fast = _quadrant(which, n, *_sine_cosine(r, low, _DOUBLE))
        if which != "cos":
            fast = x.emitter.select(_fabs(x) < 2.0**-30, x, fast)
        return e.fallback(hard, fast, lambda: e.libm(which, x))

    return build


def _quadrant(which: str, n: Value, sine: Value, cosine: Value) -> Value:
    """The wanted function of n pi/2 + r from the sine and cosine of r."""
    e = n.emitter
    bits = (n + _FORMATS["float64"].shift).bitcast("int64")
    odd = (bits & 1).differs(0)
    if which == "tan":
        return e.select(odd, -cosine, sine) / e.select(odd, sine, cosine)
    if which == "cos":
        bits = bits + 1
        odd = ~odd
    value = e.select(odd, cosine, sine)
    return e.select((bits & 2).differs(0), -value, value)


def sine_cosine_of_turn(u: Value) -> tuple[Value, Value]:
    """(sin, cos) of 2 pi u for a float64 u in [0, 1), with an exact reduction."""
    n = _nearest(u * 4.0)
    r = (u * 4.0 - n) * (math.pi / 2)
    sine, cosine = _sine_cosine(r, None, _DOUBLE)
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
    angle = ratio + ratio * (z * polynomial(z, _ATAN))
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


FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "exp": (1, exp),
    "exp2": (1, exp2),
    "expm1": (1, expm1),
    "log": (1, log),
    "log2": (1, _in_double(lambda x: log(x, _WIDE) * (1 / math.log(2)), _libm("log2"))),
    "log10": (1, _in_double(lambda x: log(x, _WIDE) * (1 / math.log(10)), _libm("log10"))),
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
    "softplus": (1, softplus),
    "erf": (1, erf),
}
