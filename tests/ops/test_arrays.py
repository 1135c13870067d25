"""The ways in and out of arrays, their methods, and NumPy's protocols."""

from __future__ import annotations

import copy
import pickle
from enum import IntEnum

import numpy as np
import pytest
from ops.arrays import DTYPES, check_near, check_same, layouts, placed, sample

import dagrun as dr


def lent(x: dr.Array) -> np.ndarray:
    """The memory itself, where the CPU can read it."""
    if x.device.kind != "cuda":
        return x.numpy(copy=False)
    with pytest.raises(ValueError, match="cannot read"):
        x.numpy(copy=False)
    values = x.numpy()
    values.flags.writeable = False
    return values


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_and_out(dtype: str, device: str) -> None:
    for layout, values in layouts(sample(dtype)):
        x = dr.asarray(values, device=device)
        check_same(x, values, layout)
        check_same(placed(values, device), values, layout)
        for made in (np.asarray(x), np.array(x), lent(x), np.from_dlpack(x, device="cpu"), np.asarray(x, dtype=dtype)):
            np.testing.assert_array_equal(made, values)
            assert made.dtype == values.dtype
        assert x.numpy().flags.writeable and not (x.size and lent(x).flags.writeable)
        assert np.array_equal(x.tolist(), values.tolist(), equal_nan=np.dtype(dtype).kind == "f")
        again = pickle.loads(pickle.dumps(x))
        check_same(again, values)
        assert again.device is x.device
        for twin in (copy.copy(x), copy.deepcopy(x), dr.copy(x), dr.array(x)):
            check_same(twin, values)
            assert twin._buffer != x._buffer
    assert dr.asarray(x) is x
    with pytest.raises(ValueError):
        np.asarray(x, dtype="float16" if dtype != "float16" else "int8", copy=False)


@pytest.mark.parametrize("source", DTYPES)
def test_casts(source: str, device: str) -> None:
    values = sample(source, (4, 5), special=np.dtype(source).kind != "f")  # out of range it is undefined
    for target in DTYPES:
        small = np.abs(values) if np.dtype(source).kind == "f" and np.dtype(target).kind == "u" else values
        small = np.clip(small, None, 100) if np.dtype(source).kind == "f" else small
        with np.errstate(all="ignore"):
            for x in (small, small.T, small[0, 0]):
                check_same(placed(x, device).astype(target), x.astype(target), (source, target))
    assert dr.asarray(values).astype(dtype=source, copy=False).dtype == source
    x = dr.asarray(values)
    assert x.astype(source)._buffer != x._buffer and x.astype(source, copy=False) is x
    check_same(x.to_device("cpu:1").to_device(device).T, values.T)


def test_what_asarray_takes_and_refuses() -> None:
    for obj in (3, 2.5, True, [1, 2], [[1.5], [2]], (), range(4), np.float32(2), [dr.zeros(2), [1, 2]]):
        expected = np.asarray([np.zeros(2), [1, 2]] if isinstance(obj, list) and isinstance(obj[0], dr.Array) else obj)
        check_same(dr.asarray(obj), expected)
    check_same(dr.asarray([1, 2], dtype="float16"), np.asarray([1, 2], "f2"))
    check_same(dr.asarray(np.arange(3, dtype=">i4")), np.arange(3, dtype="i4"))
    for wrong in ("text", 1j, [1j], None, object(), [[1], [1, 2]], 2**70):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            dr.asarray(wrong)
    with pytest.raises(OverflowError):
        dr.asarray([300], "int8")
    lent = np.arange(6.0)
    with pytest.raises(ValueError, match="can be written"):
        dr.asarray(lent, copy=False)
    lent.flags.writeable = False
    x = dr.asarray(lent, copy=False)
    x += 1
    np.testing.assert_array_equal(lent, np.arange(6.0))
    check_same(x, np.arange(6.0) + 1)
    with pytest.raises(ValueError, match="C-contiguous"):
        dr.asarray(lent[::2], copy=False)
    x = dr.zeros(3)
    with pytest.raises(ValueError, match="needs a copy"):
        dr.asarray(x, "float32", copy=False)
    with pytest.raises(ValueError, match="needs a copy"):
        dr.asarray(x, device="cpu:1", copy=False)


