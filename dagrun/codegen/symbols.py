"""Expressions written with Python operators: a function of numbers becomes the tree of what it computes.

The same function runs on NumPy arrays, with `numpy` in the place of `Symbols`: so a formula is written once.

    >>> from dagrun.codegen.expression import Input, linear_form
    >>> x = Symbol(Input(0, "float32"))
    >>> linear_form((x * 2).node)
    ('input 0 float32', 'constant 0x1.0000000000000p+1 float32', 'multiply float32 0 1')
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from dagrun.codegen.expression import Call, Constant, Expression, Select, call, cast
from dagrun.codegen.scalars import SCALAR_OPS


@dataclass(frozen=True, slots=True, eq=False)
class Symbol:
    """A node under construction; numbers that meet it take its dtype."""

    node: Expression

    def __add__(self, other: Any) -> Symbol:
        return _apply("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return _apply("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return _apply("subtract", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _apply("subtract", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return _apply("multiply", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return _apply("multiply", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return _apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return _apply("divide", other, self)

    def __neg__(self) -> Symbol:
        return _apply("negative", self)

    def __lt__(self, other: Any) -> Symbol:
        return _apply("less", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return _apply("greater", self, other)


def _apply(name: str, *operands: Any) -> Symbol:
    dtypes = [operand.node.dtype for operand in operands if isinstance(operand, Symbol)]
    dtype = next((dtype for dtype in dtypes if dtype != "bool"), dtypes[0])
    return Symbol(call(name, *(_node(operand, dtype) for operand in operands)))


def _node(operand: Any, dtype: str) -> Expression:
    """A node where it meets others of a dtype: truth values are 1 and 0 there."""
    if not isinstance(operand, Symbol):
        return Constant(operand, dtype)
    return cast(operand.node, dtype) if operand.node.dtype == "bool" else operand.node


class Symbols:
    """The functions of NumPy's namespace that a formula may use: `where`, and those of `SCALAR_OPS`."""

    @staticmethod
    def where(condition: Symbol, yes: Any, no: Any) -> Symbol:
        """`yes` where the condition holds; a number instead of a condition (0 is false) will do."""
        dtype = next(branch.node.dtype for branch in (yes, no) if isinstance(branch, Symbol))
        test = condition.node
        if test.dtype != "bool":
            test = Call("not_equal", (test, Constant(0, test.dtype)), "bool")
        return Symbol(Select(test, _node(yes, dtype), _node(no, dtype)))


for _name in SCALAR_OPS:
    setattr(Symbols, _name, staticmethod(partial(_apply, _name)))
