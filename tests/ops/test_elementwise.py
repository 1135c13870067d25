"""Every elementwise function against NumPy: values, dtype and shape, over dtypes, layouts, operands and devices."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from ops.arrays import DTYPES, FLOATS, check_near, check_same, layouts, placed, sample

import dagrun as dr
from dagrun.ops.mathematics import UFUNCS

UNARY = sorted(name for name in UFUNCS if isinstance(getattr(np, name), np.ufunc) and getattr(np, name).nin == 1)
BINARY = sorted(
    name
    for name in UFUNCS
    if isinstance(getattr(np, name), np.ufunc) and getattr(np, name).nin == 2 and name != "divmod"
)
# Units in the last place between dagrun's and NumPy's own approximation; what is not named is equal bit for bit.
ULPS = {
    **dict.fromkeys(
        ["exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh"], 4
    ),
    **dict.fromkeys(["arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "arctan2", "hypot", "power"], 4),
    **dict.fromkeys(["deg2rad", "rad2deg"], 1),
    **dict.fromkeys(["maximum", "minimum", "fmax", "fmin"], 0),  # but either zero may be the larger one
    "logaddexp": 32,  # near 0 what NumPy computes has lost as many bits
}
FEW = ["bool", "int8", "uint16", "int64", *FLOATS]


def compare(name: str, actual: object, expected: object, context: object) -> None:
    if name in ULPS:
        check_near(actual, expected, ULPS[name], context)
    else:
        check_same(actual, expected, context)


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, device: str) -> None:
    reference, function = getattr(np, name), getattr(dr, name)
    for dtype in FEW:
        for layout, values in layouts(sample(dtype)):
            context = (name, dtype, layout)
            with np.errstate(all="ignore"):
                try:
                    expected = reference(values)
                except TypeError:
                    with pytest.raises(TypeError):
                        function(placed(values, device))
                    continue
            compare(name, function(placed(values, device)), expected, context)


def both(name: str, a: np.ndarray, b: np.ndarray, device: str, context: object) -> None:
    reference, function = getattr(np, name), getattr(dr, name)
    with np.errstate(all="ignore"):
        try:
            expected = reference(a, b)
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error).__mro__[-4] if isinstance(error, ValueError) else TypeError):
                function(placed(a, device), placed(b, device)).wait()
            return
    compare(name, function(placed(a, device), placed(b, device)), expected, context)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str, device: str) -> None:
    for dtype in FEW:
        left, right = sample(dtype), sample(dtype, seed=1)
        if name == "power" and np.dtype(dtype).kind == "i":
            right = np.abs(right // 8)
        for (layout, a), (_, b) in zip(layouts(left), layouts(right)):
            both(name, a, b, device, (name, dtype, layout))
        for (layout, a), (other, b) in zip(layouts(left), list(layouts(right))[-2::-1]):
            both(name, a, b, device, (name, dtype, layout, other))


@pytest.mark.parametrize(
    ("name", "dtypes"), [("add", DTYPES), ("less", DTYPES), ("divide", FEW), ("floor_divide", FEW), ("left_shift", FEW)]
)
def test_promotion_of_every_pair_of_dtypes(name: str, dtypes: list[str]) -> None:
    for first in dtypes:
        for second in dtypes:
            both(name, sample(first), sample(second, seed=1), "cpu:0", (name, first, second))


SCALARS = [True, 2, -3, 2.5, np.float32(1.5), np.int16(-7), np.uint64(9), np.float16(0.25), np.bool_(True), 1e300]
OPERATORS = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
    "lt",
    "le",
    "eq",
    "ne",
    "gt",
    "ge",
]


@pytest.mark.parametrize("name", OPERATORS)
def test_scalars_on_either_side(name: str, device: str) -> None:
    """Python scalars are weak, NumPy's are not; both work on the left and on the right."""
    function = getattr(operator, name)
    for dtype in ["bool", "uint8", "int64", "float16", "float32"] if name in ("add", "lt") else ["int8", "float64"]:
        values = (
            np.abs(sample(dtype, (5,), special=False)) if name in ("pow", "lshift", "rshift") else sample(dtype, (5,))
        )
        for scalar in SCALARS:
            for swap in (False, True):
                operands = (scalar, values) if swap else (values, scalar)
                with np.errstate(all="ignore"):
                    try:
                        expected: object = function(*operands)
                    except (TypeError, ValueError, OverflowError) as error:
                        expected = error
                x = placed(values, device)
                for _ in range(2):  # the second call comes from the native cache
                    context = (name, dtype, scalar, swap)
                    if isinstance(expected, Exception):
                        with pytest.raises((TypeError, ValueError, OverflowError)) as info:
                            (function(scalar, x) if swap else function(x, scalar)).wait()
                        assert isinstance(info.value, _plain(expected)), context
                    else:
                        actual = function(scalar, x) if swap else function(x, scalar)
                        if name == "pow":
                            check_near(actual, expected, 4, context)
                        else:
                            check_same(actual, expected, context)


