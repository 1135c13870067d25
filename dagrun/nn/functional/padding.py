"""Padding of the last axes; names and arguments as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array, as_array

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # PyTorch's, NumPy's


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """The input with elements around its last axes: `pad` is (before, after) of the last axis, then of that before it.

    Negative widths take elements away. `mode`: "constant" (all `value`, 0 if None), "reflect" (mirrored at the last
    element, by less than the axis's length), "replicate" (the last element repeated), "circular" (from the other end,
    by at most the length). ValueError for other modes and widths that do not fit.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.pad(dr.asarray([[1.0, 2.0]]), (1, 0, 0, 1), value=9.0)
        array([[9., 1., 2.],
               [9., 9., 9.]])
    """
    x, given = as_array(input), tuple(pad)
    if mode not in _MODES:
        raise ValueError(f"pad: mode is {mode!r}, expected one of {', '.join(_MODES)}")
    if len(given) % 2 or len(given) > 2 * x.ndim:
        raise ValueError(f"pad: widths {given} for an input of shape {x.shape}, expected (before, after) for some axes")
    if value is not None and mode != "constant":
        raise ValueError(f"pad: a value of {value} with mode {mode!r}, expected none")
    pairs = [(0, 0)] * (x.ndim - len(given) // 2) + [(given[k], given[k + 1]) for k in range(len(given) - 2, -1, -2)]
    for axis, (length, pair) in enumerate(zip(x.shape, pairs, strict=True)):
        most = {"reflect": length - 1, "circular": length}.get(mode)
        if length + sum(min(width, 0) for width in pair) < 0 or (most is not None and max(pair) > max(most, 0)):
            raise ValueError(f"pad: widths {pair} with mode {mode!r} for axis {axis} of an input of shape {x.shape}")
    if min(given, default=0) < 0:
        x = x[tuple(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape, pairs))]
    widths = [(max(before, 0), max(after, 0)) for before, after in pairs]
    return ops.pad(x, widths, _MODES[mode], constant_values=0 if value is None else value)
