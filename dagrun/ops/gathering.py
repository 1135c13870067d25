"""How gathers, assignments and additions by index arrays become tasks: native bodies, cut where the order stays.

The dense operand is what a gather gives and a scatter takes. Its dimensions are those of the indexed operand, with the
broadcast dimensions of the index arrays in place of the indexed axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.elementwise import elementwise, elementwise_kernel
from dagrun.codegen.expression import Constant
from dagrun.codegen.layout import pack
from dagrun.codegen.movement import (
    DIGIT_BITS,
    Index,
    add_kernel,
    digits_of,
    indexed_params,
    ordering_kernel,
    put_kernel,
    sorted_kernels,
    take_kernel,
    tiles_of,
)
from dagrun.codegen.target import target as lowering_target
from dagrun.ops.cutting import MOST_PIECES, PIECE_BYTES, cut
from dagrun.ops.elementwise import MOST_PLANS, broadcast_strides, elementwise_bodies
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, layout

MOST_INDICES = 12  # index arrays that a native body takes

# Each piece of a scatter goes through all the indices, which costs about as much as moving so many bytes for each.
SCAN_BYTES = 128

_SCATTER = {"put": put_kernel, "add": add_kernel}

FEW_POSITIONS = 1 << 12  # below, a GPU never sorts them first
SCRATCH = np.dtype(np.uint32)
_ITEM = np.dtype(np.uint64)


@dataclass(frozen=True, slots=True)
class Walk:
    """How the dense operand is walked: for each of its dimensions, where the other operands lie."""

    shape: tuple[int, ...]
    source: tuple[int, ...]  # the axis of the indexed operand, -1 where indices say the place
    index_axes: tuple[int, ...]  # the dimensions over which index arrays vary
    indexed: tuple[int, ...]  # byte strides of the indexed operand, 0 where indices say the place
    indices: tuple[Index, ...]


def dense_shape(target: Sequence[int], indices: Sequence[Any], axes: Sequence[int], place: int) -> tuple[int, ...]:
    """The shape of the dense operand: of `x[..., i, j, ...]`, the indices' dimensions standing at `place`."""
    try:
        broadcast = np.broadcast_shapes(*(index.shape for index in indices))
    except ValueError:
        shapes = ", ".join(str(index.shape) for index in indices)
        raise IndexError(f"shape mismatch: index arrays of shapes {shapes} do not broadcast together") from None
    rest = [length for axis, length in enumerate(target) if axis not in axes]
    return (*rest[:place], *broadcast, *rest[place:])


def walk_of_indices(
    target: Any, indices: Sequence[Any], axes: tuple[int, ...], place: int, names: Sequence[int], back: bool = True
) -> Walk:
    """How `target[..., i, j, ...]` is walked: indices i, j into `axes`, their dimensions standing at `place`.

    `back`: negative indices count from the end.
    """
    shape = dense_shape(target.shape, indices, axes, place)
    kept = [axis for axis in range(target.ndim) if axis not in axes]
    count = len(shape) - len(kept)
    source = (*kept[:place], *(-1,) * count, *kept[place:])
    broadcast, behind = shape[place : place + count], (0,) * (len(kept) - place)
    strides = [(*(0,) * place, *broadcast_strides(index, broadcast), *behind) for index in indices]
    found = tuple(
        Index(own, target.shape[axis], target.strides[axis], name, back)
        for own, axis, name in zip(strides, axes, names, strict=True)
    )
    along = tuple(target.strides[axis] if axis >= 0 else 0 for axis in source)
    return Walk(shape, source, tuple(range(place, place + count)), along, found)


def walk_along(target: Any, index: Any, axis: int, shape: tuple[int, ...]) -> Walk:
    """How elements are walked whose indices along one axis stand in an array of as many axes."""
    others = tuple(1 if d == axis else length for d, length in enumerate(target.shape))
    strides = broadcast_strides(layout(target.dtype, others, target.strides), shape)
    source = tuple(-1 if d == axis or target.shape[d] != shape[d] else d for d in range(len(shape)))
    own = broadcast_strides(index, shape)
    varies = tuple(d for d in range(len(shape)) if d == axis or source[d] < 0 or index.shape[d] != 1)
    found = Index(own, target.shape[axis], target.strides[axis], axis)
    return Walk(shape, source, varies, tuple(0 if d == axis else s for d, s in enumerate(strides)), (found,))


