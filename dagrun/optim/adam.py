"""Adam and its variants: AdamW, AMSGrad, NAdam."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

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
def _adam(decay: str, maximize: bool, amsgrad: bool) -> Update:
    def formula(xp: Any, p: Any, m: Any, v: Any, *rest: Any) -> tuple[Any, ...]:
        largest = rest[0] if amsgrad else v
        g, rate, beta1, share1, beta2, share2, step_size, correction2, eps = rest[-9:]
        p, g = decayed(p, g, rate, decay, maximize)
        m = beta1 * m + share1 * g
        v = beta2 * v + share2 * (g * g)
        largest = xp.maximum(largest, v) if amsgrad else v
        p = p - step_size * (m / (xp.sqrt(largest) / correction2 + eps))
        return (p, m, v, largest) if amsgrad else (p, m, v)

    return Update.of("adam", formula, 4 if amsgrad else 3)


class Adam(ElementwiseOptimizer):
    """Adam (Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1).

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        p <- p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    in step t = 1, 2, ... `amsgrad` divides by the largest v so far instead (Reddi, Kale and Kumar, "On the convergence
    of Adam and beyond", 2018). `weight_decay` is an L2 penalty, g + weight_decay p, unless it is decoupled (AdamW).

        >>> import dagrun as dr
        >>> p = dr.asarray([1.0, 2.0], requires_grad=True)
        >>> (p * p).sum().backward()
        >>> dr.optim.Adam([p], lr=0.1).step()
        >>> p.detach()
        array([0.9, 1.9])
    """

    limits = {"lr": NOT_NEGATIVE, "betas": SHARE, "eps": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _states(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _formula(self, group: Group) -> Update:
        return _adam(decay_kind(group), group["maximize"], group["amsgrad"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        beta1, beta2 = group["betas"]
        step_size = group["lr"] / (1 - beta1 ** counters["step"])
        correction2 = (1 - beta2 ** counters["step"]) ** 0.5
        return decay_rate(group), beta1, 1 - beta1, beta2, 1 - beta2, step_size, correction2, group["eps"]


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).

    As `Adam`, after p <- p (1 - lr weight_decay).
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


@cache
def _nadam(decay: str, maximize: bool) -> Update:
    def formula(
        xp: Any, p: Any, m: Any, v: Any, g: Any, rate: Any, beta1: Any, share1: Any, beta2: Any, share2: Any,
        correction2: Any, eps: Any, of_gradient: Any, of_mean: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        p, g = decayed(p, g, rate, decay, maximize)
        m = beta1 * m + share1 * g
        v = beta2 * v + share2 * (g * g)
        scale = xp.sqrt(v / correction2) + eps
        return p - of_gradient * (g / scale) - of_mean * (m / scale), m, v

    return Update.of("nadam", formula, 3)


class NAdam(ElementwiseOptimizer):
    """Adam with Nesterov's momentum (Dozat, "Incorporating Nesterov momentum into Adam", 2016).

    mu_t = beta1 (1 - 0.5 * 0.96^(t momentum_decay))        P_t = mu_1 mu_2 ... mu_t
    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (mu_(t+1) m / (1 - P_(t+1)) + (1 - mu_t) g / (1 - P_t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """

    limits = {  # noqa: RUF012
        "lr": NOT_NEGATIVE, "betas": SHARE, "eps": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE,
        "momentum_decay": NOT_NEGATIVE,
    }  # fmt: skip
    counters = ("step", "mu_product")

    def __init__(
        self, params: Iterable[Any], lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
        maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def _begin(self) -> dict[str, Any]:
        return {"step": 0, "mu_product": 1.0}

    def _states(self, group: Group) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def _formula(self, group: Group) -> Update:
        return _nadam(decay_kind(group), group["maximize"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        step, (beta1, beta2) = counters["step"], group["betas"]
        mu, following = (beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])) for t in (step, step + 1))
        product = counters["mu_product"] = counters["mu_product"] * mu
        of_gradient = group["lr"] * (1 - mu) / (1 - product)
        of_mean = group["lr"] * following / (1 - product * following)
        correction2 = 1 - beta2**step
        return (
            decay_rate(group), beta1, 1 - beta1, beta2, 1 - beta2, correction2, group["eps"], of_gradient, of_mean
        )  # fmt: skip
