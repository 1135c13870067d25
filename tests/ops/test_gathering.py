"""Gathers, assignments and sums by index arrays: natively, in order, cut into tasks without changing a bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.arrays import DTYPES, check_same, layouts, placed, sample

import dagrun as dr
from dagrun.core import native, tracing
from dagrun.errors import OperationError
from dagrun.ops.cutting import PIECE_BYTES
from dagrun.ops.scattering import add_along_axis, scatter_add


def lanes_of(action: Callable[[], object]) -> list[tuple[str, str]]:
    """(operator, lane) of each task that an action records."""
    with tracing() as records:
        action()
    return [(record.name, record.lane) for record in records]


def test_nothing_needs_the_python_lane(device: str) -> None:
    x = placed(sample("float32", (4, 5, 6)), device)
    i, j = (dr.asarray(index, device=device) for index in ([1, -1], [[0], [3]]))
    index = dr.asarray(np.zeros((4, 1, 6), int), device=device)

    def everything() -> None:
        x[i, j]
        x[:, i, None, j]
        x[0, :, i]
        x[True, i]
        x[i, :, j] = 1
        x[i] = x[i]
        x[[True, False, True, False]] = np.arange(6)
        dr.take_along_axis(x, index, 1)
        dr.index_add(x, i, 1.0, axis=2)
        scatter_add(x[i, j], (i, j), x.shape, (0, 1), 0)
        add_along_axis(x[:, :1], index, x.shape, 1)

    assert {lane for _, lane in lanes_of(everything)} <= {"compute", "copy"}  # copies: NumPy values to a GPU


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout(dtype: str, device: str) -> None:
    i, j = np.array([[2, 0], [-1, 2]], "int16"), np.array([0, 3], "uint8")
    for name, values in layouts(sample(dtype)):
        if values.ndim != 2 or not values.size or name == "one element":
            continue
        x = placed(values, device)
        check_same(x[placed(i, device), placed(j, device)], values[i, j], name)
        check_same(x[:, i.T], values[:, i.T], name)
        order = np.argsort(values, axis=1)
        check_same(dr.take_along_axis(x, placed(order, device), 1), np.take_along_axis(values, order, 1), name)
        with np.errstate(all="ignore"):
            expected = values.copy()
            np.add.at(expected, (slice(None), i), values[:, i])
            check_same(dr.index_add(x, i, values[:, i], axis=1), expected, name)
            expected = np.zeros_like(values)
            np.add.at(expected, (i, j), values[:2, :2])
            added = scatter_add(x[:2, :2], (placed(i, device), placed(j, device)), values.shape, (0, 1), 0)
            check_same(added, expected, name)
        if name != "repeated":
            reference = values.copy()
            x[i, j], reference[i, j] = values[:2, :2], values[:2, :2]
            check_same(x, reference, name)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_sums_at_indices(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    wanted = data.draw(st.lists(st.integers(0, 3), max_size=2))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, place = rng.standard_normal(shape).astype("f4"), axis % len(shape)
    index = rng.integers(-shape[place], shape[place], wanted)
    values = rng.standard_normal((*shape[:place], *wanted, *shape[place + 1 :])).astype("f4")
    expected, zeros = x.copy(), np.zeros_like(x)
    for target in (expected, zeros):
        np.add.at(target, (*(slice(None),) * place, index), values)
    check_same(dr.index_add(placed(x), placed(index), placed(values), axis=axis), expected)
    check_same(scatter_add(placed(values), (placed(index),), x.shape, (place,), place), zeros)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_along_an_axis(data: st.DataObject) -> None:
    """take_along_axis and its adjoint: <take(x), y> = <x, add(y)>, exactly, for whole numbers."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    axis = data.draw(st.integers(0, len(shape) - 1))
    other = [data.draw(st.sampled_from([1, length])) for length in shape]
    other[axis] = data.draw(st.integers(0, 3))
    own = [data.draw(st.sampled_from([1, length])) if d != axis else length for d, length in enumerate(shape)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, index = rng.integers(-9, 9, own), rng.integers(-shape[axis], shape[axis], other)
    taken = dr.take_along_axis(placed(x), placed(index), axis)
    check_same(taken, np.take_along_axis(x, index, axis))
    y = rng.integers(-9, 9, taken.shape)
    added = add_along_axis(placed(y), placed(index), x.shape, axis)
    assert added.shape == x.shape
    assert (taken.numpy() * y).sum() == (x * added.numpy()).sum()
    native_bits = added.numpy()
    oracle = dr.ops.scattering.ADD_ALONG.compute(np, y, index, shape=x.shape, axis=axis)
    np.testing.assert_array_equal(native_bits, oracle)


def test_equal_indices_in_order(device: str) -> None:
    x = dr.zeros((3, 2), "float32", device=device)
    x[dr.asarray([1, 1, 1], device=device)] = [[1, 2], [3, 4], [5, 6]]
    x[dr.asarray([0, 0], device=device), dr.asarray([1, 1], device=device)] = [7, 8]
    assert x.numpy().tolist() == [[0, 8], [5, 6], [0, 0]]
    huge = dr.asarray(np.array([1e8, 1.0, -1e8, 1.0], "f4"), device=device)  # ((1e8 + 1) - 1e8) + 1
    index = dr.asarray([0, 0, 0, 0], device=device)
    assert scatter_add(huge, (index,), (1,), (0,), 0).numpy().tolist() == [1.0]


@pytest.mark.parametrize("case", ["rows", "columns", "along"])
def test_large_ones_are_cut_into_the_same_bits(case: str, device: str) -> None:
    rng = np.random.default_rng(5)
    cut = not device.startswith("cuda")  # a launch has threads enough for everything
    rows, columns = 4 * PIECE_BYTES // (4 * 512), 512 if cut or case != "along" else 32
    index = rng.integers(0, 100, rows)
    values = rng.standard_normal((rows, columns)).astype("f4")
    expected = np.zeros((100, columns), "f4")
    np.add.at(expected, index, values)
    given_index, given_values = placed(index, device), placed(values, device)
    if case == "columns":
        given_values, expected = given_values.T, expected.T

    def run() -> dr.Array:
        if case == "along":
            indices = dr.broadcast_to(given_index, (columns, rows))
            return add_along_axis(given_values.T, indices, (columns, 100), 1).T
        axis = int(case == "columns")
        return scatter_add(given_values, (given_index,), expected.shape, (axis,), axis)

    check_same(run(), expected)
    tasks = lanes_of(run)
    assert (4 if cut else 1) <= len([name for name, _ in tasks if name != "copy"]) < 20, tasks
    x = placed(expected, device)
    picked = x[given_index] if case != "columns" else x[:, given_index]
    check_same(picked, expected[index] if case != "columns" else expected[:, index])
    with dr.engine("serial"):
        check_same(run(), expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 3)])
