"""Clipping of gradients, by their common norm or by value. Nothing is waited for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.ops import abs as absolute
from dagrun.ops import empty_like, minimum, sqrt, stack, zeros
from dagrun.ops import max as largest
from dagrun.ops import sum as total
from dagrun.ops.statistics import sum_of_squares
from dagrun.ops.updates import Update, record_update

_SCALED = Update.of("scale gradient", lambda xp, new, g, factor: (g * factor,), 1)
_CLIPPED = Update.of("clip gradient", lambda xp, new, g, low, high: (xp.minimum(xp.maximum(g, low), high),), 1)


def _with_gradients(parameters: Array | Iterable[Array]) -> list[Array]:
    given = [parameters] if isinstance(parameters, Array) else parameters
    return [p for p in given if p.grad is not None]


def replace_gradients(update: Update, parameters: Sequence[Array], scalars: Sequence[Any]) -> None:
    """Gives parameters new gradients, computed from the old by an update of (new, old).

    The old arrays stay as they are: backward may have given one of them to several parameters.
    """
    numbers = tuple(x for x in scalars if not isinstance(x, Array))
    by_device: dict[Any, list[Any]] = {}
    for p in parameters:
        by_device.setdefault(p.device, []).append(p)
    for where, members in by_device.items():
        sets = [(empty_like(p.grad), p.grad) for p in members]
        record_update(update, sets, numbers, tuple(x.to_device(where) for x in scalars if isinstance(x, Array)))
        for p, (new, _) in zip(members, sets, strict=True):
            p.grad = new


def scale_gradients(parameters: Sequence[Array], factor: Array) -> None:
    """Multiplies the gradients of parameters by an array of one element."""
    replace_gradients(_SCALED, parameters, (factor,))


@no_grad()
def clip_grad_norm_(
    parameters: Array | Iterable[Array], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Array:
    """Scales the gradients so that their norm, as one vector, is at most `max_norm`; returns what it was.

    g <- g min(1, max_norm / (norm + 1e-6)) (Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent
    neural networks", 2013). The norm is an array of one element, on the device of the first parameter. With
    `error_if_nonfinite` it is waited for, and RuntimeError raised where it is NaN or infinite.

        >>> import dagrun as dr
        >>> p = dr.asarray([0.0, 0.0], requires_grad=True)
        >>> p.grad = dr.asarray([3.0, 4.0])
        >>> dr.optim.clip_grad_norm_([p], max_norm=1.0), p.grad.numpy().round(3)
        (array(5.), array([0.6, 0.8]))
    """
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ValueError(f"clip_grad_norm_: norm_type is {norm_type}, expected a positive number or inf")
    members = _with_gradients(parameters)
    if not members:
        return zeros(())
    where = members[0].device
    parts = stack([_power_sum(p.grad, norm_type).to_device(where) for p in members])
    if norm_type == inf:
        norm = largest(parts)
    else:
        norm = sqrt(total(parts)) if norm_type == 2 else total(parts) ** (1 / norm_type)
    if error_if_nonfinite and not isfinite(norm.item()):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {norm.item()}, expected a finite number")
    scale_gradients(members, minimum(max_norm / (norm + 1e-6), 1.0))
    return norm


def _power_sum(g: Any, norm_type: float) -> Array:
    """What the norm of several arrays is combined from."""
    if norm_type == 2:
        return sum_of_squares(g)
    return largest(absolute(g)) if norm_type == inf else total(absolute(g) ** norm_type)


@no_grad()
def clip_grad_value_(parameters: Array | Iterable[Array], clip_value: float) -> None:
    """Clips every element of the gradients to [-clip_value, clip_value]."""
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value is {clip_value}, expected at least 0")
    replace_gradients(_CLIPPED, _with_gradients(parameters), (-float(clip_value), float(clip_value)))
