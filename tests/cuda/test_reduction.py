"""Reductions by CUDA kernels, run on the CPU: the calls of the CPU's tests, and shapes with many blocks of elements."""

from __future__ import annotations

import numpy as np
import pytest

from dagrun.codegen.cuda import reduction as of_cuda
from dagrun.codegen.cuda import registry
from dagrun.codegen.cuda.registry import kernel_at
from dagrun.codegen.reduction import ARGUMENT_OPS, reduction_kernel, reduction_params
from dagrun.codegen.target import lowering_for
from dagrun.ops.reducing import parts_on_gpu
from dagrun.ops.reductions import ARGMAX, ARGMIN, MAX, MEAN, SUM
from dagrun.record import layout
from tests.codegen import test_reduction as of_cpu
from tests.cuda.harness import Case, bits, check, load, needs_compiler, run_bodies
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
    for shape, axes in [
        ((40, 2100), (1,)), ((70, 32 * 40), (0,)), ((40, 3), (1,)), ((41, 2, 40), (1,)), ((1500, 33), (1,)),
        ((900, 31), (1,)), ((17, 3, 70), (1,)), ((70, 11), (0,)), ((3, 5, 2), (1,)),
    ]:  # fmt: skip
        x = rng.standard_normal(shape).astype(np.float32)
        cases += [case("sum", x, axes, seed) for seed in (1, 2)] + [case("argmax", x, axes)]
    check(cases)


def test_results_in_parts_have_the_bits_of_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole parts only, or a rest after them; a power of two of parts and others; of rows and of lines."""
    monkeypatch.setattr(registry, "MOST_BLOCKS", 5)
    monkeypatch.setattr(of_cuda, "MOST_THREADS", 64)
    monkeypatch.setattr(of_cuda, "_ARGUMENT_THREADS", 64)
    rng = np.random.default_rng(7)
    pairs = []
    for operator, dtype, shape, axes in [
        (SUM, "float32", (1024 * 16,), (0,)), (SUM, "float32", (1024 * 13 + 7,), (0,)), (MAX, "int8", (9000,), (0,)),
        (MEAN, "float32", (1030, 5), (0,)), (SUM, "float16", (3, 290, 35, 2), (1, 3)),
        (SUM, "float64", (2100, 3), (0,)),
        (MEAN, "float16", (2, 7000, 2), (0, 1)), (MAX, "float64", (2, 16_500), (1,)), (ARGMAX, "int8", (2100,), (0,)),
        (ARGMIN, "float64", (3, 3000), (1,)), (ARGMAX, "float16", (300, 7), (0,)), (ARGMIN, "bool", (1500,), (0,)),
        (ARGMAX, "float32", (2, 90, 35, 20), (1,)),
    ]:  # fmt: skip
        x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 2, shape)).astype(dtype)
        if operator in (ARGMAX, ARGMIN) and dtype.startswith("float"):
            x = np.where(rng.random(shape) < 0.002, np.array(np.nan, dtype), np.round(x))  # some equal, or no numbers
        source, result = layout(x.dtype, shape), np.dtype("int64" if operator in (ARGMAX, ARGMIN) else dtype)
        how = {"axes": axes, "keepdims": False, "result": result}
        parts = parts_on_gpu(operator.name, source, axes, result)
        assert parts[0] > 1, f"{shape}, {axes}"
        specs = operator.infer([source], (), parts=parts, **how)
        outputs = [np.full(size, 77, of) for size, of in specs]
        with lowering_for("cuda"):
            made = operator.lower([layout(o.dtype, o.shape) for o in outputs], [source], (), parts=parts, **how)
        expected = [np.full(*specs[0][:1], 77, specs[0][1])]
        on_cpu = operator.lower([layout(result, specs[0][0])], [source], (), **how)
        assert run_bodies(on_cpu, [*expected, x], "cpu") is None
        pairs.append((made, outputs, x, expected[0], f"{operator.name} {dtype} {shape} {axes}"))
    load(kernel_at(body.address) for made, *_ in pairs for body in made)
    for made, outputs, x, expected, name in pairs:
        assert run_bodies(made, [*outputs, x], "cuda", seed=len(name)) is None
        np.testing.assert_array_equal(bits(outputs[0]), bits(expected), err_msg=name)
