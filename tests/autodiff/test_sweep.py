"""Every function with a floating result: gradients against differences to second order, on all sorts of operands."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from autodiff.cases import CASES, ELSEWHERE, NOT_SWEPT, WITHOUT, Case

import dagrun as dr
from dagrun.core import native, tracing
from dagrun.ops.elementwise import Elementwise
from dagrun.ops.mathematics import UFUNCS
from dagrun.record import Operator

NAMES = [f"{case.name}-{number}" for number, case in enumerate(CASES)]


def leaves(values: Sequence[np.ndarray], device: str = "cpu:0") -> list[dr.Array]:
    return [dr.asarray(x, device=device, requires_grad=True) for x in values]


def weighted(y: dr.Array) -> dr.Array:
    """A sum in which every element counts differently."""
    return (y * np.linspace(0.5, 1.5, y.size).reshape(y.shape).astype(y.dtype)).sum()


def gradients(case: Case, arrays: list[dr.Array], **options: Any) -> list[dr.Array]:
    y = weighted(case.function(*arrays))
    if not y.requires_grad:
        return [dr.zeros_like(x) for x in arrays]
    found = dr.gradients(y, arrays, allow_unused=True, **options)
    return [dr.zeros_like(x) if g is None else g for g, x in zip(found, arrays, strict=True)]


def compare(
    function: Any, gradient: Sequence[dr.Array], values: Sequence[np.ndarray], device: str, step: float
) -> None:
    """The gradient along random directions, against central differences of a function of NumPy arrays."""
    rng = np.random.default_rng(0)
    for k, g in enumerate(gradient):
        direction = rng.standard_normal(values[k].shape)
        ahead, behind = list(values), list(values)
        ahead[k], behind[k] = values[k] + step * direction, values[k] - step * direction
        expected = (function(ahead) - function(behind)) / (2 * step)
        assert g.shape == values[k].shape and str(g.device) == device
        assert (g.numpy() * direction).sum() == pytest.approx(expected, rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rules_in_one_kernel_have_the_bits_of_their_operations(dtype: str, device: str) -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.9, 77).astype(dtype)
    g = dr.asarray(np.linspace(-2, 2, 77).astype(dtype), device=device)
    for name in ("gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "relu", "softplus", "sqrt", "arcsin", "log10", "erf"):
        (x,) = leaves([values], device)
        y = getattr(dr, name)(x)
        with tracing() as records:
            (alone,) = dr.gradients(y, [x], [g], retain_graph=True)
            alone.wait()
        assert [record.name for record in records] == [f"{name}_gradient"]
        (again,) = dr.gradients(y, [x], [g], create_graph=True)
        assert alone.numpy().tobytes() == again.numpy().tobytes(), name


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_first_order(case: Case, device: str) -> None:
    values = case.operands()
    found = gradients(case, leaves(values, device))
    compare(lambda xs: weighted(case.function(*leaves(xs, device))).item(), found, values, device, 1e-6)


def slope(case: Case, arrays: list[dr.Array]) -> dr.Array:
    """A function whose gradient is of second order."""
    return sum((weighted(g * g) for g in gradients(case, arrays, create_graph=True)), dr.zeros(()))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_second_order(case: Case) -> None:
    values = case.operands()
    arrays = leaves(values)
    y = slope(case, arrays)
    found = [dr.zeros_like(x) for x in arrays]
    if y.requires_grad:
        pairs = zip(dr.gradients(y, arrays, allow_unused=True), found, strict=True)
        found = [zero if g is None else g for g, zero in pairs]
    compare(lambda xs: slope(case, leaves(xs)).item(), found, values, "cpu:0", 1e-5)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_float32(case: Case) -> None:
    values = case.operands()
    wide = gradients(case, leaves(values))
    for g, x in zip(gradients(case, leaves(case.operands("f4"))), wide, strict=True):
        assert g.dtype == np.float32
        np.testing.assert_allclose(g.numpy(), x.numpy(), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_strided_operands(case: Case) -> None:
    """Operands that are every second element of a transposed leaf: the others get no gradient."""
    values = case.operands()
    expected = gradients(case, leaves(values))
    wide = [np.full([2 * n for n in x.shape[::-1]], 0.5) for x in values]
    for whole, x in zip(wide, values, strict=True):
        every_second(whole)[...] = x
    bases = leaves(wide)
    found = gradients(replace(case, function=lambda *xs: case.function(*map(every_second, xs))), bases)
    for g, like in zip(found, expected, strict=True):
        picked = every_second(g.numpy())
        np.testing.assert_allclose(picked, like.numpy(), rtol=1e-12, atol=1e-14)
        assert np.count_nonzero(g.numpy()) == np.count_nonzero(picked)


def every_second(x: Any) -> Any:
    return x.T[(..., *(slice(None, None, 2),) * x.ndim)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_asynchronous_equals_serial(case: Case) -> None:
    values = case.operands()
    found = [g.numpy().tobytes() for g in gradients(case, leaves(values))]
    with dr.engine("serial"):
        assert [g.numpy().tobytes() for g in gradients(case, leaves(values))] == found


@pytest.mark.parametrize("case", [case for case in CASES if case.any_shape], ids=lambda case: case.name)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)], ids=str)
def test_without_axes_and_elements(case: Case, shape: tuple[int, ...], device: str) -> None:
    arrays = leaves([np.full(shape, 1.7) for _ in case.shapes], device)
    for g in gradients(case, arrays):
        assert g.shape == shape and g.numpy().shape == shape


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "cumsum", "cumprod", "median", "sort"])
def test_reductions_of_nothing(name: str) -> None:
    x = dr.zeros((2, 0), requires_grad=True)
    getattr(dr, name)(x, axis=0).sum().backward()
    assert x.grad is not None and x.grad.shape == (2, 0)


@pytest.mark.parametrize("to", ["f2", "f4", "f8"])
def test_casts(to: str) -> None:
    for dtype in ("f2", "f4", "f8"):
        x = dr.asarray(np.arange(3, dtype=dtype), requires_grad=True)
        (x.astype(to) * np.array([1, 2, 3], to)).sum().backward()
        assert x.grad is not None and x.grad.dtype == dtype and x.grad.numpy().tolist() == [1, 2, 3]
    assert not x.astype("i4").requires_grad


# ---- nothing is forgotten


def test_every_function_is_swept_or_listed() -> None:
    swept = {case.name for case in CASES}
    names = {name for name in dr.ops.__all__ if callable(getattr(dr, name)) and not isinstance(getattr(dr, name), type)}
    assert names - swept - WITHOUT == set()
    assert WITHOUT & swept == set(), "listed as without gradient, but swept"


def test_every_operator_is_swept() -> None:
    """Each operator record of dagrun is met by a sweep with a gradient, or listed."""
    met: set[str] = set()
    before = native.set_observer(lambda node, result: met.add(node.plan.name))
    try:
        for case in CASES:
            slope(case, leaves(case.operands()))
    finally:
        native.set_observer(before)
    records = {
        op.name
        for op in gc.get_objects()
        if type(op) is Operator
        and op.compute.__module__.startswith("dagrun.")
        and op.compute.__module__ not in ELSEWHERE
    }
    custom = {op.name for op in gc.get_objects() if type(op) is Operator and "custom_op" in op.compute.__qualname__}
    on_demand = {op.operator.name for op in gc.get_objects() if type(op) is Elementwise and op.operator.grad is None}
    made = {name for name in on_demand if name not in UFUNCS and isinstance(getattr(np, name, None), np.ufunc)}
    assert records - custom - made - met - NOT_SWEPT == set()
    dr.wait()