def test_a_length_where_a_dtype_stands_is_told() -> None:
    with pytest.raises(
        TypeError, match=r"3 is no dtype; the lengths of several axes are one argument, such as \(2, 3\)"
    ):
        dr.zeros(2, 3)


def test_scalars() -> None:
    x = dr.asarray([[5]])
    assert (int(x), float(x), bool(x), complex(x), x.item()) == (5, 5.0, True, 5 + 0j, 5)
    y = dr.asarray(sample("int16", (3, 4)))
    assert [y.item(7), y.item(1, 2), y.item(-1)] == [y.numpy().item(7), y.numpy().item(1, 2), y.numpy().item(-1)]
    assert [10, 20, 30][dr.asarray(1)] == 20 and list(range(5))[dr.asarray(1) : dr.asarray(3)] == [1, 2]
    assert f"{dr.asarray(1.5):.2f}" == "1.50" and format(dr.asarray(3)) == "3"
    assert isinstance(hash(x), int) and {x: 1}[x] == 1
    for wrong in (dr.zeros(3), dr.zeros(0), dr.asarray([1])):
        with pytest.raises(TypeError):
            wrong.__index__()
    for call in (bool, lambda z: z.item()):
        with pytest.raises(ValueError):
            call(dr.zeros(3))
        with pytest.raises(ValueError):
            call(dr.zeros(0))
    for call in (int, float, lambda z: len(dr.zeros(())), lambda z: iter(dr.zeros(()))):
        with pytest.raises(TypeError):
            call(dr.zeros(3))
    with pytest.raises(IndexError):
        y.item(99)
    with pytest.raises(TypeError):
        [1, 2][dr.asarray(True)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_is_the_python_scalar_of_numpy(dtype: str, device: str) -> None:
    values = np.asarray([0, 3, 1, 100]).astype(dtype)[::-1]
    x = dr.asarray(values, device=device)
    for own, wanted in zip(x[::-1], values[::-1], strict=True):
        assert (own.item(), type(own.item())) == (wanted.item(), type(wanted.item()))
    part = x[1:2]
    x[1] = 0
    assert part.item() == 0 and float(part) == 0.0 and not part


def test_an_element_is_waited_for_and_raises_what_failed() -> None:
    x = dr.asarray([1.0, 2.0])
    slow = dr.custom_op(lambda x: x + 1)
    assert [slow(x)[i].item() for i in (0, 1)] == [2, 3]
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        x[dr.asarray([7])].item()
    assert np.isnan(dr.asarray(np.nan).item()) and dr.empty(()).item() is not None


def test_sequences() -> None:
    values = sample("float32", (4, 3), special=False)
    x = placed(values)
    assert len(x) == 4 and [row.tolist() for row in x] == values.tolist()
    assert values[1, 2] in x and 1e9 not in x
    _, b, *_ = x
    check_same(b, values[1])
    assert list(dr.asarray([3, 4])) == [3, 4] and max(dr.asarray([3, 9, 4])).item() == 9

    class Two(IntEnum):
        TWO = 2

    check_same(x * Two.TWO, values * 2)


def test_printing() -> None:
    for values in (np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.array(5), np.array([True]), np.ones(2, "f4")):
        assert repr(dr.asarray(values)) == repr(values)
        assert str(dr.asarray(values)) == str(values)
    assert repr(dr.ones(1, device="cpu:1")) == "array([1.], device='cpu:1')"


METHODS = {
    "all": [(), (0,)], "any": [(), (1,)], "argmax": [(), (0,)], "argmin": [(), (1,)], "argsort": [(), (0,)],
    "clip": [(1, 3), (None, 2)], "copy": [()], "cumprod": [(), (0,)], "cumsum": [(), (1,)], "diagonal": [(), (1,)],
    "dot": [(np.ones((4, 2)),)], "flatten": [()], "max": [(), (0,)], "mean": [(), (1,)], "min": [(), (0,)],
    "nonzero": [()], "prod": [(), (0,)], "ravel": [()], "repeat": [(2,), (2, 0)], "reshape": [(4, 3), ((2, 6),), (-1,)],
    "round": [(), (1,)], "squeeze": [()], "std": [(), (0,)], "sum": [(), (0,), ((0, 1),)], "swapaxes": [(0, 1)],
    "take": [([1, 2],), ([0], 1)], "trace": [(), (1,)], "transpose": [(), (1, 0), ((0, 1),)], "var": [(), (1,)],
    "tolist": [()], "item": [(5,)],
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    values = sample("float64", (3, 4), special=False)
    for arguments in METHODS[name]:
        expected = getattr(values, name)(*arguments)
        actual = getattr(placed(values), name)(*arguments)
        if isinstance(expected, tuple):
            for made, wanted in zip(actual, expected, strict=True):
                check_same(made, wanted)
        elif isinstance(actual, dr.Array):
            check_near(actual, expected, 16, (name, arguments))
        else:
            assert actual == expected
    for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides"):
        assert getattr(placed(values), name) == getattr(values, name)
    check_same(placed(values).T, values.T)
    check_same(placed(values).mT, values.mT)
    x = placed(values)
    x.fill(3)
    check_same(x, np.full_like(values, 3))
    check_same(abs(-(+x)), np.full_like(values, 3))
    check_same(divmod(x, 2)[1], np.full_like(values, 1))
    check_same(divmod(7, x)[0], np.full_like(values, 2))
    check_same(round(x / 7, 1), np.full_like(values, 0.4))
    check_same(~dr.asarray([True, False]), np.array([False, True]))


# ---- NumPy's functions on dagrun arrays


def test_numpy_functions_record_dagrun_operations() -> None:
    values = sample("float32", (3, 4), special=False)
    x = placed(values)
    calls = [
        lambda a: np.exp(a), lambda a: np.add(a, 1), lambda a: np.multiply(2.0, a), lambda a: np.maximum(a, values),
        lambda a: np.sum(a), lambda a: np.sum(a, axis=0, keepdims=True), lambda a: np.mean(a, 1), lambda a: np.max(a),
        lambda a: np.amin(a, axis=1), lambda a: np.argmax(a), lambda a: np.cumsum(a, axis=1), lambda a: np.any(a > 0),
        lambda a: np.concatenate([a, values]), lambda a: np.concatenate([values, a], axis=1),
        lambda a: np.stack([a, a]), lambda a: np.vstack([a, a]), lambda a: np.hstack([a, a]),
        lambda a: np.where(a > 0, a, 0), lambda a: np.matmul(a, a.T), lambda a: np.dot(a, values.T),
        lambda a: np.tensordot(a, a, 2), lambda a: np.transpose(a), lambda a: np.transpose(a, (0, 1)),
        lambda a: np.reshape(a, (4, 3)), lambda a: np.reshape(a, -1), lambda a: np.ravel(a),
        lambda a: np.expand_dims(a, 0), lambda a: np.squeeze(a[:1]), lambda a: np.clip(a, 0, 1),
        lambda a: np.clip(a, a_min=None, a_max=1), lambda a: np.round(a, 1), lambda a: np.sort(a),
        lambda a: np.sort(a, axis=0), lambda a: np.argsort(a), lambda a: np.take(a, [0, 1], 1),
        lambda a: np.repeat(a, 2, axis=0), lambda a: np.tile(a, 2), lambda a: np.roll(a, 1), lambda a: np.flip(a, 0),
        lambda a: np.broadcast_to(a, (2, 3, 4)), lambda a: np.moveaxis(a, 0, 1), lambda a: np.zeros_like(a),
        lambda a: np.full_like(a, 2), lambda a: np.diag(a), lambda a: np.tril(a), lambda a: np.diff(a),
        lambda a: np.copy(a), lambda a: np.isclose(a, values), lambda a: np.median(a), lambda a: np.var(a, ddof=1),
        lambda a: np.unique(a), lambda a: np.add.reduce(a), lambda a: np.add.reduce(a, axis=None),
        lambda a: np.maximum.reduce(a, axis=1), lambda a: np.add.accumulate(a),
        lambda a: np.multiply.outer(a, [1, 2]), lambda a: np.astype(a, "float64"), lambda a: np.swapaxes(a, 0, 1),
        lambda a: np.count_nonzero(a > 0, axis=0), lambda a: np.trace(a), lambda a: np.cbrt(a),
        lambda a: np.nextafter(a, 0), lambda a: np.float_power(a * a, 2), lambda a: np.outer(a, a),
        lambda a: np.searchsorted(np.sort(a[0]), [1.0]), lambda a: np.negative(a), lambda a: np.vecdot(a, a),
    ]  # fmt: skip
    for number, call in enumerate(calls):
        try:
            expected = call(values)
        except AttributeError:  # a NumPy that lacks the function
            continue
        actual = call(x)
        assert actual.dtype == expected.dtype, number
        check_near(actual, expected, 200 if number else 4, number)
    assert np.allclose(x, values) and np.array_equal(x, values) and not np.array_equal(x, values + 1)
    assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 0)) == ((3, 4), 2, 12, 3)
    assert np.result_type(x, np.float64) == np.float64 and np.can_cast(x.dtype, "float64")
    assert [part.shape for part in np.split(x, 3)] == [(1, 4)] * 3
    assert [type(part) for part in np.nonzero(x)] == [dr.Array] * 2
    quotient, rest = np.divmod(x, 2)
    check_same(quotient, values // 2)
    check_same(rest, values % 2)


def test_what_dagrun_lacks_is_computed_by_numpy(tmp_path: object) -> None:
    values = sample("float64", (3, 3), special=False)
    x = placed(values)
    np.testing.assert_allclose(np.linalg.norm(x), np.linalg.norm(values))
    np.testing.assert_allclose(np.einsum("ij,kj->ik", x, x), values @ values.T)
    np.testing.assert_allclose(np.percentile(x, 50), np.percentile(values, 50))
    np.testing.assert_array_equal(np.rot90(x), np.rot90(values))
    np.testing.assert_array_equal(
        np.add(x, 1, where=values > 0, out=np.zeros((3, 3))), np.where(values > 0, values + 1, 0)
    )
    np.testing.assert_array_equal(np.frexp(x)[1], np.frexp(values)[1])
    np.testing.assert_array_equal(np.add.reduceat(x, [0, 1]), np.add.reduceat(values, [0, 1]))
    np.save(tmp_path / "x.npy", x)  # type: ignore[operator]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), values)  # type: ignore[operator]
    np.testing.assert_allclose(x, values)


def test_numpy_functions_that_dagrun_lacks_write_into_dagrun_arrays() -> None:
    values, mask = sample("float64", (3, 3), special=False), np.eye(3, dtype=bool)
    programs = [
        lambda x, m: np.add(x, 1, where=m, out=x), lambda x, m: np.add(x, x, out=x, dtype="f4"),
        lambda x, m: np.modf(x, out=(x, x.copy()))[0], lambda x, m: np.sum(x, axis=0, where=m, out=x[0]),
        lambda x, m: np.cumsum(x, axis=0, out=x), lambda x, m: np.add.at(x, [0, 0], 1),
        lambda x, m: np.add.at(x[0], [0, 0], 1), lambda x, m: np.fill_diagonal(x, 7), lambda x, m: np.putmask(x, m, 7),
        lambda x, m: np.place(x, m, [7, 8]), lambda x, m: np.put(x, [0, 4], 7), lambda x, m: np.copyto(x, 7, where=m),
        lambda x, m: np.put_along_axis(x, np.zeros((3, 1), int), 7, axis=1),
    ]  # fmt: skip
    for number, program in enumerate(programs):
        plain, x = values.copy(), placed(values)
        before = x.numpy(copy=False)
        expected, actual = program(plain, mask), program(x, dr.asarray(mask))
        check_near(x, plain, 1, number)
        np.testing.assert_array_equal(before, values)  # what was lent is not written
        assert (actual is None) == (expected is None) and (actual is None or type(actual) is dr.Array)
    plain = values.copy()
    np.testing.assert_array_equal(np.add(plain, 1, where=dr.asarray(mask), out=plain), values + mask)
    for tracked in programs[0], programs[5], programs[8]:  # a silent cut of the gradient would be a wrong one
        y = dr.asarray(values, requires_grad=True) * 2
        with pytest.raises(RuntimeError, match="outside of the record of gradients"):
            tracked(y, mask)
        with dr.no_grad():
            tracked(y, mask)
    with pytest.raises(TypeError, match="same_kind"):
        np.copyto(dr.zeros(3, "int64"), placed(values))


def test_numpy_writes_into_dagrun_arrays_and_back() -> None:
    values = sample("float32", (3, 4), special=False)
    x, out = placed(values), dr.zeros((3, 4), "float32")
    assert np.exp(values, out=out) is out
    check_near(out, np.exp(values), 4)
    assert np.add(x, 1, out=out) is out
    check_same(out, values + 1)
    np.matmul(values, values.T, out=(square := dr.zeros((3, 3), "float32")))
    np.testing.assert_allclose(square.numpy(), values @ values.T, rtol=1e-4, atol=1e-2)
    target = values.copy()
    same = target
    target += x
    assert target is same and isinstance(target, np.ndarray)
    np.testing.assert_array_equal(target, values + values)
    integers = np.arange(4)
    with pytest.raises(TypeError):
        integers += x[0]
    np.copyto(out, values)
    check_same(out, values)
    np.copyto(target, x)
    np.testing.assert_array_equal(target, values)
    target[0] = x[1]
    np.testing.assert_array_equal(target[0], values[1])


def test_foreign_arrays_are_left_to_their_own_protocols() -> None:
    class Foreign:
        __array_ufunc__ = None

        def __radd__(self, other: object) -> str:
            return "foreign"

        def __add__(self, other: object) -> str:
            return "own"

    assert dr.zeros(2) + Foreign() == "foreign"
    assert Foreign() + dr.zeros(2) == "own"
    assert (dr.zeros(2) == Foreign()) is False and (dr.zeros(2) != None) is True  # noqa: E711


def test_namespace_and_names() -> None:
    assert dr.zeros(1).__array_namespace__() is dr
    assert dr.zeros(1).__array_namespace__(api_version="2023.12") is dr
    with pytest.raises(ValueError, match="expected one of"):
        dr.zeros(1).__array_namespace__(api_version="1999.01")
    assert (dr.pi, dr.e, dr.inf) == (np.pi, np.e, np.inf) and dr.nan != dr.nan and dr.newaxis is None
    for dtype in DTYPES:
        assert getattr(dr, dtype) is getattr(np, dtype) or dtype == "bool"
        assert dr.zeros(1, getattr(dr, dtype)).dtype == getattr(dr, dtype) == np.dtype(dtype)
    assert dr.finfo(dr.zeros(1, "float32")).bits == 32 and dr.iinfo("int8").max == 127
    assert dr.isdtype(dr.float32, "real floating") and not dr.isdtype(dr.int8, (dr.float32, "bool"))
    assert dr.can_cast(dr.zeros(1, "int8"), "int16") and not dr.can_cast("int16", dr.int8)
    assert dr.result_type(dr.zeros(1, "int8"), 3, "uint8") == "int16"
    for name in dr.ops.__all__:
        assert hasattr(dr, name), name
