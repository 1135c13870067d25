"""Every scalar operation, in every kind of dtype, against NumPy; then layouts, aliasing and scalars."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.elementwise import elementwise_kernel, elementwise_params
from dagrun.codegen.expression import Constant, Input, Scalar, Select, call, cast, linear_form
from dagrun.codegen.scalars import NEGATIVE_POWER, SCALAR_OPS
from tests.codegen.harness import call as call_kernel
from tests.codegen.harness import run_elementwise

FLOATS = ["float16", "float32", "float64"]
DTYPES = ["bool", "int8", "int32", "int64", "uint16", "uint64", *FLOATS]
NUMPY_NAMES = {"divide": "true_divide"}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


OWN = {
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.where(x < 0, np.zeros((), x.dtype), x),
    "ndtr": lambda x: 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(x * -math.sqrt(0.5)),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: x * sigmoid(np.sqrt(8 / np.longdouble(math.pi)) * (x + 0.044715 * x**3)),
    "softplus": lambda x: np.logaddexp(x, np.zeros((), x.dtype)),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
}
# Operations that round exactly as NumPy does; the others may differ by a few units in the last place.
INEXACT = {
    *OWN, "power", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin", "arccos",
    "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "hypot", "logaddexp",
} - {"relu"}  # fmt: skip


def samples(dtype: str, count: int, seed: int) -> np.ndarray:
    """Random values of every size with the special ones up front."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(bool)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        small = rng.integers(max(info.min, -9), 10, count).astype(kind)
        wide = rng.integers(info.min, info.max, count, dtype=kind, endpoint=True)
        values = np.where(rng.random(count) < 0.5, small, wide)
        values[:6] = rng.permutation(np.array([0, 1, info.min, info.max, info.max, 0], kind))
        if info.min < 0:
            values[6:10] = rng.permutation(np.array([-1, info.min, info.max, -1], kind))
        return values
    with np.errstate(over="ignore"):
        values = (rng.standard_normal(count) * 10.0 ** rng.integers(-8, 4, count)).astype(kind)
    info = np.finfo(kind)
    special = [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, info.max, -info.max, info.smallest_subnormal, 0.5, -2.5, 1.5]
    values[: len(special)] = rng.permutation(np.array(special, kind))
    return values


def reference(op: str, args: list[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        if op in OWN:
            wide = [arg.astype(np.longdouble) for arg in args] if args[0].dtype.kind == "f" else args
            return OWN[op](*wide).astype(args[0].dtype)
        return getattr(np, NUMPY_NAMES.get(op, op))(*args)


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual, expected, strict=True)
    if actual.dtype.kind == "f":
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(actual[numbers]), np.signbit(expected[numbers]))


def combinations() -> list[tuple[str, str]]:
    kind = {"b": "b", "i": "i", "u": "i", "f": "f"}
    every = [(op, dtype) for op in SCALAR_OPS.values() for dtype in DTYPES]
    return [(op.name, dtype) for op, dtype in every if kind[np.dtype(dtype).kind] in op.kinds]


@pytest.mark.parametrize(("op", "dtype"), combinations())
def test_operation_matches_numpy(op: str, dtype: str) -> None:
    args = [samples(dtype, 301, seed) for seed in range(SCALAR_OPS[op].arity)]
    if op == "clip":
        args[1], args[2] = np.fmin(args[1], args[2]), np.fmax(args[1], args[2])
    if op == "power" and np.dtype(dtype).kind == "i":
        args[1] = np.where(args[1] < 0, 3, args[1]).astype(dtype)
    expected = reference(op, args)
    if np.dtype(dtype).kind != "f" and op in ("floor", "ceil", "trunc", "relu", "positive"):
        expected = expected.astype(dtype)
    output = expected.dtype
    if op == "reciprocal" and np.dtype(dtype).kind in "iu":
        args[0][args[0] == 0] = 1  # NumPy's answer for integers is what the compiler made of undefined behaviour
        expected = reference(op, args)
    actual = run_elementwise(op, args, dtype, output)
    if op in INEXACT and np.dtype(dtype).kind == "f":
        with np.errstate(all="ignore"):
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
            np.testing.assert_array_equal(actual[np.isinf(expected)], expected[np.isinf(expected)])
            # x * sigmoid(y) magnifies the rounding of y and of a subnormal sigmoid
            smallest = 1e4 * np.finfo(dtype).tiny if op in ("silu", "gelu_tanh") else 0
            if op in ("gelu", "ndtr"):  # 1 + erf(x) cancels where x is negative
                smallest = np.abs(args[0][finite]) if op == "gelu" else 1
            unit = np.spacing(np.maximum(np.abs(expected[finite]), smallest).astype(expected.dtype))
            distance = np.abs(actual[finite] - expected[finite]) / unit
        worst = np.nanargmax(distance)
        assert distance[worst] <= (1000 if op == "gelu_tanh" else 6), args[0][finite][worst]
    else:
        assert_same(actual, expected)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_cast_matches_astype(source: str, target: str) -> None:
    values = samples(source, 301, 1)
    kind = np.dtype(target)
    if np.dtype(source).kind == "f" and kind.kind in "iu":  # out of range is undefined in C: keep to the range
        info = np.iinfo(kind)
        with np.errstate(invalid="ignore"):
            low, high = float(info.min) * 0.99, float(info.max) * 0.99
            wide = values.astype(np.float64)
            values = np.where((wide >= low) & (wide <= high), values, 1).astype(source)
    with np.errstate(all="ignore"):
        expected = values.astype(target)
    assert_same(run_elementwise("cast", [values], target, target), expected)


