"""Shapes: views of the same memory with other axes. Only `reshape` copies, where no view will do."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.exceptions import AxisError

from dagrun.array import Array, as_array, extend
from dagrun.core import native
from dagrun.ops.elementwise import MOST_PLANS, cast_into, copied, fits
from dagrun.record import SELECTED, Gradients, layout, undefined

Axes = int | Sequence[int]


def view(x: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Array:
    """Another view of the array's memory: shape, byte strides, and bytes from the array's first element."""
    return native.view(x, layout(x.dtype, shape, strides), x._offset + offset, undefined("view"))


# How gradients pass through views; the rules' `call["arguments"]` is what follows the rule in `native.view`.
SAME_ELEMENTS = Gradients(lambda g, xp, call: xp.reshape(g, call.inputs[0].shape))


def normal_axis(axis: int, ndim: int, name: str) -> int:
    """An axis counted from the front. AxisError (an IndexError and a ValueError) where there is none."""
    axis = operator.index(axis)
    if not -ndim <= axis < ndim:
        raise AxisError(axis, ndim, name)
    return axis % ndim


def normal_axes(axes: Axes, ndim: int, name: str) -> tuple[int, ...]:
    """One axis or several, counted from the front, none twice."""
    given = axes if isinstance(axes, Sequence) else (axes,)
    places = tuple(normal_axis(axis, ndim, name) for axis in given)
    if len(set(places)) != len(places):
        raise ValueError(f"{name}: axes {tuple(given)} of an array of {ndim} axes name one of them twice")
    return places


def _integers(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Lengths or axes given one by one or as one sequence."""
    if len(given) == 1 and type(given[0]) is not int:
        given = (given[0],) if hasattr(given[0], "__index__") else tuple(given[0])
    return tuple([operator.index(item) for item in given])


# ---- reshape


