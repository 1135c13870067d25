"""Sums over all paths through a lattice of places, as connectionist temporal classification needs them, in log space.

Graves, Fernandez, Gomez and Schmidhuber, "Connectionist temporal classification", ICML 2006, equations 6 to 11. A path
stays at its place, goes to the next one, or skips one where that is allowed. One kernel takes all paths of all samples
one step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray
from dagrun.codegen.elementwise import elementwise_kernel
from dagrun.codegen.expression import Constant, Expression, Input, Select, call
from dagrun.core import device_index
from dagrun.ops.creation import full
from dagrun.ops.elementwise import elementwise_bodies
from dagrun.record import Body, Operator, apply

NEVER = -1e30  # the logarithm of probability 0, finite so that differences are numbers


def _infer(inputs: Sequence[Any], scalars: Sequence[Any]) -> Any:
    return ((inputs[0].shape, inputs[0].dtype),)


def _compute(xp: Any, stay: Any, one: Any, two: Any, skips: Any, emitted: Any, going: Any) -> Any:
    two = xp.where(skips, two, stay.dtype.type(NEVER))
    most = xp.maximum(stay, xp.maximum(one, two))
    reached = most + xp.log(xp.exp(stay - most) + xp.exp(one - most) + xp.exp(two - most)) + emitted
    return xp.where(going, xp.maximum(reached, stay.dtype.type(NEVER)), stay)


def _tree(dtype: str) -> Expression:
    stay, one, emitted, never = Input(0, dtype), Input(1, dtype), Input(4, dtype), Constant(NEVER, dtype)
    two = Select(Input(3, "bool"), Input(2, dtype), never)
    most = call("maximum", stay, call("maximum", one, two))
    shares = [call("exp", call("subtract", x, most)) for x in (stay, one, two)]
    total = call("log", call("add", call("add", shares[0], shares[1]), shares[2]))
    reached = call("add", call("add", most, total), emitted)
    return Select(Input(5, "bool"), call("maximum", reached, never), stay)


def _lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any]) -> tuple[Body, ...]:
    return elementwise_bodies(elementwise_kernel(_tree(str(inputs[0].dtype))), outputs[0], inputs)


_STEP = Operator("ctc.step", _infer, _compute, _lower)


def sums_of_paths(emitted: Array, skips: Array, going: Array, ends: np.ndarray[Any, Any], backward: bool) -> Array:
    """For each step and place the logarithm of the sum over all paths from an end up to there: (steps + 1, n, places).

    `emitted` (steps, n, places): what each place adds to a path at each step. `skips` (n, places): whether it may be
    reached from two places before (backward: after) it. `going` (steps, n, 1): whether a sample takes part in the step.
    `ends` (n,): the place where its paths begin, before the first step (backward: after the last, which is row 0 less).
    Row t + 1 is that after step t; backward, row t is that before it.
    """
    steps, samples, places = emitted.shape
    table = full((steps + 1, samples, places + 2), NEVER, dtype=emitted.dtype, device=emitted.device)
    start = np.full((samples, places), NEVER, emitted.dtype)
    start[np.arange(samples), ends] = 0
    # Two columns beside the places, so that neighbours are views of the same rows.
    columns = [slice(k, k + places) for k in ((0, 1, 2) if backward else (2, 1, 0))]
    table[steps if backward else 0, :, columns[0]] = asarray(start, device=emitted.device)
    where = device_index(emitted.device)
    for t in reversed(range(steps)) if backward else range(steps):
        before = table[t + backward]
        inputs = (*(before[:, own] for own in columns), skips, emitted[t], going[t])
        apply(_STEP, inputs, where, outputs=(table[t + 1 - backward, :, columns[0]],))
    return table[:, :, columns[0]]
