"""Scalar expression trees: what one element of a kernel computes, independent of any backend.

Every node has a dtype, written as a NumPy dtype name. A tree may share nodes; `linear_form` numbers each distinct node
once, so its length (and the kernel key made of it) grows with the number of nodes, not of paths.

    >>> x = Input(0, "float32")
    >>> linear_form(call("add", call("multiply", x, x), x))
    ('input 0 float32', 'multiply float32 0 0', 'add float32 1 0')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

PREDICATES = frozenset(
    (
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
        "logical_not",
        "isnan",
        "isinf",
        "isfinite",
        "signbit",
    )
)


@dataclass(frozen=True, slots=True)
class Input:
    """The element of array operand `index` (counting inputs only) at this position."""

    index: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Scalar:
    """The per-call value in `scalars[index]`."""

    index: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A value known when the kernel is made; `value` is rounded to `dtype`."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Call:
    """Operation `name` of `SCALAR_OPS`; all arguments have one dtype, the result has `dtype`."""

    name: str
    args: tuple[Expression, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Cast:
    """`x` converted to `dtype` as NumPy's `astype` does."""

    dtype: str
    x: Expression


@dataclass(frozen=True, slots=True)
class Select:
    """`yes` where the bool `condition` holds, else `no`; both have one dtype."""

    condition: Expression
    yes: Expression
    no: Expression

    @property
    def dtype(self) -> str:
        return self.yes.dtype


Expression: TypeAlias = Input | Scalar | Constant | Call | Cast | Select


def call(name: str, *args: Expression) -> Expression:
    """`name` applied to arguments of one dtype, with the dtype of the result filled in."""
    dtypes = {arg.dtype for arg in args}
    if len(dtypes) != 1:
        raise TypeError(f"{name} needs arguments of one dtype, got {', '.join(arg.dtype for arg in args)}: cast them")
    return Call(name, args, "bool" if name in PREDICATES else args[0].dtype)


def cast(x: Expression, dtype: str) -> Expression:
    """`x` as `dtype`; `x` itself when it has that dtype."""
    return x if x.dtype == dtype else Cast(dtype, x)


def children(node: Expression) -> tuple[Expression, ...]:
    match node:
        case Call(args=args):
            return args
        case Cast(x=x):
            return (x,)
        case Select():
            return (node.condition, node.yes, node.no)
    return ()


def topological(*roots: Expression) -> list[Expression]:
    """Every node object of the trees once, children first."""
    order: list[Expression] = []
    seen: set[int] = set()
    pending = [(root, False) for root in reversed(roots)]
    while pending:
        node, expanded = pending.pop()
        if id(node) in seen:
            continue
        if expanded:
            seen.add(id(node))
            order.append(node)
        else:
            pending.append((node, True))
            pending.extend((child, False) for child in reversed(children(node)))
    return order


def linear_form(root: Expression) -> tuple[str, ...]:
    """The tree as numbered instructions, equal nodes merged; two trees with one form compute the same."""
    return tuple(text for text, _, _ in numbered(root)[0])


def numbered(*roots: Expression) -> tuple[list[tuple[str, Expression, list[int]]], list[int]]:
    """The instructions of `linear_form`, each with a node it stands for and its operands' numbers; the roots' numbers.

    Nodes that several trees share are there once.
    """
    number_of_text: dict[str, int] = {}
    number_of_node: dict[int, int] = {}
    rows: list[tuple[str, Expression, list[int]]] = []
    for node in topological(*roots):
        operands = [number_of_node[id(child)] for child in children(node)]
        text = _text(node, operands)
        if text not in number_of_text:
            number_of_text[text] = len(rows)
            rows.append((text, node, operands))
        number_of_node[id(node)] = number_of_text[text]
    return rows, [number_of_node[id(root)] for root in roots]


def _text(node: Expression, operands: list[int]) -> str:
    numbers = " ".join(map(str, operands))
    match node:
        case Input(index=index, dtype=dtype):
            return f"input {index} {dtype}"
        case Scalar(index=index, dtype=dtype):
            return f"scalar {index} {dtype}"
        case Constant(value=value, dtype=dtype):
            exact = float(value).hex() if dtype.startswith("float") else str(int(value))
            return f"constant {exact} {dtype}"
        case Call(name=name, dtype=dtype):
            return f"{name} {dtype} {numbers}"
        case Cast(dtype=dtype):
            return f"cast {dtype} {numbers}"
        case Select():
            return f"select {node.dtype} {numbers}"
