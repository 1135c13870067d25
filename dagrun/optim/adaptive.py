"""Step sizes from the history of each element's gradients: Adagrad, Adadelta, RMSprop, Rprop."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from dagrun.array import Array
from dagrun.ops import full_like
from dagrun.ops.updates import Update
from dagrun.optim.optimizer import (
    NOT_NEGATIVE,
    SHARE,
    ElementwiseOptimizer,
    Group,
    Number,
    decay_kind,
    decay_rate,
    decayed,
)


@cache
def _adagrad(decay: str, maximize: bool) -> Update:
    def formula(xp: Any, p: Any, s: Any, g: Any, rate: Any, lr: Any, eps: Any) -> tuple[Any, ...]:
        p, g = decayed(p, g, rate, decay, maximize)
        s = s + g * g
        return p - lr * (g / (xp.sqrt(s) + eps)), s

    return Update.of("adagrad", formula, 2)


class Adagrad(ElementwiseOptimizer):
    """Adagrad (Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning", 2011).

    s <- s + g^2                               (at first `initial_accumulator_value`)
    p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
    """

    limits = {  # noqa: RUF012
        "lr": NOT_NEGATIVE, "lr_decay": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE,
        "initial_accumulator_value": NOT_NEGATIVE, "eps": NOT_NEGATIVE,
    }  # fmt: skip

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def _states(self, group: Group) -> tuple[str, ...]:
        return ("sum",)

    def _initial(self, name: str, p: Array, group: Group) -> Array:
        return full_like(p, group["initial_accumulator_value"])

    def _formula(self, group: Group) -> Update:
        return _adagrad(decay_kind(group), group["maximize"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        return decay_rate(group), group["lr"] / (1 + (counters["step"] - 1) * group["lr_decay"]), group["eps"]


@cache
def _adadelta(decay: str, maximize: bool) -> Update:
    def formula(
        xp: Any, p: Any, s: Any, d: Any, g: Any, rate: Any, lr: Any, rho: Any, share: Any, eps: Any
    ) -> tuple[Any, ...]:
        p, g = decayed(p, g, rate, decay, maximize)
        s = rho * s + share * (g * g)
        change = xp.sqrt(d + eps) / xp.sqrt(s + eps) * g
        return p - lr * change, s, rho * d + share * (change * change)

    return Update.of("adadelta", formula, 3)


class Adadelta(ElementwiseOptimizer):
    """Adadelta (Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1).

    s <- rho s + (1 - rho) g^2
    x = sqrt(d + eps) / sqrt(s + eps) g
    d <- rho d + (1 - rho) x^2
    p <- p - lr x
    """

    limits = {"lr": NOT_NEGATIVE, "rho": SHARE, "eps": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0,
        *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize})

    def _states(self, group: Group) -> tuple[str, ...]:
        return "square_avg", "acc_delta"

    def _formula(self, group: Group) -> Update:
        return _adadelta(decay_kind(group), group["maximize"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        return decay_rate(group), group["lr"], group["rho"], 1 - group["rho"], group["eps"]


@cache
def _rmsprop(decay: str, maximize: bool, centered: bool, momentum: bool) -> Update:
    def formula(xp: Any, p: Any, s: Any, *rest: Any) -> tuple[Any, ...]:
        *states, g, rate, lr, alpha, share, eps, factor = rest
        p, g = decayed(p, g, rate, decay, maximize)
        s = alpha * s + share * (g * g)
        results = [s]
        square = s
        if centered:
            mean = alpha * states[0] + share * g
            square = xp.maximum(s - mean * mean, 0)  # rounding may make the variance negative
            results.append(mean)
        change = g / (xp.sqrt(square) + eps)
        if momentum:
            change = factor * states[-1] + change
            results.append(change)
        return (p - lr * change, *results)

    return Update.of("rmsprop", formula, 2 + centered + momentum)


class RMSprop(ElementwiseOptimizer):
    """RMSprop (Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012).

        s <- alpha s + (1 - alpha) g^2
        p <- p - lr g / (sqrt(s) + eps)

    `centered` divides by an estimate of the standard deviation, sqrt(s - m^2) + eps with m <- alpha m + (1 - alpha) g
    (Graves, "Generating sequences with recurrent neural networks", 2013, without its extra terms). With `momentum`:
    b <- momentum b + g / (sqrt(s) + eps), p <- p - lr b.
    """

    limits = {  # noqa: RUF012
        "lr": NOT_NEGATIVE, "alpha": SHARE, "eps": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE,
        "momentum": NOT_NEGATIVE,
    }  # fmt: skip

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _states(self, group: Group) -> tuple[str, ...]:
        return (
            "square_avg",
            *(("grad_avg",) if group["centered"] else ()),
            *(("momentum_buffer",) if group["momentum"] else ()),
        )

    def _formula(self, group: Group) -> Update:
        return _rmsprop(decay_kind(group), group["maximize"], group["centered"], group["momentum"] > 0)

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        alpha = group["alpha"]
        return decay_rate(group), group["lr"], alpha, 1 - alpha, group["eps"], group["momentum"]


@cache
def _rprop(maximize: bool) -> Update:
    def formula(
        xp: Any, p: Any, before: Any, size: Any, g: Any, down: Any, up: Any, least: Any, most: Any
    ) -> tuple[Any, ...]:
        g = -g if maximize else g
        product = g * before
        size = xp.where(product > 0, size * up, xp.where(product < 0, size * down, size))
        size = xp.minimum(xp.maximum(size, least), most)
        g = xp.where(product < 0, 0, g)
        return p - xp.sign(g) * size, g, size

    return Update.of("rprop", formula, 3)


class Rprop(ElementwiseOptimizer):
    """Resilient backpropagation (Riedmiller and Braun, "A direct adaptive method for faster backpropagation", 1993).

    Each element has a step size d, at first `lr`, that grows by etas[1] while the gradient keeps its sign and shrinks
    by etas[0] when it changes, between the two `step_sizes`. After a change of sign the element rests for a step
    (iRprop-: Igel and Huesken, "Improving the Rprop learning algorithm", 2000).

        d <- clip(d etas[1] if g g' > 0, d etas[0] if g g' < 0, else d);   g <- 0 if g g' < 0
        p <- p - sign(g) d;   g' <- g
    """

    limits = {"lr": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0), *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize})

    def _check(self, group: Group) -> None:
        super()._check(group)
        down, up = group["etas"]
        if not 0 < down < 1 < up:
            raise ValueError(f"Rprop: etas is {group['etas']!r}, expected 0 < etas[0] < 1 < etas[1]")

    def _states(self, group: Group) -> tuple[str, ...]:
        return "prev", "step_size"

    def _initial(self, name: str, p: Array, group: Group) -> Array:
        return full_like(p, group["lr"] if name == "step_size" else 0.0)

    def _formula(self, group: Group) -> Update:
        return _rprop(group["maximize"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        return (*group["etas"], *group["step_sizes"])