def _lengths(base: Any, target: tuple[int, ...]) -> tuple[int, ...]:
    """The target shape with -1 replaced; ValueError where the elements do not fit."""
    known = prod(length for length in target if length != -1)
    unknown = target.count(-1)
    if unknown > 1 or any(length < -1 for length in target):
        raise ValueError(f"reshape: {target} is no shape: at most one length may be -1, the others not negative")
    if known != base.size if not unknown else known == 0 or base.size % known:
        raise ValueError(f"reshape: cannot reshape an array of shape {base.shape} ({base.size} elements) into {target}")
    return tuple(base.size // known if length == -1 else length for length in target)


def _no_copy_strides(base: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of a view's elements seen in another shape, or None where no view has them.

    Axes of both shapes are paired off in groups of the same number of elements; a group of the old axes must be one
    run in memory, which the new axes then cut.
    """
    old = [(n, s) for n, s in zip(base.shape, base.strides, strict=True) if n != 1]
    strides: list[int] = []
    place = 0
    for start, stop, count in _groups([n for n, _ in old], shape):
        group = old[place : place + count]
        place += count
        for (_, outer), (length, inner) in pairwise(group):
            if outer != length * inner:
                return None
        step = group[-1][1] if group else base.dtype.itemsize
        own: list[int] = []
        for length in reversed(shape[start:stop]):
            own.append(step)
            step *= length
        strides += reversed(own)
    return tuple(strides)


def _groups(old: list[int], new: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(start, stop) of runs of new axes, and how many old axes hold as many elements."""
    groups, place, start = [], 0, 0
    while start < len(new):
        have = want = 1
        count, stop = 0, start
        while stop < len(new) and (stop == start or have != want):
            want *= new[stop]
            stop += 1
            while have < want:
                have *= old[place + count]
                count += 1
        groups.append((start, stop, count))
        place += count
        start = stop
    return groups


@lru_cache(MOST_PLANS)
def _reshaped(base: Any, target: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
    """The final shape, and the layout of a view that has it, or None where only a copy can."""
    shape = _lengths(base, target)
    if base.contiguous or base.size == 0:
        return shape, layout(base.dtype, shape)
    strides = _no_copy_strides(base, shape)
    return shape, None if strides is None else layout(base.dtype, shape, strides)


def reshape(x: Any, /, shape: Any, *rest: int, order: str = "C", copy: bool | None = None) -> Array:
    """The same elements in another shape, one length may be -1; a view where strides allow it, else a copy.

    The lengths stand in one sequence or one by one. Elements are taken and put with the last index changing fastest;
    the first with `order="F"`, "A": as they lie in memory.

        >>> import dagrun as dr
        >>> dr.arange(6).reshape(2, -1)
        array([[0, 1, 2],
               [3, 4, 5]])
    """
    x = as_array(x)
    if order != "C" and _first_fastest(x, order, "reshape"):
        turned = reshape(_permute(x, None), _integers((shape, *rest))[::-1], copy=copy)
        return _permute(turned, None)
    target, final = _reshaped(x._layout, _integers((shape, *rest)))
    if final is not None and not copy:
        return native.view(x, final, x._offset, SAME_ELEMENTS)
    if copy is False:
        raise ValueError(f"reshape(copy=False): no view of shape {x.shape}, strides {x.strides} has shape {target}")
    return native.view(copied(x), layout(x.dtype, target), 0, SAME_ELEMENTS)


def _first_fastest(x: Array, order: str, name: str) -> bool:
    """Whether an order of elements means the first index changing fastest: "F", or "A" and "K" where memory does."""
    if order not in ("C", "F", "A", "K"):
        raise ValueError(f"{name}: order is {order!r}, expected 'C', 'F', 'A' or 'K'")
    if order in ("A", "K"):
        turned = layout(x.dtype, x.shape[::-1], x.strides[::-1])
        return turned.contiguous and not x._layout.contiguous
    return order == "F"


def ravel(x: Any, /, order: str = "C") -> Array:
    """The elements in one axis, in an order of `reshape`'s; a view where possible."""
    return reshape(x, -1, order=order)


def flatten(x: Any, /, order: str = "C") -> Array:
    """A copy of the elements in one axis, in an order of `reshape`'s."""
    return reshape(x, -1, order=order, copy=True)


# ---- order of axes


@lru_cache(MOST_PLANS)
def _permuted(base: Any, axes: tuple[int, ...] | None) -> Any:
    if axes is None:
        return layout(base.dtype, base.shape[::-1], base.strides[::-1])
    order = normal_axes(axes, base.ndim, "transpose")
    if len(order) != base.ndim:
        raise ValueError(f"transpose: axes {axes} are no permutation of {base.ndim} axes")
    return layout(base.dtype, tuple(base.shape[i] for i in order), tuple(base.strides[i] for i in order))


def _unpermuted(g: Any, xp: Any, call: Any) -> Any:
    (axes,) = call["arguments"]
    return xp.transpose(g) if axes is None else xp.permute_dims(g, np.argsort([axis % g.ndim for axis in axes]))


PERMUTED = Gradients(_unpermuted)


def _permute(x: Array, axes: tuple[int, ...] | None) -> Array:
    return native.view(x, _permuted(x._layout, axes), x._offset, PERMUTED, axes)


def permute_dims(x: Any, /, axes: Sequence[int]) -> Array:
    """A view with the axes in another order.

    >>> import dagrun as dr
    >>> dr.permute_dims(dr.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    return _permute(as_array(x), tuple(axes))


def transpose(x: Any, /, *order: Any, axes: Any = None) -> Array:
    """A view with the axes reversed, or in the order given, one by one, as a sequence, or as `axes`."""
    given = order or (axes,)
    return _permute(as_array(x), None if given == (None,) else _integers(given))


def matrix_transpose(x: Any, /) -> Array:
    """A view with the last two axes exchanged."""
    x = as_array(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: the array has {x.ndim} axes, expected at least 2")
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, /, axis1: int, axis2: int) -> Array:
    """A view with two axes exchanged."""
    x = as_array(x)
    order = list(range(x.ndim))
    a, b = normal_axis(axis1, x.ndim, "swapaxes"), normal_axis(axis2, x.ndim, "swapaxes")
    order[a], order[b] = order[b], order[a]
    return _permute(x, tuple(order))


def moveaxis(x: Any, /, source: Axes, destination: Axes) -> Array:
    """A view with some axes moved to other places."""
    x = as_array(x)
    sources, targets = normal_axes(source, x.ndim, "moveaxis"), normal_axes(destination, x.ndim, "moveaxis")
    if len(sources) != len(targets):
        raise ValueError(f"moveaxis: {source} and {destination} do not pair axes one to one")
    order = [axis for axis in range(x.ndim) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return _permute(x, tuple(order))


@lru_cache(MOST_PLANS)
def _flipped(base: Any, axes: tuple[int, ...]) -> tuple[Any, int]:
    turned = normal_axes(axes, base.ndim, "flip")
    offset = sum((base.shape[i] - 1) * base.strides[i] for i in turned) if base.size else 0
    return layout(base.dtype, base.shape, tuple(-s if i in turned else s for i, s in enumerate(base.strides))), offset


FLIPPED = Gradients(lambda g, xp, call: xp.flip(g, call["arguments"][0]))


def flip(x: Any, /, axis: Axes | None = None) -> Array:
    """A view with the order of elements reversed along all axes, or those named."""
    x = as_array(x)
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, Sequence) else (axis,)
    final, offset = _flipped(x._layout, tuple(axes))
    return native.view(x, final, x._offset + offset, FLIPPED, tuple(axes))


# ---- number of axes


@lru_cache(MOST_PLANS)
def _expanded(base: Any, places: tuple[int, ...]) -> Any:
    ndim = base.ndim + len(places)
    new = normal_axes(places, ndim, "expand_dims")
    own = iter(zip(base.shape, base.strides, strict=True))
    pairs = [(1, 0) if place in new else next(own) for place in range(ndim)]
    return layout(base.dtype, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))


def expand_dims(x: Any, /, axis: Axes = 0) -> Array:
    """A view with a new axis of length 1 at each place named.

    >>> import dagrun as dr
    >>> dr.expand_dims(dr.zeros((2, 3)), (0, -1)).shape
    (1, 2, 3, 1)
    """
    x = as_array(x)
    places = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    return native.view(x, _expanded(x._layout, places), x._offset, SAME_ELEMENTS)


@lru_cache(MOST_PLANS)
def _squeezed(base: Any, axes: tuple[int, ...] | None) -> Any:
    if axes is None:
        gone: tuple[int, ...] = tuple(place for place, length in enumerate(base.shape) if length == 1)
    else:
        gone = normal_axes(axes, base.ndim, "squeeze")
    for place in gone:
        if base.shape[place] != 1:
            raise ValueError(f"squeeze: axis {place} has length {base.shape[place]}, expected 1")
    kept = [place for place in range(base.ndim) if place not in gone]
    return layout(base.dtype, tuple(base.shape[i] for i in kept), tuple(base.strides[i] for i in kept))


def squeeze(x: Any, /, axis: Axes | None = None) -> Array:
    """A view without axes of length 1: those named, or all."""
    x = as_array(x)
    axes = None if axis is None else tuple(axis) if isinstance(axis, Sequence) else (axis,)
    return native.view(x, _squeezed(x._layout, axes), x._offset, SAME_ELEMENTS)


def atleast_1d(x: Any, /) -> Array:
    """The array, or a view with one axis where it has none."""
    x = as_array(x)
    return x if x.ndim else reshape(x, 1)


def atleast_2d(x: Any, /) -> Array:
    """The array, or a view with two axes, new ones in front."""
    x = as_array(x)
    return x if x.ndim >= 2 else expand_dims(x, tuple(range(2 - x.ndim)))


# ---- broadcasting


@lru_cache(MOST_PLANS)
def _broadcast(base: Any, target: tuple[int, ...]) -> Any:
    if not fits(base.shape, target):
        raise ValueError(f"broadcast_to: an array of shape {base.shape} does not broadcast to {target}")
    lead = len(target) - base.ndim
    strides = (0,) * lead + tuple(
        0 if own == 1 and length != 1 else stride
        for own, length, stride in zip(base.shape, target[lead:], base.strides, strict=True)
    )
    return layout(base.dtype, target, strides)


BROADCAST = Gradients(lambda g: g)  # summed to the operand's shape, as all gradients are


def broadcast_to(x: Any, /, shape: int | Sequence[int]) -> Array:
    """A view of a larger shape that repeats elements without copying. It cannot be written: ValueError.

    >>> import dagrun as dr
    >>> dr.broadcast_to(dr.asarray([1, 2]), (2, 2))
    array([[1, 2],
           [1, 2]])
    """
    x = as_array(x)
    return native.view(x, _broadcast(x._layout, _integers((shape,))), x._offset, BROADCAST)


def broadcast_arrays(*arrays: Any) -> list[Array]:
    """Views of the arrays in their common shape."""
    own = [as_array(x) for x in arrays]
    shape = np.broadcast_shapes(*(x.shape for x in own))
    return [broadcast_to(x, shape) for x in own]


# ---- diagonals


@lru_cache(MOST_PLANS)
def _diagonal(base: Any, offset: int, axis1: int, axis2: int) -> tuple[Any, int]:
    a, b = normal_axis(axis1, base.ndim, "diagonal"), normal_axis(axis2, base.ndim, "diagonal")
    if a == b:
        raise ValueError(f"diagonal: axis1 and axis2 are both {a}, expected two axes")
    rows, columns = (offset if offset < 0 else 0), (offset if offset > 0 else 0)
    length = max(0, min(base.shape[a] + rows, base.shape[b] - columns))
    kept = [i for i in range(base.ndim) if i not in (a, b)]
    final = layout(
        base.dtype,
        (*(base.shape[i] for i in kept), length),
        (*(base.strides[i] for i in kept), base.strides[a] + base.strides[b]),
    )
    return final, (columns * base.strides[b] - rows * base.strides[a]) if final.size else 0


def diagonal(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """A view of the diagonals along two axes, as the last axis; `offset` above the main one.

    Unlike NumPy's it can be written. AxisError for less than two axes.

        >>> import dagrun as dr
        >>> dr.diagonal(dr.asarray([[1, 2], [3, 4]]))
        array([1, 4])
    """
    x = as_array(x)
    if x.ndim < 2:
        raise ValueError(f"diagonal: the array has {x.ndim} axes, expected at least 2")
    final, start = _diagonal(x._layout, offset, axis1, axis2)
    return native.view(x, final, x._offset + start, SELECTED, diagonal, offset, axis1, axis2)


def fill(x: Array, value: Any) -> None:
    """Sets every element."""
    cast_into(value if isinstance(value, Array | np.generic | bool | int | float) else as_array(value), x)


extend(
    reshape=reshape,
    ravel=ravel,
    flatten=flatten,
    transpose=transpose,
    swapaxes=swapaxes,
    squeeze=squeeze,
    diagonal=diagonal,
    fill=fill,
    T=property(lambda self: _permute(self, None), doc="A view with the axes reversed."),
    mT=property(matrix_transpose, doc="A view with the last two axes exchanged."),
)