def _plain(error: Exception) -> type[Exception]:
    return next(kind for kind in (TypeError, ValueError, OverflowError) if isinstance(error, kind))


@pytest.mark.parametrize("name", ["lt", "le", "eq", "ne", "gt", "ge"])
def test_comparison_with_integers_out_of_range(name: str) -> None:
    function = getattr(operator, name)
    for dtype in ["int8", "uint8", "int64", "uint64"]:
        values = sample(dtype, (5,))
        for scalar in (-1, 300, -(2**63), 2**63, 2**64, -(10**30), 10**30):
            check_same(function(placed(values), scalar), function(values, scalar), (name, dtype, scalar))
            check_same(function(scalar, placed(values)), function(scalar, values), (name, scalar, dtype))


@pytest.mark.parametrize("name", ["add", "sub", "truediv", "pow", "lt", "eq"])
@pytest.mark.parametrize("dtype, scalar", [("float16", 70000), ("float16", -70000), ("float32", 10**40)])
def test_integers_beyond_the_largest_float_are_infinite(name: str, dtype: str, scalar: int) -> None:
    function, values = getattr(operator, name), sample(dtype, (5,))
    with np.errstate(all="ignore"):
        for _ in range(2):  # the second call comes from the native cache
            check_near(function(placed(values), scalar), function(values, scalar), 4)
            check_near(function(scalar, placed(values)), function(scalar, values), 4)
        check_same(dr.full(2, scalar, dtype), np.full(2, scalar, dtype))


@pytest.mark.parametrize("function", [operator.add, operator.mul, operator.lt, operator.matmul])
def test_sequences_and_numpy_arrays_on_either_side(function: object, device: str) -> None:
    values = sample("float32", (3, 3), special=False)
    x = placed(values, device)
    for other in ([1, 2, 3], (1.5, 2, 3), [[1], [2], [3]], np.arange(3), np.ones((3, 3), "f4"), np.ones((3, 3))[::-1]):
        if function is operator.matmul and np.shape(other) == (3, 1):
            continue
        for operands in ((x, other), (other, x)):
            plain = [values if operand is x else operand for operand in operands]
            actual = function(*operands)  # type: ignore[operator]
            assert actual.device is x.device
            check_near(actual, function(*plain), 2, (function, other))  # type: ignore[operator]


def test_dtypes_that_arrays_do_not_have_are_refused() -> None:
    x = dr.zeros(3)
    for other in (1j, np.complex64(1), np.longdouble(1), "text", None, np.datetime64("2020-01-01"), object()):
        with pytest.raises(TypeError):
            x + other
        with pytest.raises(TypeError):
            other + x


