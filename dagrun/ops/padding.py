"""Padding: arrays with more elements around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.ops.creation import full
from dagrun.ops.indexing import take
from dagrun.ops.promotion import check_fits
from dagrun.record import Gradients, composed

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


def _run(x: Array, widths: tuple[tuple[int, int], ...], value: Any) -> Array:
    shape = tuple(length + before + after for length, (before, after) in zip(x.shape, widths, strict=True))
    made = full(shape, value, dtype=x.dtype, device=x.device)
    made[_inside(x.shape, widths)] = x
    return made


def _inside(shape: Sequence[int], widths: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    return tuple(slice(before, before + length) for length, (before, _) in zip(shape, widths, strict=True))


_PAD = Gradients(lambda g, call: g[_inside(call.inputs[0].shape, call["widths"])])


def pad(x: Any, /, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Array:
    """x with elements around it: `pad_width` is (before, after) for each axis, or one pair or one number for all.

    `mode`: "constant" (all `constant_values`, one number), "edge" (the last element repeated), "reflect" (mirrored at
    the last element), "symmetric" (mirrored beyond it), "wrap" (from the other end). ValueError for other modes and
    for widths that do not fit. `numpy.pad`; PyTorch's order of widths is that of `nn.functional.pad`.

        >>> import dagrun as dr
        >>> dr.pad(dr.asarray([1, 2, 3]), (1, 2)), dr.pad(dr.asarray([1, 2, 3]), (1, 2), "reflect")
        (array([0, 1, 2, 3, 0, 0]), array([2, 1, 2, 3, 2, 1]))
    """
    x = as_array(x)
    if mode not in MODES:
        raise ValueError(f"pad: mode is {mode!r}, expected one of {', '.join(MODES)}")
    given = np.asarray(pad_width)
    try:
        pairs = np.broadcast_to(given, (x.ndim, 2)).tolist()
    except ValueError:
        raise ValueError(f"pad: widths {pad_width!r} for {x.ndim} axes, expected (before, after) for each") from None
    widths = tuple((before, after) for before, after in pairs)
    if given.dtype.kind not in "iu" or any(width < 0 for pair in widths for width in pair):
        raise ValueError(f"pad: widths {pad_width!r}, expected integers from 0 on")
    if mode != "constant":
        return _from_own_elements(x, widths, mode)
    if np.ndim(constant_values):
        raise ValueError(f"pad: constant_values is {constant_values!r}, expected one number")
    check_fits(constant_values, x.dtype)
    return composed("pad", _PAD, _run, (x,), widths=widths, value=constant_values)


def _from_own_elements(x: Array, widths: Sequence[tuple[int, int]], mode: Any) -> Array:
    """Each axis in turn, taken at the places that `numpy.pad` finds."""
    for axis, (before, after) in enumerate(widths):
        if before or after:
            if not x.shape[axis]:
                raise ValueError(f"pad: axis {axis} of an array of shape {x.shape} has no elements to repeat")
            x = take(x, np.pad(np.arange(x.shape[axis]), (before, after), mode), axis=axis)
    return x