def test_float64_to_float16_rounds_once() -> None:
    halves = np.arange(0, 0x7C00, 7, dtype=np.uint16).view(np.float16).astype(np.float64)
    steps = np.spacing(halves.astype(np.float16)).astype(np.float64)
    middle = halves + steps / 2
    values = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), -middle, [65519.99, 65520]])
    with np.errstate(over="ignore"):
        assert_same(run_elementwise("cast", [values], "float16", "float16"), values.astype(np.float16))


def test_float_to_integer_out_of_range_is_the_lowest_integer() -> None:
    for source in ("float32", "float64"):
        values = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 7.9], source)
        for target in ("int32", "int64"):
            low = np.iinfo(target).min
            assert run_elementwise("cast", [values], target, target).tolist() == [low, low, low, low, low, 7]
    wrapped = run_elementwise("cast", [np.array([-1.0, 2.0**63 + 4096])], "uint64", "uint64")
    assert wrapped.tolist() == [2**64 - 1, 2**63 + 4096]


def test_copy_keeps_the_bits_of_nan() -> None:
    payload = np.array([0x7FF4000000000123, 0xFFF8000000000001], np.uint64).view(np.float64)
    copied = run_elementwise("cast", [payload], "float64", "float64")
    assert copied.view(np.uint64).tolist() == payload.view(np.uint64).tolist()


def test_where_takes_a_condition_of_any_dtype() -> None:
    condition, yes, no = samples("int8", 99, 1), samples("float32", 99, 2), samples("int32", 99, 3)
    expected = np.where(condition, yes.astype(np.float64), no.astype(np.float64))
    assert_same(run_elementwise("where", [condition, yes, no], "float64", "float64"), expected)


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_integer_to_a_negative_power_is_an_error(dtype: str) -> None:
    base, exponent = np.array([2, 2, 2], dtype), np.array([1, -3, 2], dtype)
    with pytest.raises(ValueError, match=rf"kernel returned {NEGATIVE_POWER}, \[-3,"):
        run_elementwise("power", [base, exponent], dtype, dtype)


