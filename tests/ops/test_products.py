"""Products of matrices and vectors against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from ops.arrays import check_near, check_same, placed, raised, sample

import dagrun as dr
from dagrun.core import tracing
from dagrun.ops.products import pieces_of

SHAPES = [(), (4,), (3,), (3, 4), (4, 3), (2, 3, 4), (5, 1, 4, 3), (0, 4), (4, 0), (1, 4), (4, 1), (3, 4, 2)]


def values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return sample(dtype, shape, seed, special=False)


def check_product(actual: dr.Array, expected: object, context: object) -> None:
    expected = np.asarray(expected)
    if expected.dtype.kind != "f":
        check_same(actual, expected, context)
        return
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), context
    tolerance = 64 * np.finfo(expected.dtype).eps
    np.testing.assert_allclose(actual.numpy(), expected, rtol=tolerance, atol=300 * tolerance, err_msg=str(context))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("name", ["matmul", "dot", "inner", "outer", "vecdot"])
def test_products_of_every_shape(name: str, device: str) -> None:
    if not hasattr(np, name):
        return
    for first in SHAPES:
        for second in SHAPES:
            a, b = values("float32", first), values("float64" if len(second) == 2 else "float32", second, 1)
            context = (name, first, second)
            error = raised(getattr(np, name), a, b)
            if error is not None:
                caught = raised(getattr(dr, name), placed(a, device), placed(b, device))
                assert caught is not None and issubclass(caught, (error, ValueError)), (context, caught, error)
            else:
                check_product(getattr(dr, name)(placed(a, device), placed(b, device)), getattr(np, name)(a, b), context)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_matmul_of_dtypes_and_layouts(dtype: str) -> None:
    a, b = values(dtype, (8, 6)), values(dtype, (6, 10), 1)
    for left in (
        a,
        np.asfortranarray(a),
        a[::-1],
        a[:, ::-1],
        np.repeat(a, 2, 1)[:, ::2],
        np.broadcast_to(a[:1], a.shape),
    ):
        for right in (b, b.T.copy().T, b[::-1], np.repeat(b, 2, 0)[::2]):
            check_product(placed(left) @ placed(right), left @ right, (dtype, left.strides, right.strides))
    check_product(placed(a) @ placed(b).tolist(), a @ np.asarray(b.tolist()), dtype)
    check_product(a @ placed(b), a @ b, dtype)


def test_a_product_with_a_vector_is_one_task_that_the_slot_knows() -> None:
    matrix, vector = placed(values("float32", (5, 4))), placed(values("float32", (4,), 1))
    out = dr.zeros(5, dtype="float32")
    for a, b in ((matrix, vector), (vector, matrix.T), (vector, vector)):
        with tracing() as records:
            first, second = a @ b, a @ b
        assert [record.name for record in records] == ["matmul", "matmul"]
        check_same(first, second.numpy())
        check_product(first, a.numpy() @ b.numpy(), (a.shape, b.shape))
    with tracing() as records:
        dr.matmul(matrix, vector, out=out)
    assert [record.name for record in records] == ["matmul"] and (out == matrix @ vector).all()


PLAIN = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16"]


@pytest.mark.parametrize("dtype", PLAIN)
def test_products_without_blas(dtype: str, device: str) -> None:
    """Integers wrap and booleans combine as NumPy's, whatever the layout; nothing needs the Python lane."""
    with tracing() as records:
        for first, second in (((7, 5), (5, 70)), ((3, 9, 5), (5, 33)), ((2, 1, 4, 3), (5, 3, 66)), ((4, 0), (0, 3))):
            a, b = (
                sample(dtype, first, special=dtype != "float16"),
                sample(dtype, second, 1, special=dtype != "float16"),
            )
            if dtype == "float16":
                a, b = a.astype("int8").astype(dtype) % 8, b.astype("int8").astype(dtype) % 8  # every sum is exact
            flipped = np.flip(b, -1)
            for left, right in ((a, b), (np.asfortranarray(a), b), (a, flipped), (a[..., ::-1], np.asfortranarray(b))):
                with np.errstate(all="ignore"):
                    check_same(placed(left, device) @ placed(right, device), left @ right, (dtype, first))
    assert "python" not in {record.lane for record in records}


def test_large_products_of_integers_are_cut() -> None:
    a, b = values("int32", (300, 200)), values("int16", (200, 200), 1)
    with tracing() as records:
        product = placed(a) @ placed(b)
    check_same(product, a @ b)
    assert len([record for record in records if record.name == "matmul"]) > 4
    with dr.engine("serial"):
        check_same(placed(a) @ placed(b), a @ b)


def test_matmul_out() -> None:
    a, b = values("float32", (4, 4)), values("float32", (4, 4), 1)
    x, y = placed(a), placed(b)
    for make in (lambda: dr.zeros((4, 4), "float32"), lambda: dr.zeros((4, 4)), lambda: dr.zeros((2, 4, 4), "float32")):
        out = make()
        assert dr.matmul(x, y, out=out) is out
        np.testing.assert_allclose(out.numpy(), np.broadcast_to(a @ b, out.shape), rtol=1e-4, atol=1e-3)
    big = dr.zeros((8, 4), "float32")
    dr.matmul(x, y, out=big[::2])
    np.testing.assert_allclose(big.numpy()[::2], a @ b, rtol=1e-4, atol=1e-3)
    dr.matmul(x, y, out=big.T[:, 4:])
    np.testing.assert_allclose(big.T.numpy()[:, 4:], a @ b, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"shape \(1, 4\) does not fit into an array of shape \(4, 4\)"):
        dr.matmul(x[:1], y, out=dr.zeros((4, 4), "float32"))
    for out, error in ((dr.zeros((3, 4), "float32"), ValueError), (dr.zeros((4, 4), "int32"), TypeError)):
        with pytest.raises(error, match=r"does not fit|same_kind"):
            dr.matmul(x, y, out=out)
    with pytest.raises(ValueError, match="broadcast"):
        dr.matmul(x, y, out=dr.broadcast_to(dr.zeros((4, 4), "float32"), (2, 4, 4)))
    x @= y
    np.testing.assert_allclose(x.numpy(), a @ b, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="use \\* instead"):
        x @ 2.0


