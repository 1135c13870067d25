"""Updates: operations that rewrite several arrays element by element, for many sets of arrays at once.

What an optimizer does to a parameter, its gradient and its state is one `Update`. The sets of one call become few
operations: a large set is one, cut into tasks by its size; small ones share a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.expression import Input, Scalar, cast, topological
from dagrun.codegen.symbols import Symbol, Symbols
from dagrun.codegen.updates import most_sets, update_kernel, update_params
from dagrun.core import device_index
from dagrun.ops.cutting import PIECE_BYTES, cut
from dagrun.ops.elementwise import MOST_PLANS, cast_into, check_writable, copied
from dagrun.record import (
    OVERWRITE,
    READ,
    WRITE,
    Body,
    Known,
    Operand,
    Operator,
    common_device,
    layout,
    signature_for,
    submit,
)

MOST_SETS = 64  # in one task

Formula = Callable[..., tuple[Any, ...]]  # (xp, *operands of a set, *scalars, *shared) -> values of the written ones


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A formula for the new values of the first `written` of the arrays of a set, from all of them and from scalars.

    It computes in the dtype of the first array, with its scalars and `shared` arrays (of one element each) rounded to
    it, as NumPy would. `formula` must be made of operators and of the functions that `codegen.symbols.Symbols` has.
    """

    name: str
    formula: Formula
    written: int
    operator: Operator

    @staticmethod
    def of(name: str, formula: Formula, written: int) -> Update:
        """An update from its formula."""
        return Update(name, formula, written, _operator(name, formula, written))


