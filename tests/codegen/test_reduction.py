"""Reductions against NumPy: every operation, dtype, choice of axes and layout."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.reduction import ARGUMENT_OPS, reduction_kernel, reduction_params
from tests.codegen.harness import call

REFERENCE = {
    "sum": np.sum, "mean": np.mean, "prod": np.prod, "max": np.max, "min": np.min, "any": np.any, "all": np.all,
    "argmax": np.argmax, "argmin": np.argmin, "count_nonzero": np.count_nonzero,
    "sum_of_squares": lambda x, axis: np.sum(np.square(x.astype(np.result_type(x, np.int64))), axis=axis),
}  # fmt: skip


def dtypes_of(op: str, dtype: np.dtype) -> tuple[np.dtype, np.dtype]:
    """(compute, output), as NumPy chooses the output."""
    wide = {"b": np.int64, "i": np.int64, "u": np.uint64}.get(dtype.kind)
    half = np.dtype(np.float32) if dtype == np.float16 else dtype
    if op in ("any", "all"):
        return np.dtype(np.uint8), np.dtype(bool)
    if op == "count_nonzero":
        return np.dtype(np.int64), np.dtype(np.int64)
    if op in ("max", "min"):
        return (np.dtype(np.uint8), dtype) if dtype.kind == "b" else (half, dtype)
    if op in ("argmax", "argmin"):
        return np.dtype(np.uint8) if dtype.kind == "b" else half, np.dtype(np.int64)
    if op == "mean":
        return (half, dtype) if dtype.kind == "f" else (np.dtype(np.float64),) * 2
    return (np.dtype(wide),) * 2 if wide else (half, dtype)


def reduce(op: str, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    compute, output = dtypes_of(op, x.dtype)
    out = np.empty([size for axis, size in enumerate(x.shape) if axis not in axes], output)
    address = reduction_kernel(op, x.dtype, compute, output)
    params = reduction_params(x.shape, x.strides, axes, x.itemsize, out.itemsize, op in ARGUMENT_OPS)
    assert call(address, [out, x], params)[0] == 0
    return out


def values(shape: tuple[int, ...], dtype: object, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "f":
        return rng.uniform(-2, 2, shape).astype(dtype)
    return rng.integers(0 if kind in "bu" else -3, 2 if kind == "b" else 4, shape).astype(dtype)


def check(op: str, x: np.ndarray, axes: tuple[int, ...]) -> None:
    actual = reduce(op, x, axes)
    wide = x.astype(np.longdouble) if x.dtype.kind == "f" and op not in ARGUMENT_OPS else x
    one_or_all = axes[0] if len(axes) == 1 else None
    expected = np.asarray(REFERENCE[op](wide, axis=one_or_all if op in ARGUMENT_OPS else axes))
    if x.dtype.kind == "f" and op in ("sum", "mean", "sum_of_squares", "prod"):
        count = math.prod(x.shape[axis] for axis in axes)
        eps = np.finfo(actual.dtype).eps
        scale = np.sum(np.abs(wide) ** (2 if op == "sum_of_squares" else 1), axis=axes)
        bound = {"mean": scale / max(1, count), "prod": np.abs(expected) * count * 0.5}.get(op, scale)
        slack = 1 if x.dtype == np.float16 else 4 + math.log2(count + 1)
        assert np.all(np.abs(actual - expected) <= slack * eps * bound + np.finfo(actual.dtype).tiny)
    else:
        np.testing.assert_array_equal(actual, expected.astype(actual.dtype))


@pytest.mark.parametrize("op", REFERENCE)
@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "uint64", "float16", "float32", "float64"])
def test_operations(op: str, dtype: str) -> None:
    x = values((37, 70), dtype)
    for axes in [(0,), (1,), (0, 1)]:
        check(op, x, axes)


SHAPES = [(5,), (1,), (2000,), (3, 4), (70, 33), (2, 300, 5), (4, 3, 2, 65), (1, 7, 1, 3), (40, 129)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", ["sum", "max", "argmax"])
def test_axes_and_layouts(op: str, shape: tuple[int, ...]) -> None:
    views = {
        "plain": lambda x: x,
        "transposed": lambda x: np.ascontiguousarray(x.T).T,
        "reversed": lambda x: x[::-1, ..., ::-1] if x.ndim > 1 else x[::-1],
        "stepped": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        "broadcast": lambda x: np.broadcast_to(x[..., :1], x.shape),
    }
    every = range(len(shape))
    subsets = [axes for size in range(1, len(shape) + 1) for axes in itertools.combinations(every, size)]
    for view in views.values():
        x = view(values(shape, "float32"))
        for axes in subsets:
            if op not in ARGUMENT_OPS or len(axes) in (1, len(shape)):
                check(op, x, axes)


def test_no_axes_copies_each_element() -> None:
    x = values((3, 4), "float32")
    np.testing.assert_array_equal(reduce("sum", x, ()), x)


def test_empty() -> None:
    assert reduce("sum", np.empty((3, 0), np.float32), (1,)).tolist() == [0, 0, 0]
    assert not np.signbit(reduce("sum", np.empty((3, 0), np.float32), (1,))).any()
    assert reduce("prod", np.empty((0, 2), np.float64), (0,)).tolist() == [1, 1]
    assert reduce("sum", np.empty((0, 3)), (1,)).shape == (0,)
    assert np.isnan(reduce("mean", np.empty(0), (0,)))


def test_negative_zero_survives() -> None:
    assert np.signbit(reduce("sum", np.array([-0.0, -0.0]), (0,)))


@pytest.mark.parametrize("op", ["max", "min", "argmax", "argmin"])
@pytest.mark.parametrize("where", [0, 5, 40, 1500, 2999])
def test_nan_wins(op: str, where: int) -> None:
    x = values((3000,), "float32")
    x[where] = np.nan
    x[2999] = np.nan
    check(op, x, (0,))
    check(op, np.tile(x[:, None], (1, 40)), (0,))


def test_first_of_equals() -> None:
    x = np.zeros(5000, np.int8)
    assert reduce("argmax", x, (0,)) == 0
    x[[1030, 4000]] = 1
    assert reduce("argmax", x, (0,)) == 1030
    assert reduce("argmin", x[1030:], (0,)) == 1


@pytest.mark.parametrize("shape", [(1 << 20,), (1 << 18, 4), (4, 1 << 18)])
def test_sums_are_as_accurate_as_pairwise(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).random(shape, np.float32)
    for axes in [(0,), tuple(range(len(shape)))]:
        exact = np.sum(x, axis=axes, dtype=np.float64)
        assert np.max(np.abs(reduce("sum", x, axes) / exact - 1)) < 2e-7


def test_strided_and_contiguous_runs_have_one_tree() -> None:
    x = values((5, 3001), "float32")
    np.testing.assert_array_equal(reduce("sum", np.repeat(x, 3, axis=1)[:, ::3], (1,)), reduce("sum", x, (1,)))


def test_refusals() -> None:
    with pytest.raises(Unsupported, match="does not compute in float16"):
        reduction_kernel("sum", "float16", "float16", "float16")
    with pytest.raises(Unsupported, match="no reduction named 'median'"):
        reduction_kernel("median", "float32", "float32", "float32")