def test_tensordot() -> None:
    a, b = values("float64", (3, 4, 5)), values("float64", (4, 5, 2), 1)
    for axes in (2, 0, ((1, 2), (0, 1)), ((2, 1), (1, 0)), (1, 0), ([-1], [1]), 1, ((0,), (0,)), 4, ((1, 2), (0,))):
        error = raised(np.tensordot, a, b, axes)
        if error is not None:
            caught = raised(dr.tensordot, placed(a), placed(b), axes)
            assert caught is not None and issubclass(caught, (error, ValueError)), (axes, caught, error)
        else:
            check_product(dr.tensordot(placed(a), placed(b), axes), np.tensordot(a, b, axes), axes)


@pytest.mark.parametrize(
    "shapes", [((3100, 64), (64, 70)), ((61, 70), (70, 3100)), ((2, 100, 300), (300, 301))], ids=str
)
def test_large_products_are_cut_into_the_same_bits(shapes: tuple[tuple[int, ...], ...]) -> None:
    """A product that is cut into tasks, along rows or columns, has the bits of the serial engine."""
    a = dr.asarray(values("float32", shapes[0]))
    b = dr.asarray(values("float32", shapes[1], 1))
    assert pieces_of(a.shape[-2], b.shape[-1], a.shape[-1])[1] > 1
    product = (a @ b).numpy()
    with dr.engine("serial"):
        np.testing.assert_array_equal((a @ b).numpy(), product)
    reference = a.numpy().astype(np.float64) @ b.numpy().astype(np.float64)
    np.testing.assert_allclose(product, reference, rtol=1e-3, atol=1.0)


def test_comparisons_of_whole_arrays() -> None:
    a = np.array([1.0, np.nan, np.inf, -np.inf, 0.0, 1e10, 1.0])
    b = np.array([1.0 + 1e-9, np.nan, np.inf, np.inf, 1e-9, 1.00001e10, 2.0])
    for options in ({}, {"equal_nan": True}, {"rtol": 1e-3}, {"atol": 1.0}):
        with np.errstate(all="ignore"):
            check_same(dr.isclose(placed(a), placed(b), **options), np.isclose(a, b, **options), options)
            assert dr.allclose(placed(a), b, **options) == np.allclose(a, b, **options)
    check_same(dr.isclose(placed(np.arange(3)), [0, 1, 3]), np.isclose(np.arange(3), [0, 1, 3]))
    check_same(dr.isclose(placed(np.array([True, False])), [1, 1]), np.isclose(np.array([True, False]), [1, 1]))
    check_same(dr.isclose(1.0, placed(a)), np.isclose(1.0, a))
    for first, second in ((a, a), (a, b), (a[:3], a), ([1, 2], [1.0, 2.0])):
        for equal_nan in (False, True):
            assert dr.array_equal(first, second, equal_nan=equal_nan) == np.array_equal(
                first, second, equal_nan=equal_nan
            )


def test_clip_where_round() -> None:
    for dtype in ("int8", "uint16", "float32"):
        x = sample(dtype, (4, 5))
        for low, high in (
            (0, 5),
            (None, 3),
            (2, None),
            (-(10**6), 10**6),
            (5, 2),
            (np.zeros_like(x[:, :1]), 7),
            (0, 2.5),
            (np.int8(1), 9),
        ):
            with np.errstate(all="ignore"):
                check_near(dr.clip(placed(x), low, high), np.clip(x, low, high), 0, (dtype, low, high))
        check_near(placed(x).clip(1), np.clip(x, 1, None), 0)
        out = placed(np.full_like(x, 3))
        dr.clip(placed(x), 0, out, out=out)
        check_near(out, np.clip(x, 0, 3), 0)
        for decimals in (0, 1, 2, -1):
            with np.errstate(all="ignore"):
                check_near(dr.round(placed(x), decimals), np.round(x, decimals), 1, (dtype, decimals))
    check_same(dr.round(placed(np.array([True, False]))), np.round(np.array([True, False])))
    condition = np.array([[True], [False]])
    a, b = sample("int8", (2, 3)), sample("float16", (3,))
    for first, second in (
        (a, b),
        (a, 2),
        (1.5, a),
        (1, 2),
        (1, 2.5),
        (True, a),
        (np.float32(1), a),
        (a, a),
        (np.int64(3), 7),
    ):
        mine = [placed(part) if isinstance(part, np.ndarray) else part for part in (first, second)]
        check_same(dr.where(placed(condition), *mine), np.where(condition, first, second), (first, second))
        check_same(dr.where(condition.tolist(), *mine), np.where(condition, first, second), (first, second))
    check_same(dr.where(placed(a), a, 0), np.where(a, a, 0))
    assert len(dr.where(placed(a))) == 2
    with pytest.raises(ValueError, match="both x1 and x2"):
        dr.where(placed(condition), 1)
