"""Arrays of other libraries on a GPU: what comes from them and goes to them is a copy there."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.backends import cuda
from dagrun.backends.cuda.graphs import capture
from dagrun.core import native
from tests.cuda.emulated import COMPILER, use_emulator

REAL = os.environ.get("DAGRUN_TEST_CUDA") == "1"

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="the emulator is built with a C++ compiler, and there is none"),
    pytest.mark.skipif(os.environ.get("DAGRUN_CORE") == "python", reason="CUDA devices need the native core"),
]


class Foreign:
    """What another library would hold on GPU 0: the memory of an array, behind the CUDA array interface."""

    gpu = 0

    def __init__(self, x: dr.Array) -> None:
        self._memory = native.export(x)
        self.nbytes = self._memory.nbytes - x._offset
        self.__cuda_array_interface__ = {
            "shape": x.shape,
            "typestr": x.dtype.str,
            "data": (self._memory.address + x._offset, True),
            "strides": x.strides,
            "version": 3,
        }


@pytest.fixture(autouse=True)
def cuda_here() -> None:
    if not REAL:
        use_emulator()


@pytest.mark.parametrize("dtype", ["bool", "int16", "float16", "float64"])
def test_taken_where_it_lies(dtype: str) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    origin = dr.asarray(values, device="cuda:0")
    for held, expected in (
        (origin, values),
        (origin.T, values.T),
        (origin[1:, 2], values[1:, 2]),
        (origin[:0], values[:0]),
    ):
        x = dr.asarray(Foreign(held))
        assert str(x.device) == "cuda:0" and x.dtype == dtype and x._buffer != held._buffer
        np.testing.assert_array_equal(x.numpy(), expected)
    before = dr.from_dlpack(Foreign(origin))
    origin[...] = 1
    np.testing.assert_array_equal(before.numpy(), values)


def test_taken_to_other_places() -> None:
    origin = dr.asarray([1.0, 2.0], device="cuda:0")
    assert str(dr.asarray(Foreign(origin), device="cpu:1").device) == "cpu:1"
    assert dr.asarray(Foreign(origin), "int32", device="cpu:0").tolist() == [1, 2]
    with pytest.raises(ValueError, match="only a read-only NumPy array can be lent"):
        dr.asarray(Foreign(origin), copy=False)
    with pytest.raises(TypeError, match="complex64"):
        wrong = Foreign(origin)
        wrong.__cuda_array_interface__["typestr"] = "<c8"
        dr.asarray(wrong)


def test_given_as_a_copy() -> None:
    values = np.arange(6.0).reshape(2, 3)
    x = dr.asarray(values, device="cuda:0")
    for view, expected in ((x, values), (x.T, values.T), (x[1, ::2], values[1, ::2]), (x[:0], values[:0])):
        given, memory = view.__cupy_get_ndarray__(), native.export(view)
        own = (
            cuda.platform().array(memory, view._offset, view.shape, view.dtype, view.strides)
            if view.size
            else given[:0]
        )
        assert not cuda.platform().xp.shares_memory(given, own)  # a view would be read after its memory went back
        del own, memory
        assert given.shape == expected.shape and view.__dlpack_device__() == (2, 0)
        np.testing.assert_array_equal(np.from_dlpack(view, device="cpu"), expected)
        view += 1
        np.testing.assert_array_equal(given if not REAL else given.get(), expected)
        view -= 1


def test_a_capture_cannot_hold_it() -> None:
    x = dr.ones(4, device="cuda:0")
    held = Foreign(x)
    with pytest.raises(RuntimeError), capture("cuda:0"):
        dr.asarray(held)
    with pytest.raises(RuntimeError), capture("cuda:0"):
        x.__cupy_get_ndarray__()


@pytest.mark.skipif(not REAL, reason="CuPy needs a GPU: DAGRUN_TEST_CUDA=1")
def test_cupy_there_and_back() -> None:
    import cupy

    values = np.random.default_rng(0).normal(size=(100, 1000))
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream:
            theirs = cupy.asarray(values) * 2  # still under way
            x = dr.asarray(theirs)
            y: Any = cupy.asarray(x + 1)
            z = cupy.from_dlpack(x + 1)
        np.testing.assert_array_equal(y.get(), values * 2 + 1)
        np.testing.assert_array_equal(z.get(), values * 2 + 1)
        np.testing.assert_array_equal(dr.from_dlpack(theirs).numpy(), values * 2)


@pytest.mark.skipif(not REAL, reason="torch needs a GPU here: DAGRUN_TEST_CUDA=1")
def test_torch_there_and_back() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    theirs = torch.arange(1000.0, device="cuda") * 2
    x = dr.asarray(theirs)
    assert (x + 1).sum().item() == (theirs + 1).sum().item()
    assert torch.equal(torch.from_dlpack(x), theirs) and torch.equal(theirs, torch.from_dlpack(x * 1))


def test_cached_memory_is_given_back_to_others() -> None:
    x = dr.zeros(1_000_000, device="cuda:0").wait()
    values = (x + 1).numpy()
    kept, live = (dr.memory_stats("cuda:0")[key] for key in ("cached_bytes", "live_bytes"))
    assert kept >= values.nbytes
    dr.empty_cache("cuda:0")
    after = dr.memory_stats("cuda:0")
    assert after["cached_bytes"] < values.nbytes and after["live_bytes"] == live
    assert (x + 1).sum().item() == 1_000_000