def _part(walk: Walk, axis: int, start: int, stop: int, view: Any, strides: Sequence[int], use: Operand) -> Operand:
    """The piece [start, stop) along a dimension of an operand with these strides along the dense dimensions."""
    shape = (*walk.shape[:axis], stop - start, *walk.shape[axis + 1 :])
    return Operand(use.index, use.mode, start * strides[axis], layout(view.dtype, shape, tuple(strides)))


def _indexed_part(walk: Walk, axis: int, start: int, stop: int, view: Any, use: Operand) -> Operand:
    """The piece of the indexed operand: all of it where indices say the place."""
    own = walk.source[axis]
    if own < 0:
        return use
    shape = (*view.shape[:own], stop - start, *view.shape[own + 1 :])
    return Operand(use.index, use.mode, start * view.strides[own], layout(view.dtype, shape, view.strides))


def _bodies(
    address: int, walk: Walk, axis: int, pieces: Sequence[tuple[int, int]], dense: Any, indexed: Any,
    indices: Sequence[Any], uses: Sequence[Operand], gathers: bool,
) -> tuple[Body, ...]:  # fmt: skip
    """One body for each piece along a dimension; `uses`: how dense, indexed and index arrays are used."""
    strides = broadcast_strides(dense, walk.shape)
    cost = (2 * dense.nbytes + sum(index.nbytes for index in indices)) // len(pieces)
    bodies = []
    for start, stop in pieces:
        shape, operands, first = walk.shape, list(uses), 0
        if len(pieces) > 1:
            shape = (*shape[:axis], stop - start, *shape[axis + 1 :])
            operands = [
                _part(walk, axis, start, stop, dense, strides, uses[0]),
                _indexed_part(walk, axis, start, stop, indexed, uses[1]),
            ]
            for number, index in enumerate(indices):
                operands.append(_part(walk, axis, start, stop, index, walk.indices[number].strides, uses[2 + number]))
            if axis in walk.index_axes:  # the outermost of them: positions before this piece
                first = start * prod(shape[d] for d in walk.index_axes if d != axis)
        params = indexed_params(shape, strides, walk.indexed, walk.index_axes, walk.indices, first)
        if not gathers:
            operands[:2] = operands[1::-1]
        bodies.append(Body(address, params, tuple(operands), cost))
    return tuple(bodies)


def gather_bodies(output: Any, source: Any, indices: Sequence[Any], walk: Walk) -> tuple[Body, ...] | None:
    """The tasks of a gather: pieces of the result along its first dimension of more than one element."""
    if len(indices) > MOST_INDICES:
        return None
    axis = next((d for d, length in enumerate(walk.shape) if length > 1), -1)
    pieces = cut(walk.shape[axis], 2 * output.nbytes) if axis >= 0 and output.size else [(0, 0)]
    uses = (Operand(0, WRITE | OVERWRITE), Operand(1, READ), *(Operand(2 + k, READ) for k in range(len(indices))))
    address = take_kernel(source.dtype, *(index.dtype for index in indices))
    return _bodies(address, walk, axis, pieces, output, source, indices, uses, True)


def scatter_bodies(
    which: str, outputs: Sequence[Any], values: Any, indices: Sequence[Any], walk: Walk, first: int = 1
) -> tuple[Body, ...] | None:
    """The tasks that "put" or "add" values at indices of output 0; values are operand `first`, index arrays follow.

    They are cut along a dimension that the target has too, so that each of its elements belongs to one task and gets
    its values in order. Where index arrays do not vary along it, every task goes through all of them: then there are
    only as many as moving the values pays for. With scratch memory as output 1, a GPU sorts positions first.
    """
    target = outputs[0]
    if len(outputs) == 2:
        if lowering_target() != "cuda":
            return None
        return _sorted_bodies(which, outputs, values, indices, walk, first)
    if len(indices) > MOST_INDICES:
        return None
    outermost = next((d for d in walk.index_axes if walk.shape[d] > 1), -1)  # along it positions can be counted
    along = (d for d, own in enumerate(walk.source) if own >= 0 and (d == outermost or d not in walk.index_axes))
    axis = next((d for d in along if walk.shape[d] > 1), -1)
    pieces = [(0, 0)]
    size = prod(walk.shape)
    if axis >= 0 and size:
        most = MOST_PIECES
        if axis not in walk.index_axes:
            row = prod(walk.shape[d] for d in range(len(walk.shape)) if d not in walk.index_axes)
            most = row * target.dtype.itemsize // SCAN_BYTES
        pieces = cut(walk.shape[axis], min(2 * size * target.dtype.itemsize, most * PIECE_BYTES))
    uses = (
        Operand(first, READ),
        Operand(0, READ | WRITE),
        *(Operand(first + 1 + k, READ) for k in range(len(indices))),
    )
    address = _SCATTER[which](target.dtype, *(index.dtype for index in indices))
    return _bodies(address, walk, axis, pieces, values, target, indices, uses, False)