def test_empty(shape: tuple[int, ...], device: str) -> None:
    values = np.zeros(shape, "f4")
    x, none = placed(values, device), np.zeros(0, int)
    check_same(x[none], values[none])
    check_same(x[..., none], values[..., none])
    check_same(dr.index_add(x, none, 1.0), values)
    check_same(scatter_add(x[none], (placed(none, device),), shape, (0,), 0), values)
    check_same(dr.take_along_axis(x, values.astype(int), -1), values)


def test_no_axes(device: str) -> None:
    x = placed(np.arange(6.0).reshape(2, 3), device)
    one = dr.asarray(1, device=device)
    check_same(x[one, one], np.array(4.0))
    x[one, one] = 9
    assert x.numpy().tolist() == [[0, 1, 2], [3, 9, 5]]
    check_same(dr.index_add(x, one, 1.0), np.array([[0.0, 1, 2], [4, 10, 6]]))


def test_an_index_out_of_range_names_its_axis(device: str) -> None:
    x = dr.zeros((2, 3, 4), device=device)
    i, bad = dr.asarray([0, 1], device=device), dr.asarray([[0, 1], [-5, 0]], device=device)
    message = r"index -5 is out of bounds for axis 2 with size 4 \(position 2 of the indices\)"
    actions: list[Callable[[], dr.Array]] = [
        lambda: x[i, :, bad],
        lambda: x[0, i, bad],
        lambda: x[:, 1:][..., bad],
        lambda: dr.take(x, bad, 2),
        lambda: dr.index_add(x, bad, 1.0, axis=2),
        lambda: dr.take_along_axis(x[:1, :1], bad.reshape(1, 1, -1)),
    ]
    for action in actions:
        lost = action()
        with pytest.raises(IndexError, match=message) as caught:
            lost.wait()
        assert isinstance(caught.value, OperationError) and caught.value.file == __file__, action
    x[i, 0, bad] = 1
    with pytest.raises(IndexError, match=message):
        x.wait()
    x = dr.zeros((2, 3), device=device)
    with pytest.raises(IndexError, match=r"shapes \(2,\), \(3,\) do not broadcast"):
        x[i, dr.asarray([0, 1, 2], device=device)]


def test_wrong_values() -> None:
    x = dr.zeros((2, 3), "int32")
    with pytest.raises(ValueError, match=r"values of shape \(2,\) do not broadcast to \(1, 3\)"):
        dr.index_add(x, [0], [1, 2])
    with pytest.raises(TypeError, match="same_kind"):
        dr.index_add(x, [0], np.ones(3))
    with pytest.raises(dr.DeviceError):
        dr.index_add(x, dr.asarray([0], device="cpu:1"), 1)


def test_an_empty_result_has_its_failure(device: str) -> None:
    """Promise 4 for results without elements: every wait raises, also for what is computed from them."""
    lost = dr.zeros((3, 0), device=device)[dr.asarray([5], device=device)]
    for _ in range(2):
        for array in (lost, lost + 1, lost.T):
            with pytest.raises(IndexError, match="index 5 is out of bounds for axis 0 with size 3"):
                array.numpy()
    lost[...] = 0
    assert lost.numpy().shape == (1, 0)
    native.failures(True)
