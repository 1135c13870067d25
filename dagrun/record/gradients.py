"""How gradients pass through an operator: one rule for each operand, or one for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

OPERANDS = ("a", "b", "c", "d")
RESULTS = ("y", "z")

GIVEN_G, GIVEN_GS, GIVEN_XP, GIVEN_CALL = -1, -2, -3, -4
_GIVEN = {"g": GIVEN_G, "gs": GIVEN_GS, "xp": GIVEN_XP, "call": GIVEN_CALL}  # what rules read without its being saved


class Program(NamedTuple):
    """Rules, made ready for one set of operands."""

    reads: tuple[int, ...]  # what is saved: operand k, or result ~k
    steps: tuple[
        tuple[int, Callable[..., Any], tuple[int | tuple[int, ...], ...]], ...
    ]  # operand (-1: all), rule, names


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

    __slots__ = ("_programs", "joint", "operands", "results", "rules")

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
        self.operands, self.results = tuple(operands), tuple(results)
        self.rules = tuple(None if rule is None else self._with_names(rule) for rule in rules)
        self.joint = None if joint is None else self._with_names(joint)
        self._programs: dict[tuple[int, int], Program] = {}

    def _with_names(self, rule: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[str, ...]]:
        names = getattr(rule, "names", None) or tuple(inspect.signature(rule).parameters)
        unknown = set(names) - {name.lstrip("*") for name in self.operands} - set(self.results) - set(_GIVEN)
        if unknown:
            raise TypeError(f"a gradient rule names {sorted(unknown)}: no operand or result of the operator")
        return rule, names

    def program(self, wanted: int, count: int) -> Program:
        """What to save and to call for an operation of `count` operands, of which those in `wanted` (bits) need it."""
        known = self._programs.get((wanted, count))
        if known is None:
            asked = [(-1, self.joint)] if self.joint else [(k, r) for k, r in enumerate(self.rules) if wanted >> k & 1]
            places: dict[int, int] = {}
            steps = []
            for k, rule in asked:
                if rule is not None:
                    steps.append((k, rule[0], tuple(self._source(name, count, places) for name in rule[1])))
            known = self._programs[wanted, count] = Program(tuple(places), tuple(steps))
        return known

    def _source(self, name: str, count: int, places: dict[int, int]) -> int | tuple[int, ...]:
        """Where a rule finds what it names: a place among what is saved, several, or a code of what is given."""
        if name in _GIVEN:
            return _GIVEN[name]
        if name in self.results:
            return places.setdefault(~self.results.index(name), len(places))
        if name in self.operands:
            return places.setdefault(self.operands.index(name), len(places))
        first = self.operands.index("*" + name)
        return tuple(places.setdefault(k, len(places)) for k in range(first, count))


@cache
def undefined(name: str) -> Gradients:
    """For operators with floating results and no rules: asking for a gradient raises instead of giving zeros."""

    def refuse(call: Any) -> Any:
        raise NotImplementedError(f"{name} has no gradient; compute it under dr.no_grad() or from other operations")

    return Gradients(joint=refuse)


ZERO = Gradients(joint=lambda call: (None,) * len(call.inputs))  # piecewise constant: sign, floor, comparisons
