"""Images of another size: interpolation, and channels that become pixels; names and arguments as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, as_array, asarray

_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}  # and their number of axes
_MODES = ("nearest", "nearest-exact", *_LINEAR)


def _each(value: Any, axes: int, name: str) -> tuple[Any, ...]:
    given = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(given) != axes or min(given) <= 0:
        raise ValueError(f"interpolate: {name} is {value!r}, expected a positive number or {axes} of them")
    return given


def _nearest(length: int, out: int, step: float, shift: float) -> np.ndarray[Any, Any]:
    """For each place of the result the place that it is taken from; in float32, as PyTorch computes it."""
    places = np.floor((np.arange(out, dtype=np.float32) + np.float32(shift)) * np.float32(step))
    return np.minimum(places.astype(np.int64), length - 1)


def _linear(x: Array, axis: int, out: int, step: float, align_corners: bool) -> Array:
    """Along one axis, the two nearest elements, weighted by how near they are."""
    length = x.shape[axis]
    if out == length:  # as in PyTorch, also where a factor says that the places differ
        return x
    if align_corners:
        source = np.arange(out) * ((length - 1) / (out - 1) if out > 1 else 0.0)
    else:
        source = np.maximum((np.arange(out) + 0.5) * step - 0.5, 0.0)
    below = np.minimum(source.astype(np.int64), length - 1)
    share = (source - below).reshape(-1, *(1,) * (x.ndim - axis - 1))
    weight = asarray(share, x.dtype, device=x.device)
    above = np.minimum(below + 1, length - 1)
    return ops.take(x, below, axis=axis) * (1 - weight) + ops.take(x, above, axis=axis) * weight


def interpolate(
    input: Any, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest", align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Array:  # fmt: skip
    """(n, channels, ...) resampled to a size, or to the input's times a factor, rounded down.

    `mode`: "nearest", "nearest-exact" (pixels are squares: the place of a pixel is its middle), "linear" (one axis),
    "bilinear" (two), "trilinear" (three); with `align_corners` the middles of the corner pixels meet, otherwise the
    corners. `recompute_scale_factor`: distances follow from the sizes and not from the factor that was given.
    ValueError for what does not fit together, NotImplementedError for `antialias`.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.interpolate(dr.asarray([[[1.0, 2.0]]]), scale_factor=2)
        array([[[1., 1., 2., 2.]]])
    """
    x = as_array(input)
    axes = x.ndim - 2
    if axes < 1 or 0 in x.shape[2:]:
        raise ValueError(f"interpolate: input of shape {x.shape}, expected (n, channels, ...), the last axes not empty")
    if mode not in _MODES or _LINEAR.get(mode, axes) != axes:
        raise ValueError(f"interpolate: mode {mode!r} for {axes} axes, expected one of {', '.join(_MODES)} that fits")
    if antialias:
        raise NotImplementedError("interpolate: antialias is not there")
    if align_corners is not None and mode not in _LINEAR:
        raise ValueError(f"interpolate: align_corners with mode {mode!r}, expected a linear mode")
    if (size is None) is (scale_factor is None):
        raise ValueError(f"interpolate: size {size} and scale_factor {scale_factor}, expected one of them")
    if size is not None:
        sizes = tuple(map(int, _each(size, axes, "size")))
        steps = [length / out for length, out in zip(x.shape[2:], sizes)]
    else:
        factors = _each(scale_factor, axes, "scale_factor")
        sizes = tuple(floor(length * factor) for length, factor in zip(x.shape[2:], factors))
        _each(sizes, axes, f"the size that scale_factor {scale_factor} gives")
        steps = [1 / factor for factor in factors]
        if recompute_scale_factor:
            steps = [length / out for length, out in zip(x.shape[2:], sizes)]
    for axis, (out, step) in enumerate(zip(sizes, steps), 2):
        if mode in _LINEAR:
            x = _linear(x, axis, out, step, bool(align_corners))
        else:
            x = ops.take(x, _nearest(x.shape[axis], out, step, 0.5 if mode == "nearest-exact" else 0.0), axis=axis)
    return x


def pixel_shuffle(input: Any, upscale_factor: int) -> Array:
    """(*, channels r r, rows, columns) to (*, channels, rows r, columns r) (Shi et al. 2016).

    >>> import dagrun as dr
    >>> dr.nn.functional.pixel_shuffle(dr.asarray([[[1]], [[2]], [[3]], [[4]]]), 2)
    array([[[1, 2],
            [3, 4]]])
    """
    x, r = as_array(input), upscale_factor
    if x.ndim < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ValueError(f"pixel_shuffle by {r}: input of shape {x.shape}, expected a multiple of {r * r} channels")
    *lead, channels, rows, columns = x.shape
    n = len(lead)
    x = ops.reshape(x, (*lead, channels // (r * r), r, r, rows, columns))
    x = ops.permute_dims(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return ops.reshape(x, (*lead, channels // (r * r), rows * r, columns * r))


def pixel_unshuffle(input: Any, downscale_factor: int) -> Array:
    """(*, channels, rows r, columns r) to (*, channels r r, rows, columns): undoes `pixel_shuffle`."""
    x, r = as_array(input), downscale_factor
    if x.ndim < 3 or r < 1 or x.shape[-2] % r or x.shape[-1] % r:
        raise ValueError(f"pixel_unshuffle by {r}: input of shape {x.shape}, expected images of a multiple of {r}")
    *lead, channels, rows, columns = x.shape
    n = len(lead)
    x = ops.reshape(x, (*lead, channels, rows // r, r, columns // r, r))
    x = ops.permute_dims(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return ops.reshape(x, (*lead, channels * r * r, rows // r, columns // r))


def channel_shuffle(input: Any, groups: int) -> Array:
    """Channels (axis 1) of several groups in turn: the first of each group, then the second (Zhang et al. 2018).

    >>> import dagrun as dr
    >>> dr.nn.functional.channel_shuffle(dr.arange(4).reshape(1, 4, 1), 2).ravel()
    array([0, 2, 1, 3])
    """
    x = as_array(input)
    if x.ndim < 3 or groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"channel_shuffle: input of shape {x.shape}, expected (N, C, *) with channels that divide into {groups}"
        )
    parts = ops.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return ops.reshape(ops.swapaxes(parts, 1, 2), x.shape)
