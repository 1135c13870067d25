"""The ways of a convolution on a GPU, run on the CPU: within the bounds of rounding of the same in float64."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest

from dagrun.codegen.convolution import Geometry
from dagrun.codegen.cuda import implicit_gemm
from dagrun.codegen.cuda.registry import CudaKernel, kernel_at
from dagrun.codegen.target import lowering_for
from dagrun.config import settings
from dagrun.ops import convolution, convolution_path, direct, implicit
from dagrun.ops.convolution_path import path_of
from dagrun.record import layout
from tests.cuda.harness import load, needs_compiler, run_bodies

KINDS = {"forward": convolution.CONVOLVE, "to_input": convolution.SPREAD, "to_weight": convolution.CORRELATE}
UNIT = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


def geometry(size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Geometry:
    pairs = [
        value if isinstance(value, tuple) else (value, value) for value in (size, kernel, stride, padding, dilation)
    ]
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(*pairs, strict=True))
    size, kernel, stride, padding, dilation = pairs
    return Geometry(size, kernel, out, stride, dilation, padding)


class Problem:
    """Images, results and a weight of one convolution, and what every adjoint of it should be."""

    def __init__(self, shape: tuple[int, int, int], g: Geometry, groups: int, dtype: str, seed: int = 1) -> None:
        n, channels, outputs = shape
        rng = np.random.default_rng(seed)
        shapes = (n, channels, *g.size), (outputs, channels // groups, *g.kernel), (n, outputs, *g.out), (outputs,)
        self.x, self.w, self.y, self.bias = (rng.standard_normal(s).astype(dtype) for s in shapes)
        self.g, self.groups, self.dtype = g, groups, dtype

    def inputs(self, kind: str) -> list[np.ndarray]:
        return {"forward": [self.x, self.w, self.bias], "to_input": [self.y, self.w], "to_weight": [self.y, self.x]}[
            kind
        ]

    def expected(self, kind: str, error: float) -> tuple[np.ndarray, np.ndarray]:
        """The result, and by how much one may differ whose sums have this relative error in each addition."""
        op, own = KINDS[kind], {"geometry": self.g, "groups": self.groups}
        inputs = [x.astype("float64") for x in self.inputs(kind)]
        result = op.compute(np, *inputs, **own)[0]
        of_sizes = op.compute(np, *map(np.abs, inputs), **own)[0]
        last = UNIT[self.dtype] * np.abs(result) + np.finfo(self.dtype).smallest_subnormal
        return result, error * of_sizes + last

    def additions(self, kind: str) -> int:
        taps = prod(self.g.kernel)
        return {
            "forward": self.x.shape[1] // self.groups * taps + 1,
            "to_input": self.y.shape[1] // self.groups * taps,
            "to_weight": self.x.shape[0] * self.g.places,
        }[kind]


def check(problem: Problem, way: str, expected_path: str | None = None, tf32: bool = False, seed: int = 1) -> None:
    """All three kinds of a convolution, each within the bound of its sums."""
    lowered = []
    for kind, op in KINDS.items():
        inputs = problem.inputs(kind)
        views = [layout(x.dtype, x.shape, x.strides) for x in inputs]
        own = {"geometry": problem.g, "groups": problem.groups, "gpu": way}
        if expected_path:
            shape, outputs = problem.x.shape, problem.w.shape[0]
            assert path_of(kind, shape, outputs, problem.g, problem.groups, problem.x.dtype, way) == expected_path
        with lowering_for("cuda"):
            specs = op.infer(views, (), **own)
            bodies = op.lower([layout(np.dtype(dtype), size) for size, dtype in specs], views, (), **own)
        lowered.append((kind, specs, bodies, inputs))
    kernels = [kernel_at(body.address) for _, _, bodies, _ in lowered for body in bodies]
    load(kernel for kernel in kernels if isinstance(kernel, CudaKernel))
    for kind, specs, bodies, inputs in lowered:
        outputs = [np.full(shape, 77, dtype) for shape, dtype in specs]
        assert run_bodies(bodies, [*outputs, *inputs], "cuda", seed) is None
        error = (problem.additions(kind) + 1) * UNIT["float64" if problem.dtype == "float64" else "float32"]
        result, bound = problem.expected(kind, error + (2.0**-10 if tf32 else 0))
        wrong = np.abs(outputs[0].astype("float64") - result) > bound
        assert not wrong.any(), f"{kind}: {np.argwhere(wrong)[:5]}, {outputs[0][wrong][:5]}, not {result[wrong][:5]}"


SHAPES = [
    # images, channels, outputs; geometry; groups
    ((2, 5, 7), geometry((6, 9), (3, 3), 1, 1), 1),
    ((3, 8, 6), geometry((7, 5), (3, 2), 2, 1), 2),
    ((1, 3, 66), geometry((12, 11), (7, 7), 2, 3), 1),
    ((2, 4, 5), geometry((9, 8), (2, 3), (3, 1), (0, 2), (2, 1)), 1),
    ((2, 9, 3), geometry((5, 5), 1), 1),
    ((2, 16, 20), geometry((6, 7), 1, 2), 1),
    ((5, 3, 4), geometry((2, 2), (2, 2)), 1),
    ((1, 2, 2), geometry((1, 30), (1, 5), 1, (0, 4), (1, 2)), 1),
    ((2, 4, 4), geometry((7, 7), (3, 3), 2, 1, 2), 2),
    ((1, 20, 70), geometry((3, 3), (3, 3), 1, 1), 1),
]


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("full", [264, 1], ids=["small tiles", "large tiles"])
def test_products_without_columns(dtype: str, full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_gemm, "FULL", full)
    monkeypatch.setattr(convolution_path, "FEW", 0)
    monkeypatch.setattr(implicit, "PART_DEPTH", 40)  # parts of weights also where they are small
    for seed, (shape, g, groups) in enumerate(SHAPES):
        check(Problem(shape, g, groups, dtype), "implicit", "implicit", seed=seed)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_each_size_of_tile(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results a little larger than a tile, and sums over several tiles, in all directions."""
    monkeypatch.setattr(implicit_gemm, "FULL", 1)
    for shape, g in (((3, 40, 133), geometry((7, 7), 2, 1, 1)), ((3, 133, 40), geometry((7, 7), 2))):
        check(Problem(shape, g, 1, dtype), "implicit", "implicit", seed=5)


