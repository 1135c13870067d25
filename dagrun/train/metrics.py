"""Measures of how good predictions are. They are recorded like anything else: nothing waits until a value is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, as_array
from dagrun.autodiff import no_grad


def _rows(scores: Any, targets: Any, name: str) -> tuple[Array, Array]:
    scores, targets = as_array(scores), as_array(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"{name}: scores of shape {scores.shape} and targets of shape {targets.shape}, expected (N, classes), (N,)"
        )
    return scores, targets


def accuracy(scores: Any, targets: Any) -> Array:
    """The share of rows whose largest score is at the target class. Scores (N, classes), integer targets (N,).

    >>> import dagrun as dr
    >>> dr.train.accuracy(dr.asarray([[1.0, 2.0], [3.0, 0.0]]), dr.asarray([1, 1])).item()
    0.5
    """
    scores, targets = _rows(scores, targets, "accuracy")
    return ops.mean(ops.equal(ops.argmax(scores, axis=1), targets))


def top_k_accuracy(scores: Any, targets: Any, k: int = 5) -> Array:
    """The share of rows whose target is among the k largest scores; of equal scores the first count as larger."""
    scores, targets = _rows(scores, targets, "top_k_accuracy")
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"top_k_accuracy: k is {k}, expected 1 to {scores.shape[1]} classes")
    best = ops.argsort(scores, axis=1, descending=True)[:, :k]
    return ops.mean(ops.any(ops.equal(best, targets[:, None]), axis=1))


def confusion_matrix(scores: Any, targets: Any) -> Array:
    """How often class j was predicted where i was right: integers of shape (classes, classes).

    >>> import dagrun as dr
    >>> dr.train.confusion_matrix(dr.asarray([[1.0, 2.0], [3.0, 0.0]]), dr.asarray([1, 1]))
    array([[0, 0],
           [1, 1]])
    """
    scores, targets = _rows(scores, targets, "confusion_matrix")
    which = ops.arange(scores.shape[1], device=scores.device)
    right = ops.astype(ops.equal(targets[:, None], which), np.int64)
    said = ops.astype(ops.equal(ops.argmax(scores, axis=1)[:, None], which), np.int64)
    return ops.matmul(ops.transpose(right), said)


def f1(scores: Any, targets: Any, average: str = "macro") -> Array:
    """The F1 measure, 2 precision recall / (precision + recall): `average` "macro" over classes, "micro", or "none".

    A class that neither occurs nor was predicted counts as 0, as in scikit-learn's `zero_division=0`.
    """
    if average not in ("macro", "micro", "none"):
        raise ValueError(f"f1: average is {average!r}, expected 'macro', 'micro' or 'none'")
    matrix = ops.astype(confusion_matrix(scores, targets), np.float64)
    hits = ops.diagonal(matrix)
    if average == "micro":
        return ops.sum(hits) / ops.maximum(ops.sum(matrix), 1.0)
    each = 2.0 * hits / ops.maximum(ops.sum(matrix, axis=0) + ops.sum(matrix, axis=1), 1.0)
    return each if average == "none" else ops.mean(each)


def perplexity(mean_cross_entropy: Any) -> Array:
    """exp of the mean cross-entropy (natural logarithm) for each token."""
    return ops.exp(as_array(mean_cross_entropy))


class Mean:
    """A weighted mean that grows batch by batch, without waiting.

    >>> import dagrun as dr
    >>> mean = dr.train.Mean()
    >>> mean.add(dr.asarray(1.0), 1)
    >>> mean.add(dr.asarray(4.0), 2)
    >>> mean.value()
    3.0
    """

    def __init__(self) -> None:
        self._total: Any = 0.0
        self.weight = 0.0

    def add(self, value: Any, weight: float = 1.0) -> None:
        """Takes in a mean over `weight` rows: a number or an array of one element."""
        with no_grad():
            if isinstance(value, Array):
                value = ops.reshape(ops.astype(value.detach(), np.float64), ())
            self._total = value * float(weight) + self._total
        self.weight += weight

    def value(self) -> float:
        """The mean so far, NaN before the first value; waits for it."""
        return float(self._total) / self.weight if self.weight else float("nan")

    def state_dict(self) -> dict[str, float]:
        """The sum and the weight so far; waits for them."""
        return {"total": float(self._total), "weight": float(self.weight)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes back what `state_dict` gave."""
        self._total, self.weight = state["total"], state["weight"]
