"""Indexing and assignment against NumPy, by random keys: the same elements, or an error of the same type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ops.arrays import check_same, placed, raised, sample

import dagrun as dr
from dagrun.core import native, tracing
from dagrun.errors import OperationError

random = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
MESSES = [1.5, "a", [0.5], [[1], [1, 2]], 99, -99, (0,) * 9, (..., ...)]
BAD_SLICES = [slice(0.5, None), slice(None, None, 0)]


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> object:
    """Keys of every sort: basic ones, integer and boolean arrays, mixtures, and some that no array takes."""
    way = draw(st.sampled_from(["basic", "basic", "integers", "mask", "mixed", "mixed", "mess"]))
    if way == "basic":
        return draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=6))
    if way == "integers" and shape and 0 not in shape:
        return draw(hnp.integer_array_indices(shape, result_shape=SHAPES))
    if way == "mask" and shape:
        count = draw(st.integers(1, len(shape)))
        return draw(hnp.arrays(bool, shape[:count]))
    if way == "mess":
        return draw(st.sampled_from(MESSES + BAD_SLICES * bool(shape)))
    items: list[object] = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        small = st.integers(-length - 1, length)
        items.append(
            draw(
                st.one_of(
                    small,
                    st.just(slice(None)),
                    st.slices(length),
                    st.lists(small, max_size=3),
                    hnp.arrays(np.int32, draw(st.sampled_from([(2,), (1,), (3, 1), ()])), elements=small),
                    hnp.arrays(bool, (length,)),
                )
            )
        )
    for item in draw(st.lists(st.sampled_from([None, ..., True, np.False_]), max_size=2)):
        items.insert(draw(st.integers(0, len(items))), item)
    return tuple(items)


def on_device(key: object) -> object:
    """The key with dagrun arrays in the place of NumPy's."""
    if isinstance(key, tuple):
        return tuple(map(on_device, key))
    return dr.asarray(key) if isinstance(key, np.ndarray) and key.size else key


@random
@given(shape=SHAPES, data=st.data(), moved=st.booleans(), own=st.booleans())
def test_getitem(shape: tuple[int, ...], data: st.DataObject, moved: bool, own: bool) -> None:
    values = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    values = values.T if moved else values
    key = data.draw(keys(values.shape))
    error = raised(lambda: values[key])
    actual_key = on_device(key) if own else key
    if error is not None:
        caught = raised(lambda: placed(values)[actual_key])
        assert caught is not None and issubclass(caught, error if error is not np.exceptions.AxisError else IndexError)
        native.failures(True)
        return
    check_same(placed(values)[actual_key], values[key], key)


@random
@given(shape=SHAPES, data=st.data(), own=st.booleans(), dtype=st.sampled_from(["f4", "i1", "?"]))
def test_setitem(shape: tuple[int, ...], data: st.DataObject, own: bool, dtype: str) -> None:
    values = sample(dtype, shape, special=False)
    key = data.draw(keys(shape))
    wrong_key = raised(lambda: values[key])
    selected = wrong_key or values[key].shape
    value: object
    if isinstance(selected, tuple) and data.draw(st.booleans()):
        wanted = data.draw(hnp.broadcastable_shapes(selected, max_dims=len(selected), max_side=4)) if selected else ()
        value = sample(data.draw(st.sampled_from([dtype, "f8", "u2"])), wanted, seed=3, special=False)
    else:  # one element takes no sequence from NumPy, not even of length one
        scalars = [3, 1.75, True, np.int16(5), np.float64(2.5), 300, -1]
        value = data.draw(st.sampled_from(scalars if selected == () else [*scalars, [1, 0], [7]]))
    reference = values.copy()

    def assign(target: object, index: object, source: object) -> None:
        target[index] = source  # type: ignore[index]

    x = placed(values)
    mine = (on_device(key), on_device(value)) if own else (key, value)
    error = raised(assign, reference, key, value)
    if error is not None:
        caught = raised(lambda: (assign(x, *mine), x)[1])
        # Where the key is wrong the value may be too, and which of the two comes up first is not NumPy's business.
        allowed = (error, wrong_key, ValueError, OverflowError) if wrong_key else (error,)
        assert caught is not None and issubclass(caught, allowed), (caught, error)
        native.failures(True)
        return
    with np.errstate(all="ignore"):
        assign(x, *mine)
    check_same(x, reference, (key, value))


