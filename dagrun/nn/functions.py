"""Modules that are a function with options: what activations and losses share."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn.module import Module

REQUIRED = Parameter.empty


class FunctionModule(Module):
    """A function of the inputs and of the module's options, whose names and defaults `__signature__` tells.

    Options are attributes; those that are arrays are buffers, which move with the module. `inplace` is taken and does
    nothing.
    """

    function: Any = staticmethod(ops.positive)
    __signature__ = Signature()
    buffers_named: tuple[str, ...] = ()

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__()
        try:
            bound = self.__signature__.bind(*values, **named)
        except TypeError as error:
            expected = ", ".join(self.__signature__.parameters) or "nothing"
            raise TypeError(f"{type(self).__name__}: {error}, expected {expected}") from None
        bound.apply_defaults()
        self._names = tuple(name for name in bound.arguments if name != "inplace")
        for name in self._names:
            if name in self.buffers_named:
                self.register_buffer(name, bound.arguments[name])
            else:
                setattr(self, name, bound.arguments[name])

    def forward(self, *inputs: Array) -> Array:
        value: Array = type(self).function(*inputs, **{name: getattr(self, name) for name in self._names})
        return value

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names if name not in self.buffers_named)


def function_module(
    base: type[FunctionModule], name: str, function: Callable[..., Any], module: str, **options: Any
) -> Any:
    """A class of such modules: options by their defaults, or `REQUIRED`."""
    parameters = [Parameter(o, Parameter.POSITIONAL_OR_KEYWORD, default=default) for o, default in options.items()]
    members = {
        "function": staticmethod(function),
        "__signature__": Signature(parameters),
        "__doc__": (function.__doc__ or "").strip().splitlines()[0],
        "__module__": module,
    }
    return type(name, (base,), members)
