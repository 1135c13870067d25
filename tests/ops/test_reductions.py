"""Every reduction against NumPy, over axes, dtypes, layouts and devices."""

from __future__ import annotations

import numpy as np
import pytest
from ops.arrays import DTYPES, check_near, check_same, layouts, placed, raised, sample

import dagrun as dr

SUMMING = ["sum", "prod", "mean", "var", "std"]
EXACT = ["max", "min", "all", "any", "count_nonzero", "argmax", "argmin", "median"]
AXES = [None, 0, 1, -1, (0, 1), (1, 0), ()]


def reduce(name: str, values: np.ndarray, device: str, **options: object) -> None:
    """One call, on dagrun and on NumPy; sums of a few floats agree to a few units in the last place."""
    context = (name, values.dtype, values.shape, values.strides, options)
    with np.errstate(all="ignore"):
        error = raised(lambda: getattr(np, name)(values, **options))
        if error is None:
            expected = getattr(np, name)(values, **options)
    if error is not None:
        caught = raised(lambda: getattr(dr, name)(placed(values, device), **options))
        assert caught is not None and issubclass(caught, error), (context, caught, error)
        return
    actual = getattr(dr, name)(placed(values, device), **options)
    if name in SUMMING and np.asarray(expected).dtype.kind == "f":
        values, expected = np.asarray(actual.numpy()), np.asarray(expected)
        assert (values.dtype, values.shape) == (expected.dtype, expected.shape), context
        tolerance = 16 * np.finfo(expected.dtype).eps
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance, err_msg=str(context))
    else:
        check_near(actual, expected, 0, context)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom", "ignore:invalid value")
@pytest.mark.parametrize("name", SUMMING + EXACT)
def test_reductions(name: str, device: str) -> None:
    for dtype in ["bool", "int8", "uint32", "float16", "float32", "float64"]:
        kind = np.dtype(dtype).kind
        for layout, values in layouts(sample(dtype, special=name in EXACT)):
            axes = AXES if values.ndim == 2 else [None, 5, *[0] * values.ndim]
            for axis in axes:
                if name.startswith("arg") and isinstance(axis, tuple):
                    continue
                if name == "median" and (axis == () or (kind == "f" and values.size == 0)):
                    continue
                if dtype == "float16" and layout != "contiguous":
                    continue
                reduce(name, values, device, axis=axis)
        reduce(name, sample(dtype, (3, 2, 4), special=name in EXACT), device, axis=1, keepdims=True)
        reduce(name, sample(dtype, (3, 2, 4), special=name in EXACT), device, axis=None, keepdims=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_extremes_of_every_dtype(dtype: str) -> None:
    for shape in [(7,), (3, 5), (2, 3, 4)]:
        for name in ("sum", "prod", "max", "min", "any", "mean"):
            reduce(name, sample(dtype, shape, special=False), "cpu:0", axis=0)


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "cumsum", "cumprod", "var"])
def test_the_dtype_of_the_result_can_be_chosen(name: str) -> None:
    for source, target in [("int8", "float32"), ("float32", "float64"), ("bool", "int32"), ("int32", "uint8")]:
        if name in ("mean", "var") and np.dtype(target).kind != "f":
            continue
        values = sample(source, (3, 4), special=False)
        if name.startswith("cum"):
            check_near(getattr(dr, name)(placed(values), axis=1, dtype=target), getattr(np, name)(values, 1, target), 4)
        else:
            reduce(name, values, "cpu:0", axis=1, dtype=target)
        assert getattr(placed(values), name)(1, target).dtype == target  # NumPy's second argument by place


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "all", "any", "mean"])
def test_masks_and_initial_values(name: str, device: str) -> None:
    begins = {} if name in ("all", "any", "mean") else {"initial": 3}
    for dtype in ["bool", "int8", "uint32", "float16", "float32", "float64"]:
        if dtype == "bool":
            begins = dict.fromkeys(begins, True)
        for values in (sample(dtype, (3, 4), special=False), sample(dtype, (0, 4))):
            masks = [True, False, np.arange(4) % 2 == 0, np.zeros(values.shape, bool), np.ones((1, 1), bool)]
            for axis in (None, 0, 1, (0, 1)):
                reduce(name, values, device, axis=axis, **begins)
                for mask in masks:
                    reduce(name, values, device, axis=axis, where=mask, **begins)
                    reduce(name, values, device, axis=axis, where=mask, keepdims=True, **begins)
    x = placed(np.arange(6.0).reshape(2, 3), device)
    check_same(getattr(x, name)(where=x > 2, **begins), getattr(np.arange(3.0, 6.0), name)(**begins))
    with pytest.raises(ValueError):
        getattr(x, name)(where=np.ones((2, 2, 3), bool), **begins)
    if name in ("max", "min"):
        with pytest.raises(ValueError, match="where without initial"):
            getattr(x, name)(where=x > 2)


