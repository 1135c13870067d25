"""Pooling against windows taken one by one in NumPy, against torch, and its gradients by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn.gradient_checks import check_gradients, check_serial, placed_as, with_gradients

import dagrun as dr
from dagrun.core import tracing
from dagrun.nn import functional as F

# shape, kernel, stride, padding, dilation, ceil_mode
CASES = [
    ((2, 3, 28, 28), 2, 2, 0, 1, False),
    ((2, 3, 29, 31), 3, 2, 1, 1, False),
    ((2, 3, 29, 31), 3, 2, 1, 1, True),
    ((2, 1, 17, 40), (3, 2), 1, 1, 2, False),
    ((3, 20, 35), (5, 3), (2, 3), (2, 1), 2, True),
    ((1, 1, 4, 50), 3, 1, 1, 1, False),
    ((1, 2, 9, 5), (2, 5), None, 0, 1, True),
]


def both(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def places(length: int, k: int, s: int, p: int, d: int, ceil: bool) -> list[list[int]]:
    """The elements of each window along an axis, those in the padding too."""
    starts = range(-p, length + p - d * (k - 1) + (s - 1 if ceil else 0), s)
    return [[start + d * j for j in range(k)] for start in starts if not (ceil and start >= length)]


def windows(case: Any) -> tuple[list[list[int]], list[list[int]]]:
    shape, kernel, stride, padding, dilation, ceil = case
    each = zip(shape[-2:], *(both(v) for v in (kernel, stride or kernel, padding, dilation)), strict=True)
    rows, columns = (places(*own, ceil) for own in each)
    return rows, columns


def inside(elements: list[int], length: int) -> list[int]:
    return [i for i in elements if 0 <= i < length]


def reference_max(x: np.ndarray, case: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = windows(case)
    made = np.empty((*x.shape[:-2], len(rows), len(columns)), x.dtype)
    found = np.empty(made.shape, np.int64)
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            at = np.array([p * x.shape[-1] + q for p in inside(r, x.shape[-2]) for q in inside(c, x.shape[-1])])
            seen = x.reshape(*x.shape[:-2], -1)[..., at]
            made[..., i, j], found[..., i, j] = seen.max(-1), at[seen.argmax(-1)]
    return made, found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool(case: Any, device: str) -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float64", "float32", "float16", "int32", "uint8"):
        x = (rng.standard_normal(case[0]) * 9).astype(dtype)  # with equal elements where they are integers
        expected, found = reference_max(x, case)
        for place in (dr.asarray, placed_as):
            y, at = F.max_pool2d(place(x, device=device), *case[1:], return_indices=True)
            assert y.dtype == dtype and at.dtype == np.int64
            np.testing.assert_array_equal(y.numpy(), expected)
            np.testing.assert_array_equal(at.numpy(), found)


def reference_mean(x: np.ndarray, case: Any, padded: bool, divisor: int | None) -> np.ndarray:
    rows, columns = windows(case)
    made = np.empty((*x.shape[:-2], len(rows), len(columns)))
    limits = [n + p for n, p in zip(x.shape[-2:], both(case[3]), strict=True)]
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            own_r, own_c = inside(r, x.shape[-2]), inside(c, x.shape[-1])
            count = len([v for v in r if v < limits[0]]) * len([v for v in c if v < limits[1]])
            count = count if padded else len(own_r) * len(own_c)
            made[..., i, j] = x[..., own_r, :][..., own_c].sum((-2, -1)) / (divisor or count)
    return made


@pytest.mark.parametrize("case", [case for case in CASES if case[4] == 1], ids=str)
def test_avg_pool(case: Any, device: str) -> None:
    shape, kernel, stride, padding, _, ceil = case
    values = np.random.default_rng(0).standard_normal(shape)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5), ("float16", 1e-2)):
        x = values.astype(dtype)
        for padded, divisor in ((True, None), (False, None), (True, 7)):
            expected = reference_mean(x.astype("float64"), case, padded, divisor)
            for place in (dr.asarray, placed_as):
                y = F.avg_pool2d(place(x, device=device), kernel, stride, padding, ceil, padded, divisor)
                assert y.dtype == dtype
                np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_adaptive_pools(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 10))
    for out in ((3, 5), (1, 1), (7, None), (10, 4)):
        rows, columns = out[0], out[1] or 10
        y = F.adaptive_avg_pool2d(dr.asarray(x, device=device), out).numpy()
        z, at = F.adaptive_max_pool2d(dr.asarray(x, device=device), out, return_indices=True)
        for i in range(rows):
            for j in range(columns):
                part = x[:, :, i * 7 // rows : -(-(i + 1) * 7 // rows), j * 10 // columns : -(-(j + 1) * 10 // columns)]
                np.testing.assert_allclose(y[:, :, i, j], part.mean((2, 3)), rtol=1e-12)
                np.testing.assert_array_equal(z.numpy()[:, :, i, j], part.max((2, 3)))
        picked = np.take_along_axis(x.reshape(2, 3, -1), at.numpy().reshape(2, 3, -1), 2)
        np.testing.assert_array_equal(picked, z.numpy().reshape(2, 3, -1))
        check_gradients(lambda a, o=out: F.adaptive_avg_pool2d(a, o) ** 2, x, device=device)
        check_gradients(lambda a, o=out: F.adaptive_max_pool2d(a, o) ** 2, x, device=device)
    assert F.adaptive_avg_pool1d(x[0], 4).shape == (3, 7, 4) and F.adaptive_max_pool1d(x[0], 4).shape == (3, 7, 4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Any, device: str) -> None:
    shape, kernel, stride, padding, dilation, ceil = case
    size = int(np.prod(shape))  # no two elements so close that a step of the differences swaps them
    x = np.random.default_rng(0).permutation(size).reshape(shape) * (4 / size) - 2
    check_gradients(lambda a: F.max_pool2d(a, *case[1:]) ** 2, x, device=device)
    if dilation == 1:
        check_gradients(lambda a: F.avg_pool2d(a, kernel, stride, padding, ceil, False) ** 2, x, device=device)


def test_one_axis(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 11))
    y, at = F.max_pool1d(dr.asarray(x, device=device), 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(np.take_along_axis(x, at.numpy(), -1), y.numpy())
    np.testing.assert_array_equal(y.numpy(), F.max_pool2d(x[:, :, None], (1, 3), (1, 2), (0, 1)).numpy()[:, :, 0])
    mean = F.avg_pool1d(dr.asarray(x, device=device), 3, 2, 1, False, False).numpy()
    np.testing.assert_allclose(mean[..., 0], x[..., :2].mean(-1), rtol=1e-12)
    np.testing.assert_allclose(F.avg_pool1d(x, 3, 2, 1).numpy()[..., 0], x[..., :2].sum(-1) / 3, rtol=1e-12)


def test_nan_wins() -> None:
    x = np.zeros((1, 1, 4, 40), "float32")
    x[0, 0, 1, 3] = x[0, 0, 2, 36] = np.nan
    for stride in (1, 2, 3):
        y = F.max_pool2d(x, 2, stride).numpy()
        places = [(i, j) for i in range(0, 3, stride) for j in range(0, 39, stride)]
        assert np.isnan(y).sum() == sum(bool(np.isnan(x[0, 0, i : i + 2, j : j + 2]).any()) for i, j in places)


def test_many_planes_are_many_tasks_with_the_bits_of_one(host_device: str) -> None:
    x = np.random.default_rng(0).standard_normal((64, 16, 32, 32), dtype=np.float32)
    leaf = dr.asarray(x, device=host_device, requires_grad=True)
    with tracing() as records:
        y = F.max_pool2d(leaf, 3, 2, 1) + F.avg_pool2d(leaf, 3, 2, 1)
        y.backward(dr.ones_like(y))
        dr.wait()
    for name in ("max_pool", "put_places", "mean_pool", "mean_spread"):
        own = [r for r in records if r.name == name]
        assert len(own) > 1 and {r.lane for r in own} == {"compute"}, name
    check_serial(lambda: with_gradients(lambda a: F.max_pool2d(a, 3, 2, 1) + F.avg_pool2d(a, 3, 2, 1), x))
    part = with_gradients(lambda a: F.max_pool2d(a, 3, 2, 1), x[:1], device=host_device)
    whole = with_gradients(lambda a: F.max_pool2d(a, 3, 2, 1), x, device=host_device)
    for a, b in zip(part, whole, strict=True):
        np.testing.assert_array_equal(a.numpy()[0], b.numpy()[0])


def test_empty_batch_and_errors(device: str) -> None:
    x = dr.zeros((0, 3, 6, 6), device=device, requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    assert x.grad.shape == x.shape and F.avg_pool2d(x, 2).shape == (0, 3, 3, 3)
    full = dr.ones((1, 1, 6, 6), device=device)
    with pytest.raises(ValueError, match="padding 2, expected at most half"):
        F.max_pool2d(full, 3, padding=2)
    with pytest.raises(ValueError, match="kernel spans 7 elements, the padded input has 6"):
        F.avg_pool2d(full, 7)
    with pytest.raises(ValueError, match="kernel_size is 0"):
        F.max_pool2d(full, 0)
    with pytest.raises(ValueError, match="expected 4 axes"):
        F.max_pool2d(dr.ones(3), 2)
    with pytest.raises(TypeError, match="int64, expected a floating dtype"):
        F.avg_pool2d(dr.ones((1, 2, 2), dtype="int64"), 2)
    with pytest.raises(TypeError, match="bool"):
        F.max_pool2d(full > 0, 2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_torch(case: Any) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(case[0])
    theirs, at = torch.nn.functional.max_pool2d(torch.tensor(x), *case[1:], return_indices=True)
    ours = F.max_pool2d(x, *case[1:], return_indices=True)
    np.testing.assert_array_equal(ours[0].numpy(), theirs.numpy())
    np.testing.assert_array_equal(ours[1].numpy(), at.numpy())
    if case[4] == 1:
        for padded in (True, False):
            options = (*case[1:4], case[5], padded)
            theirs = torch.nn.functional.avg_pool2d(torch.tensor(x), *options)
            np.testing.assert_allclose(F.avg_pool2d(x, *options).numpy(), theirs.numpy(), rtol=1e-12, atol=1e-14)
