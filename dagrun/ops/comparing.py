"""Whole arrays compared: isclose, allclose, array_equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, asarray
from dagrun.ops.elementwise import place
from dagrun.ops.mathematics import absolute, isfinite, isnan
from dagrun.ops.reductions import all


def isclose(x1: Any, x2: Any, /, rtol: float = 1e-5, atol: float = 1e-8, *, equal_nan: bool = False) -> Array:
    """Whether elements agree: |x1 - x2| <= atol + rtol * |x2|; infinities must be equal. Operands broadcast.

    >>> import dagrun as dr
    >>> dr.isclose(dr.asarray([1.0, 2.0]), [1.0, 2.1])
    array([ True, False])
    """
    a, b = _pair(x1, x2, "isclose")
    if b.dtype.kind != "f":
        b = b.astype(np.float64)
    near = (absolute(a - b) <= atol + rtol * absolute(b)) & isfinite(b)
    same = near | (a == b)
    return same | (isnan(a) & isnan(b)) if equal_nan else same


def _pair(x1: Any, x2: Any, name: str) -> tuple[Array, Array]:
    """Two operands as arrays on one device."""
    (a, b), device = place((x1, x2), name)
    return asarray(a, device=device), asarray(b, device=device)


def allclose(x1: Any, x2: Any, /, rtol: float = 1e-5, atol: float = 1e-8, *, equal_nan: bool = False) -> bool:
    """Whether all elements agree as in `isclose`; waits for them."""
    return bool(all(isclose(x1, x2, rtol, atol, equal_nan=equal_nan)))


def array_equal(x1: Any, x2: Any, /, *, equal_nan: bool = False) -> bool:
    """Whether two arrays have one shape and equal elements; waits for them.

    >>> import dagrun as dr
    >>> dr.array_equal(dr.zeros(2), [0, 0])
    True
    """
    a, b = _pair(x1, x2, "array_equal")
    if a.shape != b.shape:
        return False
    same = a == b
    if equal_nan:
        same = same | ((a != a) & (b != b))
    return bool(all(same))
