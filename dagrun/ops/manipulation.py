"""Shapes: views where strides allow it (reshape, transpose, broadcast), copies where not (concatenate, stack, repeat)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend
from dagrun.codegen.elementwise import elementwise, elementwise_params
from dagrun.core import device_index, native
from dagrun.ops.elementwise import COPY, cast_into, record
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, Operator, apply, layout
from dagrun.record.apply import common_device


def view(x: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Array:
    """Another view of the array's memory: shape, byte strides, and bytes from the array's first element."""
    return native.view(x, layout(x.dtype, shape, strides), x._offset + offset)  # type: ignore[no-any-return]


def _normal(axis: int, ndim: int, name: str) -> int:
    axis = operator.index(axis)
    if not -ndim <= axis < ndim:
        raise IndexError(f"{name}: axis {axis} is out of bounds for an array of {ndim} axes")
    return axis % ndim if ndim else 0


def _int_args(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Lengths or axes given one by one or as one sequence."""
    if len(args) == 1 and not isinstance(args[0], (int, np.integer)):
        args = tuple(args[0])
    return tuple(operator.index(arg) for arg in args)


def _no_copy_strides(x: Array, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of x's elements seen in another shape, or None where no view has them."""
    probe = np.lib.stride_tricks.as_strided(np.empty(0, np.uint8 if x.itemsize == 1 else x.dtype), x.shape, x.strides)
    probe = probe.view()
    try:
        return tuple(np.reshape(probe, shape, copy=False).strides)
    except TypeError:  # NumPy 2.0 has no copy argument
        try:
            probe.shape = shape
        except AttributeError:
            return None
        return tuple(probe.strides)
    except ValueError:
        return None


def reshape(x: Array, /, *shape: Any, copy: bool | None = None) -> Array:
    """The same elements in another shape, one length may be -1; a view where strides allow it, else a copy.

    >>> import dagrun as dr
    >>> dr.arange(6).reshape(2, -1)
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    target = _int_args(shape)
    unknown = [axis for axis, length in enumerate(target) if length == -1]
    known = int(np.prod([length for length in target if length != -1], dtype=object))
    if len(unknown) > 1 or any(length < -1 for length in target):
        raise ValueError(f"reshape: {target} is no shape: at most one length may be -1, the others not negative")
    if unknown:
        if known == 0 or x.size % known:
            raise ValueError(f"reshape: cannot reshape an array of shape {x.shape} ({x.size} elements) into {target}")
        target = tuple(x.size // known if length == -1 else length for length in target)
    elif known != x.size:
        raise ValueError(
            f"reshape: cannot reshape an array of shape {x.shape} ({x.size} elements) into {target} ({known})"
        )
    if x.size == 0:
        return view(x, target, layout(x.dtype, target).strides)
    strides = (
        None if copy else (layout(x.dtype, target).strides if x._layout.contiguous else _no_copy_strides(x, target))
    )
    if strides is None:
        if copy is False:
            raise ValueError(f"reshape(copy=False): no view of shape {x.shape}, strides {x.strides} has shape {target}")
        x = record(COPY, x)
        strides = layout(x.dtype, target).strides
    return view(x, target, strides)


def ravel(x: Array, /) -> Array:
    """The elements in one axis; a view where possible."""
    return reshape(x, -1)


def flatten(x: Array, /) -> Array:
    """A copy of the elements in one axis."""
    return reshape(x, -1, copy=True)


def permute_dims(x: Array, /, axes: Sequence[int]) -> Array:
    """A view with the axes in another order."""
    order = [_normal(axis, x.ndim, "permute_dims") for axis in axes]
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"permute_dims: {tuple(axes)} is no permutation of {x.ndim} axes")
    return view(x, tuple(x.shape[i] for i in order), tuple(x.strides[i] for i in order))


def transpose(x: Array, /, *axes: Any) -> Array:
    """A view with the axes reversed, or in the order given."""
    if not axes or axes == (None,):
        return permute_dims(x, range(x.ndim)[::-1])
    return permute_dims(x, _int_args(axes))


def matrix_transpose(x: Array, /) -> Array:
    """A view with the last two axes exchanged."""
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: the array has {x.ndim} axes, expected at least 2")
    return swapaxes(x, -1, -2)


def swapaxes(x: Array, axis1: int, axis2: int, /) -> Array:
    """A view with two axes exchanged."""
    order = list(range(x.ndim))
    a, b = _normal(axis1, x.ndim, "swapaxes"), _normal(axis2, x.ndim, "swapaxes")
    order[a], order[b] = order[b], order[a]
    return permute_dims(x, order)


def moveaxis(x: Array, source: int | Sequence[int], destination: int | Sequence[int], /) -> Array:
    """A view with some axes moved to other places."""
    sources = [_normal(axis, x.ndim, "moveaxis") for axis in np.atleast_1d(np.asarray(source)).tolist()]
    targets = [_normal(axis, x.ndim, "moveaxis") for axis in np.atleast_1d(np.asarray(destination)).tolist()]
    if len(sources) != len(targets) or len(set(sources)) != len(sources) or len(set(targets)) != len(targets):
        raise ValueError(f"moveaxis: {source} and {destination} do not pair axes one to one")
    order = [axis for axis in range(x.ndim) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute_dims(x, order)


def expand_dims(x: Array, /, axis: int | Sequence[int] = 0) -> Array:
    """A view with a new axis of length 1 at each place named."""
    places = [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    ndim = x.ndim + len(places)
    new = {_normal(place, ndim, "expand_dims") for place in places}
    if len(new) != len(places):
        raise ValueError(f"expand_dims: axis {axis} names a place twice")
    own = iter(zip(x.shape, x.strides, strict=True))
    pairs = [(1, 0) if place in new else next(own) for place in range(ndim)]
    return view(x, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))


def squeeze(x: Array, /, axis: int | Sequence[int] | None = None) -> Array:
    """A view without axes of length 1: those named, or all."""
    if axis is None:
        gone = {place for place, length in enumerate(x.shape) if length == 1}
    else:
        gone = {
            _normal(place, x.ndim, "squeeze") for place in ([axis] if isinstance(axis, (int, np.integer)) else axis)
        }
    for place in gone:
        if x.shape[place] != 1:
            raise ValueError(f"squeeze: axis {place} has length {x.shape[place]}, expected 1")
    kept = [place for place in range(x.ndim) if place not in gone]
    return view(x, tuple(x.shape[i] for i in kept), tuple(x.strides[i] for i in kept))


def broadcast_to(x: Array, /, shape: Sequence[int]) -> Array:
    """A view of a larger shape that repeats elements without copying. Do not write into it."""
    target = tuple(shape)
    if np.broadcast_shapes(x.shape, target) != target:
        raise ValueError(f"broadcast_to: an array of shape {x.shape} does not broadcast to {target}")
    lead = len(target) - x.ndim
    strides = (0,) * lead + tuple(
        0 if own == 1 and length != 1 else stride
        for own, length, stride in zip(x.shape, target[lead:], x.strides, strict=True)
    )
    return view(x, target, strides)


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """Views of the arrays in their common shape."""
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    return [broadcast_to(x, shape) for x in arrays]


def flip(x: Array, /, axis: int | Sequence[int] | None = None) -> Array:
    """A view with the order of elements reversed along all axes, or those named."""
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, (int, np.integer)) else axis
    turned = {_normal(place, x.ndim, "flip") for place in axes}
    if x.size == 0:
        return view(x, x.shape, x.strides)
    offset = sum((x.shape[i] - 1) * x.strides[i] for i in turned)
    return view(x, x.shape, tuple(-s if i in turned else s for i, s in enumerate(x.strides)), offset)


# ---- joining


def _infer_concatenate(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int) -> Any:
    first = inputs[0]
    length = sum(part.shape[axis] for part in inputs)
    dtype = np.result_type(*(part.dtype for part in inputs))
    return (((*first.shape[:axis], length, *first.shape[axis + 1 :]), dtype),)


def _lower_concatenate(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int
) -> tuple[Body, ...]:
    """One copy for each part, into a region of its own: the parts are independent tasks."""
    (output,) = outputs
    bodies, start = [], 0
    for number, part in enumerate(inputs):
        address = elementwise("cast", [part.dtype], part.dtype, output.dtype)
        params = elementwise_params(
            part.shape, [output.strides, part.strides], [output.dtype.itemsize, part.dtype.itemsize]
        )
        target = Operand(
            0, WRITE | OVERWRITE, start * output.strides[axis], layout(output.dtype, part.shape, output.strides)
        )
        bodies.append(Body(address, params, (target, Operand(1 + number, READ)), part.nbytes * 2))
        start += part.shape[axis]
    return tuple(bodies)


CONCATENATE = Operator(
    "concatenate", _infer_concatenate, lambda xp, *parts, axis: xp.concatenate(parts, axis), _lower_concatenate
)


def concatenate(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Array:
    """Arrays joined along an axis (flattened first where it is None).

    >>> import dagrun as dr
    >>> dr.concatenate([dr.zeros(1), dr.ones(2)])
    array([0., 1., 1.])
    """
    parts = [part if isinstance(part, Array) else asarray(part) for part in arrays]
    if not parts:
        raise ValueError("concatenate: expected at least one array")
    if axis is None:
        parts, axis = [ravel(part) for part in parts], 0
    ndim = parts[0].ndim
    if ndim == 0:
        raise ValueError("concatenate: arrays without axes cannot be joined; use stack")
    place = _normal(axis, ndim, "concatenate")
    for part in parts[1:]:
        same = part.ndim == ndim and all(
            a == b or i == place for i, (a, b) in enumerate(zip(parts[0].shape, part.shape, strict=True))
        )
        if not same:
            raise ValueError(
                f"concatenate: shapes {', '.join(str(p.shape) for p in parts)} must agree except along axis {place}"
            )
    where = common_device("concatenate", parts)
    return apply(CONCATENATE, tuple(parts), device_index(where), attributes=(("axis", place),))  # type: ignore[no-any-return]


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis."""
    parts = [part if isinstance(part, Array) else asarray(part) for part in arrays]
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"stack: shapes {', '.join(str(p.shape) for p in parts)} differ, expected one shape")
    place = _normal(axis, parts[0].ndim + 1 if parts else 1, "stack")
    return concatenate([expand_dims(part, place) for part in parts], axis=place)


