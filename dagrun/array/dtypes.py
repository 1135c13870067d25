"""The dtypes that arrays can have."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

DTYPES = frozenset(
    np.dtype(name)
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
)


@cache
def as_dtype(value: Any) -> np.dtype[Any]:
    """The dtype that a dtype, its name or a scalar type stands for; TypeError for those that arrays cannot have."""
    if isinstance(value, int):
        raise TypeError(f"{value} is no dtype; the lengths of several axes are one argument, such as (2, 3)")
    dtype = np.dtype(value).newbyteorder("=")
    if dtype not in DTYPES:
        raise TypeError(
            f"dtype {dtype} is not supported: expected bool, an integer or a real floating type up to 64 bits"
        )
    return dtype