@needs_compiler
def test_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = replace(settings(), cuda_tf32=True)
    monkeypatch.setattr(implicit, "settings", lambda: tensor)
    for shape, g, groups in SHAPES[:4]:
        check(Problem(shape, g, groups, "float32"), "implicit", tf32=True)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_groups_of_few_channels(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "PART_DEPTH", 16)
    for shape, g, groups in (
        ((2, 6, 6), geometry((9, 10), (3, 3), 1, 1), 6),
        ((3, 4, 8), geometry((7, 9), (3, 5), 2, (1, 2)), 4),
        ((1, 9, 6), geometry((8, 8), (4, 4), 3, 2, (1, 2)), 3),
        ((2, 3, 3), geometry((13, 12), (5, 4), (1, 2), 2), 3),
    ):
        check(Problem(shape, g, groups, dtype), "auto", "direct", seed=3)


@needs_compiler
def test_any_strides_of_images() -> None:
    for groups, path in ((1, "implicit"), (4, "direct")):
        problem = Problem((3, 4, 4), geometry((6, 5), (3, 3), 1, 1), groups, "float32")
        problem.x = np.ascontiguousarray(problem.x.transpose(3, 1, 0, 2)).transpose(2, 1, 3, 0)
        check(problem, "implicit", path)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_infinities_reach_nothing_but_their_own_results(dtype: str) -> None:
    """What lies next to an operand's edge in memory is not even multiplied by 0."""
    g = geometry((5, 5), (3, 3))
    problem = Problem((2, 3, 4), g, 1, dtype)
    for array in (problem.x, problem.y):
        array[:, 1, 0, 0] = np.inf
    for kind, op in KINDS.items():
        inputs, own = problem.inputs(kind), {"geometry": g, "groups": 1}
        views = [layout(x.dtype, x.shape) for x in inputs]
        with lowering_for("cuda"):
            specs = op.infer(views, (), **own, gpu="implicit")
            outputs = [np.zeros(shape, each) for shape, each in specs]
            bodies = op.lower([layout(x.dtype, x.shape) for x in outputs], views, (), **own, gpu="implicit")
        assert run_bodies(bodies, [*outputs, *inputs], "cuda") is None
        with np.errstate(invalid="ignore"):
            expected = op.compute(np, *(x.astype("float64") for x in inputs), **own)[0]
        np.testing.assert_array_equal(np.isfinite(outputs[0]), np.isfinite(expected), err_msg=kind)
        assert not np.isfinite(expected).all() and np.isfinite(expected).any()


