"""Mixed precision: products and convolutions in half precision, and what needs the range or the digits in single."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from dagrun.array import Array, as_dtype
from dagrun.core import native
from dagrun.core.blocks import Block

Function = TypeVar("Function", bound=Callable[..., Any])
_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)


class autocast(Block):  # noqa: N801  (a context manager, named like a function)
    """In the block, products of float32 arrays compute in `dtype`; softmax, losses and norms of float16 in float32.

    Micikevicius et al., "Mixed precision training" (2018): parameters stay float32, each product takes float16 copies
    of its operands, and gradients come back to the parameters in float32. Products are `@`, matmul and what is made of
    it, linear, convolutional and recurrent layers, attention. Softmax, cross-entropy and the other losses, layer and
    group normalisation turn float16 into float32; all else computes in the dtypes it is given, so that float16
    meeting float32 gives float32. Small gradients vanish in float16: scale the loss with `optim.LossScaler`.

    Write the forward pass and the loss in the block, backward after it. It concerns the calling thread only. float64
    and integers are left alone. TypeError for another dtype than float16 or float32 (which switches it off).

        >>> import dagrun as dr
        >>> w = dr.ones((2, 2), "float32", requires_grad=True)
        >>> with dr.autocast():
        ...     y = dr.ones((1, 2), "float32") @ w
        >>> y.sum().backward()
        >>> y.dtype, w.grad.dtype
        (dtype('float16'), dtype('float32'))
    """

    def __init__(self, dtype: Any = "float16", enabled: bool = True) -> None:
        self.dtype, self.enabled = as_dtype(dtype), enabled
        if self.dtype not in (_HALF, _SINGLE):
            raise TypeError(f"autocast: dtype {self.dtype}, expected float16, or float32 to switch it off")
        self._were: list[Any] = []  # a decorated function may call itself

    def _recreate_cm(self) -> autocast:
        return autocast(self.dtype, self.enabled)

    def __enter__(self) -> None:
        on = self.enabled and self.dtype != _SINGLE
        self._were.append(native.set_autocast(self.dtype if on else None))

    def __exit__(self, *failure: Any) -> None:
        native.set_autocast(self._were.pop())


def narrow(x: Any) -> Any:
    """A float32 array as `autocast` wants the operands of products; all else as it is."""
    dtype = native.autocast()
    return x.astype(dtype) if dtype is not None and isinstance(x, Array) and x.dtype == _SINGLE else x


def widen(x: Any) -> Any:
    """A float16 array in float32 while `autocast` is on; all else as it is."""
    return x.astype(_SINGLE) if native.autocast() is not None and isinstance(x, Array) and x.dtype == _HALF else x


def _converting(convert: Callable[[Any], Any]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if native.autocast() is not None:
                arguments = tuple(map(convert, arguments))
                options = {name: convert(value) for name, value in options.items()}
            return function(*arguments, **options)

        return cast(Function, call)

    return decorate


in_half = _converting(narrow)  # functions whose arrays are narrowed: products
in_single = _converting(widen)  # functions whose arrays are widened: what sums, exponentiates or normalises

__all__ = ["autocast", "in_half", "in_single", "narrow"]
