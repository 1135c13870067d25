"""Views, joins, creation, sorting and grids against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ops.arrays import DTYPES, check_near, check_same, layouts, placed, raised, sample

import dagrun as dr

random = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
CUBE = (2, 3, 4)

VIEWS = {
    "reshape": [((6, 4),), ((-1,),), ((4, 3, 2, 1),), ((5, 5),), ((-1, -1),), ((-1, 0),)],
    "transpose": [(), ((2, 0, 1),), ((0, 0, 1),), ((0, 1),), ((0, 1, 3),)],
    "swapaxes": [(0, 2), (-1, -2), (0, 3)],
    "moveaxis": [(0, 2), ([0, 1], [-1, -2]), (0, 5), ([0, 0], [1, 2]), ([0, 1], [2])],
    "expand_dims": [(0,), (-1,), ((0, 2),), (5,), ((1, 1),)],
    "squeeze": [(), (-3,), (5,)],
    "flip": [(), (0,), ((0, 2),), (3,)],
    "broadcast_to": [((5, 2, 3, 4),), (CUBE,), ((2, 3),), ((3, 3, 4),)],
    "ravel": [()],
    "diagonal": [(), (1,), (-1, 1, 2), (0, 0, 0), (9,), (0, 0, 7)],
    "matrix_transpose": [()],
    "atleast_1d": [()],
    "atleast_2d": [()],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    base = sample("int32", CUBE, special=False)
    one = base[:1, :, :1]
    for values in (base, base.T.copy().T, base[:, ::-1, ::2], one, base[:, :0], np.array(7)):
        for arguments in VIEWS[name]:
            reference = getattr(np, name)
            error = raised(reference, values, *arguments)
            actual = raised(getattr(dr, name), placed(values), *arguments)
            context = (name, values.shape, values.strides, arguments)
            if error is not None:
                assert actual is not None and issubclass(actual, error), (context, actual, error)
            else:
                x = placed(values)
                result = getattr(dr, name)(x, *arguments)
                check_same(result, reference(values, *arguments), context)
                if name != "ravel" and result.size and values.ndim:
                    expected = np.shares_memory(reference(values, *arguments), values)
                    assert (result._buffer == x._buffer) == expected, context


@random
@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    order=st.randoms(use_true_random=False),
    data=st.data(),
)
def test_reshape_is_a_view_where_numpy_makes_one(shape: tuple[int, ...], order: object, data: st.DataObject) -> None:
    values = np.arange(np.prod(shape), dtype="i2").reshape(shape)
    axes = list(range(values.ndim))
    order.shuffle(axes)  # type: ignore[attr-defined]
    values = values.transpose(axes)
    values = values[data.draw(hnp.basic_indices(values.shape, min_dims=0, allow_newaxis=True)) if values.ndim else ...]
    values = np.asarray(values)
    factors = [n for n in (1, 2, 3, 4, 6, 8) if values.size and values.size % n == 0] or [0]
    first = data.draw(st.sampled_from(factors))
    target = data.draw(st.sampled_from([(-1,), (first, -1), (-1, first), (1, -1, 1, first)])) if values.size else (0, 3)
    x = placed(values)
    result = x.reshape(target)
    expected = values.reshape(target)
    check_same(result, expected)
    if values.size:
        assert (result._buffer == x._buffer) == np.shares_memory(expected, values)


def test_reshape_says_whether_it_copies() -> None:
    x = dr.arange(6).reshape(2, 3)
    with pytest.raises(ValueError, match="no view of shape"):
        dr.reshape(x.T, 6, copy=False)
    assert dr.reshape(x, 6, copy=True)._buffer != x._buffer
    assert x.reshape(3, 2)._buffer == x._buffer
    assert x.flatten()._buffer != x._buffer


JOINS = {
    "concatenate": [((0,), {}), ((1,), {}), ((None,), {}), ((7,), {}), ((-1,), {"dtype": "float32"})],
    "stack": [((0,), {}), ((-1,), {}), ((3,), {})],
    "vstack": [((), {})],
    "hstack": [((), {})],
}


@pytest.mark.parametrize("name", JOINS)
def test_joins(name: str, device: str) -> None:
    a, b = sample("int16", (2, 3)), sample("float32", (2, 3), 1)
    groups = [
        [a, b],
        [a.T, b.T],
        [a[:, ::-1], a],
        [a],
        [a[0], b[1]],
        [a[0, 0], b[0, 0]],
        [a, b[:1]],
        [a, b[0]],
        [a[:0], b],
    ]
    for group in groups:
        for arguments, options in JOINS[name]:
            reference = getattr(np, name)
            context = (name, [part.shape for part in group], arguments)
            error = raised(reference, group, *arguments, **options)
            parts = [placed(group[0], device), *(placed(part, device) for part in group[1:])]
            if error is not None:
                caught = raised(getattr(dr, name), parts, *arguments, **options)
                assert caught is not None and issubclass(caught, error), (context, caught, error)
            else:
                check_same(
                    getattr(dr, name)(parts, *arguments, **options), reference(group, *arguments, **options), context
                )
    mixed = getattr(dr, name)([placed(a, device), a.tolist(), b])
    assert mixed.device is dr.device(device)
    with pytest.raises(ValueError):
        getattr(dr, name)([])


def test_splits_are_views() -> None:
    values = sample("int64", (6, 4))
    for name in ("split", "array_split"):
        for sections, axis in [(3, 0), (2, 1), ([1, 4], 0), ([4, 2], 0), ([0, 9], 1), (4, 0), (0, 0), (2, 5)]:
            x = placed(values)
            error = raised(getattr(np, name), values, sections, axis)
            if error is not None:
                caught = raised(getattr(dr, name), x, sections, axis)
                assert caught is not None and issubclass(caught, (error, ValueError)), (name, sections, caught, error)
                continue
            parts = getattr(dr, name)(x, sections, axis)
            expected = getattr(np, name)(values, sections, axis)
            assert len(parts) == len(expected)
            for part, other in zip(parts, expected):
                check_same(part, other, (name, sections, axis))
                assert part._buffer == x._buffer
    for part, other in zip(dr.unstack(placed(values), axis=1), values.T):
        check_same(part, other)


REPEATS = {
    "tile": [(2,), ((2, 1, 3),), ((0,),), (1,), ((2, 2, 1, 1),)],
    "repeat": [(2, 0), (3, None), (0, 1), ([1, 2, 0], 1), ([2], 1), (-1, 0), ([1, 2], 1), (2, 9)],
    "roll": [(1,), (-2, 1), (7, 0), ((1, 2), (0, 1)), (0, 0), (1, 5), (2, (0, 1))],
}


@pytest.mark.parametrize("name", REPEATS)
def test_repeats(name: str) -> None:
    base = sample("float32", CUBE)
    for values in (base, base.T, base[:, :0]):
        for arguments in REPEATS[name]:
            context = (name, values.shape, arguments)
            error = raised(getattr(np, name), values, *arguments)
            if error is not None:
                caught = raised(getattr(dr, name), placed(values), *arguments)
                assert caught is not None and issubclass(caught, error), (context, caught, error)
            else:
                x = placed(values)
                result = getattr(dr, name)(x, *arguments)
                check_same(result, getattr(np, name)(values, *arguments), context)
                assert not values.ndim or result._buffer != x._buffer


# ---- creation


@pytest.mark.parametrize("dtype", [None, *DTYPES])
def test_constants(dtype: str | None, device: str) -> None:
    for shape in [3, (), (0,), (2, 3), [2, 1, 2], np.int64(4)]:
        check_same(dr.zeros(shape, dtype, device=device), np.zeros(shape, dtype))
        check_same(dr.ones(shape, dtype, device=device), np.ones(shape, dtype))
        made = dr.empty(shape, dtype, device=device)
        assert (made.shape, made.dtype) == (np.empty(shape).shape, np.dtype(dtype)) and str(made.device) == device
        for value in (1, True, 2.5, np.int8(3), np.float32(0.25)):
            check_same(dr.full(shape, value, dtype, device=device), np.full(shape, value, dtype), (shape, value))
    like = sample("int16", (2, 3))
    for name in ("zeros_like", "ones_like"):
        check_same(getattr(dr, name)(placed(like, device), dtype), getattr(np, name)(like, dtype))
    check_same(dr.full_like(placed(like, device), 7, dtype), np.full_like(like, 7, dtype))
    check_same(dr.full((2, 3), placed(like[0], device), dtype), np.full((2, 3), like[0], dtype))
    assert dr.empty_like(placed(like, device), dtype).dtype == (np.dtype(dtype) if dtype else np.dtype("int16"))


def test_wrong_shapes_are_refused() -> None:
    for shape in (-1, (2, -1), (2.5,), "x", None):
        error = raised(np.zeros, shape)
        caught = raised(dr.zeros, shape)
        if error is not None:
            assert caught is not None and issubclass(caught, error), (shape, caught, error)
    for dtype in ("complex64", "U3", "M8[s]", object, "no such dtype"):
        with pytest.raises(TypeError):
            dr.zeros(3, dtype)
        with pytest.raises(TypeError):
            dr.asarray([1], dtype)


def test_ranges_and_identities() -> None:
    for arguments in [(5,), (2, 8), (2, 8, 3), (8, 2, -2), (0.5, 3), (3, 0), (0, 1, 0.1)]:
        check_same(dr.arange(*arguments), np.arange(*arguments))
        check_same(dr.arange(*arguments, dtype="float32"), np.arange(*arguments, dtype="float32"))
    for arguments in [(0, 1), (0, 1, 5), (2, -3, 4), (1, 1, 1), (0, 1, 0)]:
        check_same(dr.linspace(*arguments), np.linspace(*arguments))
        check_same(dr.linspace(*arguments, dtype="int32"), np.linspace(*arguments, dtype="int32"))
        check_same(dr.linspace(*arguments, endpoint=False), np.linspace(*arguments, endpoint=False))
    for arguments in [(3,), (2, 4), (4, 2), (3, 3, 1), (3, 4, -2), (2, 2, 5), (0,)]:
        check_same(dr.eye(*arguments), np.eye(*arguments))
    check_same(dr.eye(3, dtype="int8"), np.eye(3, dtype="int8"))
    check_same(dr.array([1, 2], ndmin=3), np.array([1, 2], ndmin=3))


GRIDS = {
    "diag": [(), (1,), (-2,)],
    "tril": [(), (1,), (-1,), (9,)],
    "triu": [(), (1,), (-1,)],
    "trace": [(), (1,), (-1, 1, 0)],
    "diff": [(), (2,), (0,), (1, 0), (5,), (-1,), (1, 7)],
}


@pytest.mark.parametrize("name", GRIDS)
def test_matrices(name: str) -> None:
    for dtype in ("bool", "int8", "float32"):
        base = sample(dtype, (3, 4), special=False)
        for values in (base, base.T, base[0], base[:0], np.stack([base, base]), base[0, 0]):
            for arguments in GRIDS[name]:
                context = (name, values.shape, arguments)
                error = raised(getattr(np, name), values, *arguments)
                if error is not None:
                    caught = raised(getattr(dr, name), placed(values), *arguments)
                    assert caught is not None and issubclass(caught, (error, ValueError)), (context, caught, error)
                else:
                    expected = getattr(np, name)(values, *arguments)
                    check_near(getattr(dr, name)(placed(values), *arguments), expected, 2, context)


def test_meshgrid() -> None:
    parts = [np.arange(3), np.arange(2.0), [7]]
    for indexing in ("xy", "ij"):
        for count in range(1, 4):
            expected = np.meshgrid(*parts[:count], indexing=indexing)
            for made, wanted in zip(dr.meshgrid(*parts[:count], indexing=indexing), expected, strict=True):
                check_same(made, wanted)
    with pytest.raises(ValueError, match="'xy' or 'ij'"):
        dr.meshgrid([1], indexing="yx")


def test_broadcast_arrays() -> None:
    a, b = sample("int8", (3, 1)), sample("float32", (4,))
    for made, wanted in zip(dr.broadcast_arrays(placed(a), placed(b)), np.broadcast_arrays(a, b), strict=True):
        check_same(made, wanted)
    with pytest.raises(ValueError):
        dr.broadcast_arrays(dr.zeros(3), dr.zeros(4))


# ---- order


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64"])
def test_sorting(dtype: str, device: str) -> None:
    for _, values in layouts(sample(dtype)):
        for axis in (-1, 0, None, 4):
            error = raised(np.sort, values, axis)
            x = placed(values, device)
            if error is not None:
                assert issubclass(raised(dr.sort, x, axis) or int, error)
                assert issubclass(raised(dr.argsort, x, axis) or int, error)
                continue
            check_near(dr.sort(x, axis=axis), np.sort(values, axis=axis, kind="stable"), 0)
            check_same(dr.argsort(x, axis=axis), np.argsort(values, axis=axis, kind="stable"))
            places = dr.argsort(x, axis=axis, descending=True).numpy()
            ordered = np.take_along_axis(values if axis is not None else values.ravel(), places, axis or 0)
            np.testing.assert_array_equal(dr.sort(x, axis=axis, descending=True).numpy(), ordered)
    values = sample(dtype, (4, 5), special=False)
    x, reference = placed(values, device), values.copy()
    assert x.sort(axis=0) is None and reference.sort(axis=0) is None
    x[1:].T.sort()
    reference[1:].T.sort()
    check_near(x, reference, 0)


@pytest.mark.parametrize("length", [100, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sorting_keeps_the_order_and_the_bits_of_equals(dtype: str, length: int, device: str) -> None:
    values = np.resize(np.append(sample(dtype, (40,)), sample(dtype, (9,))), length)
    if values.dtype.kind == "f":
        values[::7] = np.array([-0.0, 0.0, np.nan, -np.nan, np.inf], dtype)[np.arange(len(values[::7])) % 5]
    for descending in (False, True):
        places = dr.argsort(placed(values, device), descending=descending).numpy()
        if not descending:
            np.testing.assert_array_equal(places, np.argsort(values, kind="stable"))
        ordered = dr.sort(placed(values, device), descending=descending).numpy()
        assert ordered.tobytes() == values[places].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_searching(dtype: str, device: str) -> None:
    """Every dtype, with NaN and signed zeros, lines and elements of any strides, many elements and none."""
    line = np.sort(np.concatenate([sample(dtype, (40,)), sample(dtype, (9,))]))
    x = placed(np.repeat(line, 3), device)[1::3]
    for wanted in (sample(dtype, (5, 8)), sample(dtype, (0,)), np.tile(sample(dtype, (64,)), 4096)):
        for side in ("left", "right"):
            check_same(dr.searchsorted(x, placed(wanted, device), side), np.searchsorted(line, wanted, side))
            turned = dr.searchsorted(x, placed(wanted, device).T[::-1], side)
            check_same(turned, np.searchsorted(line, wanted.T[::-1], side))
    check_same(dr.searchsorted(x[:0], x), np.searchsorted(line[:0], line))


def test_searching_and_unique() -> None:
    values = np.sort(sample("int16", (20,)))
    for wanted in (values[::3], [3, -4, 3000], 5, [[1, 2]]):
        for side in ("left", "right"):
            check_same(dr.searchsorted(placed(values), wanted, side), np.searchsorted(values, wanted, side))
    with pytest.raises(ValueError, match="'left' or 'right'"):
        dr.searchsorted(placed(values), 3, "middle")
    shuffled = np.random.default_rng(0).permutation(values)
    order = np.argsort(shuffled, stable=True)
    check_same(dr.searchsorted(placed(shuffled), values, sorter=order), np.searchsorted(shuffled, values, sorter=order))
    values = sample("float32", (3, 7)).round()
    check_same(dr.unique(placed(values)), np.unique(values))
    for made, wanted in zip(
        dr.unique(placed(values), True, True, True), np.unique(values, True, True, True), strict=True
    ):
        check_same(made, wanted)
    for made, wanted in zip(dr.nonzero(placed(values)), np.nonzero(values), strict=True):
        check_same(made, wanted)
    check_same(dr.argwhere(placed(values)), np.argwhere(values))


def test_take() -> None:
    for dtype in ("bool", "int64", "float16"):
        base = sample(dtype, CUBE)
        for values in (base, base.T, base[:, ::-1]):
            for axis in (None, 0, 1, -1):
                for indices in ([0, 1, 1], [[0, -1]], 1, [], np.array([1, 0], "u1"), np.array([0, 1], "u8")):
                    wanted = np.take(values, np.asarray(indices, np.intp), axis)
                    check_same(dr.take(placed(values), indices, axis), wanted, (dtype, axis, indices))
                    check_same(placed(values).take(dr.asarray(np.asarray(indices, "i4")), axis), wanted)
    values = sample("float32", (3, 5))
    places = np.argsort(values, axis=1)
    check_same(dr.take_along_axis(placed(values), placed(places), 1), np.take_along_axis(values, places, 1))
    check_same(dr.take_along_axis(placed(values), places[:1]), np.take_along_axis(values, places[:1], -1))
    with pytest.raises(TypeError, match="expected integers"):
        dr.take(placed(values), [0.5])
