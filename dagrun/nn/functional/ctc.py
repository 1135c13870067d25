"""Connectionist temporal classification (Graves et al. 2006), in log space, as recorded operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.nn.functional.losses import reduced

_NEVER = -1e30  # the logarithm of probability 0, finite so that differences are numbers


def _lengths(values: Any) -> np.ndarray[Any, Any]:
    return values.numpy().astype(np.int64) if isinstance(values, Array) else np.asarray(values, dtype=np.int64)


def _padded(targets: Any, lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Targets as a table (N, S), from one or from all in a row; what lies beyond a length is 0."""
    given = _lengths(targets)
    longest = int(lengths.max(initial=0))
    table = np.zeros((len(lengths), longest), np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for row, length in enumerate(lengths):
        table[row, :length] = given[row, :length] if given.ndim == 2 else given[starts[row] : starts[row + 1]]
    return table


def ctc_loss(
    log_probs: Array,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Array:
    """-log of the probability that the labels collapse to the target: log_probs (T, N, C) of log_softmax.

    targets (N, S) or all in a row, lengths (N,). "mean" divides each loss by its target's length first. Where an input
    is too short for its target the loss is infinite, or 0 with `zero_infinity`; its gradient is 0 then.

    The forward variables of Graves et al. 2006, equations 6 and 7, one step for all samples at once: about ten recorded
    operations for each of T steps. Targets and lengths are read when this is called.

        >>> import dagrun as dr
        >>> even = dr.log(dr.full((2, 1, 2), 0.5))  # of "a-", "-a", "aa" and "--", three collapse to "a"
        >>> round(dr.exp(-dr.nn.functional.ctc_loss(even, [[1]], [2], [1])).item(), 6)
        0.75
    """
    single = log_probs.ndim == 2
    if single:
        log_probs = ops.expand_dims(log_probs, 1)
    steps, samples, classes = log_probs.shape
    lasting = _lengths(input_lengths).reshape(-1)
    wanted = _lengths(target_lengths).reshape(-1)
    if lasting.shape != (samples,) or wanted.shape != (samples,):
        raise ValueError(f"ctc_loss: {lasting.size} input and {wanted.size} target lengths for {samples} samples")
    if lasting.max(initial=0) > steps or lasting.min(initial=1) < 1:
        raise ValueError(f"ctc_loss: input lengths {lasting.tolist()}, expected 1 to {steps}")
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank is {blank}, expected 0 to {classes - 1}")
    labels = _padded(_lengths(targets)[None] if single and np.ndim(targets) == 1 else targets, wanted)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"ctc_loss: labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")

    # Blanks around and between the labels; a label may be reached from the one before it unless both are equal.
    places = 2 * labels.shape[1] + 1
    extended = np.full((samples, places), blank)
    extended[:, 1::2] = labels
    skips = np.zeros((samples, places), bool)
    skips[:, 3::2] = labels[:, 1:] != labels[:, :-1]

    def there(values: np.ndarray[Any, Any]) -> Array:
        return asarray(values, device=log_probs.device)

    may_skip = there(skips)
    index = np.broadcast_to(extended, (steps, samples, places))
    emitted = ops.take_along_axis(log_probs, there(np.ascontiguousarray(index)), axis=2)
    never = ops.full((samples, 2), _NEVER, dtype=log_probs.dtype, device=log_probs.device)

    start = np.arange(places) < 2
    alpha = ops.where(there(start), emitted[0], _NEVER)
    for t in range(1, steps):
        before = ops.concatenate([never, alpha], axis=1)
        reached = ops.logaddexp(alpha, before[:, 1:-1])
        reached = ops.where(may_skip, ops.logaddexp(reached, before[:, :-2]), reached)
        after = ops.maximum(reached + emitted[t], _NEVER)
        going = lasting > t
        alpha = after if going.all() else ops.where(there(going[:, None]), after, alpha)

    # It may end in the last label or in the blank after it.
    numbers = np.arange(places)
    ends = (numbers == 2 * wanted[:, None]) | ((numbers == 2 * wanted[:, None] - 1) & (wanted[:, None] > 0))
    final = ops.where(there(ends), alpha, _NEVER)
    best = ops.max(final, axis=1, keepdims=True).detach()
    values = -(ops.log(ops.sum(ops.exp(final - best), axis=1)) + best[:, 0])
    impossible = values > -_NEVER / 2
    values = ops.where(impossible, 0.0 if zero_infinity else np.inf, values)
    if single:
        return values[0] if reduction != "mean" else values[0] / max(int(wanted[0]), 1)
    if reduction == "mean":
        return ops.mean(values / there(np.maximum(wanted, 1).astype(log_probs.dtype)))
    return reduced(values, reduction)
