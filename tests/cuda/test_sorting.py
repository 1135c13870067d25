"""sort, argsort and searchsorted by CUDA kernels, run on the CPU: the results of the CPU's bodies."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dagrun.codegen import sorting
from dagrun.codegen.cuda import registry
from dagrun.codegen.cuda.registry import kernel_at
from dagrun.codegen.cuda.sorting import KINDS
from dagrun.codegen.target import lowering_for
from dagrun.ops.sorting import ARGSORT, SEARCH, SORT
from dagrun.record import layout
from tests.cuda.harness import Use, bits, check_operators, load, needs_compiler, run_bodies

pytestmark = needs_compiler

DTYPES = ["bool", "int8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Many equal ones; of floats also both zeros, both infinities, and NaN of either sign."""
    if dtype.startswith("float"):
        some = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan, -np.nan, 6e-8], dtype)
        return np.where(rng.random(shape) < 0.5, rng.choice(some, shape), rng.standard_normal(shape)).astype(dtype)
    return rng.integers(0 if dtype[0] in "ub" else -9, 2 if dtype == "bool" else 10, shape).astype(dtype)


def test_lines_of_one_tile() -> None:
    rng = np.random.default_rng(1)
    uses = []
    shapes = [((0, 3), 0), ((1,), 0), ((2, 3), 1), ((7, 33, 2), 1), ((2, 600), 1), ((70, 5), 0), ((2, 64), 1)]
    for dtype, (shape, axis) in product(DTYPES, shapes):
        x = values(rng, shape, dtype)
        for descending in (False, True):
            how = {"axis": axis, "descending": descending}
            uses += [Use(f"{dtype} {shape} {how}", operator, [x], how) for operator in (SORT, ARGSORT)]
        uses.append(Use(f"{dtype} {shape}, backwards", ARGSORT, [x[..., ::-1]], {"axis": axis, "descending": False}))
    check_operators(uses)


def test_longer_lines_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full tiles and rests, an odd number of runs, equal elements on both sides of every seam."""
    monkeypatch.setattr(sorting, "TILE", 32)
    monkeypatch.setattr(registry, "MOST_BLOCKS", 2)  # a block of threads sorts one tile after the other
    dtypes = ["int8", "float64"]
    with lowering_for("cuda"):
        load(kernel_at(sorting.sorting_kernel(which, dtype)) for which in KINDS for dtype in dtypes)
    rng = np.random.default_rng(2)
    for dtype, (shape, axis) in product(dtypes, [((33,), 0), ((2, 64), 1), ((2, 165), 1), ((300, 2), 0)]):
        x = values(rng, shape, dtype)
        for operator, descending in [(SORT, False), (SORT, True), (ARGSORT, False), (ARGSORT, True)]:
            how = {"axis": axis, "descending": descending}
            found = len(sorting.sorted_runs(shape[axis])) - 1
            with lowering_for("cuda"):
                specs = operator.infer([layout(x.dtype, shape)], (), scratch=min(2, found), **how)
                views = [layout(np.dtype(of), size) for size, of in specs]
                bodies = operator.lower(views, [layout(x.dtype, shape)], (), scratch=min(2, found), **how)
            assert bodies is not None and len(bodies) == found + 1 > 1
            results = [np.full(size, 77, of) for size, of in specs]
            assert run_bodies(bodies, [*results, x], "cuda", seed=len(shape)) is None
            expected = operator.compute(np, x, **how)
            np.testing.assert_array_equal(bits(results[0]), bits(expected), err_msg=f"{shape} {operator.name} {how}")


def test_garbage_in_the_place_of_places_reaches_nothing() -> None:
    """What a launch that was refused should have written: the merges behind it run all the same."""
    x, how = np.arange(10_000.0), {"axis": 0, "descending": False, "scratch": 2}
    with lowering_for("cuda"):
        specs = SORT.infer([layout(x.dtype, x.shape)], (), **how)
        outputs = [np.full(shape, 0xFFFFFFFF if dtype == np.uint32 else 0, dtype) for shape, dtype in specs]
        _, *merges = SORT.lower(
            [layout(out.dtype, out.shape) for out in outputs], [layout(x.dtype, x.shape)], (), **how
        )
    assert merges and run_bodies(merges, [*outputs, x], "cuda") is None


def test_searches() -> None:
    rng = np.random.default_rng(3)
    uses = []
    for dtype, (length, count) in product(DTYPES, [(0, 3), (1, 5), (37, 400)]):
        line, wanted = np.sort(values(rng, (length,), dtype)), values(rng, (count,), dtype)
        uses += [Use(f"{dtype} {length} {side}", SEARCH, [line, wanted], {"side": side}) for side in ("left", "right")]
        uses.append(Use(f"{dtype} {length}, every other", SEARCH, [line.repeat(2)[::2], wanted], {"side": "left"}))
    check_operators(uses)