def layouts() -> dict[str, tuple[tuple[int, ...], tuple]]:
    """Name -> output shape and what to do to two arrays of the shape to get the two operands."""
    same = lambda x: x  # noqa: E731
    return {
        "0-d": ((), (same, same)),
        "one": ((1,), (same, same)),
        "zero size": ((3, 0, 2), (same, same)),
        "short": ((5,), (same, same)),
        "1-d": ((1003,), (same, same)),
        "row broadcast": ((37, 65), (same, lambda x: x[:1])),
        "column broadcast": ((37, 300), (same, lambda x: x[:, :1])),
        "both broadcast": ((37, 300), (lambda x: x[:, :1], lambda x: x[:1])),
        "scalar broadcast": ((700,), (same, lambda x: x[:1])),
        "transposed": ((41, 41), (same, lambda x: x.T)),
        "both transposed": ((41, 41), (lambda x: x.T, lambda x: x.T)),
        "negative": ((9, 300), (lambda x: x[::-1, ::-1], lambda x: x[:, ::-1])),
        "steps": ((9, 300), (lambda x: np.repeat(x, 2, axis=1)[:, ::2], same)),
        "many dimensions": ((2, 3, 1, 4, 5, 2, 3), (same, lambda x: x[:, :, :, ::-1, :1])),
        "short inner": ((500, 3), (lambda x: x[:, :1], lambda x: x[:1])),
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_layouts(name: str, dtype: str) -> None:
    shape, views = layouts()[name]
    first, second = (np.asarray(view(samples(dtype, math.prod(shape) + 20, seed)[20:].reshape(shape)))
                     for seed, view in enumerate(views))  # fmt: skip
    with np.errstate(all="ignore"):
        expected = np.asarray(first * second)
    assert_same(run_elementwise("multiply", [first, second], dtype, dtype, np.empty(shape, dtype)), expected)
    for reorder in (lambda x: x[..., ::-1], lambda x: x.T, lambda x: np.repeat(x, 3, axis=-1)[..., ::3]):
        if shape:
            out = np.zeros(reorder(np.empty(shape, dtype)).shape, dtype)
            target = reorder(out) if reorder(out).shape == tuple(shape) else out.reshape(shape)
            assert_same(run_elementwise("multiply", [first, second], dtype, dtype, target), expected)


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[::2, ::-3]])
def test_output_may_be_an_input(view) -> None:
    base = samples("float64", 100 * 120 + 20, 1)[20:].reshape(100, 120)
    other = samples("float64", 100 * 120 + 20, 2)[20:].reshape(100, 120)
    expected = view(base) - view(other)
    target = view(base)
    assert_same(run_elementwise("subtract", [target, view(other)], "float64", "float64", target), expected)
    expected = view(other) - view(other)
    assert_same(run_elementwise("subtract", [view(other)] * 2, "float64", "float64", view(other)), expected)


def test_unaligned_views() -> None:
    raw = np.zeros(8 * 100 + 1, np.uint8)
    odd = raw[1:].view(np.float64)
    odd[:] = np.arange(100)
    assert_same(run_elementwise("add", [odd, odd], "float64", "float64", odd), 2.0 * np.arange(100))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalar_inputs(dtype: str) -> None:
    values = samples(dtype, 300, 1)
    scalar = samples(dtype, 300, 2)[50]
    with np.errstate(all="ignore"):
        assert_same(run_elementwise("add", [values, scalar], dtype, dtype), values + scalar)
        assert_same(run_elementwise("less", [scalar, values], dtype, "bool"), scalar < values)


def test_fill() -> None:
    out = np.empty((3, 4), np.int16)[:, ::2]
    run_elementwise("cast", [np.int16(-7)], "int16", "int16", out)
    assert out.tolist() == [[-7, -7]] * 3


def test_a_whole_expression() -> None:
    a, x = Scalar(0, "float32"), Input(0, "float32")
    b, c = Input(1, "float32"), Input(2, "int32")
    linear = call("add", call("multiply", a, x), b)
    tree = Select(call("greater", linear, Constant(0.1, "float32")), linear, cast(c, "float32"))
    address = elementwise_kernel(tree)
    x, b, c = (samples(dtype, 500, seed)[20:] for seed, dtype in enumerate(("float32", "float32", "int32")))
    out = np.empty_like(x)
    params = elementwise_params(out.shape, [array.strides for array in (out, x, b, c)], [4] * 4)
    assert call_kernel(address, [out, x, b, c], params, [np.float32(3)])[0] == 0
    linear = np.float32(3) * x + b
    assert_same(out, np.where(linear > np.float32(0.1), linear, c.astype(np.float32)))


def test_half_is_rounded_after_every_operation() -> None:
    x = np.array([2049, 60000, 0.1], np.float16)
    tree = call("subtract", call("add", Input(0, "float16"), Input(0, "float16")), Input(0, "float16"))
    out = np.empty_like(x)
    params = elementwise_params((3,), [x.strides] * 2, [2, 2])
    assert call_kernel(elementwise_kernel(tree), [out, x], params)[0] == 0
    with np.errstate(over="ignore"):
        assert_same(out, (x + x) - x)


def test_shared_nodes_are_counted_once() -> None:
    tree = Input(0, "float64")
    for _ in range(200):
        tree = call("multiply", tree, tree)
    assert len(linear_form(tree)) == 201


def test_refusals_name_the_reason() -> None:
    with pytest.raises(Unsupported, match="subtract is not defined for bool"):
        run_elementwise("subtract", [np.zeros(3, bool)] * 2, "bool", "bool")
    with pytest.raises(Unsupported, match="no scalar operation named 'frobnicate'"):
        run_elementwise("frobnicate", [np.zeros(3)], "float64", "float64")
    with pytest.raises(Unsupported, match="complex128"):
        run_elementwise("add", [np.zeros(3, complex)] * 2, "complex128", "complex128")
