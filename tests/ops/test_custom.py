"""Operators of the user's own: what their functions may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dagrun as dr


def test_a_result_is_like_the_first_array_unless_infer_says_otherwise() -> None:
    x = dr.asarray([[3.0, 1.0, 2.0]], "float32")
    assert (dr.custom_op(lambda x: np.sin(x.astype("f8")))(x).dtype, dr.custom_op(lambda x: 7)(x[0, 0]).item()) == (
        "float32",
        7,
    )
    order = dr.custom_op(np.argsort, infer=lambda x: (x[0], "int64"))(x)
    assert order.dtype == np.int64 and order.tolist() == [[1, 2, 0]]
    low, high = dr.custom_op(lambda x: (x.min(0), x.max(0)), infer=lambda x: [(x[0][1:], x[1])] * 2)(x)
    assert low.tolist() == high.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("function", "error", "returned"),
    [
        (lambda x: x.T, ValueError, r"int64\(3, 1\)"),
        (lambda x: x.sum(), ValueError, r"int64\(\)"),
        (np.sqrt, TypeError, r"float64\(1, 3\)"),
        (lambda x: (x, x), TypeError, "2 arrays"),
    ],
)
def test_another_result_without_infer_is_an_error(function: object, error: type[Exception], returned: str) -> None:
    operator = dr.custom_op(function, name="mine")
    with pytest.raises(error, match=f"mine returned {returned}, expected one array like .* int64.* infer="):
        operator(dr.asarray([[3, 1, 2]])).wait()


@pytest.mark.parametrize(
    ("function", "infer", "said"),
    [
        (lambda x: x / 2, lambda x: (x[0], int), r"mine returned float64\(2,\), expected int64, as infer= says"),
        (lambda x: (x, x, x), lambda x: [x, x], "mine returned 3 arrays, expected 2, as infer= says"),
        (lambda x: x, lambda x: [x, x], "mine returned 1 arrays, expected 2, as infer= says"),
        (lambda x: (x, x), lambda x: x, "mine returned 2 arrays, expected 1, as infer= says"),
    ],
)
def test_another_result_than_inferred_is_an_error(function: Any, infer: Any, said: str) -> None:
    made = dr.custom_op(function, name="mine", infer=infer)(dr.asarray([1.0, 2.0]))
    with pytest.raises(dr.OperationError, match=said):
        (made[0] if isinstance(made, tuple) else made).wait()


def test_a_gradient_of_numpy_is_an_error() -> None:
    x = dr.ones(2, requires_grad=True)
    y = dr.custom_op(lambda x: x + 1, name="mine", grad=lambda g, x: np.ones(2))(x)
    with pytest.raises(TypeError, match="grad of mine returned a ndarray, expected dagrun arrays"):
        y.sum().backward()