def test_the_common_powers_are_square_and_root() -> None:
    x = sample("float64", (50,), special=False)
    check_same(placed(x) ** 2, np.square(x))
    check_same(placed(x) ** 2.0, np.square(x))
    check_same(placed(np.abs(x)) ** 0.5, np.sqrt(np.abs(x)))
    n = sample("int32", (9,))
    check_same(placed(n) ** 2, n**2)
    check_same(placed(n) ** 2.0, n**2.0)
    x = placed(n)
    x **= 2
    check_same(x, n**2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integer_division_next_to_multiples(dtype: str) -> None:
    bounds, rng = np.iinfo(dtype), np.random.default_rng(0)
    one = np.ones((), dtype)
    if bounds.bits == 8:
        every = np.arange(bounds.min, bounds.max + 1).astype(dtype)
        a, b = (side.ravel() for side in np.meshgrid(every, every))
    else:
        # q * b and its neighbours, for b and q of all magnitudes: where a quotient that is rounded wrongly would show.
        b = rng.integers(1, bounds.max, 20_000, dtype=dtype) >> rng.integers(0, bounds.bits - 1, 20_000).astype(dtype)
        b = np.maximum(b, 1).astype(dtype)
        multiple = (b.dtype.type(bounds.max) // b) >> rng.integers(0, bounds.bits - 1, 20_000).astype(dtype)
        near = multiple * b
        a = np.concatenate([near - one, near, near + one])
        b = np.tile(b, 3)
        if bounds.min:
            a, b = np.concatenate([a, -a, a, -a]), np.concatenate([b, b, -b, -b])
        a, b = np.append(a, np.array([bounds.min, bounds.max], dtype)), np.append(b, [one, one])
    with np.errstate(all="ignore"):
        expected = np.floor_divide(a, b), np.remainder(a, b)
    check_same(dr.floor_divide(dr.asarray(a), dr.asarray(b)), expected[0], dtype)
    check_same(dr.remainder(dr.asarray(a), dr.asarray(b)), expected[1], dtype)


def test_a_negative_integer_power_fails() -> None:
    with pytest.raises(ValueError, match="negative integer powers"):
        (dr.asarray([1, 2]) ** -1).wait()
    with pytest.raises(ValueError, match="negative integer powers"):
        dr.power(dr.asarray([1, 2]), dr.asarray([3, -2])).wait()


# ---- out and in place


@pytest.mark.parametrize("name", ["add", "multiply", "divide", "left_shift", "maximum", "less"])
def test_in_place_casts_by_the_same_kind_rule(name: str) -> None:
    for target in DTYPES:
        for other in ["bool", "uint8", "int64", "float32"]:
            values, second = sample(target), sample(other, seed=1)
            x = placed(values)
            reference = values.copy()
            with np.errstate(all="ignore"):
                try:
                    getattr(np, name)(reference, second, out=reference)
                except TypeError:
                    with pytest.raises(TypeError):
                        getattr(dr, name)(x, placed(second), out=x)
                    continue
            result = getattr(dr, name)(x, placed(second), out=x)
            assert result is x
            compare(name, x, reference, (name, target, other))


IN_PLACE = [
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "iand",
    "ior",
    "ixor",
    "ilshift",
    "irshift",
    "imatmul",
]


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_in_place_operators(name: str, dtype: str, device: str) -> None:
    if np.dtype(dtype).kind == "f" and name in ("iand", "ior", "ixor", "ilshift", "irshift"):
        return
    function = getattr(operator, name)
    shape = (4, 4) if name == "imatmul" else (3, 4)
    small = (
        np.abs(sample(dtype, (shape[-1],) * 2 if name == "imatmul" else shape, 1, special=False)).astype(dtype) % 7 + 1
    )
    for other in (small, small[0], 3, np.int8(2), small.tolist()):
        if name == "imatmul" and np.ndim(other) < 2:
            continue
        values = sample(dtype, shape, special=False)
        views = [lambda x: x, lambda x: x.T, lambda x: x[::-1], lambda x: x[:, ::-1]]
        for view in views if other is small and shape[0] == shape[1] else views[:1]:
            reference, x = values.copy(), placed(values, device)
            expected: object
            try:
                with np.errstate(all="ignore"):
                    expected = function(view(reference), other)
            except TypeError:
                with pytest.raises(TypeError):
                    function(view(x), other)
                continue
            for _ in range(2):
                y = view(x)
                result = function(y, placed(other, device) if isinstance(other, np.ndarray) else other)
                assert result is y
                check_near(result, expected, 8 if name == "imatmul" else 4, (name, dtype, other))
                x[...] = values


def test_out_is_checked() -> None:
    x = dr.zeros((2, 3))
    with pytest.raises(ValueError, match="does not fit"):
        dr.add(x, 1, out=dr.zeros((3, 2)))
    with pytest.raises(ValueError, match="does not fit"):
        dr.exp(dr.zeros((4, 2, 3)), out=x)
    with pytest.raises(TypeError):
        dr.exp(x, out=dr.zeros((2, 3), "int32"))
    with pytest.raises(TypeError, match="expected a dagrun array"):
        dr.exp(x, out=np.zeros((2, 3)))
    with pytest.raises(TypeError, match="expected a dagrun array"):
        dr.add([1], 2, out=[0])
    with pytest.raises(ValueError, match="broadcast"):
        dr.add(x, 1, out=dr.broadcast_to(dr.zeros(3), (2, 3)))
    with pytest.raises(ValueError, match="broadcast"):
        y = dr.broadcast_to(dr.zeros(3), (2, 3))
        y += 1
    out = dr.zeros((2, 2, 3))
    check_same(dr.exp(dr.zeros(3), out=out), np.ones((2, 2, 3)))


def test_operands_on_different_devices_are_refused() -> None:
    with pytest.raises(dr.DeviceError, match="move them together"):
        dr.zeros(3) + dr.zeros(3, device="cpu:1")
    with pytest.raises(dr.DeviceError, match="move them together"):
        dr.add(dr.zeros(3), 1, out=dr.zeros(3, device="cpu:1"))


_SCALARS = [
    np.float32(1.5),
    np.float64(-2.5),
    np.float16(0.5),
    np.int8(-3),
    np.int64(2**40),
    np.uint8(200),
    np.uint64(2**63),
    np.bool_(True),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", "bool"])
def test_numpy_scalars_are_operands_with_a_dtype(dtype: str) -> None:
    """On either side, the first time (which teaches the signature) and after it, with another value."""
    values = np.array([0, 1, 3, 100]).astype(dtype)
    x = dr.asarray(values)
    for scalar in _SCALARS:
        for value in (scalar, scalar, type(scalar)(1)):
            for op in (operator.add, operator.mul, operator.lt):
                for ours, theirs in ((op(x, value), op(values, value)), (op(value, x), op(value, values))):
                    assert ours.dtype == theirs.dtype, (op, scalar)
                    np.testing.assert_array_equal(ours.numpy(), theirs)
