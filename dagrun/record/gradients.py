"""How gradients pass through an operator: one rule for each operand, or one for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

OPERANDS = ("a", "b", "c", "d")
RESULTS = ("y", "z")


class Gradients:
    """The rules of an operator.

    A rule is a function whose parameters name what it reads: `g` (the gradient of the first result; `gs`: of all, None
    for those without one), operands by their names (`a`, `b`, ... unless others are given), results (`y`, `z`), `xp`
    (the namespace of array operations) and `call` (attributes, layouts, device of the operation). What it names of
    operands and results is kept until backward; the last of `operands` may be "*name", a tuple of all from there on. It
    uses array operations only, so that it is recorded, scheduled and differentiated like anything else. It returns the
    gradient of its operand, of the operand's shape or a shape that the operand broadcasts to (it is summed then), or
    None for zeros. The rule `joint` returns those of all operands.
    """

    __slots__ = ("_reads", "joint", "operands", "rest", "results", "rules")

    def __init__(
        self,
        *rules: Callable[..., Any] | None,
        joint: Callable[..., Any] | None = None,
        operands: Sequence[str] = OPERANDS,
        results: Sequence[str] = RESULTS,
    ) -> None:
        self.set(*rules, joint=joint, operands=operands, results=results)

    def set(
        self,
        *rules: Callable[..., Any] | None,
        joint: Callable[..., Any] | None = None,
        operands: Sequence[str] = OPERANDS,
        results: Sequence[str] = RESULTS,
    ) -> None:
        """Gives the rules, for those that need what is defined later."""
        names = tuple(operands)
        self.rest = len(names) - 1 if names and names[-1].startswith("*") else -1  # the first of those under one name
        self.operands, self.results = tuple(name.lstrip("*") for name in names), tuple(results)
        self.rules = tuple(None if rule is None else self._with_names(rule) for rule in rules)
        self.joint = None if joint is None else self._with_names(joint)
        self._reads: dict[int, tuple[tuple[str, bool, int], ...]] = {}

    def _with_names(self, rule: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]:
        names = getattr(rule, "names", None) or tuple(inspect.signature(rule).parameters)
        kept = tuple(name for name in names if name in self.operands or name in self.results)
        unknown = set(names) - set(kept) - {"g", "gs", "xp", "call"}
        if unknown:
            raise TypeError(f"a gradient rule names {sorted(unknown)}: no operand or result of the operator")
        return rule, names, kept

    def reads(self, wanted: int) -> tuple[tuple[str, bool, int], ...]:
        """What the rules of the wanted operands (a bit for each) read: name, whether it is a result, and which."""
        known = self._reads.get(wanted)
        if known is None:
            asked = [self.joint] if self.joint else [r for k, r in enumerate(self.rules) if r and wanted >> k & 1]
            names = dict.fromkeys(name for rule in asked for name in rule[2])
            known = tuple(
                (n, False, self.operands.index(n)) if n in self.operands else (n, True, self.results.index(n))
                for n in names
            )
            self._reads[wanted] = known
        return known


def undefined(name: str) -> Gradients:
    """For operators with floating results and no rules: asking for a gradient raises instead of giving zeros."""

    def refuse(call: Any) -> Any:
        raise NotImplementedError(f"{name} has no gradient; compute it under dr.no_grad() or from other operations")

    return Gradients(joint=refuse)


ZERO = Gradients(joint=lambda call: (None,) * len(call.inputs))  # piecewise constant: sign, floor, comparisons
