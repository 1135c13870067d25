"""Optimizers that see all their parameters as one vector and evaluate the loss several times for a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import enable_grad
from dagrun.ops import concatenate, zeros_like
from dagrun.optim.optimizer import Optimizer

Closure = Callable[[], Any]


class FlatOptimizer(Optimizer):
    """The base of optimizers for one group, whose `step(closure)` waits for losses and slopes.

    `closure()` sets the gradients to zero, computes the loss, calls `backward` and returns the loss.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(
                f"{type(self).__name__}: {len(self.param_groups)} groups of parameters, expected one, as one vector"
            )
        self._params: list[Array] = self.param_groups[0]["params"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As for all optimizers."""
        super().load_state_dict(state_dict)
        self._params = self.param_groups[0]["params"]

    def _own_state(self) -> dict[str, Any]:
        """The state of the whole vector, which stands under the first parameter."""
        return self.state.setdefault(self._params[0], {})

    def _vector(self) -> Array:
        return _joined(self._params)

    def _gradient(self) -> Array:
        return _joined([zeros_like(p) if p.grad is None else p.grad for p in self._params])

    def _place(self, vector: Array) -> None:
        """Writes the vector into the parameters."""
        for p, part in zip(self._params, split_like(vector, self._params), strict=True):
            p[...] = part

    def _evaluate(self, closure: Closure) -> tuple[Any, float]:
        """What the closure returns, and the loss as a number; waits for it."""
        with enable_grad():
            loss = closure()
        return loss, float(loss)


def _joined(arrays: Sequence[Any]) -> Array:
    """All elements, one array after another, as a new vector."""
    return concatenate([x.detach().reshape(-1) for x in arrays])


def split_like(vector: Array, arrays: Sequence[Array]) -> list[Array]:
    """The inverse of joining: pieces of a vector in the shapes of arrays."""
    pieces, start = [], 0
    for x in arrays:
        pieces.append(vector[start : start + x.size].reshape(x.shape))
        start += x.size
    return pieces


def dot(a: Array, b: Array) -> float:
    """The inner product as a number; waits for it."""
    return float((a * b).sum())


def armijo(loss_at: Callable[[float], float], t: float, loss: float, slope: float, most: int) -> float:
    """A step length with loss_at(t) <= loss + 1e-4 t slope, by halving t; 0 where `most` trials find none.

    Nocedal and Wright, "Numerical optimization" (2006), algorithm 3.1.
    """
    for _ in range(most):
        if loss_at(t) <= loss + 1e-4 * t * slope:
            return t
        t /= 2
    return 0.0


class Point:
    """What is known at a step length along a direction."""

    __slots__ = ("gradient", "loss", "slope", "t")

    def __init__(self, t: float, loss: float, gradient: Array, slope: float) -> None:
        self.t, self.loss, self.gradient, self.slope = t, loss, gradient, slope


def strong_wolfe(
    evaluate: Callable[[float], Point], begin: Point, t: float, *, c1: float = 1e-4, c2: float = 0.9,
    most: int = 25, narrowest: float = 1e-9,
) -> tuple[Point, int]:  # fmt: skip
    """A point where loss <= loss_0 + c1 t slope_0 and |slope| <= c2 |slope_0|, and how many evaluations it took.

    Nocedal and Wright, "Numerical optimization" (2006), algorithms 3.5 and 3.6 with cubic interpolation. The best point
    found where `most` evaluations do not suffice or the bracket gets narrower than `narrowest`.
    """

    def too_high(point: Point) -> bool:
        return not point.loss <= begin.loss + c1 * point.t * begin.slope  # NaN is too high as well

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -c2 * begin.slope

    low, high = begin, None
    count = 0
    while high is None and count < most:
        point = evaluate(t)
        count += 1
        if too_high(point) or (count > 1 and point.loss >= low.loss):
            high = point
        elif flat(point):
            return point, count
        elif point.slope >= 0:
            low, high = point, low
        else:
            t = _cubic(low, point, point.t + 0.01 * (point.t - low.t), 10 * point.t)
            low = point
    while high is not None and count < most and abs(high.t - low.t) > narrowest:
        width = high.t - low.t
        point = evaluate(_cubic(low, high, *sorted((low.t + 0.1 * width, high.t - 0.1 * width))))
        count += 1
        if too_high(point) or point.loss >= low.loss:
            high = point
            continue
        if flat(point):
            return point, count
        if point.slope * width >= 0:
            high = low
        low = point
    return low, count


def _cubic(a: Point, b: Point, lowest: float, highest: float) -> float:
    """Where the cubic with the losses and slopes of two points is least, within bounds; else the middle of them.

    Nocedal and Wright, equation 3.59.
    """
    if math.isfinite(b.loss) and math.isfinite(b.slope) and a.t != b.t:
        d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
        square = d1 * d1 - a.slope * b.slope
        if square >= 0:
            d2 = math.copysign(math.sqrt(square), b.t - a.t)
            denominator = b.slope - a.slope + 2 * d2
            if denominator:
                return min(max(b.t - (b.t - a.t) * (b.slope + d2 - d1) / denominator, lowest), highest)
    return (lowest + highest) / 2
