"""Movement by indices, running sums, random numbers and updates: the calls of the CPU's tests, and larger ones."""

from __future__ import annotations

import numpy as np
import pytest

from dagrun.codegen.cuda import movement as of_cuda
from dagrun.codegen.movement import Index, add_kernel, indexed_params, put_kernel, take_kernel
from dagrun.codegen.philox import philox_kernel, philox_params
from tests.codegen import test_movement, test_philox, test_updates
from tests.cuda.harness import Case, check, needs_compiler
from tests.cuda.mirror import recorded

pytestmark = needs_compiler


def test_movement_that_the_cpu_is_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ["take_kernel", "put_kernel", "add_kernel", "cumulative_kernel"]
    cases = recorded(test_movement, kernels, monkeypatch)
    assert len(cases) > 300
    check(cases)


@pytest.mark.parametrize("make", [take_kernel, put_kernel, add_kernel])
def test_more_positions_than_threads(make) -> None:
    """Places that come again and again, near and far; free dimensions before and after the indexed one."""
    rng = np.random.default_rng(4)
    cases = []
    for shape, count in [((1, 50, 1), 1030), ((2, 9, 3), 270), ((3, 4, 300), 40), ((1, 1500, 2), 600)]:
        x = rng.standard_normal(shape).astype("float32")
        index = rng.integers(-shape[1], shape[1], count)
        dense = rng.standard_normal((shape[0], count, shape[2])).astype("float32")
        found = Index((0, index.strides[0], 0), shape[1], x.strides[1], 1)
        params = indexed_params(dense.shape, dense.strides, (x.strides[0], 0, x.strides[2]), (1,), [found])
        arrays = [dense, x, index] if make is take_kernel else [x, dense, index]
        cases.append(Case(f"{shape}", lambda: make("float32", "int64"), arrays, params, seed=count))
    check(cases)


@pytest.mark.parametrize("make", [take_kernel, put_kernel, add_kernel])
def test_indices_along_an_axis(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of the indexed operand with indices of their own: many short ones, few long ones, one more dimension."""
    monkeypatch.setattr(of_cuda, "_OWNERS", 24)
    rng = np.random.default_rng(6)
    cases = []
    for shape, count in [((3000, 4), 1), ((7, 5), 300), ((700, 3), 2), ((3, 200, 4), 5)]:
        *rows, length = shape
        x = rng.standard_normal(shape).astype("float32")
        index = rng.integers(-length, length, (*rows, count))
        dense = rng.standard_normal((*rows, count)).astype("float32")
        found = Index(index.strides, length, x.strides[-1], 1)
        varies = tuple(range(len(shape)))
        params = indexed_params(dense.shape, dense.strides, (*x.strides[:-1], 0), varies, [found])
        arrays = [dense, x, index] if make is take_kernel else [x, dense, index]
        cases.append(Case(f"{shape}", lambda: make("float32", "int64"), arrays, params, seed=count))
    check(cases)


def test_random_numbers_that_the_cpu_is_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = recorded(test_philox, ["philox_kernel"], monkeypatch, but=["test_distributions"])
    assert len(cases) > 50
    check(cases)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_normal_numbers(dtype: str) -> None:
    out, scalars = np.zeros(40_003, dtype), [np.uint64(2**63 + 5), np.uint64(2**40 + 1)]
    check([Case("normal", lambda: philox_kernel("normal", dtype), [out], philox_params(40_003, 2**34), scalars)])


def test_updates_that_the_cpu_is_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = recorded(test_updates, ["update_kernel"], monkeypatch, caller="run")
    check(cases)
