"""Checks gradients by central differences, to second order where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import dagrun as dr


def _numeric(value: Callable[[list[np.ndarray]], float], arrays: list[np.ndarray], k: int, step: float) -> np.ndarray:
    slope = np.zeros_like(arrays[k])
    for place in np.ndindex(arrays[k].shape):
        moved = [array.copy() for array in arrays]
        moved[k][place] += step
        above = value(moved)
        moved[k][place] -= 2 * step
        slope[place] = (above - value(moved)) / (2 * step)
    return slope


def check_gradients(
    function: Callable[..., Any], *arrays: Any, device: str = "cpu:0", second: bool = True, tolerance: float = 1e-6
) -> None:
    """The gradients of a weighted sum of the function's results; `second`: of a weighted sum of those, too."""
    given = [np.asarray(array, np.float64) for array in arrays]
    rng = np.random.default_rng(5)
    weights: list[np.ndarray] = []

    def weighted(results: Sequence[Any]) -> Any:
        total: Any = 0.0
        for k, result in enumerate(results):
            if len(weights) <= k:
                weights.append(rng.normal(size=result.shape))
            total = total + (result * dr.asarray(weights[k], device=device)).sum()
        return total

    def outputs(values: Sequence[Any]) -> list[Any]:
        results = function(*values)
        return [r for r in (results if isinstance(results, (tuple, list)) else (results,)) if r is not None]

    def leaves(values: Sequence[np.ndarray]) -> list[Any]:
        return [dr.asarray(value, device=device, requires_grad=True) for value in values]

    def value(values: list[np.ndarray]) -> float:
        with dr.no_grad():
            return float(weighted(outputs([dr.asarray(v, device=device) for v in values])).item())

    xs = leaves(given)
    found = dr.gradients([weighted(outputs(xs))], xs)
    for k, g in enumerate(found):
        np.testing.assert_allclose(g.numpy(), _numeric(value, given, k, 1e-6), rtol=tolerance, atol=tolerance)
    if not second:
        return
    first_weights, weights[:] = list(weights), list(weights)
    again = [rng.normal(size=g.shape) for g in found]

    def slope(values: Sequence[Any]) -> Any:
        weights[:] = first_weights
        gs = dr.gradients([weighted(outputs(values))], list(values), create_graph=True)
        return sum(((g * dr.asarray(w, device=device)).sum() for g, w in zip(gs, again, strict=True)), start=0.0)

    def slope_value(values: list[np.ndarray]) -> float:
        return float(slope(leaves(values)).item())

    xs = leaves(given)
    for k, g in enumerate(dr.gradients([slope(xs)], xs, allow_unused=True)):
        expected = _numeric(slope_value, given, k, 1e-5)
        found = np.zeros_like(expected) if g is None else g.numpy()  # None: linear in this array
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
