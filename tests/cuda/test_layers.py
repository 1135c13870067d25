"""Kernels of layers and losses, run on the CPU: what their operators lower to has the bits of the CPU's kernels."""

from __future__ import annotations

import numpy as np
import pytest

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.convolution import Geometry
from dagrun.codegen.plain_gemm import plain_gemm_kernel, plain_gemm_params
from dagrun.codegen.pooling import Windows, pooling_params
from dagrun.codegen.recurrent import STEPS, step_kernel, step_params
from dagrun.codegen.target import lowering_for
from dagrun.ops import columns as chunked
from dagrun.ops import convolution, normalization, pooling, softmax, updates
from dagrun.record import layout
from tests.cuda.harness import Case, Use, check, check_operators, needs_compiler, run_bodies

pytestmark = needs_compiler
FLOATS = ("float16", "float32", "float64")


def normal(shape: tuple[int, ...], dtype: str, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax(dtype: str) -> None:
    uses = []
    for shape, axis in [
        ((5, 10), 1), ((5, 10), 0), ((3, 1), 1), ((2, 70, 9), 1), ((2, 3001), 1), ((300, 7), 0), ((0, 4), 1),
        ((3, 8), 1), ((2, 4100), 1), ((7,), 0), ((1, 2600), 1), ((1, 9501), 1), ((4100, 67), 1),
    ]:  # fmt: skip
        x, g = normal(shape, dtype, 1, 5), normal(shape, dtype, 2)
        y = np.abs(normal(shape, dtype, 3))
        for op in (softmax.SOFTMAX, softmax.LOG_SOFTMAX):
            uses.append(Use(f"{op.name} {shape}", op, [x], {"axis": axis}))
            uses.append(Use(f"{op.name} transposed {shape}", op, [np.ascontiguousarray(x.T).T], {"axis": axis}))
        for op in (softmax.SOFTMAX_BACK, softmax.LOG_SOFTMAX_BACK):
            uses.append(Use(f"{op.name} {shape}", op, [g, y], {"axis": axis}))
    special = normal((6, 40), dtype)
    special[0, 3], special[1], special[2, 5], special[3] = np.inf, -np.inf, np.nan, 0
    special[3, ::2] = -0.0
    uses += [Use("special", op, [special], {"axis": 1}) for op in (softmax.SOFTMAX, softmax.LOG_SOFTMAX)]
    check_operators(uses, seed=7)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_classes(dtype: str, weighted: bool) -> None:
    wide = "float32" if dtype == "float16" else dtype
    rng = np.random.default_rng(1)
    uses = []
    for shape in [(6, 10), (4, 3), (3, 1001), (2, 5, 3, 4), (9, 1), (300, 12), (3, 33, 70), (4100, 66)]:
        x, lines = normal(shape, dtype, 1, 4), (shape[0], *shape[2:])
        t = rng.integers(0, shape[1], lines)
        t.flat[::4] = -1
        weights = [rng.uniform(0.5, 2, shape[1]).astype(wide)] if weighted else []
        g, lse = normal(lines, wide, 2), np.abs(normal(lines, wide, 3, 9))
        w = np.where(t == -1, 0, 1.25).astype(wide)
        for smoothing in (0.0, 0.1):
            attributes = {"ignored": -1, "smoothing": smoothing, "weighted": weighted, "classes": shape[1]}
            forward = softmax._CROSS_ENTROPY[weighted]
            uses.append(Use(f"cross entropy {shape}", forward, [x, t, *weights], attributes))
            uses.append(
                Use(f"its gradient {shape}", softmax.CROSS_ENTROPY_BACK, [g, x, lse, w, t, *weights], attributes)
            )
        uses.append(Use(f"nll {shape}", softmax.NLL, [x, t, *weights], attributes))
        if not weighted:
            more = {**attributes, "dtype": np.dtype(dtype)}
            uses.append(Use(f"nll gradient {shape}", softmax.NLL_BACK, [g, w, t], more))
    bad = np.array([0, 7, 2])
    attributes = {"ignored": -1, "smoothing": 0.0, "weighted": weighted, "classes": 5}
    weights = [np.ones(5, wide)] if weighted else []
    uses.append(Use("out of range", softmax.NLL, [normal((3, 5), dtype), bad, *weights], attributes))
    uses.append(
        Use("out of range", softmax._CROSS_ENTROPY[weighted], [normal((3, 5), dtype), bad, *weights], attributes)
    )
    check_operators(uses, seed=4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_normalization(dtype: str) -> None:
    wide = "float32" if dtype == "float16" else dtype
    uses = []
    for shape in [
        (4, 3, 50), (1, 6, 33), (70, 2, 1), (1, 5, 1000), (130, 3, 9), (2, 1, 16), (3, 2, 31), (0, 2, 3), (1, 2, 1050),
        (2100, 1, 3), (1, 2049, 20),
    ]:  # fmt: skip
        x, g = normal(shape, dtype, 1) + np.array(1, dtype), normal(shape, dtype, 2)
        mean, var = normal(shape[1:2], wide, 3), np.abs(normal(shape[1:2], wide, 4))
        w, b = normal(shape[1:2], wide, 5), normal(shape[1:2], wide, 6)
        eps = {"eps": 1e-5}
        uses += [
            Use(f"forward {shape}", normalization.NORMALIZE, [x], eps),
            Use(f"affine {shape}", normalization.NORMALIZE_AFFINE, [x, w, b], eps),
            Use(f"backward {shape}", normalization.NORMALIZE_BACK, [g, x, mean, var], eps),
            Use(f"affine backward {shape}", normalization.NORMALIZE_BACK, [g, x, mean, var, w], eps),
        ]
    check_operators(uses, seed=7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_normalization_of_rows(dtype: str) -> None:
    """Layers, groups of channels, groups of single elements, and one image alone."""
    wide = "float32" if dtype == "float16" else dtype
    uses = []
    for (rows, channels, places), period in [
        ((70, 50, 1), 1), ((3, 2000, 1), 1), ((1, 5, 1), 1), ((6, 4, 35), 2), ((4, 3, 200), 1), ((6, 7, 1), 3),
        ((4, 5, 9), 4), ((5, 33, 1), 5), ((40, 600, 1), 1), ((2, 9501, 1), 1), ((6, 1, 40), 3), ((4, 1, 1100), 2),
        ((66, 1, 1), 1),
    ]:  # fmt: skip
        x, g = (normal((rows, channels, places), dtype, seed) + np.array(1, dtype) for seed in (1, 2))
        mean, var = normal((rows,), wide, 3), np.abs(normal((rows,), wide, 4))
        w, b = normal((period * channels,), wide, 5), normal((period * channels,), wide, 6)
        name, eps = f"{x.shape}, {period}", {"eps": 1e-5}
        uses += [
            Use(f"forward {name}", normalization.NORMALIZE_ROWS, [x, w, b], eps),
            Use(f"backward {name}", normalization.NORMALIZE_ROWS_BACK, [g, x, mean, var, w], eps),
        ]
    check_operators(uses, seed=5)


def windows(length: int, size: int, step: int, padding: int, dilation: int = 1) -> Windows:
    """As nn.functional makes them: windows cut off at the edges."""
    table = []
    for start in range(-padding, length + padding - (size - 1) * dilation, step):
        inside = [k for k in range(size) if 0 <= start + k * dilation < length]
        table.append((start + inside[0] * dilation, len(inside), size))
    return Windows(tuple(table), dilation)


def adaptive(length: int, outs: int) -> Windows:
    bounds = [(i * length // outs, -(-(i + 1) * length // outs)) for i in range(outs)]
    return Windows(tuple((start, stop - start, stop - start) for start, stop in bounds))


POOLS = [
    ((2, 3, 9, 11), windows(9, 2, 2, 0), windows(11, 2, 2, 0)),
    ((2, 2, 14, 70), windows(14, 3, 2, 1), windows(70, 3, 1, 1)),
    ((1, 2, 17, 13), windows(17, 3, 2, 2, 2), windows(13, 2, 3, 0, 3)),
    ((3, 10, 13), adaptive(10, 3), adaptive(13, 5)),
    ((2, 0, 4, 4), windows(4, 2, 2, 0), windows(4, 2, 2, 0)),
    ((5, 40, 30), Windows(tuple((max(0, k - 2), min(40, k + 3) - max(0, k - 2), 5) for k in range(40))),
     Windows(tuple((k, 1, 1) for k in range(30)))),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["int8", "bool", *FLOATS])
def test_pooling(dtype: str) -> None:
    rng = np.random.default_rng(6)
    uses = []
    for shape, rows, columns in POOLS:
        x = rng.integers(0, 5, shape).astype(dtype) if dtype in ("int8", "bool") else normal(shape, dtype, 1)
        if dtype == "float32" and x.size:
            x.flat[7::31] = np.nan
        both, out = {"rows": rows, "columns": columns}, (*shape[:-2], len(rows.table), len(columns.table))
        y = rng.integers(0, 5, out).astype(dtype) if dtype in ("int8", "bool") else normal(out, dtype, 2)
        places = rng.integers(0, shape[-2] * shape[-1], out).astype(np.int32)
        view = np.ascontiguousarray(np.moveaxis(x, -1, 0)).transpose(*range(1, x.ndim), 0)
        uses += [
            Use(f"max {shape}", pooling.MAX_POOL, [x], both),
            Use(f"max of a view {shape}", pooling.MAX_POOL, [view], both),
            Use(f"pick {shape}", pooling.PICK, [x, places], {}),
            Use(f"put {shape}", pooling.PUT, [y, places], {"size": shape[-2:]}),
        ]  # fmt: skip
        if dtype in FLOATS:
            uses += [
                Use(f"mean {shape}", pooling.MEAN_POOL, [x], both),
                Use(f"spread {shape}", pooling.MEAN_SPREAD, [y], {**both, "size": shape[-2:]}),
            ]
    check_operators(uses, seed=6)


@pytest.mark.parametrize("garbage", [1 << 30, -(1 << 30), 20])
def test_garbage_in_the_place_of_places_reaches_nothing(garbage: int) -> None:
    """What a launch that was refused should have written: the launches behind it run all the same."""
    x, places = normal((3, 4, 5), "float32"), np.full((3, 2, 2), garbage, np.int32)
    y, spread = np.full((3, 2, 2), 7, np.float32), np.full((3, 4, 5), 7, np.float32)
    for operator, out, source, how in (
        (pooling.PICK, y, x, {}), (pooling.PUT, spread, y.copy(), {"size": (4, 5)}),
    ):  # fmt: skip
        with lowering_for("cuda"):
            bodies = operator.lower(
                *([layout(a.dtype, a.shape) for a in some] for some in ([out], [source, places])), (), **how
            )
        assert run_bodies(bodies, [out, source, places], "cuda") is None
    assert (y == 7).all() and (spread == 0).all()


def test_planes_of_too_many_elements() -> None:
    rows, columns = windows(1 << 16, 2, 2, 0), windows(1 << 15, 2, 2, 0)
    with lowering_for("cuda"), pytest.raises(Unsupported, match=r"2\*\*31 elements"):
        pooling_params((1 << 16, 1 << 15), rows, columns, (1 << 17, 4), (), [(), ()])


def test_windows_that_do_not_fit_into_a_call() -> None:
    table = Windows(tuple((k * k, 1 + k % 2, 1) for k in range(30)))
    use = Use("irregular", pooling.MAX_POOL, [normal((1, 900, 900), "float32")], {"rows": table, "columns": table})
    with pytest.raises(Unsupported, match="112 params words"):
        check_operators([use])


GEOMETRIES = [
    Geometry((8, 9), (3, 3), (8, 9), (1, 1), (1, 1), (1, 1)),
    Geometry((11, 7), (3, 2), (5, 6), (2, 1), (1, 1), (0, 0)),
    Geometry((12, 10), (3, 3), (6, 4), (2, 3), (2, 2), (2, 3)),
    Geometry((5, 5), (1, 1), (5, 5), (1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize("dtype", ["int8", "bool", *FLOATS])
def test_columns_of_images(dtype: str) -> None:
    uses = []
    for geometry in GEOMETRIES:
        shape = (2, 3, *geometry.size)
        x = normal(shape, "float64", 1).astype(dtype)
        columns = normal((2, 3 * geometry.kernel[0] * geometry.kernel[1], geometry.places), "float64", 2).astype(dtype)
        own, view = {"geometry": geometry}, np.ascontiguousarray(x.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)
        uses += [
            Use(f"unfold {geometry}", convolution.UNFOLD, [x], own),
            Use(f"unfold a view {geometry}", convolution.UNFOLD, [view], own),
            Use(f"fold {geometry}", convolution.FOLD, [columns], own),
        ]  # fmt: skip
    check_operators(uses)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_recurrent_steps(dtype: str) -> None:
    cases = []
    for name, step in STEPS.items():
        rows, columns = 5, 37
        counts, item = (*step.results, *step.inputs), np.dtype(dtype).itemsize
        gate = rows * columns * item
        arrays = [normal((count, rows, columns), dtype, k, 1) for k, count in enumerate(counts)]
        strides = [columns * item] * len(counts)
        strides[-1] = 0  # one row for all
        params = step_params(rows, columns, gate, strides)
        cases.append(Case(name, lambda name=name: step_kernel(name, dtype), arrays, params))
    check(cases)


def test_plain_products() -> None:
    rng = np.random.default_rng(8)
    cases = []
    for dtype in ("bool", "int8", "uint16", "int32", "int64", "uint64", "float16"):
        for shape, k in [((5, 7), 9), ((33, 70), 40), ((2, 3, 4, 5), 6), ((3, 4), 0), ((0, 4), 3)]:
            a = (
                rng.integers(-9, 9, (*shape[:-1], k)) if dtype != "bool" else rng.random((*shape[:-1], k)) > 0.7
            ).astype(dtype)
            b = rng.integers(0, 9, (k, shape[-1])).astype(dtype)
            for right in (b, np.ascontiguousarray(b.T).T):
                wide = np.broadcast_to(right, (*shape[:-2], *right.shape))
                c = np.zeros(shape, dtype)
                params = plain_gemm_params(shape, k, c.strides, a.strides, wide.strides, c.itemsize)
                cases.append(
                    Case(f"{dtype} {shape}", lambda dtype=dtype: plain_gemm_kernel(dtype), [c, a, wide], params)
                )
    check(cases)


def test_a_whole_convolution_is_no_kernel() -> None:
    with lowering_for("cuda"), pytest.raises(Unsupported, match="unfold, then multiply"):
        convolution.convolution_kernel("forward", "float32")


@pytest.mark.parametrize("chunk", [1 << 28, 5000])
def test_convolutions(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns, products and sums as tasks; all images at once, and a few at a time."""
    monkeypatch.setattr(convolution, "path_of", lambda *sizes, **how: "columns")
    monkeypatch.setattr(chunked, "CHUNK_BYTES", chunk)
    uses = []
    for geometry in GEOMETRIES:
        for groups in (1, 2):
            x, w = (
                normal((5, 4, *geometry.size), "float32", 1),
                normal((6, 4 // groups, *geometry.kernel), "float32", 2),
            )
            y, bias = normal((5, 6, *geometry.out), "float32", 3), normal((6,), "float32", 4)
            view = np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
            own = {"geometry": geometry, "groups": groups}
            for image in (x,) if geometry.pointwise else (x, view):  # their own columns lie row by row
                uses.append(Use(f"convolve {geometry}", convolution.CONVOLVE, [image, w], own, 1e-4))
                uses.append(Use(f"with bias {geometry}", convolution.CONVOLVE, [image, w, bias], own, 1e-4))
                uses.append(Use(f"correlate {geometry}", convolution.CORRELATE, [y, image], own, 1e-4))
            uses.append(Use(f"spread {geometry}", convolution.SPREAD, [y, w], own, 1e-4))
            uses.append(Use(f"no images {geometry}", convolution.CONVOLVE, [x[:0], w], own, 1e-4))
            uses.append(Use(f"no images {geometry}", convolution.CORRELATE, [y[:0], x[:0]], own, 1e-4))
    check_operators(uses)


def test_kernels_of_one_element_need_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "path_of", lambda *sizes, **how: "columns")
    geometry = Geometry((6, 6), (1, 1), (6, 6), (1, 1), (1, 1), (0, 0))
    x, y, w = (layout(np.dtype("float32"), shape) for shape in ((3, 4, 6, 6), (3, 8, 6, 6), (8, 4, 1, 1)))
    own = {"geometry": geometry, "groups": 1}
    for op, inputs, bodies in (
        (convolution.CONVOLVE, (x, w), 1),
        (convolution.SPREAD, (y, w), 1),
        (convolution.CORRELATE, (y, x), 2),
    ):
        with lowering_for("cuda"):
            specs = op.infer(inputs, (), **own)
            made = op.lower([layout(np.dtype(dtype), shape) for shape, dtype in specs], inputs, (), **own)
        assert len(made) == bodies, op.name  # a product of all images; the sum of their weights
        assert specs[1][0] == ((3 * 8 * 4 * 4,) if op is convolution.CORRELATE else (0,)), op.name


def test_updates_of_many_sets_are_several_calls() -> None:
    update = updates.Update.of("step", lambda xp, p, g: [p - g], 1)
    arrays = [normal((n % 20 + 1,), "float32", n) for n in range(40)]
    expected = [p - g for p, g in zip(arrays[:20], arrays[20:], strict=True)]
    views = [layout(x.dtype, x.shape) for x in arrays]
    with lowering_for("cuda"):
        bodies = update.operator.lower(views[:20], views[20:], (), sets=20, shared=0, values=0)
    assert [len(body.operands) for body in bodies] == [12, 12, 12, 4]
    assert run_bodies(bodies, arrays, "cuda") is None
    for actual, wanted in zip(arrays[:20], expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
