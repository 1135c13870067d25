"""Order: sort, argsort, searchsorted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.layout import pack
from dagrun.codegen.sorting import sorted_runs, sorting_kernel
from dagrun.codegen.target import target
from dagrun.core import device_index, native
from dagrun.ops.cutting import cut
from dagrun.ops.elementwise import cast_into, copied
from dagrun.ops.indexing import take, take_along_axis
from dagrun.ops.joining import unstack
from dagrun.ops.manipulation import normal_axis, ravel
from dagrun.ops.scattering import add_along_axis
from dagrun.record import OVERWRITE, READ, WRITE, Body, Gradients, Operand, Operator, apply, common_device, layout

MOST_LENGTH = 1 << 32  # of a line that a native body sorts, exclusive
_PLACE = np.dtype(np.uint32)
SORT_COST = 16  # sorting takes as long as moving so many times the bytes
MERGE_COST = 4
RUN_BYTES, MOST_RUNS = 1 << 21, 16  # of a run that a task sorts; runs of a line, a power of two


# `scratch`: how many uint32 for each element are needed beside the result, as a second result: by GPUs, and by CPUs
# where a line is sorted in runs.


def _infer_sort(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int, descending: bool, scratch: int = 0) -> Any:
    return _with_scratch(inputs[0], inputs[0].dtype, scratch)


def _infer_argsort(
    inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int, descending: bool, scratch: int = 0
) -> Any:
    return _with_scratch(inputs[0], np.dtype(np.int64), scratch)


def _with_scratch(x: Any, result: Any, scratch: int) -> Any:
    made = (x.shape, result)
    return (made, ((scratch * x.size,), _PLACE)) if scratch else (made,)


def _sort(xp: Any, x: Any, *, axis: int, descending: bool, scratch: int = 0) -> Any:
    if descending:
        made = xp.flip(xp.sort(xp.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        made = xp.sort(x, axis=axis, kind="stable")
    return (made, xp.zeros(scratch * x.size, _PLACE)) if scratch else made


def _argsort(xp: Any, x: Any, *, axis: int, descending: bool, scratch: int = 0) -> Any:
    if descending:
        last = x.shape[axis] - 1
        made = xp.flip(last - xp.argsort(xp.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        made = xp.argsort(x, axis=axis, kind="stable")
    return (made, xp.zeros(scratch * x.size, _PLACE)) if scratch else made


def _lower_sort(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], **how: Any
) -> tuple[Body, ...] | None:
    return (_gpu_bodies if target() == "cuda" else _sort_bodies)("sort", outputs, inputs[0], **how)


def _lower_argsort(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], **how: Any
) -> tuple[Body, ...] | None:
    return (_gpu_bodies if target() == "cuda" else _sort_bodies)("argsort", outputs, inputs[0], **how)


def _line_words(shape: tuple[int, ...], output: Any, source: Any, axis: int, descending: bool) -> tuple[int, ...]:
    """The params of the lines along an axis of a part of this shape."""
    others = [d for d in range(source.ndim) if d != axis]
    lines = [word for d in others[::-1] for word in (shape[d], output.strides[d], source.strides[d])]
    return (shape[axis], output.strides[axis], source.strides[axis], int(descending), len(others), *lines)


def _gpu_bodies(
    kernel: str, outputs: Sequence[Any], source: Any, axis: int, descending: bool, scratch: int = 0
) -> tuple[Body, ...]:
    """The launches of a sort: of tiles, then of ever longer runs that are merged, to and fro in the scratch memory."""
    runs = sorted_runs(source.shape[axis])
    words = _line_words(source.shape, outputs[0], source, axis, descending)
    if scratch != _scratch(source, axis):
        raise Unsupported("the scratch memory is that of another device's tasks")
    places = layout(_PLACE, (source.size,))
    bodies = []
    for number, run in enumerate(runs):
        last = number == len(runs) - 1
        which = (f"merge_{kernel}" if number else kernel) if last else "merge" if number else "tiles"
        own = Operand(0, WRITE | OVERWRITE)
        if not last:
            own = Operand(1, WRITE | OVERWRITE, number % 2 * places.nbytes, places)
        before = (Operand(1, READ, (number - 1) % 2 * places.nbytes, places),) if number else ()
        operands = own, Operand(len(outputs), READ), *before
        bodies.append(Body(sorting_kernel(which, source.dtype), pack((*words, run)), operands, 2 * source.nbytes))
    return tuple(bodies)


def _scratch(x: Any, axis: int) -> int:
    return min(2, len(sorted_runs(x.shape[axis])) - 1)


def _sort_bodies(
    kernel: str, outputs: Sequence[Any], source: Any, axis: int, descending: bool, scratch: int = 0
) -> tuple[Body, ...] | None:
    """The tasks of a sort: each takes whole lines, or, with scratch memory, runs of one."""
    output, positions = outputs[0], kernel == "argsort"
    if scratch:
        return _run_bodies(outputs[0], source, axis, descending) if scratch == _run_scratch(source, axis) else None
    address = native.sorter(source.dtype.kind, source.dtype.itemsize, positions)
    if not address or source.shape[axis] >= MOST_LENGTH:
        return None
    others = [d for d in range(source.ndim) if d != axis]
    along = next((d for d in others if source.shape[d] > 1), -1)
    cost = SORT_COST * source.nbytes
    pieces = cut(source.shape[along], cost) if along >= 0 and source.size else [(0, 0)]
    bodies = []
    for start, stop in pieces:
        shape, parts = source.shape, [Operand(0, WRITE | OVERWRITE), Operand(1, READ)]
        if len(pieces) > 1:
            shape = (*shape[:along], stop - start, *shape[along + 1 :])
            parts = [
                Operand(part.index, part.mode, start * view.strides[along], layout(view.dtype, shape, view.strides))
                for part, view in zip(parts, (output, source), strict=True)
            ]
        params = pack(_line_words(shape, output, source, axis, descending))
        bodies.append(Body(address, params, tuple(parts), cost // len(pieces)))
    return tuple(bodies)


def _runs(x: Any, axis: int) -> int:
    """In how many runs the values of a line are sorted: in several where there is one long line."""
    runs = 1
    while x.shape[axis] == x.size and x.dtype.itemsize >= 4 and x.nbytes > runs * RUN_BYTES and runs < MOST_RUNS:
        runs *= 2
    return runs


def _run_scratch(x: Any, axis: int) -> int:
    return x.dtype.itemsize // _PLACE.itemsize if _runs(x, axis) > 1 else 0


def _run_bodies(output: Any, source: Any, axis: int, descending: bool) -> tuple[Body, ...] | None:
    """Runs are sorted, then merged two by two, to and fro between the result and the scratch memory.

    Each task of a merge writes as much as a run has, from wherever in the two runs it must begin.
    """
    kind, item, length, runs = source.dtype.kind, source.dtype.itemsize, source.shape[axis], _runs(source, axis)
    sorts, merges = native.sorter(kind, item, False), native.merger(kind, item)
    if not sorts or length >= MOST_LENGTH:
        return None
    bounds, levels = [length * k // runs for k in range(runs + 1)], runs.bit_length() - 1

    def part(level: int, start: int, stop: int, mode: int = READ) -> Operand:
        """Elements of what a level (0: the sorts) leaves: the last one leaves the result."""
        return Operand((levels - level) % 2, mode, start * item, layout(source.dtype, (stop - start,)))

    bodies = []
    for start, stop in pairwise(bounds):
        params = pack((stop - start, item, source.strides[axis], int(descending) | 2, 0))
        own = layout(source.dtype, (stop - start,), (source.strides[axis],))
        read = Operand(2, READ, start * source.strides[axis], own)
        written, scratch = (part(level, start, stop, WRITE | OVERWRITE) for level in (0, 1))
        bodies.append(Body(sorts, params, (written, read, scratch), SORT_COST * (stop - start) * item))
    for level in range(1, levels + 1):
        for k, (start, stop) in enumerate(pairwise(bounds)):
            pair = k >> level << level
            begin, middle, end = (bounds[pair + (half << level - 1)] for half in range(3))
            words = middle - begin, end - middle, start - begin, stop - begin, item, item, int(descending)
            operands = part(level, start, stop, WRITE | OVERWRITE), part(level - 1, begin, end)
            bodies.append(Body(merges, pack(words), operands, MERGE_COST * (stop - start) * item))
    return tuple(bodies)


def _explain(code: int, details: tuple[int, ...]) -> tuple[type[Exception], str]:
    return MemoryError, "no scratch memory for a line of elements"


def _sort_gradient(g: Any, a: Any, call: Any) -> Any:
    order = argsort(a, call["axis"], descending=call["descending"])
    return add_along_axis(g, order, a.shape, call["axis"])


SORT = Operator("sort", _infer_sort, _sort, _lower_sort, _explain, Gradients(_sort_gradient))
ARGSORT = Operator("argsort", _infer_argsort, _argsort, _lower_argsort, _explain)


def _along(x: Any, axis: int | None, name: str) -> tuple[Array, int]:
    """The array and the axis to go along: of the flattened array where it is None."""
    x = as_array(x)
    return (ravel(x), 0) if axis is None else (x, normal_axis(axis, x.ndim, name))


def sort(x: Any, /, axis: int | None = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order along an axis (of the flattened array where it is None); always stable.

    NaN come last, or first where descending.

        >>> import dagrun as dr
        >>> dr.sort(dr.asarray([3, 1, 2]))
        array([1, 2, 3])
    """
    x, place = _along(x, axis, "sort")
    return _ordered(SORT, x, place, descending)


