"""Sample arrays of every dtype and layout, and how results are compared with NumPy's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import dagrun as dr

BOOL, SIGNED, UNSIGNED = ["bool"], ["int8", "int16", "int32", "int64"], ["uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
DTYPES = BOOL + SIGNED + UNSIGNED + FLOATS
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-5, 3e4, np.inf, -np.inf, np.nan, 1e300, -1e-320]


def sample(dtype: object, shape: tuple[int, ...] = (4, 6), seed: int = 0, special: bool = True) -> np.ndarray:
    """Values all over the range of a dtype, special ones among them."""
    rng = np.random.default_rng([seed, *shape])
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    with np.errstate(all="ignore"):
        if dtype.kind == "f":
            values = rng.standard_normal(size) * 10.0 ** rng.integers(-2, 2, size)
            chosen = np.array(SPECIAL)
        elif dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(bool)
        else:
            limits = np.iinfo(dtype)
            values = rng.integers(max(limits.min, -100), min(limits.max, 100), size, endpoint=True)
            chosen = np.array([limits.min, limits.max, 0, 1, 7], dtype)
        values = values.astype(dtype)
        if special and size > 1:
            places = rng.permutation(size)[: size // 2]
            values[places] = chosen.astype(dtype)[rng.integers(0, len(chosen), len(places))]
    return values.reshape(shape)


def layouts(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same values as they lie in memory in different ways (of arrays with two axes), and some of other shapes."""
    yield "contiguous", values
    yield "transposed", np.ascontiguousarray(values.T).T
    wide = np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)
    yield "strided", wide[::2, ::3]
    yield "reversed", np.ascontiguousarray(values[::-1, ::-1])[::-1, ::-1]
    yield "sliced", np.pad(values, 1)[1:-1, 1:-1]
    yield "repeated", np.broadcast_to(values[1:2], values.shape)
    yield "one axis", values[2]
    yield "no axis", values[1, 1]
    yield "one element", values[:1, :1]
    yield "empty", values[:, :0]


def placed(values: np.ndarray, device: str = "cpu:0") -> dr.Array:
    """A dagrun array with the values and the strides of a NumPy array."""
    values = np.asarray(values)
    root = values
    while isinstance(root.base, np.ndarray):
        root = root.base
    if root is values or not values.size or not root.flags.c_contiguous or root.dtype != values.dtype:
        return dr.asarray(values, device=device)
    whole = dr.asarray(root.reshape(-1), device=device)
    offset = values.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return dr.ops.manipulation.view(whole, values.shape, values.strides, offset)


def check_same(actual: object, expected: object, context: object = "") -> None:
    """Equal dtype, shape and bits; any NaN equals any other."""
    values, expected = _values(actual, expected, context)
    if expected.dtype.kind == "f":
        nans = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(values), nans, err_msg=str(context))
        bits = np.dtype(f"u{expected.itemsize}")
        same = nans | (values.view(bits) == expected.view(bits))
    else:
        same = values == expected
    if not same.all():
        raise AssertionError(f"{context}: {values[~same][:5]} differ from NumPy's {expected[~same][:5]}")


def check_near(actual: object, expected: object, ulps: float, context: object = "") -> None:
    """Equal dtype and shape, values within so many units in the last place (of float32 where they are float16)."""
    values, expected = _values(actual, expected, context)
    if expected.dtype.kind != "f":
        check_same(actual, expected, context)
        return
    with np.errstate(all="ignore"):
        unit = np.spacing(np.abs(expected)).astype(np.float64)
        distance = np.abs(values.astype(np.float64) - expected.astype(np.float64)) / unit
        good = (values == expected) | (np.isnan(values) & np.isnan(expected)) | (distance <= ulps)
    if not good.all():
        raise AssertionError(
            f"{context}: {values[~good][:5]} are {distance[~good][:5]} ulps from NumPy's {expected[~good][:5]}"
        )


def _values(actual: object, expected: object, context: object) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(actual, dr.Array), f"{context}: {type(actual)} is no dagrun array"
    values, expected = actual.numpy(), np.asarray(expected)
    assert actual.dtype == values.dtype == expected.dtype, f"{context}: {values.dtype}, NumPy gives {expected.dtype}"
    assert actual.shape == values.shape == expected.shape, f"{context}: {values.shape}, NumPy gives {expected.shape}"
    return np.ascontiguousarray(values).reshape(values.shape), np.ascontiguousarray(expected).reshape(expected.shape)


def raised(function: object, *args: object, **options: object) -> type[BaseException] | None:
    """The type of what a call (and the wait for what it gives) raises."""
    try:
        with np.errstate(all="ignore"):
            result = function(*args, **options)  # type: ignore[operator]
        for array in result if isinstance(result, tuple | list) else (result,):
            if isinstance(array, dr.Array):
                array.wait()
    except Exception as error:
        return type(error)
    return None
