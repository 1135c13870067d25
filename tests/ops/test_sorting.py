"""Sorting of lines of every length against NumPy's stable sort: short ones are merged, long ones counted."""

from __future__ import annotations

import numpy as np
import pytest
from ops.arrays import DTYPES, check_same, placed, sample

import dagrun as dr
from dagrun.core import native, tracing
from dagrun.ops import sorting
from dagrun.ops.sorting import ARGSORT, SORT

needs_native = pytest.mark.skipif(not native.sorter("f", 4, False), reason="the Python core sorts in Python")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_long_and_short_lines(dtype: str, descending: bool, device: str) -> None:
    for shape, axis in (
        ((1000,), 0),
        ((3, 300), 1),
        ((300, 3), 0),
        ((4, 5, 6), 1),
        ((0, 3), 0),
        ((3, 0), 0),
        ((1,), 0),
    ):
        values = sample(dtype, shape)
        flipped = np.flip(values, tuple(range(values.ndim)))
        for source in (values, np.asfortranarray(values), flipped, np.repeat(values, 2, -1)[..., ::2]):
            context, x = (dtype, shape, axis), placed(source, device)
            wanted = SORT.compute(np, source, axis=axis, descending=descending)
            check_same(dr.sort(x, axis, descending=descending), wanted, context)
            wanted = ARGSORT.compute(np, source, axis=axis, descending=descending)
            check_same(dr.argsort(x, axis, descending=descending), wanted, context)


def test_zeros_and_nans_keep_their_order_and_bits() -> None:
    bits = np.array([0x7FC00001, 0x80000000, 0, 0xFFC00002, 0x80000000, 0x7F800000, 0xFF800000], "u4")
    long = np.tile(bits, 50)
    for values in (bits.view("f4"), long.view("f4")):
        expected = np.sort(values, kind="stable").view("u4")
        np.testing.assert_array_equal(dr.sort(placed(values)).numpy().view("u4"), expected)


@needs_native
@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "float32", "float64"])
def test_a_long_line_is_sorted_in_runs(dtype: str, host_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "RUN_BYTES", 3000)
    for length, runs in ((999, 2), (2500, 4), (10_007, 16)):
        values = sample(dtype, (length,))
        if dtype in ("float32", "float64"):
            values[::7], values[3::11] = np.where(np.arange(length) % 2, 0.0, -0.0)[::7], np.nan
        for source in (values, np.sort(values)[::-1], values[:, None], np.repeat(values, 2)[::2]):
            for descending in (False, True):
                wanted = SORT.compute(np, source, axis=0, descending=descending)
                with tracing() as records:
                    found = dr.sort(placed(source, host_device), 0, descending=descending)
                    dr.wait()
                tasks = [record.name for record in records].count("sort")
                expected = min(16, runs * np.dtype(dtype).itemsize // 4)
                assert tasks == expected * expected.bit_length()  # sorts, and as many tasks for each level of merges
                assert found.numpy().tobytes() == wanted.tobytes(), (length, descending)


@needs_native
def test_many_lines_are_many_native_tasks(device: str) -> None:
    values = sample("float32", (64, 8192))
    x = placed(values, device)
    with tracing() as records:
        result = dr.sort(x), dr.argsort(x, axis=0)
    least = 3 if device.startswith("cuda") else 8  # a launch takes all lines; those of 8192 elements take two
    assert {record.lane for record in records} == {"compute"} and len(records) >= least
    check_same(result[0], np.sort(values, kind="stable"))
    check_same(result[1], np.argsort(values, axis=0, kind="stable"))


def test_topk() -> None:
    values = sample("float32", (5, 40), special=False)
    for axis, k in ((1, 3), (0, 5), (-1, 0), (1, 40)):
        best, places = dr.topk(placed(values), k, axis)
        expected = np.take(np.flip(np.sort(values, axis), axis), range(k), axis)
        check_same(best, expected)
        check_same(dr.take_along_axis(placed(values), places, axis), expected)
    assert [part.tolist() for part in dr.topk([2, 1, 1, 3], 3, largest=False)] == [[1, 1, 2], [1, 2, 0]]
    with pytest.raises(ValueError, match="k is 3, expected 0 to 2"):
        dr.topk([1, 2], 3)