def test_views_share_memory_and_gathers_do_not() -> None:
    x = dr.zeros((3, 4))
    x[1:][:, ::2] += 1
    x[[0]] += 5
    taken = x[[0, 1]]
    taken[...] = 9
    x[:, -1] = [7, 8, 9]
    x.T[0, 0] = 6
    expected = np.zeros((3, 4))
    expected[1:, ::2] += 1
    expected[[0]] += 5
    expected[:, -1] = [7, 8, 9]
    expected[0, 0] = 6
    check_same(x, expected)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "int64", "float16", "float64"])
def test_assignment_casts_as_numpy(dtype: str, device: str) -> None:
    values = sample(dtype, (5,))
    for value in (
        1,
        0,
        True,
        2.75,
        np.float32(-0.5),
        np.int64(100),
        np.ones(5, "f4") * 2.5,
        np.arange(5),
        [1, 0, 1, 1, 0],
    ):
        for key in (slice(None), 2, [1, 3], np.array([True, False, True, False, False])):
            if np.ndim(value) and not isinstance(key, slice):
                continue
            reference = values.copy()
            with np.errstate(all="ignore"):
                reference[key] = value
            x = placed(values, device)
            x[key] = value
            check_same(x, reference, (dtype, value, key))


def test_numbers_out_of_range_are_refused() -> None:
    x = dr.zeros(4, "int8")
    for key in (0, slice(1, 3), ..., [1, 2], np.array([True, False, False, False])):
        for value in (300, -129, [300]):
            with pytest.raises(OverflowError):
                x[key] = value
    with pytest.raises(OverflowError):
        dr.full(3, 300, "int8")
        for value, error in ((300.5, OverflowError), (float("-inf"), OverflowError), (float("nan"), ValueError)):
            with pytest.raises(error):
                x[key] = value
    with pytest.raises(OverflowError):
        x.fill(1000)
    check_same(x, np.zeros(4, "int8"))


@dr.custom_op
def later(x: np.ndarray) -> np.ndarray:
    """Runs on the Python lane, so not where it is recorded."""
    return x


def test_a_mask_of_several_axes_is_one_index_where_they_are_one_in_memory() -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    mask = values.sum(-1) > 50
    x = dr.asarray(values, requires_grad=True)
    with tracing() as records:
        chosen = x[dr.asarray(mask)]
    (take,) = (record for record in records if record.name == "take")
    assert take.shapes == "float64(6, 4), int64(3,) -> float64(3, 4)"
    check_same(chosen.detach(), values[mask])
    y = x * 1
    y[mask] = dr.asarray([[1.0], [2.0], [3.0]])
    (y.sum() + chosen.sum()).backward()
    assert x.grad[..., 0].tolist() == [[1, 1, 1], [1, 1, 1]]
    turned = dr.asarray(values).transpose(1, 0, 2)
    turned[mask.T] = 0
    assert turned[mask.T].tolist() == np.zeros((3, 4)).tolist() and turned.sum().item() == values[~mask].sum()


def test_a_mask_and_a_scalar_do_not_wait() -> None:
    """x[mask] = scalar is recorded while the mask is not computed yet."""
    x = dr.asarray(np.arange(12.0).reshape(3, 4))
    native.pause(True)
    rows = later(x)[:, 0] > 3
    recorded = dr.engine_stats()["finished"]
    x[rows] = -1
    x[x > 8] = dr.asarray(5.0)
    assert dr.engine_stats()["finished"] == recorded
    native.pause(False)
    reference = np.arange(12.0).reshape(3, 4)
    reference[reference[:, 0] > 3] = -1
    reference[reference > 8] = 5
    check_same(x, reference)


def test_an_index_out_of_range_is_found_when_it_is_computed() -> None:
    x = dr.arange(5)
    lost = x[dr.asarray([0, 7])]
    with pytest.raises(IndexError, match="out of bounds") as caught:
        lost.wait()
    assert isinstance(caught.value, OperationError) and caught.value.file == __file__
    with pytest.raises(IndexError):
        dr.take(x, [-6]).wait()
    y = dr.arange(5)
    y[dr.asarray([0, 7])] = 1
    with pytest.raises(IndexError):
        y.wait()
    with pytest.raises(IndexError):
        dr.take_along_axis(x, [9]).wait()
    check_same(x, np.arange(5))