def _digits(walk: Walk) -> tuple[int, int]:
    """(positions of the index arrays, by how many digits a GPU sorts them before it serves them in order)"""
    sizes = [(walk.shape[d], walk.indexed[d] != 0) for d in walk.index_axes]
    positions = prod(size for size, _ in sizes)
    if positions < FEW_POSITIONS:
        return positions, 0
    places = prod(size for size, own in sizes if own) * prod(index.length for index in walk.indices)
    slices = 1
    for size, own in sizes:
        if not own and size > 1:
            break
        slices *= size
    return positions, digits_of(positions, prod(walk.shape) // positions, places, slices, len(walk.indices))


def scratch_of(walk: Walk) -> int:
    """How many uint32 of scratch memory a scatter takes on a GPU, as its second output; 0: none, it takes one launch.

    Two sets of items, which a sort moves to and fro, and its counts.
    """
    positions, digits = _digits(walk)
    return 4 * positions + tiles_of(positions)[1] if digits else 0


@lru_cache(MOST_PLANS)
def scratch_at(target: Any, indices: tuple[Any, ...], axes: tuple[int, ...], place: int) -> int:
    """`scratch_of` of a scatter at indices i, j of `target[..., i, j, ...]`, as `walk_of_indices` has it."""
    return scratch_of(walk_of_indices(target, indices, axes, place, axes))


def _sorted_bodies(
    which: str, outputs: Sequence[Any], values: Any, indices: Sequence[Any], walk: Walk, first: int
) -> tuple[Body, ...]:
    """The launches of a scatter that sorts positions by where they point, so that each place has a run of them."""
    target, scratch = outputs
    positions, digits = _digits(walk)
    if not digits or scratch.size != scratch_of(walk):
        raise Unsupported("the scratch memory is that of another scatter")
    make, serve = sorted_kernels(which, target.dtype, *(index.dtype for index in indices))
    params = indexed_params(
        walk.shape, broadcast_strides(values, walk.shape), walk.indexed, walk.index_axes, walk.indices
    )
    tile, counts = tiles_of(positions)
    items = layout(_ITEM, (positions,))
    counted = layout(SCRATCH, (counts,))
    pointing = tuple(Operand(first + 1 + k, READ) for k in range(len(indices)))

    def items_of(turn: int, mode: int) -> Operand:
        return Operand(1, mode, turn % 2 * items.nbytes, items)

    def counts_as(mode: int) -> Operand:
        return Operand(1, mode, 2 * items.nbytes, counted)

    count, tiles, move = map(ordering_kernel, ("count", "tiles", "move"))
    bodies = [Body(make, params, (items_of(0, WRITE | OVERWRITE), *pointing), 2 * items.nbytes)]
    for turn in range(digits):
        words = pack((positions, tile, 32 + turn * DIGIT_BITS))
        source = items_of(turn, READ)
        bodies += (
            Body(count, words, (counts_as(WRITE | OVERWRITE), source), items.nbytes),
            Body(tiles, pack((-(-positions // tile),)), (counts_as(READ | WRITE),), counted.nbytes),
            Body(move, words, (items_of(turn + 1, WRITE | OVERWRITE), source, counts_as(READ)), 2 * items.nbytes),
        )
    operands = (Operand(0, READ | WRITE), Operand(first, READ), items_of(digits, READ), *pointing)
    bodies.append(Body(serve, params, operands, 2 * prod(walk.shape) * target.dtype.itemsize))
    return tuple(bodies)


def zero_bodies(output: Any) -> tuple[Body, ...]:
    """The tasks that fill a result with zeros."""
    return elementwise_bodies(elementwise_kernel(Constant(0, str(output.dtype))), output, ())


def copy_bodies(output: Any, source: Any, place: int = 1) -> tuple[Body, ...]:
    """The tasks that copy operand `place` into a result."""
    address = elementwise("cast", [source.dtype], source.dtype, output.dtype)
    bodies = elementwise_bodies(address, output, (source,))
    return tuple(replace(body, operands=(body.operands[0], replace(body.operands[1], index=place))) for body in bodies)
