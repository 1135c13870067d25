"""L-BFGS: a quasi-Newton method with limited memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.optim.flat import Closure, FlatOptimizer, Point, dot, strong_wolfe
from dagrun.optim.optimizer import NOT_NEGATIVE


class LBFGS(FlatOptimizer):
    """L-BFGS (Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989).

    The direction is -H g, with H from the last `history_size` pairs s = x' - x, y = g' - g by the two-loop recursion
    (Nocedal and Wright, "Numerical optimization", 2006, algorithm 7.4), from H_0 = s.y / y.y. `line_search_fn`:
    "strong_wolfe", or None for steps of `lr` (in the first one lr min(1, 1 / |g|_1)). A `step(closure)` makes up to
    `max_iter` iterations with up to `max_eval` evaluations (default 5/4 max_iter), and ends when no element of the
    gradient is above `tolerance_grad`, or parameters or loss change by less than `tolerance_change`. It waits.

        >>> import dagrun as dr
        >>> x = dr.asarray([-1.2, 1.0], requires_grad=True)
        >>> optimizer = dr.optim.LBFGS([x], max_iter=100, line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
        ...     loss.backward()
        ...     return loss
        >>> first = optimizer.step(closure)
        >>> x.detach().numpy().round(3)
        array([1., 1.])
    """

    limits = {"lr": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1.0, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"LBFGS: line_search_fn is {line_search_fn!r}, expected None or 'strong_wolfe'")
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )

    def step(self, closure: Closure | None = None) -> Any:
        """Minimises for up to `max_iter` iterations; returns what the closure returned first."""
        if closure is None:
            raise TypeError("LBFGS.step: expected a closure that computes loss and gradients")
        with no_grad():
            return self._minimise(closure)

    def _minimise(self, closure: Closure) -> Any:
        group, state = self.param_groups[0], self._own_state()
        for name, first in (("func_evals", 0), ("n_iter", 0), ("old_dirs", []), ("old_stps", []), ("ro", [])):
            state.setdefault(name, first)
        returned, loss = self._evaluate(closure)
        g, evaluations = self._gradient(), 1
        state["func_evals"] += 1
        iteration = 0
        while iteration < group["max_iter"] and float(abs(g).max()) > group["tolerance_grad"]:
            iteration += 1
            state["n_iter"] += 1
            d = self._direction(state, g)
            t = group["lr"] * (min(1.0, 1.0 / float(abs(g).sum())) if state["n_iter"] == 1 else 1.0)
            state.update(d=d, t=t, prev_flat_grad=g, prev_loss=loss)
            slope, before = dot(g, d), loss
            if slope > -group["tolerance_change"]:
                break
            x = self._vector()
            if group["line_search_fn"]:
                narrowest = group["tolerance_change"] / max(float(abs(d).max()), 1e-300)
                probe = partial(self._probe, closure, x, d)
                end, count = strong_wolfe(probe, Point(0.0, loss, g, slope), t, narrowest=narrowest)
                loss, g, t = end.loss, end.gradient, end.t
                self._place(x + t * d)
                state["t"] = t
            else:
                self._place(x + t * d)
                count = 0
                if iteration < group["max_iter"]:
                    _, loss = self._evaluate(closure)
                    g, count = self._gradient(), 1
            evaluations += count
            state["func_evals"] += count
            change = float(abs(t * d).max())
            if evaluations >= group["max_eval"] or min(change, abs(loss - before)) <= group["tolerance_change"]:
                break
        return returned

    def _probe(self, closure: Closure, x: Array, d: Array, t: float) -> Point:
        self._place(x + t * d)
        _, loss = self._evaluate(closure)
        g = self._gradient()
        return Point(t, loss, g, dot(g, d))

    def _direction(self, state: dict[str, Any], g: Array) -> Array:
        """-H g, after the last step was taken into H."""
        if state["n_iter"] == 1:
            state["H_diag"] = 1.0
            return -g
        s, y = state["d"] * state["t"], g - state["prev_flat_grad"]
        curvature = dot(y, s)
        if curvature > 1e-10:
            for name, value in (("old_dirs", y), ("old_stps", s), ("ro", 1.0 / curvature)):
                state[name] = [*state[name], value][-self.param_groups[0]["history_size"] :]
            state["H_diag"] = curvature / dot(y, y)
        pairs = list(zip(state["old_dirs"], state["old_stps"], state["ro"], strict=True))
        q, weights = -g, []
        for y, s, ro in reversed(pairs):
            weights.append((s * q).sum() * ro)
            q = q - weights[-1] * y
        q = q * state["H_diag"]
        for (y, s, ro), weight in zip(pairs, reversed(weights), strict=True):
            q = q + s * (weight - (y * q).sum() * ro)
        return q