@needs_compiler
@pytest.mark.parametrize("seed", range(4))
def test_random_convolutions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_gemm, "FULL", 1 + seed % 2 * 263)
    monkeypatch.setattr(implicit, "PART_DEPTH", 32)
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    for _ in range(12):
        groups = draw(1, 3)
        shape = draw(1, 4), groups * draw(1, 12), groups * draw(1, 40)
        kernel, stride, dilation = ((draw(1, k), draw(1, k)) for k in (4, 3, 2))
        padding = draw(0, 3), draw(0, 3)
        size = tuple(
            draw(max(1, d * (k - 1) + 1 - 2 * p), 11) for k, d, p in zip(kernel, dilation, padding, strict=True)
        )
        problem = Problem(
            shape, geometry(size, kernel, stride, padding, dilation), groups, ("float32", "float16")[draw(0, 1)]
        )
        check(problem, ("implicit", "auto")[draw(0, 1)], seed=draw(1, 99))


def test_phases_cover_what_the_kernel_reaches() -> None:
    """Every element of a line, and for each of them the places that read it."""
    for size, kernel, stride, dilation, padding in ((8, 3, 2, 1, 1), (9, 4, 3, 2, 0), (7, 5, 4, 2, 3), (2, 1, 3, 1, 0)):
        reached = {}
        for phase in implicit.phases(size, kernel, stride, dilation, padding):
            for q in range(phase.count):
                taps = [(phase.start + t * phase.every, q + t * phase.shift - phase.before) for t in range(phase.taps)]
                reached[phase.first + q * stride] = taps
        for element in range(size):
            distances = [(k, element + padding - k * dilation) for k in range(kernel)]
            assert reached.pop(element) == [(k, d // stride) for k, d in distances if d % stride == 0]
        assert not reached


def test_the_path_is_chosen_by_shapes() -> None:
    single, half, double = (np.dtype(f"float{8 * n}") for n in (4, 2, 8))

    def paths(outputs: int, channels: int, g: Geometry, groups: int, dtype: Any, way: str = "auto") -> list[str]:
        return [path_of(kind, (32, channels, *g.size), outputs, g, groups, dtype, way) for kind in KINDS]

    wide, point = geometry((56, 56), (3, 3), 1, 1), geometry((56, 56), (1, 1))
    assert paths(64, 64, wide, 64, single) == paths(64, 64, wide, 64, double) == ["direct"] * 3
    assert paths(128, 128, wide, 2, single) == ["implicit"] * 3
    assert paths(128, 128, wide, 2, double) == ["columns"] * 3
    assert paths(32, 64, wide, 1, single) == ["implicit"] * 3  # columns would cost more than the product
    assert paths(256, 64, wide, 1, single)[:2] == ["columns"] * 2
    assert paths(256, 64, wide, 1, half) == ["implicit"] * 3
    assert paths(256, 64, point, 1, half)[:2] == paths(256, 64, point, 1, single)[:2] == ["columns"] * 2
    large = geometry((512, 512), (3, 3), 1, 1)  # columns of one image: 576 MiB
    assert paths(256, 64, large, 1, single) == ["implicit"] * 3
    assert paths(256, 64, wide, 1, single, "implicit") == ["implicit"] * 3
    assert paths(32, 64, wide, 1, half, "columns") == paths(64, 64, wide, 64, half, "columns") == ["columns"] * 3
