"""take, put, scatter-add and running sums against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from dagrun.codegen.cumulative import CUMULATIVE_OPS, cumulative_kernel, cumulative_params
from dagrun.codegen.movement import OUT_OF_RANGE, Index, add_kernel, indexed_params, put_kernel, take_kernel
from tests.codegen.harness import call

VIEWS = {
    "plain": lambda x: x,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "reversed": lambda x: x[::-1, :, ::-1],
}
KERNELS = {"take": take_kernel, "put": put_kernel, "add": add_kernel}


def run(which: str, indexed: np.ndarray, index: np.ndarray, dense: np.ndarray, axis: int) -> tuple[int, list[int]]:
    """A movement by one index array of one dimension."""
    strides = tuple(index.strides[0] if d == axis else 0 for d in range(dense.ndim))
    own = [0 if d == axis else stride for d, stride in enumerate(indexed.strides)]
    found = Index(strides, indexed.shape[axis], indexed.strides[axis], axis)
    params = indexed_params(dense.shape, dense.strides, own, (axis,), [found])
    order = [dense, indexed, index] if which == "take" else [indexed, dense, index]
    return call(KERNELS[which](indexed.dtype, index.dtype), order, params)


def along(axis: int, index: object) -> tuple:
    return (slice(None),) * axis + (index,)


@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("layout", VIEWS)
def test_take_put_and_add(dtype: str, axis: int, layout: str) -> None:
    rng = np.random.default_rng(1)
    view = VIEWS[layout]
    x = view(rng.integers(0, 5, (6, 7, 37)).astype(dtype))
    index = rng.integers(-x.shape[axis], x.shape[axis], 9)
    dense = np.empty_like(np.take(x, index, axis), order="C")
    assert run("take", x, index, dense, axis)[0] == 0
    np.testing.assert_array_equal(dense, np.take(x, index, axis))
    values = view(rng.integers(0, 5, dense.shape).astype(dtype))
    for which in ("put", "add"):
        actual, expected = x.copy(), x.copy()
        assert run(which, actual, index, values, axis)[0] == 0
        if which == "put":
            expected[along(axis, index)] = values
        else:
            np.add.at(expected, along(axis, index), values)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_index_dtypes(dtype: str) -> None:
    x, index = np.arange(10.0), np.array([3, 3, 9, 0], dtype)
    dense = np.empty(4)
    assert run("take", x, index, dense, 0)[0] == 0
    assert dense.tolist() == [3, 3, 9, 0]
    every_second = np.repeat(index, 2)[::2]
    assert run("take", x, every_second, dense, 0)[0] == 0
    assert dense.tolist() == [3, 3, 9, 0]


@pytest.mark.parametrize("which", KERNELS)
@pytest.mark.parametrize(("dtype", "bad"), [("int64", 5), ("int64", -6), ("uint64", 2**63), ("int8", -128)])
def test_out_of_range_writes_nothing(which: str, dtype: str, bad: int) -> None:
    x, dense = np.ones((5, 4)), np.full((3, 4), 2.0)
    index = np.array([0, -1 if dtype.startswith("int") else 1, bad], dtype)
    code, error = run(which, x, index, dense, 0)
    assert code == OUT_OF_RANGE
    assert error == [np.array(bad, dtype).astype(np.int64), 5, 2, 0]
    assert np.all(x == 1) and np.all(dense == 2)


def test_last_write_wins_and_values_broadcast() -> None:
    x, index = np.zeros((4, 50), np.float32), np.array([1, 2, 1])
    values = np.array([[1.0], [2.0], [3.0]], np.float32)
    assert run("put", x, index, np.broadcast_to(values, (3, 50)), 0)[0] == 0
    assert x[:, 0].tolist() == [0, 3, 2, 0] and x[:, 49].tolist() == [0, 3, 2, 0]


@pytest.mark.parametrize("which", KERNELS)
def test_several_index_arrays(which: str) -> None:
    """x[i, :, j] with i of shape (3, 1) and j of shape (4,), in the layout that NumPy gives: (3, 4, 5)."""
    rng = np.random.default_rng(3)
    x, i, j = rng.integers(0, 9, (6, 5, 7)), rng.integers(-6, 6, (3, 1)), rng.integers(-7, 7, 4).astype("int8")
    dense = np.empty_like(x[i, :, j]) if which == "take" else rng.integers(0, 9, (3, 4, 5))
    expected, actual = x.copy(), x.copy()
    order = [dense, actual] if which == "take" else [actual, dense]
    found = [
        Index((i.strides[0], 0, 0), 6, x.strides[0], 0),
        Index((0, j.strides[0], 0), 7, x.strides[2], 2),
    ]
    params = indexed_params(dense.shape, dense.strides, (0, 0, x.strides[1]), (0, 1), found)
    assert call(KERNELS[which](x.dtype, i.dtype, j.dtype), [*order, i, j], params)[0] == 0
    if which == "take":
        np.testing.assert_array_equal(dense, x[i, :, j])
    elif which == "put":
        expected[i, :, j] = dense
    else:
        np.add.at(expected, (i, slice(None), j), dense)
    np.testing.assert_array_equal(actual, expected)
    j[2] = 7
    code, error = call(KERNELS[which](x.dtype, i.dtype, j.dtype), [*order, i, j], params)
    assert (code, error) == (OUT_OF_RANGE, [7, 7, 2, 2])


def test_empty() -> None:
    none = np.array([], np.int64)
    assert run("take", np.zeros((0, 3)), none, np.zeros((0, 3)), 0)[0] == 0
    assert run("take", np.zeros((3, 0)), np.array([1]), np.zeros((1, 0)), 0)[0] == 0
    assert run("take", np.zeros((0,)), np.array([0]), np.zeros((1,)), 0)[0] == OUT_OF_RANGE


@pytest.mark.parametrize("op", ["cumsum", "cumprod"])
@pytest.mark.parametrize(("source", "target"), [("bool", "int64"), ("int8", "int64"), ("float16", "float16"),
                                                ("float32", "float32"), ("float64", "float64")])  # fmt: skip
@pytest.mark.parametrize("shape", [(5,), (0,), (3, 70), (40, 3, 5), (4, 0)])
def test_running_sums(op: str, source: str, target: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    base = (rng.integers(0, 3, shape) if source in ("bool", "int8") else rng.uniform(0.5, 1.5, shape)).astype(source)
    for x in (base, base[::-1], np.ascontiguousarray(base.T).T):
        for axis in range(x.ndim):
            out = np.empty(shape, target)
            params = cumulative_params(shape, out.strides, x.strides, axis, out.itemsize, x.itemsize)
            assert call(cumulative_kernel(op, source, target), [out, x], params)[0] == 0
            np.testing.assert_array_equal(out, getattr(np, op)(x, axis=axis, dtype=target))


def test_running_extremes() -> None:
    assert set(CUMULATIVE_OPS) == {"cumsum", "cumprod", "cummax", "cummin"}
    x = np.array([1, 3, 2, np.nan, 5], np.float32)
    out = np.empty_like(x)
    params = cumulative_params(x.shape, out.strides, x.strides, 0, 4, 4)
    assert call(cumulative_kernel("cummax", "float32", "float32"), [out, x], params)[0] == 0
    np.testing.assert_array_equal(out, np.maximum.accumulate(x))