def split(x: Array, sections: int | Sequence[int], /, *, axis: int = 0) -> list[Array]:
    """Views of consecutive parts: so many equal ones, or cut before the indices given.

    >>> import dagrun as dr
    >>> [part.shape for part in dr.split(dr.zeros((6, 2)), 3)]
    [(2, 2), (2, 2), (2, 2)]
    """
    place = _normal(axis, x.ndim, "split")
    length = x.shape[place]
    if isinstance(sections, (int, np.integer)):
        if sections < 1 or length % sections:
            raise ValueError(f"split: an axis of length {length} has no {sections} equal parts")
        cuts = [length * i // int(sections) for i in range(1, int(sections))]
    else:
        cuts = [int(i) for i in sections]
    bounds = [0, *cuts, length]
    lead = (slice(None),) * place
    return [x[(*lead, slice(start, max(start, stop)))] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def tile(x: Array, repetitions: int | Sequence[int], /) -> Array:
    """The array repeated so many times along each axis."""
    counts = (repetitions,) if isinstance(repetitions, (int, np.integer)) else tuple(repetitions)
    counts = (1,) * (x.ndim - len(counts)) + tuple(counts)
    own = (1,) * (len(counts) - x.ndim) + x.shape
    woven = tuple(n for pair in zip(counts, own, strict=True) for n in pair)
    source = reshape(x, tuple(n for length in own for n in (1, length)))
    return reshape(broadcast_to(source, woven), tuple(c * n for c, n in zip(counts, own, strict=True)))


def repeat(x: Array, repeats: int, /, *, axis: int | None = None) -> Array:
    """Each element repeated so many times along an axis (of the flattened array where it is None)."""
    if axis is None:
        x, axis = ravel(x), 0
    place = _normal(axis, x.ndim, "repeat")
    wide = expand_dims(x, place + 1)
    shape = (*x.shape[: place + 1], int(repeats), *x.shape[place + 1 :])
    return reshape(broadcast_to(wide, shape), (*x.shape[:place], x.shape[place] * int(repeats), *x.shape[place + 1 :]))


def roll(x: Array, /, shift: int, *, axis: int | None = None) -> Array:
    """Elements moved by `shift` places along an axis, those that leave entering at the other end."""
    if axis is None:
        return reshape(roll(ravel(x), shift, axis=0), x.shape)
    place = _normal(axis, x.ndim, "roll")
    length = x.shape[place]
    cutting = -shift % length if length else 0
    lead = (slice(None),) * place
    return concatenate([x[(*lead, slice(cutting, None))], x[(*lead, slice(None, cutting))]], axis=place)


def fill(x: Array, value: Any) -> None:
    """Sets every element."""
    cast_into(value, x)


concat = concatenate

extend(
    reshape=reshape,
    ravel=ravel,
    flatten=flatten,
    transpose=transpose,
    swapaxes=swapaxes,
    squeeze=squeeze,
    repeat=repeat,
    fill=fill,
    T=property(transpose, doc="A view with the axes reversed."),
    mT=property(matrix_transpose, doc="A view with the last two axes exchanged."),
)
