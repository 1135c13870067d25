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

half, single, double = float16, float32, float64
intc, int_, intp, uint, uintp = np.intc, np.int_, np.intp, np.uint, np.uintp
dtype = np.dtype

e, pi, inf, nan, euler_gamma = math.e, math.pi, math.inf, math.nan, np.euler_gamma
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


def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """Whether a dtype (or an array's) can be cast to another by one of NumPy's rules."""
    return np.can_cast(_of(from_), _of(to), casting)


def promote_types(type1: Any, type2: Any) -> np.dtype[Any]:
    """The smallest dtype to which both can be cast safely."""
    return np.promote_types(type1, type2)


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that shapes broadcast to; ValueError where they do not.

    >>> import dagrun as dr
    >>> dr.broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    return np.broadcast_shapes(*shapes)


def issubdtype(arg1: Any, arg2: Any) -> bool:
    """Whether a dtype is of a kind of NumPy's, such as `numpy.floating`."""
    return np.issubdtype(_of(arg1), arg2)


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that an operation on these arrays, dtypes and Python scalars would have.

    >>> import dagrun as dr
    >>> dr.result_type(dr.int8, dr.zeros(2, dr.uint8))
    dtype('int16')
    """
    return np.result_type(*map(_of, arrays_and_dtypes))
