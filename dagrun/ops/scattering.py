"""Sums at indexed positions: index_add, and the adjoints of gathers. Equal indices add up in ascending position."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, is_weak
from dagrun.core import device_index
from dagrun.ops.assignment import values_first
from dagrun.ops.elementwise import MOST_PLANS, fits
from dagrun.ops.gathering import (
    SCRATCH,
    Walk,
    copy_bodies,
    dense_shape,
    scatter_bodies,
    scratch_at,
    scratch_of,
    walk_along,
    walk_of_indices,
    zero_bodies,
)
from dagrun.ops.indexing import TAKEN, TAKEN_ALONG, explain_index, gather, indices_first, integers, take_along_axis
from dagrun.ops.manipulation import normal_axis
from dagrun.record import Body, Gradients, Operator, apply, common_device, layout

# `scratch`: how many uint32 a GPU needs beside the result, as a second result, to sort positions first; 0: one launch.


def _with_scratch(result: Any, scratch: int) -> Any:
    return (result, ((scratch,), SCRATCH)) if scratch else (result,)


def _and_scratch(xp: Any, made: Any, scratch: int) -> Any:
    return (made, xp.zeros(scratch, SCRATCH)) if scratch else made


def _record(
    operator: Operator, inputs: tuple[Array, ...], attributes: tuple[tuple[str, Any], ...], scratch: int
) -> Array:
    if scratch:
        attributes += (("scratch", scratch),)
    made = apply(operator, inputs, device_index(inputs[0].device), attributes=attributes)
    result: Array = made[0] if scratch else made
    return result


# ---- into zeros: the adjoints of take, of x[i, j] and of take_along_axis


def _infer_zeros(
    inputs: Sequence[Any], scalars: Sequence[Any], *, shape: tuple[int, ...], scratch: int = 0, **where: Any
) -> Any:
    return _with_scratch((shape, inputs[0].dtype), scratch)


def _add_at(xp: Any, target: Any, values: Any, indices: Sequence[Any], axes: tuple[int, ...], place: int) -> Any:
    moved = values_first(xp, target, indices, values, axes, place)
    xp.add.at(indices_first(xp, target, axes), tuple(indices), moved)
    return target


def _compute_scatter(
    xp: Any, values: Any, *indices: Any, shape: tuple[int, ...], axes: tuple[int, ...], place: int, scratch: int = 0
) -> Any:
    return _and_scratch(xp, _add_at(xp, xp.zeros(shape, values.dtype), values, indices, axes, place), scratch)


def _into_zeros(outputs: Sequence[Any], inputs: Sequence[Any], walk: Walk) -> tuple[Body, ...] | None:
    values, *indices = inputs
    added = scatter_bodies("add", outputs, values, indices, walk, len(outputs))
    return None if added is None else (*zero_bodies(outputs[0]), *added)


def _lower_scatter(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, shape: Any, axes: Any, place: int,
    scratch: int = 0,
) -> tuple[Body, ...] | None:  # fmt: skip
    return _into_zeros(outputs, inputs, walk_of_indices(outputs[0], inputs[1:], axes, place, axes))


def _gathered(g: Any, indices: tuple[Any, ...], call: Any) -> Any:
    return gather(g, indices, call["axes"], call["place"], call["axes"])


SCATTER_ADD = Operator(
    "scatter_add",
    _infer_zeros,
    _compute_scatter,
    _lower_scatter,
    explain_index,
    Gradients(_gathered, operands=("a", "*indices")),
)


def scatter_add(
    values: Array, indices: tuple[Array, ...], shape: tuple[int, ...], axes: tuple[int, ...], place: int
) -> Array:
    """Zeros of a shape, with values added at indices into `axes`: the adjoint of the operator `take`.

    `values` has the shape that the gather gives: that of the other axes, the index arrays' dimensions at `place`.

        >>> import dagrun as dr
        >>> scatter_add(dr.asarray([1.0, 2.0, 4.0]), (dr.asarray([0, 2, 0]),), (3,), (0,), 0)
        array([5., 0., 2.])
    """
    attributes = (("shape", shape), ("axes", axes), ("place", place))
    scratch = 0
    if values.device.kind == "cuda":
        target = layout(values.dtype, shape)
        scratch = scratch_at(target, tuple(index._layout for index in indices), axes, place)
    return _record(SCATTER_ADD, (values, *indices), attributes, scratch)


TAKEN.set(
    lambda g, indices, call: scatter_add(g, indices, call.inputs[0].shape, call["axes"], call["place"]),
    operands=("a", "*indices"),
)


def _compute_along(xp: Any, values: Any, indices: Any, *, shape: tuple[int, ...], axis: int, scratch: int = 0) -> Any:
    target = xp.zeros(shape, values.dtype)
    grid = list(xp.indices(values.shape, sparse=True))
    grid = [place if length == values.shape[d] else 0 * place for d, (place, length) in enumerate(zip(grid, shape))]
    grid[axis] = xp.broadcast_to(indices, values.shape)
    xp.add.at(target, tuple(grid), values)
    return _and_scratch(xp, target, scratch)


def _lower_along(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, shape: Any, axis: int, scratch: int = 0
) -> tuple[Body, ...] | None:
    return _into_zeros(outputs, inputs, walk_along(outputs[0], inputs[1], axis, inputs[0].shape))


@lru_cache(MOST_PLANS)
def _scratch_along(target: Any, index: Any, axis: int, shape: tuple[int, ...]) -> int:
    return scratch_of(walk_along(target, index, axis, shape))


ADD_ALONG = Operator(
    "add_along_axis",
    _infer_zeros,
    _compute_along,
    _lower_along,
    explain_index,
    Gradients(lambda g, b, call: take_along_axis(g, b, call["axis"])),
)


def add_along_axis(values: Array, indices: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Zeros of a shape, with values added at the indices along an axis: the adjoint of `take_along_axis`.

    `values` has the shape that `take_along_axis` gives.

        >>> import dagrun as dr
        >>> add_along_axis(dr.asarray([[1, 2]]), dr.asarray([[2, 2]]), (1, 3), 1)
        array([[0, 0, 3]])
    """
    attributes = (("shape", shape), ("axis", axis))
    scratch = 0
    if values.device.kind == "cuda":
        scratch = _scratch_along(layout(values.dtype, shape), indices._layout, axis, values.shape)
    return _record(ADD_ALONG, (values, indices), attributes, scratch)


