"""The elementwise functions users call: arithmetic, comparison, logic, exponentials, trigonometry, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend, is_weak
from dagrun.core import native
from dagrun.ops.elementwise import FIRST_FREE, make, record, record_unary, serve_slot
from dagrun.ops.formulas import NUMPY, fused
from dagrun.ops.promotion import Resolve, by_ufunc
from dagrun.record import ZERO, Gradients

Rule = Callable[..., Any]  # how a gradient passes to one operand: see `record.Gradients`

UFUNCS: dict[str, Callable[..., Any]] = {}  # what NumPy's functions of these names do with dagrun arrays


def _document(function: Any, name: str, text: str) -> None:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    function.__module__ = __name__


def _unary(name: str, ufunc: np.ufunc, text: str, grad: Rule | Gradients | None = None) -> Callable[..., Array]:
    """The user function of an operator that NumPy has under the same name."""
    text = f"{text}\n\nFollows `numpy.{name}`"
    UFUNCS[name] = function = unary_function(name, ufunc, by_ufunc(ufunc), text, grad)
    return function


def unary_function(
    name: str, compute: Callable[..., Any], resolve: Resolve, text: str, grad: Rule | Gradients | None = None
) -> Callable[..., Array]:
    """The user function of an operator of one operand; `name` is also that of its scalar function in `codegen`."""
    setattr(NUMPY, name, compute)
    grad = grad if grad is None or isinstance(grad, Gradients) else Gradients(fused(name, grad))
    op = make(name, compute, resolve, grad=grad)

    def function(x: Any, /, *, out: Array | None = None) -> Array:
        return record_unary(op, x, out)

    _document(function, name, f"{text}. Any shape; `out`: an array to write the result into.")
    return function


def _binary(
    name: str,
    ufunc: np.ufunc,
    text: str,
    left: Rule | Gradients | None = None,
    right: Rule | None = None,
    *,
    slot: int | None = None,
) -> Callable[..., Array]:
    """The user function of an operator of two operands, with the gradient rule of each (or one for both)."""
    grad = left if left is None or isinstance(left, Gradients) else (left, right)
    op = make(name, ufunc, by_ufunc(ufunc), compares=name in _COMPARISONS, grad=grad)
    number = FIRST_FREE + len(UFUNCS) if slot is None else slot
    serve_slot(number, op)
    native_binary = native.binary

    def function(x1: Any, x2: Any, /, *, out: Array | None = None) -> Array:
        if out is not None:
            return record(op, x1, x2, out=out)
        result = native_binary(number, x1, x2)
        if result is NotImplemented:
            raise TypeError(
                f"{name}: operands are a {type(x1).__name__} and a {type(x2).__name__}, expected arrays, "
                "sequences or numbers"
            )
        return result

    _document(
        function,
        name,
        f"{text}\n\nFollows `numpy.{name}`. Operands broadcast; Python scalars take the arrays' dtype. "
        "`out`: an array to write the result into.",
    )
    UFUNCS[name] = function
    return function


def _share(g: Any, chosen: Any, other: Any, before: Callable[..., Any], xp: Any) -> Any:
    """The gradient where an operand was taken, half of it where both are equal, else 0."""
    return xp.where(before(chosen, other), g, xp.where(xp.equal(chosen, other), 0.5 * g, 0.0))


def _shares(before: str) -> tuple[Rule, Rule]:
    """The rules of both operands of an extreme; `before`: the comparison by which one is taken."""
    return (
        lambda g, a, b, xp: _share(g, a, b, getattr(xp, before), xp),
        lambda g, a, b, xp: _share(g, b, a, getattr(xp, before), xp),
    )


def _power_base(g: Any, a: Any, b: Any, xp: Any) -> Any:
    if isinstance(b, (int, float)):
        return g * (b * a ** (b - 1)) if b != 0 else g * 0.0
    # The slope at exponent 0 is 0 everywhere, also where 0 ** -1 is infinite.
    return g * xp.where(b == 0, 0.0, b * a ** xp.where(b == 0, 1.0, b - 1))


def _power_exponent(g: Any, a: Any, y: Any, xp: Any) -> Any:
    if isinstance(a, (int, float)):
        return g * y * math.log(a) if a > 0 else g * 0.0
    return g * xp.where(a > 0, y * xp.log(xp.where(a > 0, a, 1.0)), 0.0)


def _density(a: Any, xp: Any) -> Any:
    """Of the normal distribution."""
    return xp.exp(-0.5 * a * a) * (1 / math.sqrt(2 * math.pi))


def _gelu_slope(a: Any, xp: Any) -> Any:
    return xp.ndtr(a) + a * _density(a, xp)


def _gelu_tanh_slope(a: Any, xp: Any) -> Any:
    scale = math.sqrt(8 / math.pi)
    y = xp.sigmoid(scale * (a + 0.044715 * a * a * a))
    return y + a * (y * (1 - y)) * (scale * (1 + 3 * 0.044715 * a * a))


_COMPARISONS = {"less", "less_equal", "equal", "not_equal", "greater", "greater_equal"}

# ---- arithmetic (the last number is the slot of the array type that records it: see handles.cpp)
add = _binary("add", np.add, "x1 + x2.", lambda g: g, lambda g: g, slot=0)
subtract = _binary("subtract", np.subtract, "x1 - x2.", lambda g: g, lambda g: -g, slot=1)
multiply = _binary("multiply", np.multiply, "x1 * x2.", lambda g, b: g * b, lambda g, a: g * a, slot=2)
divide = _binary(
    "divide", np.divide, "x1 / x2, the true quotient.", lambda g, b: g / b, lambda g, b, y: -g * y / b, slot=3
)
floor_divide = _binary(
    "floor_divide", np.floor_divide, "x1 // x2, rounded down; integers by zero give 0.", ZERO, slot=4
)
remainder = _binary(
    "remainder",
    np.remainder,
    "x1 % x2, with the sign of x2.",
    lambda g: g,
    lambda g, a, b, xp: -g * xp.floor_divide(a, b),
    slot=5,
)
power = _binary(
    "power",
    np.power,
    "x1 ** x2. A negative integer exponent fails when the values are computed.",
    _power_base,
    _power_exponent,
)
fmod = _binary(
    "fmod",
    np.fmod,
    "The remainder of x1 / x2 with the sign of x1.",
    lambda g: g,
    lambda g, a, b, xp: -g * xp.trunc(xp.divide(a, b)),
)
maximum = _binary(
    "maximum",
    np.maximum,
    "The larger element; NaN wins.",
    *_shares("greater"),
)
minimum = _binary(
    "minimum",
    np.minimum,
    "The smaller element; NaN wins.",
    *_shares("less"),
)
fmax = _binary(
    "fmax",
    np.fmax,
    "The larger element; NaN loses.",
    *_shares("greater"),
)
fmin = _binary(
    "fmin",
    np.fmin,
    "The smaller element; NaN loses.",
    *_shares("less"),
)
hypot = _binary(
    "hypot", np.hypot, "sqrt(x1**2 + x2**2) without overflow.", lambda g, a, y: g * a / y, lambda g, b, y: g * b / y
)
arctan2 = _binary(
    "arctan2",
    np.arctan2,
    "The angle of the point (x2, x1), in radians.",
    lambda g, a, b: g * b / (a * a + b * b),
    lambda g, a, b: -g * a / (a * a + b * b),
)
copysign = _binary(
    "copysign",
    np.copysign,
    "The magnitude of x1 with the sign of x2.",
    lambda g, a, y, xp: g * xp.where(xp.signbit(a) == xp.signbit(y), 1.0, -1.0),
    lambda g: None,
)
logaddexp = _binary(
    "logaddexp",
    np.logaddexp,
    "log(exp(x1) + exp(x2)) without overflow.",
    lambda g, a, b, xp: g * xp.sigmoid(xp.subtract(a, b)),
    lambda g, a, b, xp: g * xp.sigmoid(xp.subtract(b, a)),
)
logaddexp2 = _binary(
    "logaddexp2",
    np.logaddexp2,
    "log2(2**x1 + 2**x2) without overflow.",
    lambda g, a, b, xp: g * xp.sigmoid(xp.subtract(a, b) * math.log(2)),
    lambda g, a, b, xp: g * xp.sigmoid(xp.subtract(b, a) * math.log(2)),
)
float_power = _binary(
    "float_power", np.float_power, "x1 ** x2 in float64, also of integers.", _power_base, _power_exponent
)
nextafter = _binary("nextafter", np.nextafter, "The next number after x1 towards x2.", lambda g: g, lambda g: None)
ldexp = _binary("ldexp", np.ldexp, "x1 * 2 ** x2; x2 holds integers.", lambda g, b, xp: g * xp.exp2(b), lambda g: None)
gcd = _binary("gcd", np.gcd, "The greatest common divisor of integers.")
lcm = _binary("lcm", np.lcm, "The least common multiple of integers.")
heaviside = _binary(
    "heaviside", np.heaviside, "0 below zero, x2 at zero, 1 above.", lambda g: None, lambda g, a: g * (a == 0)
)
bitwise_and = _binary("bitwise_and", np.bitwise_and, "x1 & x2.", slot=8)
bitwise_or = _binary("bitwise_or", np.bitwise_or, "x1 | x2.", slot=9)
bitwise_xor = _binary("bitwise_xor", np.bitwise_xor, "x1 ^ x2.", slot=10)
left_shift = _binary("left_shift", np.left_shift, "x1 << x2.", slot=11)
right_shift = _binary("right_shift", np.right_shift, "x1 >> x2.", slot=12)
logical_and = _binary("logical_and", np.logical_and, "Whether both are true.")
logical_or = _binary("logical_or", np.logical_or, "Whether one is true.")
logical_xor = _binary("logical_xor", np.logical_xor, "Whether exactly one is true.")
less = _binary("less", np.less, "x1 < x2.", slot=16)
less_equal = _binary("less_equal", np.less_equal, "x1 <= x2.", slot=17)
equal = _binary("equal", np.equal, "x1 == x2.", slot=18)
not_equal = _binary("not_equal", np.not_equal, "x1 != x2.", slot=19)
greater = _binary("greater", np.greater, "x1 > x2.", slot=20)
greater_equal = _binary("greater_equal", np.greater_equal, "x1 >= x2.", slot=21)
pow = power
atan2 = arctan2
bitwise_left_shift, bitwise_right_shift = left_shift, right_shift

# ---- one operand
negative = _unary("negative", np.negative, "-x", lambda g: -g)
positive = _unary("positive", np.positive, "A copy of x", lambda g: g)
absolute = _unary("absolute", np.absolute, "The magnitude of x", lambda g, a, xp: g * xp.sign(a))
sign = _unary("sign", np.sign, "-1, 0 or 1; NaN stays", ZERO)
square = _unary("square", np.square, "x * x", lambda g, a: g * (2 * a))
sqrt = _unary("sqrt", np.sqrt, "The square root; NaN below zero", lambda g, y: g / (2 * y))
reciprocal = _unary("reciprocal", np.reciprocal, "1 / x", lambda g, y: -g * y * y)
logical_not = _unary("logical_not", np.logical_not, "Whether x is false")
invert = _unary("invert", np.invert, "~x: every bit turned")
isnan = _unary("isnan", np.isnan, "Whether x is not a number")
isinf = _unary("isinf", np.isinf, "Whether x is infinite")
isfinite = _unary("isfinite", np.isfinite, "Whether x is neither infinite nor NaN")
signbit = _unary("signbit", np.signbit, "Whether the sign bit is set")
exp = _unary("exp", np.exp, "e ** x", lambda g, y: g * y)
exp2 = _unary("exp2", np.exp2, "2 ** x", lambda g, y: g * (y * math.log(2)))
expm1 = _unary("expm1", np.expm1, "e ** x - 1, exact near zero", lambda g, y: g * (y + 1))
log = _unary("log", np.log, "The natural logarithm", lambda g, a: g / a)
log2 = _unary("log2", np.log2, "The logarithm to base 2", lambda g, a: g / (a * math.log(2)))
log10 = _unary("log10", np.log10, "The logarithm to base 10", lambda g, a: g / (a * math.log(10)))
log1p = _unary("log1p", np.log1p, "log(1 + x), exact near zero", lambda g, a: g / (1 + a))
sin = _unary("sin", np.sin, "The sine of x in radians", lambda g, a, xp: g * xp.cos(a))
cos = _unary("cos", np.cos, "The cosine of x in radians", lambda g, a, xp: -g * xp.sin(a))
tan = _unary("tan", np.tan, "The tangent of x in radians", lambda g, y: g * (1 + y * y))
arcsin = _unary("arcsin", np.arcsin, "The angle in radians whose sine is x", lambda g, a, xp: g / xp.sqrt(1 - a * a))
arccos = _unary("arccos", np.arccos, "The angle in radians whose cosine is x", lambda g, a, xp: -g / xp.sqrt(1 - a * a))
arctan = _unary("arctan", np.arctan, "The angle in radians whose tangent is x", lambda g, a: g / (1 + a * a))
sinh = _unary("sinh", np.sinh, "The hyperbolic sine", lambda g, a, xp: g * xp.cosh(a))
cosh = _unary("cosh", np.cosh, "The hyperbolic cosine", lambda g, a, xp: g * xp.sinh(a))
tanh = _unary("tanh", np.tanh, "The hyperbolic tangent", lambda g, y: g * (1 - y * y))
arcsinh = _unary("arcsinh", np.arcsinh, "The inverse hyperbolic sine", lambda g, a, xp: g / xp.sqrt(a * a + 1))
arccosh = _unary("arccosh", np.arccosh, "The inverse hyperbolic cosine", lambda g, a, xp: g / xp.sqrt(a * a - 1))
arctanh = _unary("arctanh", np.arctanh, "The inverse hyperbolic tangent", lambda g, a: g / (1 - a * a))
floor = _unary("floor", np.floor, "Rounded down", ZERO)
ceil = _unary("ceil", np.ceil, "Rounded up", ZERO)
trunc = _unary("trunc", np.trunc, "Rounded towards zero", ZERO)
rint = _unary("rint", np.rint, "Rounded to the nearest integer, halves to even", ZERO)
deg2rad = _unary("deg2rad", np.deg2rad, "Degrees as radians", lambda g: g * (math.pi / 180))
rad2deg = _unary("rad2deg", np.rad2deg, "Radians as degrees", lambda g: g * (180 / math.pi))
cbrt = _unary("cbrt", np.cbrt, "The cube root", lambda g, y: g / (3 * y * y))
fabs = _unary("fabs", np.fabs, "The magnitude of x, as a float", lambda g, a, xp: g * xp.sign(a))
spacing = _unary("spacing", np.spacing, "The distance from x to the next number", ZERO)
bitwise_count = _unary("bitwise_count", np.bitwise_count, "How many bits of the magnitude are set, as uint8")
conjugate = _unary("conjugate", np.conjugate, "A copy of x: all numbers here are real", lambda g: g)
abs = absolute
bitwise_invert = bitwise_not = invert
conj, degrees, radians, mod, true_divide = conjugate, rad2deg, deg2rad, remainder, divide
asin, acos, atan, asinh, acosh, atanh = arcsin, arccos, arctan, arcsinh, arccosh, arctanh

# ---- activations and the error function: no NumPy functions; computed in the float dtype that numpy.exp would take
_float_loop = by_ufunc(np.exp)
sigmoid = unary_function(
    "sigmoid", lambda x: 1 / (1 + np.exp(-x)), _float_loop, "1 / (1 + exp(-x))", lambda g, y: g * (y * (1 - y))
)
relu = unary_function("relu", lambda x: np.maximum(x, 0), _float_loop, "max(x, 0)", lambda g, y: g * (y > 0))
softplus = unary_function(
    "softplus", lambda x: np.logaddexp(x, 0), _float_loop, "log(1 + exp(x))", lambda g, a, xp: g * xp.sigmoid(a)
)
silu = unary_function(
    "silu",
    lambda x: x / (1 + np.exp(-x)),
    _float_loop,
    "x * sigmoid(x) (Elfwing et al. 2018)",
    lambda g, a, y, xp: g * (xp.sigmoid(a) * (1 + (a - y))),
)
gelu_tanh = unary_function(
    "gelu_tanh",
    lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    _float_loop,
    "The Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016)",
    lambda g, a, xp: g * _gelu_tanh_slope(a, xp),
)
erf = unary_function(
    "erf",
    lambda x: np.vectorize(math.erf, otypes=[x.dtype])(x),
    _float_loop,
    "The error function",
    lambda g, a, xp: g * (2 / math.sqrt(math.pi) * xp.exp(-a * a)),
)
ndtr = unary_function(
    "ndtr",
    lambda x: 0.5 * np.vectorize(math.erfc, otypes=[x.dtype])(x * -math.sqrt(0.5)),
    _float_loop,
    "The normal distribution function",
    lambda g, a, xp: g * _density(a, xp),
)
gelu = unary_function(
    "gelu",
    lambda x: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x * math.sqrt(0.5))),
    _float_loop,
    "The Gaussian error linear unit, x times the normal distribution function at x (Hendrycks and Gimpel 2016)",
    lambda g, a, xp: g * _gelu_slope(a, xp),
)


def round(x: Any, /, decimals: int = 0, *, out: Array | None = None) -> Array:
    """Rounded to so many decimals, halves to even (as NumPy: by scaling).

    >>> import dagrun as dr
    >>> dr.round(dr.asarray([0.5, 1.5, 2.675]), 2)
    array([0.5 , 1.5 , 2.68])
    """
    x = x if isinstance(x, Array) else asarray(x)
    if x.dtype.kind in "iu" and decimals >= 0:
        return positive(x, out=out)
    if decimals == 0 or x.dtype.kind == "b":
        return rint(x, out=out)
    if decimals > 0:
        return divide(rint(multiply(x, 10.0**decimals)), 10.0**decimals, out=out)
    scaled = multiply(rint(divide(x, 10.0**-decimals)), 10.0**-decimals)
    return scaled.astype(x.dtype) if out is None else positive(scaled, out=out)


def divmod(x1: Any, x2: Any, /) -> tuple[Array, Array]:
    """The quotient rounded down, and the remainder."""
    return floor_divide(x1, x2), remainder(x1, x2)


UFUNCS["divmod"] = divmod


def _power_slot(left: Any, right: Any, in_place: bool) -> Array:
    """x ** y; as NumPy's operator, and unlike its function, x ** 2 is square and x ** 0.5 is sqrt."""
    out = left if in_place else None
    if is_weak(right) and isinstance(left, Array):
        if right == 2 and (left.dtype.kind == "f" or (left.dtype.kind in "iu" and type(right) is int)):
            return square(left, out=out)
        if right == 0.5 and left.dtype.kind == "f":
            return sqrt(left, out=out)
    return power(left, right, out=out)


serve_slot(6, _power_slot)

extend(
    __neg__=lambda self: negative(self),
    __pos__=lambda self: positive(self),
    __abs__=lambda self: absolute(self),
    __invert__=lambda self: invert(self),
    __divmod__=divmod,
    __rdivmod__=lambda self, other: divmod(other, self),
    __round__=lambda self, decimals=0: round(self, decimals),
    round=lambda self, decimals=0, **options: round(self, decimals, **options),
)
