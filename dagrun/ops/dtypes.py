"""Dtypes and constants under NumPy's names, and what is known of a dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dagrun.array import Array

bool_ = np.bool_
int8, int16, int32, int64 = np.int8, np.int16, np.int32, np.int64
uint8, uint16, uint32, uint64 = np.uint8, np.uint16, np.uint32, np.uint64
float16, float32, float64 = np.float16, np.float32, np.float64

e, pi, inf, nan = math.e, math.pi, math.inf, math.nan
newaxis = None


def _of(value: Any) -> Any:
    return value.dtype if isinstance(value, Array) else value


def finfo(dtype: Any, /) -> np.finfo[Any]:
    """The limits of a floating dtype, or of an array's.

    >>> import dagrun as dr
    >>> dr.finfo(dr.float32).bits
    32
    """
    return np.finfo(_of(dtype))


def iinfo(dtype: Any, /) -> np.iinfo[Any]:
    """The limits of an integer dtype, or of an array's.

    >>> import dagrun as dr
    >>> dr.iinfo(dr.int8).max
    127
    """
    return np.iinfo(_of(dtype))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is another, or of a kind such as "bool", "integral", "real floating" (array API).

    >>> import dagrun as dr
    >>> dr.isdtype(dr.zeros(3).dtype, "real floating")
    True
    """
    return np.isdtype(_of(dtype), kind)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether a dtype (or an array's) can be cast to another by NumPy's safe rule."""
    return np.can_cast(_of(from_), _of(to))


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that an operation on these arrays, dtypes and Python scalars would have.

    >>> import dagrun as dr
    >>> dr.result_type(dr.int8, dr.zeros(2, dr.uint8))
    dtype('int16')
    """
    return np.result_type(*map(_of, arrays_and_dtypes))
