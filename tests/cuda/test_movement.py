"""Movement by indices, running sums, random numbers and updates: the calls of the CPU's tests, and larger ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from dagrun.codegen.cuda import movement as of_cuda
from dagrun.codegen.cuda import ordering, registry
from dagrun.codegen.cuda.registry import kernel_at
from dagrun.codegen.cumulative import CUMULATIVE_OPS, cumulative_kernel, cumulative_params
from dagrun.codegen.movement import Index, add_kernel, indexed_params, put_kernel, take_kernel
from dagrun.codegen.philox import philox_kernel, philox_params
from dagrun.codegen.target import lowering_for
from dagrun.ops import gathering
from dagrun.ops.assignment import SET
from dagrun.ops.gathering import scratch_of, walk_along, walk_of_indices
from dagrun.ops.scattering import ADD_ALONG, INDEX_ADD, SCATTER_ADD
from dagrun.record import Operator, layout
from tests.codegen import test_movement, test_philox, test_updates
from tests.cuda.harness import Case, bits, check, load, needs_compiler, run_bodies
from tests.cuda.mirror import recorded

pytestmark = needs_compiler


def test_movement_that_the_cpu_is_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ["take_kernel", "put_kernel", "add_kernel", "cumulative_kernel"]
    cases = recorded(test_movement, kernels, monkeypatch)
    assert len(cases) > 300
    check(cases)


@pytest.mark.parametrize("op", CUMULATIVE_OPS)
def test_running_sums_of_long_lines(op: str) -> None:
    """Few contiguous lines, which blocks of threads go over, and others; into themselves, too."""
    rng = np.random.default_rng(5)
    cases = []
    for shape, axis in [((1, 2500), 1), ((3, 64), 1), ((2, 1024), 1), ((63, 9), 0), ((5, 63), 1), ((5000, 66), 1)]:
        for kinds in (("float32", "float32"), ("int8", "int64")):
            x = (rng.standard_normal(shape) * 3).astype(kinds[0])
            for out in (np.zeros(shape, kinds[1]), x)[: 2 if kinds[0] == kinds[1] else 1]:
                params = cumulative_params(shape, out.strides, x.strides, axis, out.itemsize, x.itemsize)
                make = functools.partial(cumulative_kernel, op, *kinds)
                cases.append(Case(f"{op} {shape} {kinds}", make, [out, x], params, seed=7))
    check(cases)


@pytest.mark.parametrize("make", [take_kernel, put_kernel, add_kernel])
def test_more_positions_than_threads(make) -> None:
    """Places that come again and again, near and far; free dimensions before and after the indexed one."""
    rng = np.random.default_rng(4)
    cases = []
    shapes = [((1, 50, 1), 1030), ((2, 9, 3), 270), ((3, 4, 300), 40), ((1, 1500, 2), 600), ((2, 7, 37), 41)]
    for shape, count in shapes:
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


@pytest.fixture
def sorts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are sorted first, however few they are, in few tiles and by few blocks of threads."""
    monkeypatch.setattr(gathering, "FEW_POSITIONS", 1)
    monkeypatch.setattr(of_cuda, "_FEW_TURNS", 0)
    monkeypatch.setattr(ordering, "_THREADS", 256)
    monkeypatch.setattr(ordering, "_TILE", 1024)
    monkeypatch.setattr(ordering, "_MOST_TILES", 8)
    monkeypatch.setattr(registry, "MOST_BLOCKS", 3)


Scatter = tuple[Operator, list[np.ndarray], dict[str, object], np.ndarray, gathering.Walk]


def scattered(dtype: str, shape: tuple[int, ...], indices: list[np.ndarray], rng: np.random.Generator) -> list[Scatter]:
    """A sum and an assignment at indices into the first axes: operator, inputs, attributes, target, walk."""
    x = (rng.standard_normal(shape) * 5).astype(dtype)
    axes = tuple(range(len(indices)))
    values = (rng.standard_normal((*indices[0].shape, *shape[len(indices) :])) * 5).astype(dtype)
    walk = walk_of_indices(layout(x.dtype, shape), [layout(i.dtype, i.shape) for i in indices], axes, 0, axes)
    where = {"axes": axes, "place": 0}
    put = SET, [values, *indices], {**where, "names": axes}, x, walk
    return [put, (SCATTER_ADD, [values, *indices], {**where, "shape": shape}, np.zeros_like(x), walk)]


