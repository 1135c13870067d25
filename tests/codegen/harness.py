"""Calls generated kernels on NumPy arrays, for tests."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from dagrun.codegen.elementwise import elementwise, elementwise_params

_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)


def call(
    address: int, arrays: Sequence[np.ndarray], params: bytes, scalars: Sequence[np.generic] = ()
) -> tuple[int, list[int]]:
    """Run a kernel body; return its status code and the four error words."""
    data = (ctypes.c_void_p * max(1, len(arrays)))(*[array.ctypes.data for array in arrays])
    slots = np.zeros(max(1, len(scalars)), np.uint64)
    for slot, value in enumerate(scalars):
        raw = value.astype(np.int64) if value.dtype.kind == "i" else value
        slots.view(np.uint8)[8 * slot : 8 * slot + raw.itemsize] = np.frombuffer(raw.tobytes(), np.uint8)
    error = (ctypes.c_int64 * 4)()
    code = _PROTOTYPE(address)(data, params, slots.ctypes.data, error)
    return code, list(error)


def run_elementwise(
    op: str,
    inputs: Sequence[np.ndarray | np.generic],
    compute: object,
    output: object,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The result of one elementwise kernel; NumPy scalars are passed as per-call scalars."""
    arrays = [value for value in inputs if isinstance(value, np.ndarray)]
    mask = [not isinstance(value, np.ndarray) for value in inputs]
    shape = np.broadcast_shapes(*[array.shape for array in arrays]) if arrays else out.shape
    if out is None:
        out = np.empty(shape, output)
    address = elementwise(op, [value.dtype for value in inputs], compute, output, mask)
    operands = [out, *(np.broadcast_to(array, shape) for array in arrays)]
    params = elementwise_params(shape, [array.strides for array in operands], [array.itemsize for array in operands])
    code, error = call(address, operands, params, [value for value in inputs if not isinstance(value, np.ndarray)])
    if code:
        raise ValueError(f"kernel returned {code}, {error}")
    return out


def ulps(actual: np.ndarray, exact: np.ndarray, dtype: object) -> float:
    """Largest distance of `actual` from `exact` (of higher precision) in units of the last place of `dtype`.

    NaN and infinities must agree; they count as infinitely far when they do not.
    """
    exact = np.asarray(exact, np.longdouble)
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
        special = ~np.isfinite(rounded) | ~np.isfinite(actual)
        same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
        # overflow at the very edge: one neighbour of infinity is the largest finite number
        if np.any(special & ~same):
            return np.inf
        plain = ~special
        if not plain.any():
            return 0.0
        unit = np.spacing(np.abs(rounded[plain])).astype(np.longdouble)
        return float(np.max(np.abs(actual[plain].astype(np.longdouble) - exact[plain]) / unit))