def _operator(name: str, formula: Formula, written: int) -> Operator:
    def compute(xp: Any, *operands: Any, sets: int, shared: int, values: int) -> None:
        outputs, rest = operands[: sets * written], operands[sets * written :]
        compute_dtype = outputs[0].dtype
        common, rest = [x.astype(compute_dtype)[()] for x in rest[:shared]], rest[shared:]
        read = (len(rest) - values) // sets
        numbers = [compute_dtype.type(value) for value in rest[sets * read :]]
        for k in range(sets):
            targets = outputs[k * written : (k + 1) * written]
            own = (*targets, *rest[k * read : (k + 1) * read])
            results = formula(xp, *(x.astype(compute_dtype, copy=False) for x in own), *numbers, *common)
            for target, result in zip(targets, results, strict=True):
                target[...] = result

    def lower(
        outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, sets: int, shared: int, values: int
    ) -> tuple[Body, ...]:
        read = (len(inputs) - shared) // sets
        common, rest = inputs[:shared], inputs[shared:]
        chosen = [(*outputs[k * written : (k + 1) * written], *rest[k * read : (k + 1) * read]) for k in range(sets)]
        address, overwritten = _kernel(formula, chosen[0], common, values, written)
        own = [
            [*range(k * written, (k + 1) * written), *(len(outputs) + shared + k * read + r for r in range(read))]
            for k in range(sets)
        ]
        beside = tuple(Operand(len(outputs) + i) for i in range(shared))
        moved = sum(view.nbytes for views in chosen for view in views)
        modes = [WRITE | OVERWRITE if k in overwritten else READ | WRITE for k in range(written)] + [READ] * read
        if sets > 1:
            most = most_sets(written + read, shared)
            return tuple(
                Body(
                    address,
                    update_params([views[0].size for views in chosen[start : start + most]]),
                    beside
                    + tuple(
                        Operand(index, mode)
                        for indices in own[start : start + most]
                        for index, mode in zip(indices, modes, strict=True)
                    ),
                    moved * len(chosen[start : start + most]) // sets,
                )
                for start in range(0, sets, most)
            )
        ((views, indices),) = zip(chosen, own, strict=True)
        size = views[0].size
        bodies = []
        for start, stop in cut(size, moved):
            whole = stop - start == size
            uses = tuple(
                Operand(
                    index,
                    mode,
                    start * view.dtype.itemsize,
                    None if whole else layout(view.dtype, (stop - start,)),
                )
                for index, mode, view in zip(indices, modes, views, strict=True)
            )
            bodies.append(Body(address, update_params([stop - start]), beside + uses, moved * (stop - start) // size))
        return tuple(bodies)

    return Operator(name, lambda inputs, scalars, **attributes: (), compute, lower, updates=True)


def _kernel(
    formula: Formula, views: Sequence[Any], common: Sequence[Any], scalars: int, written: int
) -> tuple[int, set[int]]:
    """The native body of a formula on operands of these layouts, and which operands' values it does not read."""
    dtypes = [str(view.dtype) for view in views]
    compute = dtypes[0]
    own = [Symbol(cast(Input(k, dtype), compute)) for k, dtype in enumerate(dtypes)]
    values = [Symbol(Scalar(i, compute)) for i in range(scalars)]
    beside = [Symbol(cast(Scalar(scalars + i, str(view.dtype)), compute)) for i, view in enumerate(common)]
    results = formula(Symbols, *own, *values, *beside)
    trees = [cast(result.node, dtype) for result, dtype in zip(results, dtypes[:written], strict=True)]
    overwritten = set(range(written)) - {node.index for node in topological(*trees) if isinstance(node, Input)}
    return update_kernel(trees, dtypes, [str(view.dtype) for view in common], scalars), overwritten


# ---- recording


@dataclass(frozen=True, slots=True)
class _Bin:
    """One operation for some of the sets: its signature, and which of all sets' arrays it writes and reads."""

    known: Known
    scalars: tuple[np.dtype[Any], ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


@lru_cache(MOST_PLANS)
def _plan(
    update: Update, views: tuple[Any, ...], width: int, shared: tuple[Any, ...], scalars: int
) -> tuple[tuple[_Bin, ...], tuple[int, ...]]:
    """How sets of `width` of these layouts are put into operations; or which arrays must be made contiguous first."""
    scattered = []
    bins: dict[Any, list[list[int]]] = {}  # by dtypes: for each operation where its sets begin
    filled: dict[Any, int] = {}
    for start in range(0, len(views), width):
        own = views[start : start + width]
        for place, view in enumerate(own):
            if view.shape != own[0].shape:
                raise ValueError(f"{update.name}: an array of shape {view.shape}, expected {own[0].shape}")
            if place < update.written:
                check_writable(view)
            if view is not layout(view.dtype, view.shape):
                scattered.append(start + place)
        nbytes = sum(view.nbytes for view in own)
        if not nbytes:
            continue
        dtypes = tuple(view.dtype for view in own)
        if nbytes >= PIECE_BYTES:
            bins[dtypes, start] = [[start]]
            continue
        groups = bins.setdefault(dtypes, [])
        if not groups or len(groups[-1]) == MOST_SETS or filled[dtypes] + nbytes > PIECE_BYTES:
            groups.append([])
            filled[dtypes] = 0
        groups[-1].append(start)
        filled[dtypes] += nbytes
    if scattered:
        return (), tuple(scattered)
    made = []
    for starts in (group for groups in bins.values() for group in groups):
        outputs = tuple(start + place for start in starts for place in range(update.written))
        inputs = tuple(start + place for start in starts for place in range(update.written, width))
        dtypes = (views[outputs[0]].dtype,) * scalars
        attributes = (("sets", len(starts)), ("shared", len(shared)), ("values", scalars))
        read, written = (*shared, *(views[i] for i in inputs)), tuple(views[i] for i in outputs)
        made.append(_Bin(signature_for(update.operator, read, dtypes, written, attributes), dtypes, outputs, inputs))
    return tuple(made), ()


def record_update(
    update: Update, sets: Sequence[tuple[Array, ...]], scalars: Sequence[float] = (), shared: Sequence[Array] = ()
) -> None:
    """Records an update of sets of arrays of one shape each, all on one device; returns without waiting.

    Sets must not share memory, except that they may read the same arrays, or what another set writes: that is read
    as it was before. ValueError for shapes that differ, DeviceError for devices that do.
    """
    if not sets:
        return
    arrays = [x for own in sets for x in own]
    views = tuple([x._layout for x in arrays])
    bins, scattered = _plan(update, views, len(sets[0]), tuple(x._layout for x in shared), len(scalars))
    if scattered:
        _record_contiguous(update, sets, scalars, shared, scattered)
        return
    if len({x.device for x in arrays}) > 1 or any(x.device is not arrays[0].device for x in shared):
        common_device(update.name, [*arrays, *shared])
    where = device_index(arrays[0].device)
    values = tuple(scalars)
    written = {arrays[i]._buffer for own in bins for i in own.outputs}
    if any(arrays[i]._buffer in written for own in bins for i in own.inputs):
        for i in [i for own in bins for i in own.inputs if arrays[i]._buffer in written]:
            arrays[i] = copied(arrays[i])
    for own in bins:
        outputs = tuple([arrays[i] for i in own.outputs])
        inputs = (*shared, *[arrays[i] for i in own.inputs])
        submit(own.known, inputs, where, outputs, own.scalars, values)


def _record_contiguous(
    update: Update, sets: Sequence[tuple[Array, ...]], scalars: Sequence[float], shared: Sequence[Array],
    scattered: Sequence[int],
) -> None:  # fmt: skip
    """The same through contiguous copies."""
    width = len(sets[0])
    arrays = [x for own in sets for x in own]
    dense = [copied(x) if i in scattered else x for i, x in enumerate(arrays)]
    record_update(update, [tuple(dense[i : i + width]) for i in range(0, len(dense), width)], scalars, shared)
    for i in scattered:
        if i % width < update.written:
            cast_into(dense[i], arrays[i])


__all__ = ["Update", "record_update"]
