"""Dropout: of elements, of channels, of weights; names and arguments as in PyTorch. `inplace` does nothing."""

from __future__ import annotations

from typing import Any

from dagrun.array import Array, as_array
from dagrun.ops import dropout as ops
from dagrun.ops import random
from dagrun.ops.creation import ones_like


def _dropped(name: str, input: Any, p: float, training: bool, axes: int | None, generator: Any) -> Array:
    """Elements set to 0, or what belongs to the same place of the first `axes` axes together."""
    x = as_array(input)
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is {p}, expected a probability, 0 to 1")
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: input of dtype {x.dtype}, expected a floating dtype; use astype")
    if not training or p == 0:
        return x
    shape = x.shape if axes is None else (*x.shape[:axes], *(1,) * (x.ndim - axes))
    draw = random.random if generator is None else generator.random
    # Drawn also where p is 1, so that the numbers drawn later do not depend on p.
    u = draw(shape, dtype=ops.DRAWN, device=x.device)
    return ops.dropout(x, u, 2.0 if p == 1 else float(p), 0.0 if p == 1 else 1 / (1 - p))


def dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Array:
    """Each element set to 0 with probability p, the others scaled by 1 / (1 - p) (Srivastava et al. 2014).

    Outside of training, and with p = 0, the input itself. The elements are chosen by the next stream of the default
    generator, or of `generator`, so the choice depends on seed and program order alone, and `dr.checkpoint` repeats it.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> sorted(set(F.dropout(dr.ones(100), 0.5).tolist()))
        [0.0, 2.0]
    """
    return _dropped("dropout", input, p, training, None, generator)


def dropout1d(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Array:
    """`dropout` of whole channels: input (n, channels, length) or (channels, length)."""
    x = as_array(input)
    if x.ndim not in (2, 3):
        raise ValueError(f"dropout1d: input of shape {x.shape}, expected 3 axes, or 2 for one line")
    return _dropped("dropout1d", x, p, training, x.ndim - 1, generator)


def dropout2d(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Any = None
) -> Array:
    """`dropout` of whole channels: input (n, channels, rows, columns) or (channels, rows, columns)."""
    x = as_array(input)
    if x.ndim not in (3, 4):
        raise ValueError(f"dropout2d: input of shape {x.shape}, expected 4 axes, or 3 for one image")
    return _dropped("dropout2d", x, p, training, x.ndim - 2, generator)


_LOW = -1.7580993408473766  # what SELU tends to below: -scale * alpha


def alpha_dropout(
    input: Any, p: float = 0.5, training: bool = False, inplace: bool = False, *, generator: Any = None
) -> Array:
    """Elements set to the lowest value of SELU with probability p, then scaled and shifted (Klambauer et al. 2017).

    Mean 0 and variance 1 are kept.
    """
    x = as_array(input)
    kept = _dropped("alpha_dropout", ones_like(x), p, training, None, generator)
    if not training or p == 0:
        return x
    kept = (kept > 0).astype(x.dtype)
    if p == 1:
        return x * kept
    scale = ((1 - p) * (1 + p * _LOW * _LOW)) ** -0.5
    return (x * kept + _LOW * (1 - kept)) * scale - scale * _LOW * p
