"""Second-order methods with whole matrices, for small problems: BFGS and Newton."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dagrun.array import Array, asarray
from dagrun.autodiff import enable_grad, hessian, no_grad, value_and_grad
from dagrun.ops import eye, outer
from dagrun.optim.flat import Closure, FlatOptimizer, armijo, dot, split_like
from dagrun.optim.optimizer import NOT_NEGATIVE


class BFGS(FlatOptimizer):
    """BFGS with an inverse Hessian of n x n elements and backtracking, for small problems.

    Nocedal and Wright, "Numerical optimization" (2006), algorithm 6.1 with equations 6.17 and 6.20:

        p <- p - t H g        with t = lr, lr / 2, ... until loss(p') <= loss(p) - 1e-4 t g.H g   (Armijo)
        H <- (I - s y' / s.y) H (I - y s' / s.y) + s s' / s.y     for s = p' - p, y = g' - g with s.y > 0

    A `step(closure)` makes up to `max_iter` iterations and ends when no element of the gradient is above
    `tolerance_grad` or no step lowers the loss. It waits.
    """

    limits = {"lr": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1.0, max_iter: int = 20, tolerance_grad: float = 1e-7,
        max_backtracks: int = 40,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {"lr": lr, "max_iter": max_iter, "tolerance_grad": tolerance_grad, "max_backtracks": max_backtracks},
        )

    def step(self, closure: Closure | None = None) -> Any:
        """Minimises for up to `max_iter` iterations; returns what the closure returned first."""
        if closure is None:
            raise TypeError("BFGS.step: expected a closure that computes loss and gradients")
        with no_grad():
            return self._minimise(closure)

    def _minimise(self, closure: Closure) -> Any:
        group, state = self.param_groups[0], self._own_state()
        returned, loss = self._evaluate(closure)
        g = self._gradient()
        for _ in range(group["max_iter"]):
            if float(abs(g).max()) <= group["tolerance_grad"]:
                break
            H = state.get("inverse_hessian")
            d = -g if H is None else -(H @ g)
            x = self._vector()
            losses = [loss]

            def loss_at(t: float, x: Array = x, d: Array = d, losses: list[float] = losses) -> float:
                self._place(x + t * d)
                losses.append(self._evaluate(closure)[1])
                return losses[-1]

            t = armijo(loss_at, group["lr"], loss, dot(g, d), group["max_backtracks"])
            if not t:
                self._place(x)
                state.pop("inverse_hessian", None)  # the next step begins with steepest descent
                break
            new = self._gradient()
            s, y = t * d, new - g
            state["inverse_hessian"] = _updated(H, s, y)
            g, loss = new, losses[-1]
        return returned


def _updated(H: Array | None, s: Array, y: Array) -> Array | None:
    """The inverse Hessian after a step s that changed the gradient by y; as it was where that shows no curvature."""
    curvature = dot(s, y)
    if curvature <= 1e-10:
        return H
    if H is None:
        H = eye(s.size, dtype=s.dtype, device=s.device) * (curvature / dot(y, y))
    Hy = H @ y
    across = outer(Hy, s)
    return H + outer(s, s) * ((curvature + dot(y, Hy)) / curvature**2) - (across + across.T) / curvature


class Newton(FlatOptimizer):
    """Newton's method with the whole Hessian (of `dr.hessian`) and backtracking, for small problems.

        p <- p - t (hessian + tau I)^-1 g        with t = lr, lr / 2, ... until loss(p') <= loss(p) + 1e-4 t g.d

    and the least tau of 0, beta, 2 beta, 4 beta, ... for which the matrix is positive definite (Nocedal and Wright,
    "Numerical optimization", 2006, algorithms 3.2 and 3.3). `step(function)` takes the loss as a function of the
    parameters, `function(*params)`, makes up to `max_iter` iterations and waits; the equations are solved by NumPy.

        >>> import dagrun as dr
        >>> x = dr.asarray([-1.2, 1.0], requires_grad=True)
        >>> optimizer = dr.optim.Newton([x], max_iter=30)
        >>> first = optimizer.step(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)
        >>> x.detach().numpy().round(6)
        array([1., 1.])
    """

    limits = {"lr": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1.0, max_iter: int = 1, tolerance_grad: float = 1e-7,
        max_backtracks: int = 40,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {"lr": lr, "max_iter": max_iter, "tolerance_grad": tolerance_grad, "max_backtracks": max_backtracks},
        )

    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """Makes up to `max_iter` iterations on the loss `closure(*params)`; returns the loss before the first."""
        if closure is None:
            raise TypeError("Newton.step: expected a function that computes the loss from the parameters")

        def function(vector: Array) -> Any:
            return closure(*split_like(vector, self._params))

        group = self.param_groups[0]
        first = None
        with no_grad():
            for _ in range(group["max_iter"]):
                x = self._vector()
                with enable_grad():
                    loss, g = value_and_grad(function)(x)
                    curvature = hessian(function)(x)
                first = loss if first is None else first
                if float(abs(g).max()) <= group["tolerance_grad"]:
                    break
                d = asarray(_newton_direction(curvature.numpy(), g.numpy()), dtype=x.dtype, device=x.device)

                def loss_at(t: float, x: Array = x, d: Array = d) -> float:
                    return float(function(x + t * d))

                t = armijo(loss_at, group["lr"], float(loss), dot(g, d), group["max_backtracks"])
                if not t:
                    break
                self._place(x + t * d)
        return first


def _newton_direction(hessian: np.ndarray[Any, Any], g: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """-(hessian + tau I)^-1 g in float64, with tau as in algorithm 3.3."""
    matrix = hessian.astype(np.float64).reshape(g.size, g.size)
    least = float(np.min(np.diag(matrix)))
    beta = 1e-3 * max(1.0, float(np.linalg.norm(matrix)))
    tau = 0.0 if least > 0 else beta - least
    while True:
        try:
            np.linalg.cholesky(matrix + tau * np.eye(g.size))
        except np.linalg.LinAlgError:
            if not np.isfinite(matrix).all():
                raise FloatingPointError("Newton: the Hessian holds an infinity or NaN") from None
            tau = max(2 * tau, beta)
        else:
            return -np.linalg.solve(matrix + tau * np.eye(g.size), g.astype(np.float64))
