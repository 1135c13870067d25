"""Operators computed by NumPy's LAPACK on the Python lane, in one thread, so that their bits do not vary.

Operands are stacks of matrices, the matrices in the last two axes. Integers and booleans are computed in float64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.codegen.gemm import find_blas
from dagrun.core import device_index
from dagrun.record import Gradients, Operator, apply

_FLOAT64 = np.dtype(np.float64)


@cache
def _set_threads() -> Callable[[int], None]:
    blas = find_blas()
    return (lambda count: None) if blas is None else ctypes.CFUNCTYPE(None, ctypes.c_int)(blas.set_threads)


def lapack_operator(
    name: str, infer: Callable[..., Any], function: Callable[..., Any], gradients: Gradients, **options: Any
) -> Operator:
    """An operator from a function of NumPy arrays; `infer(*layouts, **attributes)` gives its results' specs."""

    def compute(xp: Any, *operands: Any, **attributes: Any) -> Any:
        _set_threads()(1)
        return function(*operands, **attributes)

    def specs(inputs: Sequence[Any], scalars: Sequence[Any], **attributes: Any) -> Any:
        return infer(*inputs, **attributes)

    return Operator(name, specs, compute, grad=gradients, takes="host", **options)


def record(operator: Operator, *operands: Array, **attributes: Any) -> Any:
    """Records such an operator on arrays of one device."""
    return apply(operator, operands, device_index(operands[0].device), attributes=tuple(attributes.items()))


def as_matrices(x: Any, name: str, *, square: bool = False) -> Array:
    """A stack of matrices in a dtype that LAPACK has; LinAlgError for other shapes, TypeError for float16."""
    x = as_array(x)
    if x.ndim < 2:
        raise np.linalg.LinAlgError(f"{name}: an array of shape {x.shape}, expected at least two axes")
    if square and x.shape[-1] != x.shape[-2]:
        raise np.linalg.LinAlgError(f"{name}: matrices of {x.shape[-2]} x {x.shape[-1]}, expected square ones")
    return in_float(x, name)


def in_float(x: Array, name: str) -> Array:
    """The array in a dtype that LAPACK computes in."""
    if x.dtype == np.float16:
        raise TypeError(f"{name}: float16 is not supported, expected float32 or float64; take x.astype('float32')")
    return x if x.dtype.kind == "f" else x.astype(_FLOAT64)
