"""Elementwise CUDA kernels, run on the CPU: the bits of the CPU's kernels for every operation, dtype and layout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dagrun.codegen.elementwise import elementwise, elementwise_kernel, elementwise_params
from dagrun.codegen.expression import Constant, Input, Scalar, Select, call, cast
from dagrun.codegen.mathematics import FUNCTIONS
from dagrun.codegen.scalars import SCALAR_OPS
from tests.codegen.test_elementwise import DTYPES, combinations, layouts, samples
from tests.codegen.test_mathematics import edges
from tests.cuda.harness import Case, check, needs_compiler

pytestmark = needs_compiler


def case(
    name: str, op: str, inputs: Sequence[np.ndarray | np.generic], compute: str, output: str,
    out: np.ndarray | None = None,
) -> Case:  # fmt: skip
    arrays = [value for value in inputs if isinstance(value, np.ndarray)]
    mask = [not isinstance(value, np.ndarray) for value in inputs]
    shape = np.broadcast_shapes(*[array.shape for array in arrays]) if arrays else out.shape
    out = np.zeros(shape, output) if out is None else out
    operands = [out, *(np.broadcast_to(array, shape) for array in arrays)]
    return Case(
        name,
        lambda: elementwise(op, [value.dtype for value in inputs], compute, output, mask),
        operands,
        elementwise_params(shape, [array.strides for array in operands], [array.itemsize for array in operands]),
        [value for value in inputs if not isinstance(value, np.ndarray)],
    )


def result_dtype(op: str, dtype: str) -> str:
    tree = call(op, *(Input(k, dtype) for k in range(SCALAR_OPS[op].arity)))
    return tree.dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation(dtype: str) -> None:
    cases = []
    for op, kind in combinations():
        if kind != dtype:
            continue
        args = [samples(dtype, 301, seed) for seed in range(SCALAR_OPS[op].arity)]
        if op in FUNCTIONS and dtype in ("float32", "float64"):
            args = [np.concatenate([edges(dtype), arg]) for arg in args]
        if op == "clip":
            args[1], args[2] = np.fmin(args[1], args[2]), np.fmax(args[1], args[2])
        if op == "power" and np.dtype(dtype).kind == "i":
            args[1] = np.where(args[1] < 0, 3, args[1]).astype(dtype)
        cases.append(case(f"{op} {dtype}", op, args, dtype, result_dtype(op, dtype)))
    check(cases)


@pytest.mark.parametrize("source", DTYPES)
def test_every_cast(source: str) -> None:
    check([case(f"{source} to {target}", "cast", [samples(source, 301, 1)], target, target) for target in DTYPES])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_layouts(dtype: str) -> None:
    cases = []
    for name, (shape, views) in layouts().items():
        first, second = (np.asarray(view(samples(dtype, math.prod(shape) + 20, seed)[20:].reshape(shape)))
                         for seed, view in enumerate(views))  # fmt: skip
        cases.append(case(name, "multiply", [first, second], dtype, dtype))
        reorders = (lambda x: x[..., ::-1], lambda x: x.T, lambda x: np.repeat(x, 3, -1)[..., ::3])
        for number, reorder in enumerate(reorders):
            if shape:
                out = np.zeros(reorder(np.empty(shape, dtype)).shape, dtype)
                target = reorder(out) if reorder(out).shape == tuple(shape) else out.reshape(shape)
                cases.append(case(f"{name}, {number}", "multiply", [first, second], dtype, dtype, target))
    check(cases)


def test_output_may_be_an_input() -> None:
    cases = []
    for view in (lambda x: x, lambda x: x.T, lambda x: x[::2, ::-3]):
        base = samples("float64", 100 * 120 + 20, 1)[20:].reshape(100, 120)
        other = samples("float64", 100 * 120 + 20, 2)[20:].reshape(100, 120)
        cases.append(case("in place", "subtract", [view(base), view(other)], "float64", "float64", view(base)))
        cases.append(case("all one", "subtract", [view(other)] * 2, "float64", "float64", view(other)))
    check(cases)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_elements_side_by_side(dtype: str) -> None:
    """Some elements at a time where rows and memory allow it, one at a time elsewhere: at every place in memory."""
    memory, other = samples(dtype, 800, 1), samples(dtype, 800, 2)  # at multiples of 16 bytes
    cases = []

    def add(name: str, *views: np.ndarray, out: np.ndarray | None = None) -> None:
        cases.append(case(name, "multiply", views, dtype, dtype, out))

    for first in (0, 1, 2, 4):
        x, y = memory[first:], other
        for columns, pitch in ((16, 16), (16, 32), (16, 33), (15, 16), (8, 20), (1, 16)):
            rows = [z[: 20 * pitch].reshape(20, pitch)[:, :columns] for z in (x, y)]
            name = f"{columns} of {pitch} from {first}"
            add(name, *rows)
            add(f"{name}, all rows apart", *rows, out=np.zeros((20, pitch), dtype)[:, :columns])
            add(f"{name}, one row", rows[0], y[:columns])
            add(f"{name}, one column", rows[0], y[:20, None])
        add(f"from {first}", x[:37], y[:37])
        add(f"every second from {first}", x[:80:2], y[:40])
    check(cases)


def test_more_elements_than_threads() -> None:
    """The grid is bounded: a thread then goes over several elements."""
    values = np.arange(4096 * 256 + 77, dtype=np.int8)
    check([case("many", "negative", [values], "int8", "int8")])


def test_scalars_fills_and_where() -> None:
    cases = []
    for dtype in DTYPES:
        values, scalar = samples(dtype, 300, 1), samples(dtype, 300, 2)[50]
        cases.append(case(f"add {dtype}", "add", [values, scalar], dtype, dtype))
        cases.append(case(f"less {dtype}", "less", [scalar, values], dtype, "bool"))
        cases.append(case(f"fill {dtype}", "cast", [scalar], dtype, dtype, np.zeros((3, 4), dtype)[:, ::2]))
        cases.append(case(f"copy {dtype}", "cast", [values], dtype, dtype))
    condition, yes, no = samples("int8", 99, 1), samples("float32", 99, 2), samples("int32", 99, 3)
    cases.append(case("where", "where", [condition, yes, no], "float64", "float64"))
    check(cases)


def test_integer_to_a_negative_power_is_an_error() -> None:
    base, exponent = np.array([2, 2, 2]), np.array([1, -3, 2])
    check([case("power", "power", [base, exponent], "int64", "int64")])


def test_a_whole_expression() -> None:
    x, b, c = (samples(dtype, 500, seed)[20:] for seed, dtype in enumerate(("float32", "float32", "int32")))
    linear = call("add", call("multiply", Scalar(0, "float32"), Input(0, "float32")), Input(1, "float32"))
    condition = call("greater", linear, Constant(0.1, "float32"))
    tree = Select(condition, linear, cast(Input(2, "int32"), "float32"))
    arrays = [np.zeros_like(x), x, b, c]
    params = elementwise_params(x.shape, [(4,)] * 4, [4] * 4)
    check([Case("tree", lambda: elementwise_kernel(tree), arrays, params, [np.float32(2.5)])])


def test_every_half() -> None:
    """All float16 values widened, and float32 values around each of them and around the middle of each two rounded."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = halves.astype(np.float32)
    with np.errstate(all="ignore"):
        middle = wide + np.spacing(halves).astype(np.float32) / 2
        near = [np.nextafter(m, np.float32(to)) for m in (wide, middle) for to in (np.inf, -np.inf)]
        every = np.concatenate([wide, middle, *near])
        beyond = every.astype(np.float64) * (1 + 2.0**-40)
    check([
        case("to float32", "cast", [halves], "float32", "float32"),
        case("to float64", "cast", [halves], "float64", "float64"),
        case("from float32", "cast", [every], "float16", "float16"),
        case("from float64", "cast", [beyond], "float16", "float16"),
    ])  # fmt: skip
