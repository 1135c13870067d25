"""The scalar operations: one implementation each, in terms of emitter values, with NumPy's semantics.

`SCALAR_OPS[name]` says how many arguments an operation takes and which dtypes it computes in. Transcendental functions
stand in `mathematics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dagrun.codegen import mathematics as maths
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.values import Value, bits_of, is_float, is_signed, round_constant

NEGATIVE_POWER = 2  # status code: an integer was raised to a negative integer power; error[0] = the exponent


@dataclass(frozen=True, slots=True)
class ScalarOp:
    """`kinds` holds b (bool), i (integers), f (floats); float16 is computed in float32 and rounded once."""

    name: str
    arity: int
    kinds: str
    build: Callable[..., Value]
    exact_in_half: bool = False  # works on float16 values directly


SCALAR_OPS: dict[str, ScalarOp] = {}


def _register(name: str, arity: int, kinds: str, build: Callable[..., Value], exact_in_half: bool = False) -> None:
    SCALAR_OPS[name] = ScalarOp(name, arity, kinds, build, exact_in_half)


def apply(name: str, args: list[Value]) -> Value:
    """Emit operation `name` on arguments of one dtype; raise Unsupported where NumPy has no such operation."""
    op = SCALAR_OPS.get(name)
    if op is None:
        raise Unsupported(f"no scalar operation named {name!r}")
    if len(args) != op.arity:
        raise TypeError(f"{name} takes {op.arity} arguments, got {len(args)}")
    dtype = args[0].dtype
    kind = "b" if dtype == "bool" else "f" if is_float(dtype) else "i"
    if kind not in op.kinds:
        raise Unsupported(f"{name} is not defined for {dtype}")
    if dtype != "float16" or op.exact_in_half:
        return op.build(*args)
    result = op.build(*(arg.to("float32") for arg in args))
    return result.to("float16") if result.dtype == "float32" else result


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _add(a: Value, b: Value) -> Value:
    return a | b if a.dtype == "bool" else a + b


def _multiply(a: Value, b: Value) -> Value:
    return a & b if a.dtype == "bool" else a * b


def _safe_divisor(b: Value) -> tuple[Value, Value, Value]:
    """(b is 0, b is -1, a divisor that cannot trap); for unsigned dtypes nothing is -1."""
    e = b.emitter
    zero = b.equals(0)
    minus_one = b.equals(-1) if is_signed(b.dtype) else e.constant(False, "bool", b.lanes)
    return zero, minus_one, e.select(zero | minus_one, 1, b)


def _floor_divide(a: Value, b: Value) -> Value:
    e = a.emitter
    if is_float(a.dtype):
        return e.select(b.equals(0.0), a / b, _float_divmod(a, b)[0])
    zero, minus_one, divisor = _safe_divisor(b)
    quotient = e.quotient(a, divisor)
    if is_signed(a.dtype):
        remainder = a - quotient * divisor
        quotient = e.select(remainder.differs(0) & ((remainder ^ divisor) < 0), quotient - 1, quotient)
        quotient = e.select(minus_one, -a, quotient)
    return e.select(zero, 0, quotient)


def _remainder(a: Value, b: Value) -> Value:
    e = a.emitter
    if is_float(a.dtype):
        return e.select(b.equals(0.0), e.libm("fmod", a, b), _float_divmod(a, b)[1])
    zero, minus_one, divisor = _safe_divisor(b)
    remainder = a - e.quotient(a, divisor) * divisor
    if is_signed(a.dtype):
        remainder = e.select(remainder.differs(0) & ((remainder ^ divisor) < 0), remainder + divisor, remainder)
    return e.select(zero | minus_one, 0, remainder)


def _float_divmod(a: Value, b: Value) -> tuple[Value, Value]:
    """Python's floor division and modulus, as NumPy's npy_divmod rounds them; `b` is not 0."""
    e = a.emitter
    raw = e.libm("fmod", a, b)
    opposite = (b < 0.0) ^ (raw < 0.0)
    adjust = raw.differs(0.0) & opposite
    quotient = (a - raw) / b
    quotient = e.select(adjust, quotient - 1.0, quotient)
    modulus = e.select(raw.equals(0.0), maths.copysign(raw.like(0.0), b), e.select(adjust, raw + b, raw))
    floor = e.intrinsic("floor", quotient)
    nearest = e.select(quotient - floor > 0.5, floor + 1.0, floor)
    signed_zero = maths.copysign(raw.like(0.0), a / b)
    return e.select(quotient.equals(0.0), signed_zero, nearest), modulus


def _fmod(a: Value, b: Value) -> Value:
    e = a.emitter
    if is_float(a.dtype):
        return e.libm("fmod", a, b)
    zero, minus_one, divisor = _safe_divisor(b)
    return e.select(zero | minus_one, 0, a % divisor)


def _power(a: Value, b: Value) -> Value:
    e = a.emitter
    if is_float(a.dtype):
        return maths.FUNCTIONS["power"][1](a, b)
    e.scalar_only = True
    if is_signed(a.dtype):
        with e.when(b < 0):
            e.fail(NEGATIVE_POWER, b.to("int64"))
    result, base, exponent = e.slot(a.dtype, 1), e.slot(a.dtype, a), e.slot(a.dtype, b)
    with e.repeat_while() as condition:
        left = exponent.get()
        factor = base.get()
        result.set(e.select((left & 1).differs(0), result.get() * factor, result.get()))
        base.set(factor * factor)
        rest = e.binary("lshr", left, left.like(1))
        exponent.set(rest)
        condition.append(rest.differs(0))
    return result.get()


def _absolute(a: Value) -> Value:
    e = a.emitter
    if is_float(a.dtype):
        return e.intrinsic("fabs", a)
    return e.select(a < 0, -a, a) if is_signed(a.dtype) else a


def _sign(a: Value) -> Value:
    e = a.emitter
    if not is_float(a.dtype):
        return e.select(a > 0, 1, e.select(a < 0, -1, a.like(0)) if is_signed(a.dtype) else a.like(0))
    return e.select(a > 0.0, 1.0, e.select(a < 0.0, -1.0, e.select(a.equals(0.0), 0.0, a)))


def _reciprocal(a: Value) -> Value:
    if is_float(a.dtype):
        return 1.0 / a
    return (1.0 / a.to("float64")).to(a.dtype)


# -- order ------------------------------------------------------------------------------------------------------------


def maximum(a: Value, b: Value) -> Value:
    """The larger value; NaN if either is NaN."""
    if a.dtype == "bool":
        return a | b
    first = a >= b
    return a.emitter.select(first | a.is_nan() if is_float(a.dtype) else first, a, b)


def minimum(a: Value, b: Value) -> Value:
    """The smaller value; NaN if either is NaN."""
    if a.dtype == "bool":
        return a & b
    first = a <= b
    return a.emitter.select(first | a.is_nan() if is_float(a.dtype) else first, a, b)


def _fmax(a: Value, b: Value) -> Value:
    return a.emitter.select((a >= b) | b.is_nan(), a, b) if is_float(a.dtype) else maximum(a, b)


def _fmin(a: Value, b: Value) -> Value:
    return a.emitter.select((a <= b) | b.is_nan(), a, b) if is_float(a.dtype) else minimum(a, b)


def _relu(a: Value) -> Value:
    """0 where a < 0, else a: NaN and -0 pass through."""
    return a if a.dtype == "bool" else a.emitter.select(a < 0, 0, a)


def _clip(x: Value, low: Value, high: Value) -> Value:
    return minimum(maximum(x, low), high)


def _truth(a: Value) -> Value:
    return a.to("bool")


# -- bits -------------------------------------------------------------------------------------------------------------


def _left_shift(a: Value, b: Value) -> Value:
    e = a.emitter
    inside = _shift_inside(b)
    return e.select(inside, a << e.select(inside, b, 0), 0)


def _right_shift(a: Value, b: Value) -> Value:
    e = a.emitter
    inside = _shift_inside(b)
    beyond = e.select(a < 0, a.like(-1), a.like(0)) if is_signed(a.dtype) else a.like(0)
    return e.select(inside, a >> e.select(inside, b, 0), beyond)


def _shift_inside(b: Value) -> Value:
    return b.to(b.dtype.replace("uint", "int").replace("int", "uint")) < bits_of(b.dtype)


def _is_infinite(a: Value) -> Value:
    if not is_float(a.dtype):
        return a.emitter.constant(False, "bool", a.lanes)
    return a.emitter.intrinsic("fabs", a).equals(math.inf)


def _is_finite(a: Value) -> Value:
    if not is_float(a.dtype):
        return a.emitter.constant(True, "bool", a.lanes)
    return a.emitter.intrinsic("fabs", a) < math.inf


def _is_nan(a: Value) -> Value:
    return a.is_nan() if is_float(a.dtype) else a.emitter.constant(False, "bool", a.lanes)


def _sign_bit(a: Value) -> Value:
    if is_float(a.dtype):
        return a.bitcast(f"int{bits_of(a.dtype)}") < 0
    return a < 0 if is_signed(a.dtype) else a.emitter.constant(False, "bool", a.lanes)


def _heaviside(x: Value, at_zero: Value) -> Value:
    e = x.emitter
    step = e.select(x < 0.0, 0.0, x.like(1.0))
    return e.select(x.is_nan(), x, e.select(x.equals(0.0), at_zero, step))


def _rounding(name: str) -> Callable[[Value], Value]:
    return lambda a: a.emitter.intrinsic(name, a) if is_float(a.dtype) else a


_register("add", 2, "bif", _add)
_register("subtract", 2, "if", lambda a, b: a - b)
_register("multiply", 2, "bif", _multiply)
_register("divide", 2, "f", lambda a, b: a / b)
_register("floor_divide", 2, "if", _floor_divide)
_register("remainder", 2, "if", _remainder)
_register("fmod", 2, "if", _fmod)
_register("power", 2, "if", _power)
_register("negative", 1, "if", lambda a: -a, exact_in_half=True)
_register("positive", 1, "if", lambda a: a, exact_in_half=True)
_register("absolute", 1, "bif", _absolute, exact_in_half=True)
_register("sign", 1, "if", _sign)
_register("square", 1, "if", lambda a: a * a)
_register("sqrt", 1, "f", lambda a: a.emitter.intrinsic("sqrt", a))
_register("reciprocal", 1, "if", _reciprocal)
_register("maximum", 2, "bif", maximum)
_register("minimum", 2, "bif", minimum)
_register("fmax", 2, "bif", _fmax)
_register("fmin", 2, "bif", _fmin)
_register("clip", 3, "bif", _clip)
_register("equal", 2, "bif", lambda a, b: a.equals(b))
_register("not_equal", 2, "bif", lambda a, b: a.differs(b))
_register("less", 2, "bif", lambda a, b: a < b)
_register("less_equal", 2, "bif", lambda a, b: a <= b)
_register("greater", 2, "bif", lambda a, b: a > b)
_register("greater_equal", 2, "bif", lambda a, b: a >= b)
_register("logical_and", 2, "bif", lambda a, b: _truth(a) & _truth(b))
_register("logical_or", 2, "bif", lambda a, b: _truth(a) | _truth(b))
_register("logical_xor", 2, "bif", lambda a, b: _truth(a) ^ _truth(b))
_register("logical_not", 1, "bif", lambda a: ~_truth(a))
_register("bitwise_and", 2, "bi", lambda a, b: a & b)
_register("bitwise_or", 2, "bi", lambda a, b: a | b)
_register("bitwise_xor", 2, "bi", lambda a, b: a ^ b)
_register("invert", 1, "bi", lambda a: ~a)
_register("left_shift", 2, "i", _left_shift)
_register("right_shift", 2, "i", _right_shift)
_register("isnan", 1, "bif", _is_nan)
_register("isinf", 1, "bif", _is_infinite)
_register("isfinite", 1, "bif", _is_finite)
_register("signbit", 1, "bif", _sign_bit, exact_in_half=True)
_register("heaviside", 2, "f", _heaviside)
_register("deg2rad", 1, "f", lambda a: a * (round_constant(math.pi, a.dtype) / 180))
_register("rad2deg", 1, "f", lambda a: a * (180 / round_constant(math.pi, a.dtype)))
_register("relu", 1, "bif", _relu, exact_in_half=True)
for _name in ("floor", "ceil", "trunc"):
    _register(_name, 1, "bif", _rounding(_name))
_register("rint", 1, "f", _rounding("rint"))
for _name, (_arity, _build) in maths.FUNCTIONS.items():
    if _name != "power":
        _register(_name, _arity, "f", _build)
