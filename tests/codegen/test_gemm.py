"""Matrix products through the BLAS pointer against NumPy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from dagrun.codegen.gemm import find_blas, gemm_kernel, gemm_params
from tests.codegen.harness import call

pytestmark = pytest.mark.skipif(find_blas() is None, reason="no OpenBLAS to call by pointer")


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray | None:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    c = np.full((*batch, a.shape[-2], b.shape[-1]), np.nan, a.dtype) if out is None else out
    params = gemm_params(c.shape, a.shape[-1], c.strides, a.strides, b.strides, a.itemsize)
    if params is None:
        return None
    assert call(gemm_kernel(a.dtype), [c, a, b], params)[0] == 0
    return c


def values(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)  # so that sums are exact in any order


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 4), (4, 5)), ((1, 4), (4, 1)), ((7, 1), (1, 9)), ((64, 100), (100, 32)), ((3, 0), (0, 4)), ((0, 3), (3, 2)),
     ((2, 3), (3, 0)), ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (6, 3, 2)), ((2, 1, 3, 4), (3, 4, 2)),
     ((0, 2, 3), (0, 3, 2)), ((1, 37), (37, 1)), ((1, 37), (37, 20)), ((33, 18), (18, 1)), ((4, 1, 9), (4, 9, 1)),
     ((4, 1, 9), (9, 7)), ((1, 1), (1, 1)), ((1, 1), (1, 6)), ((6, 1), (1, 1)), ((3, 1, 5), (3, 5, 4))],
)  # fmt: skip
def test_products(dtype: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = values(left, dtype, 1), values(right, dtype, 2)
    np.testing.assert_array_equal(product(a, b), a @ b)
    at, bt = (np.ascontiguousarray(np.swapaxes(x, -1, -2)).swapaxes(-1, -2) for x in (a, b))
    np.testing.assert_array_equal(product(at, b), a @ b)
    np.testing.assert_array_equal(product(a, bt), a @ b)
    np.testing.assert_array_equal(product(at, bt), a @ b)


def test_parts_of_larger_arrays() -> None:
    a, b = values((20, 30), "float32", 1), values((30, 20), "float32", 2)
    np.testing.assert_array_equal(product(a[3:9, 5:12], b[5:12, ::1][:, 2:7]), a[3:9, 5:12] @ b[5:12, 2:7])
    np.testing.assert_array_equal(product(a[::3, 5:12], b[5:12]), a[::3, 5:12] @ b[5:12])
    for row, column in ((a[3:4, 5:12], b[5:12, 2:7]), (a[3:9, 5:12], b[5:12, 4:5]), (a[:8, 3:4].T, b[:8, 2:7])):
        np.testing.assert_array_equal(product(row, column), row @ column)
    thin = np.zeros((20, 40), np.float32)
    product(a, b[:, 3:4], thin[:, 7:8])
    np.testing.assert_array_equal(thin[:, 7:8], a @ b[:, 3:4])
    assert not thin[:, :7].any() and not thin[:, 8:].any()
    out = np.zeros((20, 40), np.float32)
    product(a, b, out[:, 10:30])
    np.testing.assert_array_equal(out[:, 10:30], a @ b)
    assert not out[:, :10].any() and not out[:, 30:].any()


def test_layouts_that_blas_cannot_take() -> None:
    a, b = values((20, 30), "float32", 1), values((30, 20), "float32", 2)
    for left in (a[:, ::2], a[::-1, :15], a[:, ::-1][:, :15]):
        assert product(left, b[:15]) is None
    assert product(a, np.broadcast_to(b[:1], (30, 20))) is None
    assert gemm_params((20, 20), 30, (4, 80), a.strides, b.strides, 4) is None
    assert gemm_kernel("int64") is None and gemm_kernel("float16") is None


def test_one_thread() -> None:
    blas = find_blas()
    get = ctypes.CFUNCTYPE(ctypes.c_int)(blas.get_threads)
    put = ctypes.CFUNCTYPE(None, ctypes.c_int)(blas.set_threads)
    before = get()
    try:
        put(2)
        product(values((3, 4), "float32", 1), values((4, 5), "float32", 2))
        assert get() == 1
    finally:
        put(before)