def test_the_gradient_of_what_a_mask_leaves_out_is_zero() -> None:
    x = dr.asarray([1.0, 2.0, 3.0], requires_grad=True)
    mask = np.array([True, False, True])
    (x.sum(where=mask, initial=5) + 10 * x.mean(where=mask) + 100 * x.max(where=mask, initial=0)).backward()
    assert x.grad.tolist() == [6, 0, 106]


def test_correction_is_numpys_ddof() -> None:
    values = sample("float64", (3, 4), special=False)
    for name in ("var", "std"):
        reduce(name, values, "cpu:0", axis=0, ddof=1)
        reduce(name, values, "cpu:0", axis=1, correction=2)
        assert np.isnan(getattr(dr, name)(placed(values[:1, :1]), ddof=1).item())


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_cumulative(name: str, device: str) -> None:
    for dtype in ["bool", "int8", "uint16", "float32", "float64"]:
        for layout, values in layouts(sample(dtype, special=False)):
            for axis in [None, 0, -1] if values.ndim else [None]:
                with np.errstate(all="ignore"):
                    expected = getattr(np, name)(values, axis=axis)
                actual = getattr(placed(values, device), name)(axis)
                if expected.dtype.kind == "f":
                    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-6)
                    assert actual.dtype == expected.dtype
                else:
                    check_same(actual, expected, (name, dtype, layout, axis))


def test_nan_wins_and_the_first_of_equals_is_found() -> None:
    for values in ([1.0, np.nan, 3.0, np.nan], [2.0, 5.0, 5.0], [np.inf, -np.inf], [0.0, -0.0]):
        for dtype in ("float16", "float32", "float64"):
            array = np.array(values * 9, dtype)
            for name in ("max", "min", "argmax", "argmin"):
                check_near(getattr(dr, name)(placed(array)), getattr(np, name)(array), 0, (name, values))


def test_the_axis_is_checked() -> None:
    x = dr.zeros((2, 3))
    for name in SUMMING + EXACT + ["cumsum"]:
        with pytest.raises(np.exceptions.AxisError, match=name if name not in ("std",) else "var"):
            getattr(dr, name)(x, axis=2)
    with pytest.raises(ValueError, match="twice"):
        dr.sum(x, axis=(0, -2))
    with pytest.raises(ValueError, match="it is empty there"):
        dr.max(dr.zeros((2, 0)), axis=1)
    assert dr.max(dr.zeros((2, 0)), axis=0).shape == (0,)


def test_long_sums_are_accurate() -> None:
    """The tree of additions keeps the error of a long sum near that of NumPy's."""
    values = sample("float32", (300_001,), special=False)
    exact = values.astype(np.float64).sum()
    scale = np.abs(values).astype(np.float64).sum()
    assert abs(dr.sum(placed(values)).item() - exact) < 1e-6 * scale
    assert abs(dr.sum(placed(np.ones(300_001, "f2")), dtype="float32").item()) == 300_001


def test_the_gradient_of_no_spread_is_zero() -> None:
    x = dr.asarray([1.0, 1.0], requires_grad=True)
    x.std().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0]
