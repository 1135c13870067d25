"""How gradients are compared with finite differences, and runs of the engine with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import dagrun as dr

STEP = 1e-5


def placed_as(values: np.ndarray, device: str) -> dr.Array:
    """A dagrun array with these values that is not contiguous."""
    order = tuple(range(values.ndim))[::-1]
    wide = np.repeat(np.ascontiguousarray(values.transpose(order)), 2, axis=-1)
    return dr.asarray(wide, device=device)[..., ::2].transpose(order)


def check_gradients(
    function: Callable[..., Any],
    *arrays: np.ndarray,
    device: str = "cpu:0",
    second: bool = True,
    tolerance: float = 1e-6,
) -> None:
    """Directional derivatives of first and second order of a function of float64 arrays, in all of them together."""
    rng = np.random.default_rng(0)
    shape = function(*(dr.asarray(a, device=device) for a in arrays)).shape
    seed = rng.standard_normal(shape)

    def loss(*xs: Any) -> Any:
        return (function(*xs) * dr.asarray(seed, device=device)).sum()

    def directions() -> list[np.ndarray]:
        return [rng.standard_normal(a.shape) for a in arrays]

    def slope(f: Callable[[list[np.ndarray]], float], along: Sequence[np.ndarray]) -> float:
        there, back = ([a + s * STEP * v for a, v in zip(arrays, along, strict=True)] for s in (1, -1))
        return (f(there) - f(back)) / (2 * STEP)

    def plain(values: Sequence[np.ndarray]) -> float:
        return float(loss(*(dr.asarray(a, device=device) for a in values)).item())

    def against(values: Sequence[np.ndarray], along: Sequence[np.ndarray], leaves: Sequence[Any], graph: bool) -> Any:
        flows = dr.gradients(loss(*leaves), list(leaves), create_graph=graph, allow_unused=True)
        terms = [(g * dr.asarray(v, device=device)).sum() for g, v in zip(flows, along, strict=True) if g is not None]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def leaves_of(values: Sequence[np.ndarray]) -> list[Any]:
        return [dr.asarray(a, device=device, requires_grad=True) for a in values]

    v = directions()
    first = against(arrays, v, leaves_of(arrays), False).item()
    expected = slope(plain, v)
    assert abs(first - expected) <= tolerance * (1 + abs(expected)), f"first order: {first}, expected {expected}"
    if not second:
        return
    u = directions()
    leaves = leaves_of(arrays)
    inner = against(arrays, v, leaves, True)
    assert abs(inner.item() - first) <= 1e-9 * (1 + abs(first)), "recorded gradients differ from unrecorded ones"
    expected = slope(lambda values: float(against(values, v, leaves_of(values), False).item()), u)
    if not inner.requires_grad:
        assert abs(expected) <= 10 * tolerance, f"second order: none, expected {expected}"
        return
    flows = dr.gradients(inner, leaves, allow_unused=True)
    found = sum(float((g * dr.asarray(w, device=device)).sum().item()) for g, w in zip(flows, u) if g is not None)
    assert abs(found - expected) <= 10 * tolerance * (1 + abs(expected)), f"second order: {found}, expected {expected}"


def check_serial(run: Callable[[], Sequence[Any]]) -> None:
    """The arrays that a run gives have the same bits from the asynchronous and from the serial engine."""
    now = [np.asarray(x.numpy()) for x in run()]
    with dr.engine("serial"):
        then = [np.asarray(x.numpy()) for x in run()]
    for a, b in zip(now, then, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        bits = f"u{a.itemsize}"
        np.testing.assert_array_equal(np.ascontiguousarray(a).view(bits), np.ascontiguousarray(b).view(bits))


def with_gradients(function: Callable[..., Any], *arrays: np.ndarray, device: str = "cpu:0") -> list[Any]:
    """The result of a function and the gradients of the sum of its squares."""
    leaves = [dr.asarray(a, device=device, requires_grad=True) for a in arrays]
    y = function(*leaves)
    (y * y).sum().backward()
    return [y.detach(), *(x.grad for x in leaves)]
