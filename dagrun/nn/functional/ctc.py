"""Connectionist temporal classification (Graves et al. 2006), in log space."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.autodiff import enable_grad, gradients, no_grad
from dagrun.core import native
from dagrun.nn.functional.losses import reduced
from dagrun.ops.ctc import NEVER, sums_of_paths
from dagrun.ops.precision import in_single
from dagrun.record import Gradients
from dagrun.record.tape import Call, attach


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


def _loss(arrived: Array, ends: Array) -> Array:
    """-log of the sum over the places where a path may end: from (n, places) to (n,)."""
    final = ops.where(ends, arrived, NEVER)
    best = ops.max(final, axis=1, keepdims=True).detach()
    return -(ops.log(ops.sum(ops.exp(final - best), axis=1)) + best[:, 0])


def _composed(emitted: Array, lattice: dict[str, Any]) -> Array:
    """The losses from what the places emit, by operators whose gradients are known."""
    never = ops.full((emitted.shape[1], 2), NEVER, dtype=emitted.dtype, device=emitted.device)
    alpha = ops.where(lattice["starts"], emitted[0], NEVER)
    for t in range(1, emitted.shape[0]):
        before = ops.concatenate([never, alpha], axis=1)
        reached = ops.logaddexp(alpha, before[:, 1:-1])
        reached = ops.where(lattice["skips"], ops.logaddexp(reached, before[:, :-2]), reached)
        alpha = ops.where(lattice["going"][t], ops.maximum(reached + emitted[t], NEVER), alpha)
    return _loss(alpha, lattice["ends"])


def _slopes(gs: list[Any], emitted: Array, y: Array, z: Array, call: Call) -> tuple[Any, ...]:
    """Less the probability that a path is at a place at a step (equation 14 and what precedes it), times g."""
    g = gs[0]
    if native.gradients():
        with enable_grad():
            value = _composed(emitted, call.attributes)
        return tuple(gradients([value], [emitted], [g], create_graph=True))
    z_back = sums_of_paths(emitted, call["skips_back"], call["going"], call["last"], backward=True)
    share = ops.exp(z[1:] + z_back[:-1] - emitted + ops.expand_dims(y, 1))
    return (ops.where(call["going"], -ops.expand_dims(g, 1) * share, 0.0),)


_RULES = Gradients(joint=_slopes, operands=("emitted",))


@in_single
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

    The forward variables of Graves et al. 2006, equations 6 and 7, and for the gradient the backward ones: an operation
    for each of T steps, for all samples at once. Targets and lengths are read when this is called.

        >>> import dagrun as dr
        >>> even = dr.log(dr.full((2, 1, 2), 0.5))  # of "a-", "-a", "aa" and "--", three collapse to "a"
        >>> round(dr.exp(-dr.nn.functional.ctc_loss(even, [[1]], [2], [1])).item(), 6)
        0.75
    """
    if log_probs.dtype == np.float16:
        wide = log_probs.astype(np.float32)
        found = ctc_loss(wide, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
        return found.astype(np.float16)
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

    index = np.broadcast_to(extended, (steps, samples, places))
    emitted = ops.take_along_axis(log_probs, there(np.ascontiguousarray(index)), axis=2)

    # It may end in the last label or in the blank after it.
    numbers, last = np.arange(places), 2 * wanted
    lattice: dict[str, Any] = {
        "starts": there(numbers < 2),
        "ends": there((numbers == last[:, None]) | ((numbers == last[:, None] - 1) & (wanted[:, None] > 0))),
        "skips": there(skips),
        "skips_back": there(np.pad(skips, ((0, 0), (0, 2)))[:, 2:]),
        "going": there((lasting > np.arange(steps)[:, None])[:, :, None]),
        "last": last,
    }
    with no_grad():
        first = np.zeros(samples, np.int64)
        paths = sums_of_paths(emitted, lattice["skips"], lattice["going"], first, backward=False)
        values = _loss(paths[steps], lattice["ends"])
    layouts = (values._layout, paths._layout)
    attach("ctc_loss", _RULES, (emitted,), (values, paths), Call(lattice, (emitted._layout,), layouts, values.device))
    impossible = values > -NEVER / 2
    values = ops.where(impossible, 0.0 if zero_infinity else np.inf, values)
    if single:
        return values[0] if reduction != "mean" else values[0] / max(int(wanted[0]), 1)
    if reduction == "mean":
        return ops.mean(values / there(np.maximum(wanted, 1).astype(log_probs.dtype)))
    return reduced(values, reduction)
