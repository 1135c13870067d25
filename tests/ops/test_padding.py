"""Padding, the logarithm of sums of exponentials, and assignment along an axis: against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.ops.padding import MODES

X = np.random.default_rng(0).normal(size=(3, 4))


@pytest.mark.parametrize("width", [0, 1, (1, 2), ((0, 3), (2, 1)), ((7, 0), (0, 9))], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_pad(mode: Any, width: Any, device: str) -> None:
    for values in (X, X[:, ::2].astype("float32"), (10 * X).astype("int8")):
        found = dr.pad(dr.asarray(values, device=device), width, mode)
        expected = np.pad(values, width, mode)
        assert found.dtype == expected.dtype and str(found.device) == device
        np.testing.assert_array_equal(found.numpy(), expected)


def test_pad_with_a_number_and_without_elements() -> None:
    np.testing.assert_array_equal(
        dr.pad(dr.asarray(X), 1, constant_values=-np.inf).numpy(), np.pad(X, 1, constant_values=-np.inf)
    )
    assert dr.pad(dr.zeros((0, 2)), 1).tolist() == [[0.0] * 4] * 2
    assert type(np.pad(dr.asarray(X), 1, mode="edge")) is dr.Array


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((1, "mirror"), ValueError, "mode is 'mirror', expected one of constant, edge, reflect, symmetric, wrap"),
        (((1, 2, 3),), ValueError, r"widths \(1, 2, 3\) for 2 axes"),
        ((-1,), ValueError, "widths -1, expected integers from 0 on"),
        ((0.5,), ValueError, "widths 0.5, expected integers"),
    ],
)
def test_mistakes_are_told(arguments: tuple, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        dr.pad(dr.asarray(X), *arguments)
    with pytest.raises(ValueError, match="no elements to repeat"):
        dr.pad(dr.zeros((0, 2)), 1, "edge")
    with pytest.raises(OverflowError, match="300 out of bounds for int8"):
        dr.pad(dr.zeros(2, "int8"), 1, constant_values=300)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1), ()], ids=str)
def test_logsumexp(axis: Any, device: str) -> None:
    for shift in (0.0, 1e4, -1e4):
        found = dr.logsumexp(dr.asarray(X + shift, device=device), axis)
        np.testing.assert_allclose(found.numpy(), np.log(np.exp(X).sum(axis)) + shift, rtol=1e-12)
        assert dr.logsumexp(dr.asarray(X), axis, keepdims=True).shape == X.sum(axis, keepdims=True).shape


def test_logsumexp_of_infinities_and_nothing() -> None:
    x = dr.asarray([[-np.inf, -np.inf], [0.0, -np.inf], [0.0, np.inf]], requires_grad=True)
    y = dr.logsumexp(x, 1)
    assert y.tolist() == [-np.inf, 0.0, np.inf]
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [1, 0], [0, np.nan]])
    assert dr.logsumexp(dr.zeros((0, 2)), 0).tolist() == [-np.inf, -np.inf]
    with pytest.raises(TypeError, match="dtype int64, expected a floating dtype"):
        dr.logsumexp(dr.asarray([1]))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_put_along_axis(axis: int, device: str) -> None:
    several = np.array([[-1, 0], [0, 1], [1, 2]]) if axis else np.array([[-1, 0, 2, 1]])
    rows, columns = several.shape
    for index, values in ((several, 7.0), (several, X[:rows, :columns]), (several[:1, :1], 5.0)):
        expected, found = X.copy(), dr.asarray(X, device=device)
        np.put_along_axis(expected, index, values, axis)
        dr.put_along_axis(found, dr.asarray(index, device=device), values, axis)
        np.testing.assert_array_equal(found.numpy(), expected)
    x = dr.asarray(X)
    with pytest.raises(ValueError, match="1 axes of indices and 2 of the array"):
        dr.put_along_axis(x, [0], 0.0, axis)
    dr.put_along_axis(x, [[9]], 0.0, 0)
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        x.numpy()
