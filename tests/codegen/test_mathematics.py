"""Accuracy of the transcendental functions over their whole range, and that layout never changes a bit."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from dagrun.codegen.mathematics import ACCURACY, FUNCTIONS
from tests.codegen.harness import run_elementwise, ulps

DTYPES = ["float32", "float64"]
mpmath.mp.prec = 120


def edges(dtype: str) -> np.ndarray:
    """Zeros, infinities, NaN, subnormals and the neighbourhood of every overflow and underflow."""
    info = np.finfo(dtype)
    limits = [88.72283, 88.7229, 87.33655, 103.97, 104.0, 709.782712893384, 709.79, 708.4, 745.13, 745.14, 89.4, 710.5]
    sizes = [info.max, info.tiny, info.smallest_subnormal, 3 * info.smallest_subnormal]
    both = np.array([0.0, 1.0, 0.5, 2.0, 20.0, 1e-10, np.inf, *sizes, *limits], np.float64).astype(dtype)
    return np.concatenate([both, -both, [np.nan]]).astype(dtype)


def arguments(dtype: str, seed: int, count: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    unsigned = np.uint32 if dtype == "float32" else np.uint64
    with np.errstate(over="ignore"):
        return np.concatenate(
            [
                edges(dtype),
                rng.integers(0, np.iinfo(unsigned).max, count, dtype=unsigned, endpoint=True).view(dtype),
                (rng.standard_normal(count) * 10.0 ** rng.uniform(-3, 2.8, count)).astype(dtype),
                rng.uniform(-3, 3, 2 * count).astype(dtype),
                rng.uniform(0.3, 1.7, count).astype(dtype),
            ]
        )


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


REFERENCES = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softplus": softplus}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(set(ACCURACY) - {"erf"}))
def test_accuracy(name: str, dtype: str) -> None:
    args = [arguments(dtype, seed) for seed in range(FUNCTIONS[name][0])]
    if len(args) == 2:
        args[1] = np.random.default_rng(9).permutation(args[1])
    if name == "power":
        args[0] = np.abs(args[0])
    reference = REFERENCES.get(name) or getattr(np, name)
    with np.errstate(all="ignore"):
        exact = reference(*(arg.astype(np.longdouble) for arg in args))
    actual = run_elementwise(name, args, dtype, dtype)
    assert ulps(actual, exact, dtype) <= ACCURACY[name][DTYPES.index(dtype)]
    zeros = (exact == 0) & (args[0] == 0)
    np.testing.assert_array_equal(np.signbit(actual[zeros]), np.signbit(exact[zeros]))


def exactly(function, x: np.ndarray) -> np.ndarray:
    """An mpmath function as longdouble, rounded from the sum of two float64."""
    result = np.empty(len(x), np.longdouble)
    for i, value in enumerate(x):
        exact = function(mpmath.mpf(float(value)))
        high = float(exact)
        result[i] = np.longdouble(high) + np.longdouble(float(exact - mpmath.mpf(high)))
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sin", "cos", "tan", "expm1", "log1p"])
def test_accuracy_against_many_digits(name: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(-6.5, 6.5, 600), rng.uniform(0.8, 1.2, 300), rng.standard_normal(300) * 1e-5])
    x = x.astype(dtype)
    if name in ("sin", "cos", "tan"):  # where a reduction of the argument loses most: near multiples of pi / 2
        near = (rng.integers(1, 2**19, 1200) * (np.pi / 2)).astype(dtype)
        x = np.concatenate([x, near, np.nextafter(near, np.array(0, dtype)), near * np.array(2.0**30, dtype)])
    if name in ("log", "log1p"):
        x = np.abs(x)
    actual = run_elementwise(name, [x], dtype, dtype)
    assert ulps(actual, exactly(getattr(mpmath, name), x), dtype) <= ACCURACY[name][DTYPES.index(dtype)]


def test_erf_of_special_values() -> None:
    for dtype in DTYPES:
        values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-300, 30.0], dtype)
        actual = run_elementwise("erf", [values], dtype, dtype)
        np.testing.assert_array_equal(actual[[0, 1, 2, 3, 4, 6]], [0, 0, 1, -1, np.nan, 1])
        assert np.signbit(actual[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_distribution(dtype: str) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-13, 13, 800), rng.standard_normal(800)]).astype(dtype)
    exact, eps = exactly(mpmath.ncdf, x), np.finfo(dtype).eps
    actual = run_elementwise("ndtr", [x], dtype, dtype)
    np.testing.assert_allclose(actual, exact, rtol=0, atol=1.5 * eps)
    if dtype == "float32":  # the lower tail, too
        np.testing.assert_allclose(actual[x > -12], exact[x > -12], rtol=60 * eps)
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1e30, 40], dtype)
    np.testing.assert_array_equal(run_elementwise("ndtr", [values], dtype, dtype), [0.5, 0.5, 1, 0, np.nan, 0, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_follows_c_in_every_special_case(dtype: str) -> None:
    positive = np.array([0.0, 0.5, 1, 1.5, 2, 3, 1e30, np.inf, np.nan], dtype)
    special = np.concatenate([positive, -positive])
    base, exponent = (grid.ravel() for grid in np.meshgrid(special, special))
    actual = run_elementwise("power", [base, exponent], dtype, dtype)
    with np.errstate(all="ignore"):
        expected = np.power(base, exponent)
    np.testing.assert_allclose(actual, expected, rtol=4 * np.finfo(dtype).eps)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_layout_never_changes_a_bit(name: str, dtype: str) -> None:
    """Vectors, left-over elements, strided runs and calls of one element: one implementation, the same bits."""
    with np.errstate(over="ignore"):
        values = [np.concatenate([edges("float64"), rng.uniform(-9, 9, 250), rng.uniform(-1e8, 1e8, 30)]).astype(dtype)
                  for rng in map(np.random.default_rng, range(FUNCTIONS[name][0]))]  # fmt: skip
    if len(values) == 2:
        values[1] = np.random.default_rng(3).permutation(values[1])
    bits = f"uint{8 * np.dtype(dtype).itemsize}"

    def run(arrays: list[np.ndarray], out: np.ndarray | None = None) -> np.ndarray:
        result = run_elementwise(name, arrays, dtype, dtype, out)
        return np.where(np.isnan(result), 0, result).astype(dtype).view(bits)  # NaNs may differ in sign

    whole = run(values)
    np.testing.assert_array_equal(run([np.repeat(x, 2)[::2] for x in values]), whole)
    np.testing.assert_array_equal(run([x[::-1] for x in values])[::-1], whole)
    np.testing.assert_array_equal(np.concatenate([run([x[:5] for x in values]), run([x[5:] for x in values])]), whole)
    inplace = [x.copy() for x in values]
    np.testing.assert_array_equal(run(inplace, inplace[0]), whole)
    for i in range(0, len(whole), 7):
        assert run([x[i : i + 1] for x in values])[0] == whole[i], values[0][i]
