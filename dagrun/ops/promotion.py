"""Which dtype an elementwise operation computes in, which it gives, and which Python scalars fit: NumPy 2's rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

Kind: TypeAlias = np.dtype[Any] | type[int] | type[float]  # what promotion knows of an operand; Python scalars are weak
Resolve: TypeAlias = Callable[
    [tuple[Kind, ...], np.dtype[Any] | None], tuple[np.dtype[Any] | None, np.dtype[Any]]
]  # (operands, target in place) -> (dtype to compute in, None where NumPy's loop mixes types; dtype of the result)


def by_ufunc(ufunc: np.ufunc) -> Resolve:
    """Promotion as a NumPy function does it."""

    @cache
    def resolve(kinds: tuple[Kind, ...], out: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, np.dtype[Any]]:
        *loop, result = ufunc.resolve_dtypes((*kinds, out), casting="same_kind")
        if any(dtype.kind not in "biuf" or dtype.itemsize > 8 for dtype in (*loop, result)):
            raise TypeError(
                f"{ufunc.__name__} of {', '.join(map(_name, kinds))} would compute {result}: "
                "expected bool, integers or real floats up to 64 bits"
            )
        return (loop[0] if all(dtype == loop[0] for dtype in loop) else None), result

    return resolve


def _name(kind: Kind) -> str:
    return f"Python {kind.__name__}" if isinstance(kind, type) else str(kind)


def scalar_dtype(kind: Kind, compute: np.dtype[Any] | None) -> np.dtype[Any]:
    """The dtype in which a per-call scalar is handed over: its own, or for a Python scalar that of the computation."""
    return kind if isinstance(kind, np.dtype) else np.dtype(kind) if compute is None else compute


@cache
def bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the largest value of an integer dtype."""
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def check_fits(value: Any, dtype: np.dtype[Any]) -> None:
    """OverflowError, as NumPy raises, where a number does not fit an integer dtype; ValueError for a NaN."""
    if dtype.kind in "iu" and isinstance(value, (int, float)):
        value = int(value)
        low, high = bounds(dtype)
        if not low <= value <= high:
            raise OverflowError(
                f"Python integer {value} out of bounds for {dtype}: expected {low} to {high}, or a wider dtype"
            )
