"""LAMB: Adam with a step for each layer in proportion to the norm of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from dagrun.array import Array
from dagrun.ops import empty_like, sqrt, where
from dagrun.ops.statistics import sum_of_squares
from dagrun.ops.updates import Update
from dagrun.optim.optimizer import NOT_NEGATIVE, SHARE, ElementwiseOptimizer, Group, Number


@cache
def _direction(maximize: bool) -> Update:
    def formula(
        xp: Any, m: Any, v: Any, u: Any, p: Any, g: Any, weight_decay: Any, beta1: Any, share1: Any, beta2: Any,
        share2: Any, correction1: Any, correction2: Any, eps: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        g = -g if maximize else g
        m = beta1 * m + share1 * g
        v = beta2 * v + share2 * (g * g)
        return m, v, m / correction1 / (xp.sqrt(v / correction2) + eps) + weight_decay * p

    return Update.of("lamb direction", formula, 3)


_STEP = Update.of("lamb step", lambda xp, p, u, size: (p - size * u,), 1)


class LAMB(ElementwiseOptimizer):
    """LAMB (You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, algorithm 2).

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p
    p <- p - lr |p| / |u| u             (each parameter with its own norms; lr u where one of them is 0)
    """

    limits = {"lr": NOT_NEGATIVE, "betas": SHARE, "eps": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE}  # noqa: RUF012

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.01, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        )

    def _states(self, group: Group) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def _formula(self, group: Group) -> Update:
        return _direction(group["maximize"])

    def _scalars(self, group: Group, counters: dict[str, Number]) -> tuple[Number, ...]:
        (beta1, beta2), step = group["betas"], counters["step"]
        corrections = (1 - beta1**step, 1 - beta2**step)
        return group["weight_decay"], beta1, 1 - beta1, beta2, 1 - beta2, *corrections, group["eps"]

    def _record(self, group: Group, sets: Sequence[tuple[Array, ...]], scalars: Sequence[Number]) -> None:
        directions = [empty_like(p) for p, *_ in sets]
        both = [(m, v, u, p, g) for (p, m, v, g), u in zip(sets, directions, strict=True)]
        self._write(self._formula(group), both, scalars)
        for _, _, u, p, _ in both:
            weights, change = sqrt(sum_of_squares(p)), sqrt(sum_of_squares(u))
            ratio = where((weights > 0) & (change > 0), weights / change, 1.0)
            self._write(_STEP, [(p, u)], (ratio * group["lr"],))
