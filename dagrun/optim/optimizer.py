"""What all optimizers share: groups of parameters, state for each, and how a group becomes few recorded operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import inf
from typing import Any, ClassVar

import numpy as np

from dagrun.array import Array, asarray
from dagrun.autodiff import enable_grad, no_grad
from dagrun.ops import where, zeros_like
from dagrun.ops.updates import Update, record_update

Group = dict[str, Any]
Number = Any  # a float, or an array of one element where the engine is to work it out
NOT_NEGATIVE, SHARE = (0.0, inf), (0.0, 1.0)


class Optimizer:
    """The base of all optimizers. `params`: arrays with `requires_grad=True`, or dicts with some under "params".

    Each dict is a group with options of its own; `defaults` are those of the other groups. Parameters are updated in
    place, from their `grad`; those whose `grad` is None stay as they are. Nothing is waited for.

    `limits` of a subclass: for each option of real numbers the range [lowest, highest) that it may lie in.
    """

    limits: ClassVar[dict[str, tuple[float, float]]] = {}

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        name = type(self).__name__
        if isinstance(params, (Array, dict)) or not isinstance(params, Iterable):
            raise TypeError(
                f"{name}: params is a {type(params).__name__}, expected a list of arrays or of dicts, such as "
                "module.parameters()"
            )
        given = list(params)
        if not given:
            raise ValueError(f"{name}: params is empty, expected at least one array")
        self.defaults = defaults
        self.state: dict[Array, dict[str, Any]] = {}
        self.param_groups: list[Group] = []
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Adds parameters with options of their own, such as {"params": layer.parameters(), "lr": 0.01}."""
        name = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f'{name}: a group is {param_group!r}, expected a dict with "params"')
        params = param_group["params"]
        params = [params] if isinstance(params, Array) else list(params)
        known = {p for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Array):
                raise TypeError(f"{name}: a parameter is a {type(p).__name__}, expected a dagrun array")
            if not p.is_leaf:
                raise ValueError(
                    f"{name}: a parameter of shape {p.shape} was computed from others, expected one of its own (a leaf)"
                )
            if p in known:
                raise ValueError(f"{name}: a parameter of shape {p.shape} is there twice, expected it once")
            known.add(p)
        group = {**self.defaults, **param_group, "params": params}
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: Group) -> None:
        """ValueError where an option is out of range."""
        for option, (low, high) in self.limits.items():
            value = group[option]
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if not low <= number < high:
                    raise ValueError(
                        f"{type(self).__name__}: {option} is {value!r}, expected {low:g} <= {option} < {high:g}"
                    )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients, or sets them to zero."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = zeros_like(p.grad)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters once; returns what `closure`, which computes loss and gradients anew, returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                self._update(group)
        return loss

    def _update(self, group: Group) -> None:
        """Records the update of the parameters of a group that have gradients."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State and options as PyTorch has them: parameters are numbered through all groups. The arrays are not copied.

        {"state": {0: {"step": 3, ...}, ...}, "param_groups": [{"lr": 0.1, ..., "params": [0, 1]}, ...]}
        """
        numbers = {p: i for i, p in enumerate(self._parameters())}
        return {
            "state": {numbers[p]: dict(state) for p, state in self.state.items()},
            "param_groups": [{**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over state and options of a `state_dict`: copies, with dtype and device of the parameters."""
        name = type(self).__name__
        groups = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{name}: the state is of groups of {sizes} parameters, expected {own}")
        loaded = [
            {**group, **options, "params": group["params"]}
            for group, options in zip(self.param_groups, groups, strict=True)
        ]
        for group in loaded:
            self._check(group)
        parameters = dict(zip((i for g in groups for i in g["params"]), self._parameters(), strict=True))
        self.state = {parameters[i]: _placed(state, parameters[i]) for i, state in state_dict["state"].items()}
        self.param_groups = loaded

    def _parameters(self) -> list[Array]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        lines = []
        for number, group in enumerate(self.param_groups):
            options = ", ".join(f"{k}={v!r}" for k, v in group.items() if k != "params")
            lines.append(f"  group {number}: {len(group['params'])} parameters, {options}")
        return f"{type(self).__name__}(\n" + "\n".join(lines) + "\n)"


def _placed(value: Any, p: Array, key: str = "") -> Any:
    """A copy of a piece of state, its arrays with dtype and device of a parameter."""
    if isinstance(value, dict):
        return {k: _placed(v, p, k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_placed(v, p) for v in value)
    if key in ("step", "mu_product"):
        return int(value) if key == "step" else float(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    found = value.detach() if isinstance(value, Array) else asarray(np.asarray(value))
    return found.to_device(p.device).astype(p.dtype, copy=True)


class ElementwiseOptimizer(Optimizer):
    """An optimizer whose rule is one formula for each element: a group is updated by few recorded operations.

    A subclass says which state arrays a parameter has, the formula, and the numbers of a step. Parameters that have
    made equally many steps on one device are updated together.
    """

    counters: ClassVar[tuple[str, ...]] = ("step",)  # numbers in a parameter's state that the formula's scalars need
    _skip: Array | None = None  # while `step_unless` runs

    def _states(self, group: Group) -> tuple[str, ...]:
        """The names of the state arrays, in the order of the formula."""
        raise NotImplementedError

    def _initial(self, name: str, p: Array, group: Group) -> Array:
        """A state array before the first step."""
        return zeros_like(p)

    def _formula(self, group: Group) -> Update:
        """The update of (parameter, state arrays, gradient)."""
        raise NotImplementedError

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        """The numbers of this step, the first being 1. May change counters other than "step"."""
        raise NotImplementedError

    def _update(self, group: Group) -> None:
        names, counted = self._states(group), self.counters
        known = self.state
        together: dict[Any, tuple[list[tuple[Array, ...]], list[dict[str, Any]]]] = {}
        for p in group["params"]:
            gradient = p.grad
            if gradient is None:
                continue
            if not names:
                together.setdefault(p.device, ([], []))[0].append((p, gradient))
                continue
            state = known.get(p)
            if state is None:
                state = known[p] = self._begin()
            for name in names:
                if name not in state:
                    state[name] = self._initial(name, p, group)
            sets, states = together.setdefault((p.device, *[state[name] for name in counted]), ([], []))
            sets.append((p, *[state[name] for name in names], gradient))
            states.append(state)
        for sets, states in together.values():
            self._update_together(group, sets, states)

    def _update_together(
        self, group: Group, sets: Sequence[tuple[Array, ...]], states: Sequence[dict[str, Any]]
    ) -> None:
        """Updates parameters of one device whose counters are equal."""
        device = sets[0][0].device
        before = {name: states[0][name] for name in self.counters} if states else {}
        skip = None if self._skip is None else self._skip.to_device(device)
        if skip is not None:  # whether this step counts is not known here
            before = {name: asarray(value, dtype=float, device=device) for name, value in before.items()}
        counters = dict(before)
        if counters:
            counters["step"] = counters["step"] + 1
        self._record(group, sets, self._scalars(group, counters))
        if skip is not None:
            counters = {name: where(skip, before[name], value) for name, value in counters.items()}
        for state in states:
            state.update(counters)

    def _begin(self) -> dict[str, Any]:
        return dict.fromkeys(self.counters, 0)

    def _record(self, group: Group, sets: Sequence[tuple[Array, ...]], scalars: Sequence[Number]) -> None:
        self._write(self._formula(group), sets, scalars)

    def _write(self, update: Update, sets: Sequence[tuple[Array, ...]], scalars: Sequence[Number]) -> None:
        """Records an update, which keeps all values as they are where the step is to be skipped."""
        where = sets[0][0].device
        arrays = tuple(x.to_device(where) for x in scalars if isinstance(x, Array))
        numbers = tuple(x for x in scalars if not isinstance(x, Array))
        if self._skip is not None:
            arrays += (self._skip.to_device(where),)
        if arrays:
            update = _arranged(update, tuple(isinstance(x, Array) for x in scalars), self._skip is not None)
        record_update(update, sets, numbers, arrays)

    def step_unless(self, skip: Array, closure: Callable[[], Any] | None = None) -> Any:
        """`step`, which changes nothing where `skip` (an array of one bool) is true; does not wait for it either."""
        self._skip = skip
        try:
            return self.step(closure)
        finally:
            self._skip = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As for all optimizers; state of an optimizer that does not count its steps has made some."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for counter, value in self._begin().items():
                state.setdefault(counter, value or 1)


@cache
def _arranged(update: Update, places: tuple[bool, ...], guarded: bool) -> Update:
    """The update with its scalars in another order: numbers, then arrays (where `places` holds), then whether to skip.

    With `guarded` the written arrays keep their values where the last one is true.
    """

    def formula(xp: Any, *arguments: Any) -> tuple[Any, ...]:
        first = len(arguments) - len(places) - guarded
        numbers, arrays = iter(arguments[first:]), iter(arguments[first + places.count(False) :])
        scalars = [next(arrays) if is_array else next(numbers) for is_array in places]
        results = update.formula(xp, *arguments[:first], *scalars)
        if not guarded:
            return results
        return tuple(xp.where(arguments[-1], old, new) for old, new in zip(arguments, results, strict=False))

    return Update.of(update.name, formula, update.written)


# ---- parts of formulas


def first_or(step: Number, first: float, later: float) -> Number:
    """A number that is another one in the first step."""
    return where(step > 1, later, first) if isinstance(step, Array) else later if step > 1 else first


def decay_kind(group: Group) -> str:
    """How weight decay enters: not at all, as L2 penalty through the gradient, or decoupled from it."""
    if not group["weight_decay"]:
        return ""
    return "decoupled" if group.get("decoupled_weight_decay") else "l2"


def decay_rate(group: Group) -> float:
    """The scalar that `decayed` takes."""
    if group.get("decoupled_weight_decay"):
        return 1 - group["lr"] * group["weight_decay"]
    return float(group["weight_decay"])


def decayed(p: Any, g: Any, rate: Any, kind: str, maximize: bool) -> tuple[Any, Any]:
    """Parameter and gradient after weight decay: g + weight_decay p, or p (1 - lr weight_decay)."""
    if maximize:
        g = -g
    if kind == "l2":
        g = g + rate * p
    if kind == "decoupled":
        p = p * rate
    return p, g
