"""The array handle: what users hold. Its type is native; the layers above add the methods that record operators."""

from dagrun.array.array import Array, as_array, asarray, extend, host_view, is_weak, leaf
from dagrun.array.dtypes import DTYPES, as_dtype
from dagrun.array.foreign import is_on_gpu
from dagrun.array.printing import format_array

__all__ = [
    "DTYPES",
    "Array",
    "as_array",
    "as_dtype",
    "asarray",
    "extend",
    "format_array",
    "host_view",
    "is_on_gpu",
    "is_weak",
    "leaf",
]
