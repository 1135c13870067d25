"""Operators of the user's own: a NumPy function becomes a recorded operation, with its own gradient where given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_dtype, asarray
from dagrun.core import device_index
from dagrun.record import Gradients, Operator, apply, common_device


class _Rule:
    """The user's gradient function as a rule that reads all operands."""

    def __init__(self, grad: Callable[..., Any], names: tuple[str, ...], title: str) -> None:
        self._grad, self._title, self.names = grad, title, ("gs", "call", *names)

    def __call__(self, gs: list[Any], call: Any, *operands: Any) -> Any:
        flows = self._grad(gs[0] if len(gs) == 1 else tuple(gs), *operands, **dict(call["options"]))
        flows = flows if isinstance(flows, (tuple, list)) else (flows,)
        if len(flows) != len(operands):
            raise ValueError(f"grad of {self._title} returned {len(flows)} gradients, expected {len(operands)}")
        for flow in flows:
            if not isinstance(flow, Array) and flow is not None:
                raise TypeError(
                    f"grad of {self._title} returned a {type(flow).__name__}, expected dagrun arrays (or None), "
                    "computed with dagrun's operations"
                )
        return flows


def _gradients(grad: Callable[..., Any], count: int, title: str) -> Gradients:
    names = tuple(f"x{i}" for i in range(count))
    return Gradients(joint=_Rule(grad, names, title), operands=names)


def _check_like_first(made: Any, first: Any, title: str) -> None:
    """TypeError or ValueError where a result is not what it is taken for without `infer`: one like the first array."""
    hint = f"expected one array like the first it got, {first.dtype}{first.shape}; say with infer= what it returns"
    if isinstance(made, tuple):
        raise TypeError(f"{title} returned {len(made)} arrays, {hint}")
    dtype = made.dtype if hasattr(made, "dtype") else np.asarray(made).dtype
    if np.shape(made) != first.shape:
        raise ValueError(f"{title} returned {dtype}{np.shape(made)}, {hint}")
    if not np.can_cast(dtype, first.dtype, "same_kind"):
        raise TypeError(f"{title} returned {dtype}{np.shape(made)}, {hint}")


def _check_like_inferred(made: Any, said: Sequence[Any], title: str) -> None:
    """ValueError or TypeError where there are more or fewer results than `infer` said, or of another kind of dtype."""
    results = made if isinstance(made, (tuple, list)) and (len(said) > 1 or isinstance(made, tuple)) else (made,)
    if len(results) != len(said):
        raise ValueError(f"{title} returned {len(results)} arrays, expected {len(said)}, as infer= says")
    for result, (_, dtype) in zip(results, said, strict=True):
        own = result.dtype if hasattr(result, "dtype") else np.asarray(result).dtype
        if not np.can_cast(own, dtype, "same_kind"):
            raise TypeError(f"{title} returned {own}{np.shape(result)}, expected {dtype}, as infer= says")


def custom_op(
    function: Callable[..., Any] | None = None,
    /,
    *,
    infer: Callable[..., Any] | None = None,
    grad: Callable[..., Any] | None = None,
    name: str | None = None,
    on_device: bool = False,
) -> Any:
    """Makes an operator of a function of NumPy arrays; the calls are recorded and scheduled like any other operation.

    `function(*arrays, **options)` gets read-only NumPy arrays and returns one array or a tuple of them; it runs on the
    Python lane, one call at a time, and must not record dagrun operations. `infer(*specs, **options)` gets a
    `(shape, dtype)` for each array and returns that of the result, or a list of them; without it the result is one
    array of the shape of the first and its dtype, or one that can be cast to it. `grad(g, *arrays, **options)` gets the
    gradient of the result (a tuple of them, None where nothing asked, if there are several) and the call's arrays, and
    returns the gradient of each (or None), with array operations. What the function raises, every wait for its results
    raises: an OperationError that is also of the raised type, with the line of the call. With `on_device` the arrays of
    a GPU come as CuPy arrays that lie there, and what the function returns is such an array: for CuPy's functions and
    kernels. They must not be written.

        >>> import dagrun as dr
        >>> import numpy as np
        >>> @dr.custom_op(grad=lambda g, x: -g * dr.sign(x) * (dr.abs(x) < 1))
        ... def hat(x):
        ...     return np.maximum(1 - np.abs(x), 0)
        >>> hat(dr.asarray([0.0, 0.5, 2.0]))
        array([1. , 0.5, 0. ])
    """
    if function is None:
        return lambda chosen: custom_op(chosen, infer=infer, grad=grad, name=name, on_device=on_device)
    body = function
    title = str(name or getattr(body, "__name__", "custom_op"))

    def specs(inputs: Sequence[Any], scalars: Sequence[Any], *, options: tuple[tuple[str, Any], ...]) -> Any:
        given = [(view.shape, view.dtype) for view in inputs]
        if infer is None:
            return (given[0],)
        made = infer(*given, **dict(options))
        several = isinstance(made, list)
        return tuple((tuple(shape), as_dtype(dtype)) for shape, dtype in (made if several else [made]))

    def compute(xp: Any, *arrays: Any, options: tuple[tuple[str, Any], ...]) -> Any:
        made = body(*arrays, **dict(options))
        if infer is None:
            _check_like_first(made, arrays[0], title)
        else:
            _check_like_inferred(made, specs(arrays, (), options=options), title)
        return made

    @cache
    def operator_of(count: int) -> Operator:
        rule = None if grad is None else _gradients(grad, count, title)
        return Operator(title, specs, compute, grad=rule, takes="device" if on_device else "host")

    def call(*arrays: Any, **options: Any) -> Any:
        if not arrays:
            raise TypeError(f"{title}: expected at least one array")
        first = next((x.device for x in arrays if isinstance(x, Array)), None)
        operands = tuple(x if isinstance(x, Array) else asarray(x, device=first) for x in arrays)
        where = common_device(title, operands)
        try:
            hash(tuple(options.values()))
        except TypeError:
            raise TypeError(
                f"{title}: options must be hashable, they are part of the operation; pass arrays by position"
            ) from None
        attributes = (("options", tuple(sorted(options.items()))),)
        return apply(operator_of(len(operands)), operands, device_index(where), attributes=attributes)

    call.__name__ = call.__qualname__ = title
    call.__doc__ = body.__doc__
    call.__wrapped__ = body  # type: ignore[attr-defined]
    return call


__all__ = ["custom_op"]