def argsort(x: Any, /, axis: int | None = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The indices that put the elements in order along an axis; equal elements keep their order.

    >>> import dagrun as dr
    >>> dr.argsort(dr.asarray([3, 1, 2]))
    array([1, 2, 0])
    """
    x, place = _along(x, axis, "argsort")
    return _ordered(ARGSORT, x, place, descending)


def _ordered(op: Operator, x: Array, axis: int, descending: bool) -> Array:
    attributes: tuple[tuple[str, Any], ...] = (("axis", axis), ("descending", bool(descending)))
    scratch = 0
    if x.device.kind == "cuda":
        scratch = _scratch(x, axis)
    elif op is SORT:
        scratch = _run_scratch(x, axis)
    if not scratch:
        return apply(op, (x,), device_index(x.device), attributes=attributes)
    return apply(op, (x,), device_index(x.device), attributes=(*attributes, ("scratch", scratch)))[0]


def topk(x: Any, k: int, /, axis: int = -1, *, largest: bool = True) -> tuple[Array, Array]:
    """The k largest (or smallest) elements along an axis, in order, and their indices; ties by the lower index.

    NaN count as largest. ValueError where there are fewer than k elements. PyTorch's function of this name.

        >>> import dagrun as dr
        >>> dr.topk(dr.asarray([3, 9, 5]), 2)
        (array([9, 5]), array([1, 2]))
    """
    x = as_array(x)
    place = normal_axis(axis, x.ndim, "topk")
    if not 0 <= k <= x.shape[place]:
        raise ValueError(f"topk: k is {k}, expected 0 to {x.shape[place]}, the length of axis {axis}")
    order = argsort(x, place, descending=largest)
    indices = order[(*(slice(None),) * place, slice(k))]
    return take_along_axis(x, indices, place), indices


def _sort_in_place(self: Array, axis: int = -1, *, descending: bool = False, stable: bool = True) -> None:
    """Puts the elements in order along an axis, in place, as NumPy's method does; `dr.sort` gives a sorted copy."""
    cast_into(sort(self, axis, descending=descending), self)


def _lower_search(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, side: str
) -> tuple[Body, ...] | None:
    """Each task takes some of the elements, which are contiguous."""
    line, wanted = inputs
    on_gpu = target() == "cuda"
    address = sorting_kernel("search", line.dtype) if on_gpu else native.searcher(line.dtype.kind, line.dtype.itemsize)
    if not address:
        return None
    bodies = []
    cost = wanted.size * max(1, line.size.bit_length()) * 8
    for start, stop in cut(wanted.size, cost) if wanted.size else [(0, 0)]:
        parts = [
            Operand(which, mode, start * view.dtype.itemsize, layout(view.dtype, (stop - start,)))
            for which, mode, view in ((0, WRITE | OVERWRITE, outputs[0]), (2, READ, wanted))
        ]
        params = pack((stop - start, line.size, line.strides[0], int(side == "right")))
        bodies.append(Body(address, params, (parts[0], Operand(1), parts[1]), cost))
    return tuple(bodies)


SEARCH = Operator(
    "searchsorted",
    lambda inputs, scalars, side: ((inputs[1].shape, np.dtype(np.int64)),),
    lambda xp, x1, x2, side: xp.searchsorted(x1, x2, side=side),
    _lower_search,
)


def searchsorted(x1: Any, x2: Any, /, side: str = "left", sorter: Any = None) -> Array:
    """Where each element of x2 would be inserted into the one-dimensional x1, which is sorted, or sorted by `sorter`.

    Before elements that equal it, or after them with side="right". NaN come last.

    >>> import dagrun as dr
    >>> dr.searchsorted(dr.asarray([1, 3, 5]), [3, 4])
    array([1, 2])
    """
    values = x2 if isinstance(x2, Array) else None
    x1 = x1 if isinstance(x1, Array) else asarray(x1, device=None if values is None else values.device)
    if x1.ndim != 1 or side not in ("left", "right"):
        raise ValueError(
            f"searchsorted: x1 has {x1.ndim} axes and side is {side!r}, expected one axis, 'left' or 'right'"
        )
    values = asarray(x2, device=x1.device) if values is None else values
    where = common_device("searchsorted", [x1, values])
    line = x1 if sorter is None else take(x1, sorter)
    dtype = np.result_type(x1.dtype, values.dtype)
    line, values = line.astype(dtype, copy=False), values.astype(dtype, copy=False)
    values = values if values._layout.contiguous else copied(values)
    return apply(SEARCH, (line, values), device_index(where), attributes=(("side", side),))


def lexsort(keys: Any, /, axis: int = -1) -> Array:
    """The indices that put elements in order by several keys, the last of which counts most.

    >>> import dagrun as dr
    >>> dr.lexsort([[1, 0, 0], [5, 7, 5]])
    array([2, 0, 1])
    """
    rows = unstack(keys) if isinstance(keys, Array) else [as_array(key) for key in keys]
    if not rows:
        raise TypeError("lexsort: expected at least one key")
    order = argsort(rows[0], axis)
    for row in rows[1:]:
        order = take_along_axis(order, argsort(take_along_axis(row, order, axis), axis), axis)
    return order


def partition(x: Any, /, kth: Any, axis: int | None = -1) -> Array:
    """A copy with the `kth` elements where sorting puts them, none larger before them; here all of it is sorted."""
    return sort(*_with_places(x, kth, axis, "partition"))


def argpartition(x: Any, /, kth: Any, axis: int | None = -1) -> Array:
    """The indices of `partition`; here those of `argsort`."""
    return argsort(*_with_places(x, kth, axis, "argpartition"))


def _with_places(x: Any, kth: Any, axis: int | None, name: str) -> tuple[Array, int]:
    x, place = _along(x, axis, name)
    for k in np.asarray(kth).reshape(-1).tolist():
        if not -x.shape[place] <= k < x.shape[place]:
            raise ValueError(f"{name}: kth {k} is out of range for an axis of length {x.shape[place]}")
    return x, place


def _partition_in_place(self: Array, kth: Any, axis: int = -1) -> None:
    """`partition` in place, as NumPy's method does."""
    cast_into(partition(self, kth, axis), self)


extend(
    sort=_sort_in_place,
    argsort=argsort,
    searchsorted=searchsorted,
    partition=_partition_in_place,
    argpartition=argpartition,
)