TAKEN_ALONG.set(lambda g, b, call: add_along_axis(g, b, call.inputs[0].shape, call["axis"]))


# ---- into a copy


def _compute_index_add(xp: Any, x: Any, values: Any, index: Any, *, axis: int, scratch: int = 0) -> Any:
    return _and_scratch(xp, _add_at(xp, x.copy(), values, (index,), (axis,), axis), scratch)


def _lower_index_add(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int, scratch: int = 0
) -> tuple[Body, ...] | None:
    target, (x, values, index) = outputs[0], inputs
    walk = walk_of_indices(target, (index,), (axis,), axis, (axis,))
    added = scatter_bodies("add", outputs, values, (index,), walk, len(outputs) + 1)
    return None if added is None else (*copy_bodies(target, x, len(outputs)), *added)


INDEX_ADD = Operator(
    "index_add",
    lambda inputs, scalars, axis, scratch=0: _with_scratch((inputs[0].shape, inputs[0].dtype), scratch),
    _compute_index_add,
    _lower_index_add,
    explain_index,
    Gradients(lambda g: g, lambda g, c, call: gather(g, (c,), (call["axis"],), call["axis"], (call["axis"],))),
)


def index_add(x: Any, indices: Any, values: Any, /, *, axis: int = 0) -> Array:
    """A copy of x with values added at integer `indices` along an axis; equal indices add up, in ascending position.

    `values` broadcasts to the shape of `take(x, indices, axis)`, `x.shape[:axis] + indices.shape + x.shape[axis + 1:]`,
    and is cast to x's dtype. ValueError where it does not broadcast, TypeError where it cannot be cast by NumPy's
    same_kind rule. An index out of range fails when the values are computed: IndexError at the wait. PyTorch's function
    of this name.

        >>> import dagrun as dr
        >>> dr.index_add(dr.zeros((3, 2)), [2, 0, 2], dr.asarray([[1, 2], [3, 4], [5, 6]]))
        array([[3., 4.],
               [0., 0.],
               [6., 8.]])
    """
    x = as_array(x)
    place = normal_axis(axis, x.ndim, "index_add")
    index = integers(indices, x, "index_add")
    if not isinstance(values, Array):
        values = asarray(values, x.dtype if is_weak(values) else None, device=x.device)
    common_device("index_add", (x, index, values))
    if not np.can_cast(values.dtype, x.dtype, "same_kind"):
        raise TypeError(f"index_add: values of {values.dtype} cannot be cast to {x.dtype} by the same_kind rule")
    shape = dense_shape(x.shape, (index,), (place,), place)
    if not fits(values.shape, shape):
        raise ValueError(f"index_add: values of shape {values.shape} do not broadcast to {shape}, a value per index")
    inputs = (x, values.astype(x.dtype, copy=False), index)
    scratch = 0
    if x.device.kind == "cuda":
        scratch = scratch_at(layout(x.dtype, x.shape), (index._layout,), (place,), place)
    return _record(INDEX_ADD, inputs, (("axis", place),), scratch)
