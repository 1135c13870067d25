"""Reductions by CUDA kernels, run on the CPU: the calls of the CPU's tests, and shapes with many blocks of elements."""

from __future__ import annotations

import numpy as np
import pytest

from dagrun.codegen.cuda import registry
from dagrun.codegen.reduction import ARGUMENT_OPS, reduction_kernel, reduction_params
from tests.codegen import test_reduction as of_cpu
from tests.cuda.harness import Case, check, needs_compiler
from tests.cuda.mirror import recorded

pytestmark = needs_compiler


def test_what_the_cpu_is_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = recorded(of_cpu, ["reduction_kernel"], monkeypatch)
    assert len(cases) > 800
    check(cases[::6])


def case(op: str, x: np.ndarray, axes: tuple[int, ...], seed: int = 1) -> Case:
    compute, output = of_cpu.dtypes_of(op, x.dtype)
    out = np.zeros([size for axis, size in enumerate(x.shape) if axis not in axes], output)
    params = reduction_params(x.shape, x.strides, axes, x.itemsize, out.itemsize, op in ARGUMENT_OPS)
    name = f"{op} {x.dtype} {x.shape} {axes} {seed}"
    return Case(name, lambda: reduction_kernel(op, x.dtype, compute, output), [out, x], params, seed=seed)


@pytest.mark.parametrize("op", ["sum", "mean", "max", "argmin"])
def test_trees_of_many_blocks(op: str) -> None:
    """More blocks than groups of threads, complete trees and rests, in both variants; the order of threads is drawn."""
    rng = np.random.default_rng(1)
    cases = []
    for dtype in ("float16", "float32", "float64"):
        for shape, axes in [
            ((1024 * 67 + 513,), (0,)), ((3, 5000), (1,)), ((1100, 35), (0,)), ((2, 2100, 33), (1,)),
            ((1030, 64), (0,)), ((1025, 3), (1,)), ((7, 11, 40, 3), (0, 2)), ((5, 1025, 2), (1, 2)), ((33000, 2), (0,)),
        ]:  # fmt: skip
            x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 2, shape)).astype(dtype)
            cases.append(case(op, x, axes, seed=len(cases)))
    check(cases)


def test_zeros_infinities_and_nan() -> None:
    rng = np.random.default_rng(2)
    cases = []
    for op in ("max", "min", "argmax", "argmin", "sum"):
        for dtype in ("float32", "float64"):
            x = rng.choice(
                np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan], dtype),
                (9, 2100),
                p=[0.3, 0.3, 0.3, 0.05, 0.045, 0.005],
            )
            x[0] = np.nan
            x[1] = -np.inf
            x[2] = rng.choice(np.array([0.0, -0.0], dtype), 2100)
            cases += [case(op, x, (1,)), case(op, x, (0,)), case(op, x[:, ::-2], (0, 1)), case(op, x[:, :50], (1,))]
    check(cases)


def test_more_results_than_blocks_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of threads then makes one result after the other, each of several blocks of elements."""
    monkeypatch.setattr(registry, "MOST_BLOCKS", 3)
    rng = np.random.default_rng(3)
    cases = []
    for shape, axes in [((40, 2100), (1,)), ((70, 32 * 40), (0,)), ((40, 3), (1,)), ((41, 2, 40), (1,))]:
        x = rng.standard_normal(shape).astype(np.float32)
        cases += [case("sum", x, axes, seed) for seed in (1, 2)] + [case("argmax", x, axes)]
    check(cases)
