"""Formulas: elementwise functions composed of operators that run as one kernel, such as the slopes of activations.

A formula is written once, as a function of a namespace and of arrays: it runs on symbols, which become the kernel, on
NumPy's arrays, and on dagrun's, operator by operator, where its gradient is to be differentiated. All three give the
same bits, up to what NumPy rounds differently.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.elementwise import elementwise_kernel
from dagrun.codegen.expression import Call, Expression, Input, topological
from dagrun.codegen.symbols import Symbol, Symbols
from dagrun.core import device_index, native
from dagrun.ops.elementwise import elementwise_bodies
from dagrun.record import Body, Gradients, Operator, apply

NUMPY = SimpleNamespace(where=np.where, maximum=np.maximum, minimum=np.minimum)  # and all functions of one operand

Function = Callable[..., Any]  # (xp, *arrays, **numbers)


class Formula:
    """An operator on arrays of one floating dtype that broadcast; numbers belong to its kernel."""

    def __init__(self, name: str, function: Function, grad: Gradients | None = None) -> None:
        self.function = function

        def compute(xp: Any, *arrays: Any, **numbers: Any) -> Any:
            return function(NUMPY, *arrays, **numbers)

        def infer(inputs: Sequence[Any], scalars: Sequence[Any], **numbers: Any) -> Any:
            return ((np.broadcast_shapes(*(view.shape for view in inputs)), inputs[0].dtype),)

        def lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Any, **numbers: Any) -> tuple[Body, ...]:
            address = elementwise_kernel(self.tree(len(inputs), str(inputs[0].dtype), **numbers), outputs[0].dtype)
            return elementwise_bodies(address, outputs[0], inputs)

        self.operator = Operator(name, infer, compute, lower, grad=grad)

    def tree(self, count: int, dtype: str, **numbers: Any) -> Expression:
        """What an element of the result is, for so many arrays."""
        return self.function(Symbols, *(Symbol(Input(k, dtype)) for k in range(count)), **numbers).node

    def __call__(self, *arrays: Array, **numbers: float) -> Array:
        where = device_index(arrays[0].device)
        made: Array = apply(self.operator, arrays, where, attributes=tuple(numbers.items()))
        return made


class _Fused:
    """A gradient rule that runs as one kernel where nobody differentiates what it returns."""

    def __init__(self, rule: Callable[..., Any], names: tuple[str, ...], formula: Formula) -> None:
        self._rule, self.names, self._formula = rule, names, formula

    def __call__(self, *given: Any) -> Any:
        arrays = [x for name, x in zip(self.names, given, strict=True) if name != "xp"]
        first = arrays[0]
        alike = all(type(x) is Array and x.dtype == first.dtype and x.shape == first.shape for x in arrays)
        return self._formula(*arrays) if alike and not native.gradients() else self._rule(*given)


def fused(name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient rule (see `record.Gradients`) of an operator `name`, as one kernel if it is of several operations."""
    names = tuple(inspect.signature(rule).parameters)

    def function(xp: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        return rule(*(xp if name == "xp" else next(rest) for name in names))

    formula = Formula(f"{name}_gradient", function)
    count = len(names) - ("xp" in names)
    calls = sum(isinstance(node, Call) for node in topological(formula.tree(count, "float32")))
    return _Fused(rule, names, formula) if calls > 1 else rule
