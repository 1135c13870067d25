"""Elementwise functions composed of others: parts of numbers, sinc, signed infinities, what complex numbers have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, extend
from dagrun.ops.creation import zeros_like
from dagrun.ops.mathematics import copysign, equal, isinf, multiply, sin, subtract, trunc
from dagrun.ops.selection import where


def fix(x: Any, /, out: Array | None = None) -> Array:
    """Rounded towards zero, as `trunc`."""
    return trunc(x, out=out)


def modf(x: Any, /) -> tuple[Array, Array]:
    """The fractional and the whole parts, both with the sign of x.

    >>> import dagrun as dr
    >>> dr.modf(dr.asarray([1.5, -2.25]))
    (array([ 0.5 , -0.25]), array([ 1., -2.]))
    """
    x = as_array(x)
    x = x if x.dtype.kind == "f" else x.astype(np.result_type(x.dtype, np.float16))
    whole = trunc(x)
    return copysign(where(isinf(x), 0.0, subtract(x, whole)), x), whole


def sinc(x: Any, /) -> Array:
    """sin(pi x) / (pi x), and 1 at 0.

    >>> import dagrun as dr
    >>> dr.sinc(dr.asarray([0.0, 0.5])).numpy().round(3).tolist()
    [1.0, 0.637]
    """
    y = multiply(as_array(x), math.pi)
    none = equal(y, 0)
    return where(none, 1.0, sin(y) / where(none, 1.0, y))


def isposinf(x: Any, /) -> Array:
    """Whether x is infinite and positive."""
    return equal(x, math.inf)


def isneginf(x: Any, /) -> Array:
    """Whether x is infinite and negative."""
    return equal(x, -math.inf)


def real(x: Any, /) -> Array:
    """The real part: the array itself, as all numbers here are real."""
    return as_array(x)


def imag(x: Any, /) -> Array:
    """The imaginary part: zeros."""
    return zeros_like(x)


extend(
    conj=real,
    conjugate=real,
    real=property(real, doc="The array itself: all numbers here are real."),
    imag=property(imag, doc="Zeros of the array's shape and dtype."),
)
