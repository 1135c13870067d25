"""Update kernels: several outputs, many sets, shared operands; bits that do not depend on how elements are grouped."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.harness import call as run

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.expression import Input, Scalar, call, cast
from dagrun.codegen.symbols import Symbol, Symbols
from dagrun.codegen.updates import update_kernel, update_params


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sets_of_any_size(dtype: str) -> None:
    a, b = Symbol(Input(0, dtype)), Symbol(Input(1, dtype))
    both = Symbols.sqrt(a * a + b * b)
    trees = [(both * Symbol(Scalar(0, dtype))).node, Symbols.where(a > b, both, -b).node]
    address = update_kernel(trees, [dtype, dtype], [], 1)
    rng = np.random.default_rng(0)
    sizes = [0, 1, 7, 64, 129, 1000]
    arrays = [rng.standard_normal(n).astype(dtype) for n in sizes for _ in range(2)]
    before = [x.copy() for x in arrays]
    factor = np.dtype(dtype).type(3)
    assert run(address, arrays, update_params(sizes), [factor])[0] == 0
    for i in range(0, len(arrays), 2):
        x, y = before[i : i + 2]
        square, other = x * x, y * y
        expected = np.sqrt(square + other)
        np.testing.assert_array_equal(arrays[i], expected * factor)
        np.testing.assert_array_equal(arrays[i + 1], np.where(x > y, expected, -y))


def test_shared_operands_and_mixed_dtypes() -> None:
    p, g = Input(0, "float32"), cast(Input(1, "float16"), "float32")
    rate = cast(Scalar(0, "float64"), "float32")
    address = update_kernel([call("subtract", p, call("multiply", rate, g))], ["float32", "float16"], ["float64"], 0)
    values, gradients = np.arange(5, dtype="float32"), np.ones(5, "float16")
    assert run(address, [np.array(0.5), values, gradients], update_params([5]))[0] == 0
    assert values.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]


def test_operations_with_a_slow_path_are_done_once() -> None:
    """A power has slow cases, which a second pass over overwritten operands would get wrong."""
    x = Input(0, "float64")
    address = update_kernel([call("power", x, call("add", x, x))], ["float64"], [], 0)
    values = np.array([1.5, -2.0, 0.0, np.inf, np.nan, 1e300] * 11)
    with np.errstate(all="ignore"):
        expected = values ** (values + values)
    assert run(address, [values], update_params([66]))[0] == 0
    np.testing.assert_allclose(values, expected, rtol=1e-15)


def test_formulas_of_numpy() -> None:
    """The functions of Symbols compute what NumPy's do."""
    x, y = np.array([1.5, -2.0, 0.0, np.inf, np.nan, -0.0]), np.array([2.0, -3.0, 1.0, 1.0, 1.0, np.nan])

    def formula(xp: object, a: object, b: object) -> list[object]:
        return [
            xp.sign(a) + 2 * xp.maximum(a, b) - 1,
            1 - xp.minimum(0.5, b) / a,
            xp.where(xp.isfinite(a), -a, 7.0),
            xp.where(a, 2.0 + b, 0.25 - b),
            xp.where(a < b, a, 1 / b),
        ]

    symbols = (Symbol(Input(k, "float64")) for k in range(2))
    with np.errstate(all="ignore"):
        of_numpy = formula(np, x, y)
    for tree, expected in zip(formula(Symbols, *symbols), of_numpy, strict=True):
        out = x.copy()
        assert run(update_kernel([tree.node], ["float64"] * 2, [], 0), [out, y], update_params([6]))[0] == 0
        np.testing.assert_array_equal(out, expected)


def test_unsupported() -> None:
    with pytest.raises(Unsupported, match="complex64"):
        update_kernel([Input(0, "complex64")], ["complex64"], [], 0)