def test_messages_of_wrong_keys() -> None:
    x = dr.zeros((2, 3))
    for key, message in (
        ((0, 0, 0), "too many indices: the array has 2 axes, but 3 were indexed"),
        (5, "index 5 is out of bounds for axis 0 with size 2"),
        (np.ones((2, 2), bool), r"axis 1 has size 3, the mask 2"),
        (np.ones(3, bool), r"axis 0 has size 2, the mask 3"),
        (([0], [1.5]), "expected integers, slices"),
        ((..., 0, ...), "single ellipsis"),
    ):
        with pytest.raises(IndexError, match=message):
            x[key]
    with pytest.raises(ValueError, match=r"shape \(4,\) into a selection of shape \(2, 3\)"):
        x[...] = np.ones(4)
    with pytest.raises(ValueError, match="broadcast"):
        dr.broadcast_to(dr.zeros(3), (2, 3))[0:2] = 1
    with pytest.raises(ValueError, match="broadcast"):
        dr.broadcast_to(dr.zeros(3), (2, 3))[[0, 1]] = 1
    with pytest.raises(dr.DeviceError):
        x[dr.asarray([0], device="cpu:1")]
    with pytest.raises(dr.DeviceError):
        x[0] = dr.zeros(3, device="cpu:1")


# ---- reading and writing the same memory


def apart(x: np.ndarray | dr.Array) -> np.ndarray | dr.Array:
    """NumPy's own x[1, ::-1] = x[::-1, -1] overwrites what it still has to read (2.4.6), so it is given a copy."""
    return x.copy() if isinstance(x, np.ndarray) else x


OPERATIONS = {
    "assign": lambda x, a, b: x.__setitem__(a, apart(x[b])),
    "add": lambda x, a, b: x[a].__iadd__(x[b]),
    "subtract": lambda x, a, b: x.__setitem__(a, x[a] - x[b]),
    "turned": lambda x, a, b: x[a].__imul__(x.T[b]),
    "reversed": lambda x, a, b: x[a].__isub__(x[::-1, ::-1][b]),
    "product": lambda x, a, b: x.__imatmul__(x[::-1]),
    "rows": lambda x, a, b: x.__setitem__(([0, 2, 1],), x[[1, 0, 5]]),
    "indexed by itself": lambda x, a, b: x.__setitem__((x[:, 0] % 6, slice(None)), apart(x[::-1])),
    "masked": lambda x, a, b: x.__setitem__(x > x.T, 3),
}


@random
@given(
    program=st.lists(
        st.tuples(
            st.sampled_from(sorted(OPERATIONS)),
            hnp.basic_indices((6, 6), max_dims=2, allow_newaxis=False),
            hnp.basic_indices((6, 6), max_dims=2, allow_newaxis=False),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_operations_on_overlapping_views(program: list[tuple[str, object, object]]) -> None:
    reference = sample("int32", (6, 6), special=False)
    x = placed(reference)
    for name, a, b in program:
        function = OPERATIONS[name]
        if np.shape(reference[a]) == ():
            a = (slice(None), slice(2))  # NumPy's scalars are no views
            b = (slice(None), slice(1, 3))
        with np.errstate(all="ignore"):
            error = raised(function, reference, a, b)
        caught = raised(function, x, a, b)
        assert (error is None) == (caught is None), (name, a, b, error, caught)
        assert error is None or issubclass(caught, error), (name, error, caught)
    check_same(x, reference, program)


def test_the_common_overlaps() -> None:
    for dtype in ("float32", "int64"):
        values = sample(dtype, (6, 6), special=False)
        steps = [
            lambda x: x[1:].__iadd__(x[:-1]),
            lambda x: x.__setitem__(..., apart(x.T)),
            lambda x: x.__iadd__(x[::-1]),
            lambda x: x[::2].__imul__(x[1::2]),
            lambda x: x.__iadd__(x.T),
            lambda x: x.__iadd__(x),
            lambda x: x.__iadd__(x[0]),
            lambda x: x.__ifloordiv__(x[:, :1]),
        ]
        for step in steps:
            x, reference = placed(values), values.copy()
            with np.errstate(all="ignore"):
                step(reference)
            step(x)
            check_same(x, reference)
    a = sample("float64", (5, 5), special=False)
    x, reference = placed(a), a.copy()
    np.matmul(reference, reference.T, out=reference)
    dr.matmul(x, x.T, out=x)
    np.testing.assert_allclose(x.numpy(), reference, rtol=1e-13)


def test_steps_of_any_size() -> None:
    x = dr.asarray(np.arange(12.0).reshape(3, 4))
    for step in (2**62, -(2**62), 2**70):
        np.testing.assert_array_equal(x[::step].numpy(), x.numpy()[::step])
