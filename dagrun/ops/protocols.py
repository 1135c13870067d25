"""NumPy's functions on dagrun arrays: `np.exp(x)`, `np.concatenate([x, y])` and `ndarray + x` record dagrun operations.

What dagrun does not have, or not with the options given, is computed by NumPy: that waits and gives NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from inspect import Parameter, signature
from types import ModuleType
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, extend, host_view, is_weak
from dagrun.core import native
from dagrun.ops import (
    assignment,
    calculus,
    comparing,
    creation,
    cumulative,
    dtypes,
    einstein,
    grids,
    indexing,
    joining,
    manipulation,
    mathematics,
    matrices,
    movement,
    padding,
    rearranging,
    reductions,
    selection,
    sets,
    sorting,
    statistics,
    without_nan,
)
from dagrun.ops.elementwise import Elementwise, make, record
from dagrun.ops.linalg import products
from dagrun.ops.promotion import by_ufunc

# ---- functions of elements: __array_ufunc__

_CALLS: dict[str, Callable[..., Any]] = mathematics.UFUNCS | {"matmul": products.matmul, "vecdot": products.vecdot}
_METHODS: dict[tuple[str, str], Callable[..., Any]] = {
    ("add", "reduce"): reductions.sum,
    ("multiply", "reduce"): reductions.prod,
    ("maximum", "reduce"): reductions.max,
    ("minimum", "reduce"): reductions.min,
    ("logical_and", "reduce"): reductions.all,
    ("logical_or", "reduce"): reductions.any,
    ("add", "accumulate"): cumulative.cumsum,
    ("multiply", "accumulate"): cumulative.cumprod,
}


@cache
def _operator(ufunc: np.ufunc) -> Elementwise:
    """An operator of a NumPy function that dagrun does not have, computed by it on the Python lane."""
    return make(ufunc.__name__, ufunc, by_ufunc(ufunc))


@cache
def _counterpart(ufunc: np.ufunc, method: str) -> Callable[..., Any] | None:
    """The dagrun function that does what a method of a NumPy function does."""
    if method != "__call__":
        return _outer(ufunc) if method == "outer" else _METHODS.get((ufunc.__name__, method))
    if getattr(np, ufunc.__name__, None) is ufunc and ufunc.__name__ in _CALLS:
        return _CALLS[ufunc.__name__]
    if ufunc.nout > 1 or ufunc.signature is not None:
        return None
    return lambda *inputs, out=None: record(_operator(ufunc), *inputs, out=out)


def _outer(ufunc: np.ufunc) -> Callable[..., Any]:
    def outer(x1: Any, x2: Any) -> Any:
        a, b = as_array(x1), as_array(x2)
        return ufunc(a.reshape(a.shape + (1,) * b.ndim), b)

    return outer


def array_ufunc(self: Array, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """What a NumPy function does with dagrun arrays among its operands: it records the dagrun operation.

    A NumPy array as `out`, as in `ndarray += x`, is written before the call returns.
    """
    if not options and method == "__call__" and isinstance(inputs[0], np.generic):  # 2.0 * x, with a NumPy scalar
        function = _counterpart(ufunc, method)
        if function is not None and len(inputs) == 2:
            return function(*inputs)
    out: Any = options.pop("out", (None,))
    for operand in (*inputs, *out):
        if type(operand) is not Array and not isinstance(operand, _FAMILIAR):
            return NotImplemented
    target = out[0] if len(out) == 1 else None
    function = _counterpart(ufunc, method)
    if function is not None and len(out) == 1 and _takes(function, len(inputs), options):
        if method in ("reduce", "accumulate"):
            options.setdefault("axis", 0)
        if target is None:
            return function(*inputs, **options)
        if type(target) is Array and _takes(function, len(inputs), {"out": target}):
            return function(*inputs, out=target, **options)
        result = as_array(function(*inputs, **options))
        if type(target) is Array:
            target[...] = result
        else:
            np.copyto(target, host_view(result), casting="same_kind")
        return target
    if any(part is not None for part in out):
        options["out"] = out
    return _by_numpy(getattr(ufunc, method), inputs, options, writes=method == "at")


_FAMILIAR = (np.ndarray, np.generic, bool, int, float, complex, list, tuple, type(None))


@cache
def _parameters(function: Callable[..., Any]) -> tuple[float, frozenset[str]]:
    """How many positional arguments a function takes at most, and the names of those that it takes by name."""
    given = signature(function).parameters.values()
    positional = sum(p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for p in given)
    endless = any(p.kind is Parameter.VAR_POSITIONAL for p in given)
    named = frozenset(p.name for p in given if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY))
    return (float("inf") if endless else positional), named


def _takes(function: Callable[..., Any], count: int, options: Mapping[str, Any]) -> bool:
    most, named = _parameters(function)
    return count <= most and named.issuperset(options)


def _numpy(value: Any) -> Any:
    """A value with the dagrun arrays in it as read-only NumPy arrays; waits for them."""
    if type(value) is Array:
        return host_view(value)
    if type(value) in (list, tuple):
        return type(value)(map(_numpy, value))
    return value


def _tracked(value: Any) -> bool:
    return value._tracked if type(value) is Array else type(value) in (list, tuple) and any(map(_tracked, value))


def _by_numpy(function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], writes: int) -> Any:
    """NumPy's own function on the values; waits for them.

    What it writes, the first `writes` operands and `out`, are copies that are assigned to the dagrun arrays
    afterwards: NumPy writes 1-D read-only memory in `ufunc.at` without asking. RuntimeError where that would cut
    the gradients of the operands or of what is written.
    """
    lent: dict[int, tuple[np.ndarray[Any, Any], Array]] = {}
    tracked = native.gradients() and any(map(_tracked, (args, *options.values())))

    def copied(value: Any) -> Any:
        if type(value) is tuple:
            return tuple(map(copied, value))
        if type(value) is not Array:
            return value
        if tracked:
            raise RuntimeError(
                f"{function.__name__}: NumPy would write into an array outside of the record of gradients; compute it "
                "under dr.no_grad(), or from dagrun's functions"
            )
        copy = value.numpy()
        lent[id(copy)] = copy, value
        return copy

    result = function(
        *(copied(value) if i < writes else _numpy(value) for i, value in enumerate(args)),
        **{name: copied(value) if name == "out" else _numpy(value) for name, value in options.items()},
    )
    for copy, array in lent.values():
        array[...] = copy

    def returned(value: Any) -> Any:
        return lent[id(value)][1] if id(value) in lent else value

    return tuple(map(returned, result)) if type(result) is tuple else returned(result)


# ---- all other functions: __array_function__


def _size(a: Array, axis: int | Sequence[int] | None = None) -> int:
    if axis is None:
        return a.size
    return int(np.prod([a.shape[i] for i in manipulation.normal_axes(axis, a.ndim, "size")], dtype=np.int64))


def _copyto(dst: Any, src: Any) -> None:
    if type(dst) is Array:
        source = np.min_scalar_type(src) if is_weak(src) else as_array(src).dtype
        if not np.can_cast(source, dst.dtype, "same_kind"):
            raise TypeError(f"copyto: cannot cast {source} to {dst.dtype} according to the rule 'same_kind'")
        dst[...] = src
    else:
        np.copyto(dst, _numpy(src))


_NAMES: tuple[tuple[ModuleType, str], ...] = (
    (assignment, "put_along_axis"),
    (comparing, "allclose array_equal isclose"),
    (creation, "empty_like full_like ones_like zeros_like"),
    (dtypes, "can_cast result_type"),
    (einstein, "einsum"),
    (indexing, "take take_along_axis"),
    (joining, "array_split concatenate hstack repeat roll split stack tile unstack vstack"),
    (products, "cross dot inner kron vdot outer tensordot"),
    (
        manipulation,
        "atleast_1d atleast_2d broadcast_to diagonal expand_dims flip matrix_transpose moveaxis ravel squeeze swapaxes",
    ),
    (mathematics, "round"),
    (matrices, "diag diff trace tril triu"),
    (movement, "astype copy"),
    (padding, "pad"),
    (
        reductions,
        "all any argmax argmin count_nonzero max mean min prod sum",
    ),
    (cumulative, "cumprod cumsum cumulative_prod cumulative_sum"),
    (statistics, "average corrcoef cov median percentile ptp quantile std var"),
    (selection, "argwhere nonzero where"),
    (sorting, "argpartition argsort lexsort partition searchsorted sort"),
    (
        sets,
        "bincount digitize histogram intersect1d isin setdiff1d setxor1d union1d unique unique_all unique_counts "
        "unique_inverse unique_values",
    ),
    (
        rearranging,
        "append atleast_3d column_stack delete dsplit dstack fliplr flipud hsplit insert resize rollaxis rot90 vsplit",
    ),
    (grids, "diagflat fill_diagonal ix_ unravel_index vander"),
    (
        without_nan,
        "nan_to_num nanargmax nanargmin nancumprod nancumsum nanmax nanmean nanmedian nanmin nanprod nanstd "
        "nansum nanvar",
    ),
    (calculus, "convolve correlate ediff1d gradient interp trapezoid"),
)
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    getattr(np, name): getattr(module, name) for module, names in _NAMES for name in names.split() if hasattr(np, name)
} | {
    np.amax: reductions.max,
    np.amin: reductions.min,
    np.around: mathematics.round,
    np.broadcast_arrays: lambda *args: tuple(manipulation.broadcast_arrays(*args)),
    np.clip: selection.clip,
    np.copyto: _copyto,
    np.meshgrid: lambda *args, indexing="xy": tuple(matrices.meshgrid(*args, indexing=indexing)),
    np.ndim: lambda a: a.ndim,
    np.reshape: lambda a, shape, order="C", *, copy=None: manipulation.reshape(a, shape, order=order, copy=copy),
    np.shape: lambda a: a.shape,
    np.size: _size,
    np.transpose: lambda a, axes=None: manipulation.transpose(a, axes),
}
_WRITERS = frozenset((np.copyto, np.place, np.put, np.put_along_axis, np.putmask))  # in their first


def array_function(
    self: Array, function: Callable[..., Any], types: Any, args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """What any other NumPy function does with dagrun arrays among its arguments."""
    if not all(kind is Array or issubclass(kind, np.ndarray) for kind in types):
        return NotImplemented
    own = _FUNCTIONS.get(function)
    if own is not None and _takes(own, len(args), options):
        return own(*args, **options)
    return _by_numpy(function, args, options, writes=function in _WRITERS)


# ---- the array standard

_VERSIONS = (None, "2021.12", "2022.12", "2023.12", "2024.12")


def array_namespace(self: Array, *, api_version: str | None = None) -> ModuleType:
    """The module whose functions take arrays like this one, `dagrun` (array API)."""
    if api_version not in _VERSIONS:
        raise ValueError(f"array API version {api_version!r}: expected one of {', '.join(map(str, _VERSIONS))}")
    return import_module("dagrun")


extend(__array_ufunc__=array_ufunc, __array_function__=array_function, __array_namespace__=array_namespace)