def run_sorted(scatters: list[Scatter]) -> None:
    """Each on both targets: the same bits, or the same failure."""
    made = []
    for operator, inputs, how, target, walk in scatters:
        scratch = scratch_of(walk)
        assert scratch > 0
        views = [layout(x.dtype, x.shape, x.strides) for x in inputs]
        on_cpu, on_cuda = [target.copy()], [target.copy(), np.full(scratch, 77, np.uint32)]
        expected = operator.lower([layout(target.dtype, target.shape)], views, (), **how)
        with lowering_for("cuda"):
            outputs = [layout(y.dtype, y.shape) for y in on_cuda]
            bodies = operator.lower(outputs, views, (), scratch=scratch, **how)
        assert (len(bodies) - (operator is not SET)) % 3 == 2
        made.append((expected, bodies, on_cpu, on_cuda, inputs))
    load(kernel_at(body.address) for _, bodies, *_ in made for body in bodies)
    for number, (expected, bodies, on_cpu, on_cuda, inputs) in enumerate(made):
        failed = run_bodies(expected, [*on_cpu, *inputs], "cpu")
        found = run_bodies(bodies, [*on_cuda, *inputs], "cuda", seed=number)
        assert (failed and failed[:3]) == (found and found[:3])
        if failed is None:
            np.testing.assert_array_equal(bits(on_cuda[0]), bits(on_cpu[0]), err_msg=f"scatter {number}")


def test_sorted_positions(sorts: None) -> None:
    """A hot place, runs that end within 32 items and far behind them, one to three digits, rows of few and many."""
    rng = np.random.default_rng(8)
    cases = []
    for dtype, shape, count in [
        ("float32", (1,), 2500), ("float64", (3,), 1), ("float16", (70,), 1500), ("bool", (40,), 200),
        ("int8", (70_000,), 1025), ("float64", (20_000_000,), 1024), ("float32", (9, 5), 260), ("int16", (1, 3), 70),
        ("float16", (300, 40), 40), ("float32", (3, 150), 33),
    ]:  # fmt: skip
        cases += scattered(dtype, shape, [rng.integers(-shape[0], shape[0], count)], rng)
    runs = np.repeat([0, 5, 2, 3, 1], [31, 1, 33, 200, 64])
    cases += scattered("float32", (6,), [rng.permutation(runs)], rng)
    cases += scattered("float64", (6, 2), [runs.astype(np.uint8).reshape(7, 47)], rng)
    cases += scattered("float32", (7, 300, 2), [rng.integers(-7, 7, (9, 30)), rng.integers(0, 300, (9, 30))], rng)
    run_sorted(cases)


def test_sorted_positions_along_an_axis(sorts: None) -> None:
    """Equal indices in different slices are different places; an operand's copy before; an index out of range."""
    rng = np.random.default_rng(9)
    cases: list[Scatter] = []
    for shape, count, axis in [((40, 6), 20, 1), ((4, 3, 9), 50, 0), ((2, 5, 3), 40, 1)]:
        target = np.zeros(shape, np.float32)
        values = rng.standard_normal([count if d == axis else n for d, n in enumerate(shape)]).astype("float32")
        index = rng.integers(-shape[axis], shape[axis], values.shape)
        walk = walk_along(layout(target.dtype, shape), layout(index.dtype, index.shape), axis, values.shape)
        cases.append((ADD_ALONG, [values, index], {"shape": shape, "axis": axis}, target, walk))
    x, index = rng.standard_normal((4, 20)), rng.integers(0, 20, 90)
    walk = walk_of_indices(layout(x.dtype, x.shape), [layout(index.dtype, index.shape)], (1,), 1, (1,))
    values = rng.standard_normal((4, 90))
    cases.append((INDEX_ADD, [x, values, index], {"axis": 1}, np.zeros_like(x), walk))
    wrong = index.copy()
    wrong[70] = -21
    cases.append((INDEX_ADD, [x, values, wrong], {"axis": 1}, np.zeros_like(x), walk))
    run_sorted(cases)


def test_which_scatters_are_sorted() -> None:
    """Many positions, unless slices of their own make them few."""

    def digits(positions: int, places: int, slices: int = 1, elements: int = 1) -> int:
        return of_cuda.digits(positions, elements, places, slices, 1)

    assert [digits(1 << 20, places) for places in (1, 256, 257, 1 << 16, 50_000 << 8)] == [1, 1, 2, 2, 3]
    assert digits(8192, 50_257, elements=768) == 2
    assert [digits(4096, 10), digits(1 << 13, 1 << 10, slices=1 << 10), digits(1 << 33, 10)] == [0, 0, 0]
    assert digits(1_000_000, 1_000_000, slices=1000) == 3


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
