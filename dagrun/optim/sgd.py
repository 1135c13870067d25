"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from dagrun.ops.updates import Update
from dagrun.optim.optimizer import (
    NOT_NEGATIVE,
    ElementwiseOptimizer,
    Group,
    Number,
    decay_kind,
    decay_rate,
    decayed,
    first_or,
)


@cache
def _plain(decay: str, maximize: bool) -> Update:
    def formula(xp: Any, p: Any, g: Any, lr: Any, rate: Any) -> tuple[Any, ...]:
        p, g = decayed(p, g, rate, decay, maximize)
        return (p - lr * g,)

    return Update.of("sgd", formula, 1)


@cache
def _with_momentum(decay: str, maximize: bool, nesterov: bool) -> Update:
    def formula(xp: Any, p: Any, v: Any, g: Any, lr: Any, rate: Any, momentum: Any, share: Any) -> tuple[Any, ...]:
        p, g = decayed(p, g, rate, decay, maximize)
        v = momentum * v + share * g
        return p - lr * (g + momentum * v if nesterov else v), v

    return Update.of("sgd", formula, 2)


class SGD(ElementwiseOptimizer):
    """Stochastic gradient descent, p <- p - lr g; with `momentum` the heavy ball (Polyak, 1964).

        v <- momentum v + (1 - dampening) g        (the first time v <- g)
        p <- p - lr v                              with `nesterov`: p - lr (g + momentum v)

    `dampening=0` sums the gradients, `dampening=momentum` averages them: both textbook forms. Nesterov's momentum as in
    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013). `weight_decay` is an
    L2 penalty, g + weight_decay p, or with `decoupled_weight_decay` it shrinks the parameters by 1 - lr weight_decay
    (SGDW: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).

        >>> import dagrun as dr
        >>> p = dr.asarray([1.0, 2.0], requires_grad=True)
        >>> (p * p).sum().backward()
        >>> dr.optim.SGD([p], lr=0.1).step()
        >>> p.detach()
        array([0.8, 1.6])
    """

    limits = {"lr": NOT_NEGATIVE, "momentum": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"SGD: nesterov with momentum {group['momentum']} and dampening {group['dampening']}, "
                "expected momentum > 0 and dampening 0"
            )

    def _states(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _formula(self, group: Group) -> Update:
        if group["momentum"]:
            return _with_momentum(decay_kind(group), group["maximize"], group["nesterov"])
        return _plain(decay_kind(group), group["maximize"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        rates = (group["lr"], decay_rate(group))
        if not group["momentum"]:
            return rates
        share = first_or(counters["step"], 1.0, 1.0 - group["dampening"])
        return (*rates, group["momentum"], share)
