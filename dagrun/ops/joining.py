"""Joining and repeating: concatenate, stack, split, tile, repeat, roll."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, as_dtype, asarray, extend
from dagrun.codegen.elementwise import elementwise, elementwise_params
from dagrun.core import device_index
from dagrun.ops.elementwise import MOST_PLANS, written
from dagrun.ops.indexing import take
from dagrun.ops.manipulation import (
    Axes,
    atleast_1d,
    atleast_2d,
    broadcast_to,
    expand_dims,
    normal_axis,
    ravel,
    reshape,
)
from dagrun.record import (
    OVERWRITE,
    READ,
    WRITE,
    Body,
    Gradients,
    Known,
    Operand,
    Operator,
    common_device,
    layout,
    signature_for,
    submit,
)


def _infer_concatenate(inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int, result: Any) -> Any:
    first = inputs[0]
    length = sum(part.shape[axis] for part in inputs)
    return (((*first.shape[:axis], length, *first.shape[axis + 1 :]), result),)


def _lower_concatenate(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, axis: int, result: Any
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


def _split_gradient(g: Any, call: Any) -> Any:
    """To each part the gradient of its place in the result."""
    parts, start, lead = [], 0, (slice(None),) * call["axis"]
    for view in call.inputs:
        stop = start + view.shape[call["axis"]]
        parts.append(g[(*lead, slice(start, stop))])
        start = stop
    return parts


CONCATENATE = Operator(
    "concatenate",
    _infer_concatenate,
    lambda xp, *parts, axis, result: xp.concatenate(parts, axis, dtype=result, casting="unsafe"),
    _lower_concatenate,
    grad=Gradients(joint=_split_gradient),
)


def concatenated_parts(arrays: Any, name: str) -> list[Array]:
    """The operands of a joining function as arrays on one device."""
    given = list(arrays)
    if not given:
        raise ValueError(f"{name}: expected at least one array")
    device = next((part.device for part in given if isinstance(part, Array)), None)
    return [part if isinstance(part, Array) else asarray(part, device=device) for part in given]


def concatenate(arrays: Any, /, axis: int | None = 0, out: Array | None = None, *, dtype: Any = None) -> Array:
    """Arrays joined along an axis (flattened first where it is None); `out`: an array to write the result into.

    >>> import dagrun as dr
    >>> dr.concatenate([dr.zeros(1), dr.ones(2)])
    array([0., 1., 1.])
    """
    parts = concatenated_parts(arrays, "concatenate")
    if axis is None:
        parts, axis = [ravel(part) for part in parts], 0
    where = common_device("concatenate", parts)
    final = None if dtype is None else as_dtype(dtype)
    joined = submit(_plan(axis, final, *[part._layout for part in parts]), tuple(parts), device_index(where))
    return written(joined, out, "concatenate")


@lru_cache(MOST_PLANS)
def _plan(axis: int, dtype: np.dtype[Any] | None, *parts: Any) -> Known:
    """The signature of a concatenation of layouts; ValueError where their shapes do not fit together."""
    first = parts[0]
    if first.ndim == 0:
        raise ValueError("concatenate: arrays without axes cannot be joined; use stack")
    place = normal_axis(axis, first.ndim, "concatenate")
    for part in parts[1:]:
        same = part.ndim == first.ndim and all(
            a == b or i == place for i, (a, b) in enumerate(zip(first.shape, part.shape, strict=True))
        )
        if not same:
            raise ValueError(
                f"concatenate: shapes {', '.join(str(p.shape) for p in parts)} must agree except along axis {place}"
            )
    result = np.result_type(*{part.dtype for part in parts}) if dtype is None else dtype
    return signature_for(CONCATENATE, parts, attributes=(("axis", place), ("result", result)))


def stack(arrays: Any, /, axis: int = 0, out: Array | None = None, *, dtype: Any = None) -> Array:
    """Arrays of one shape joined along a new axis; `out`: an array to write the result into.

    >>> import dagrun as dr
    >>> dr.stack([dr.zeros(2), dr.ones(2)], axis=1)
    array([[0., 1.],
           [0., 1.]])
    """
    parts = concatenated_parts(arrays, "stack")
    if any(part.shape != parts[0].shape for part in parts):
        raise ValueError(f"stack: shapes {', '.join(str(p.shape) for p in parts)} differ, expected one shape")
    place = normal_axis(axis, parts[0].ndim + 1, "stack")
    return concatenate([expand_dims(part, place) for part in parts], place, out, dtype=dtype)


def vstack(arrays: Any, /, *, dtype: Any = None) -> Array:
    """Arrays joined along the first axis; vectors are rows."""
    return concatenate([atleast_2d(part) for part in concatenated_parts(arrays, "vstack")], 0, dtype=dtype)


def hstack(arrays: Any, /, *, dtype: Any = None) -> Array:
    """Arrays joined along the second axis, vectors along their only one."""
    parts = [atleast_1d(part) for part in concatenated_parts(arrays, "hstack")]
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1, dtype=dtype)


def array_split(x: Any, /, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Array]:
    """Views of consecutive parts: so many of nearly one length, or cut before the indices given."""
    x = as_array(x)
    place = normal_axis(axis, x.ndim, "split")
    length = x.shape[place]
    if isinstance(indices_or_sections, (int, np.integer)):
        if indices_or_sections < 1:
            raise ValueError(f"split: into {indices_or_sections} parts, expected at least one")
        small, longer = divmod(length, int(indices_or_sections))
        cuts = [small * i + min(i, longer) for i in range(1, int(indices_or_sections))]
    else:
        cuts = [int(i) for i in indices_or_sections]
    lead = (slice(None),) * place
    return [x[(*lead, slice(start, stop))] for start, stop in pairwise([0, *cuts, length])]


def split(x: Any, /, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Array]:
    """Views of consecutive parts: so many equal ones, or cut before the indices given.

    >>> import dagrun as dr
    >>> [part.shape for part in dr.split(dr.zeros((6, 2)), 3)]
    [(2, 2), (2, 2), (2, 2)]
    """
    x = as_array(x)
    length = x.shape[normal_axis(axis, x.ndim, "split")]
    if isinstance(indices_or_sections, (int, np.integer)) and indices_or_sections > 0 and length % indices_or_sections:
        raise ValueError(f"split: an axis of length {length} has no {indices_or_sections} equal parts; use array_split")
    return array_split(x, indices_or_sections, axis)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Array, ...]:
    """Views of the array's parts along an axis, without that axis."""
    x = as_array(x)
    lead = (slice(None),) * normal_axis(axis, x.ndim, "unstack")
    return tuple(x[(*lead, i)] for i in range(x.shape[len(lead)]))


def tile(x: Any, /, reps: int | Sequence[int]) -> Array:
    """The array repeated so many times along each axis."""
    x = as_array(x)
    counts = (reps,) if isinstance(reps, (int, np.integer)) else tuple(reps)
    counts = (1,) * (x.ndim - len(counts)) + tuple(counts)
    own = (1,) * (len(counts) - x.ndim) + x.shape
    woven = tuple(n for pair in zip(counts, own, strict=True) for n in pair)
    source = reshape(x, tuple(n for length in own for n in (1, length)))
    return reshape(broadcast_to(source, woven), tuple(c * n for c, n in zip(counts, own, strict=True)), copy=True)


def repeat(x: Any, /, repeats: int | Sequence[int], axis: int | None = None) -> Array:
    """Each element repeated so many times along an axis (of the flattened array where it is None).

    `repeats` is one number for all elements, or one for each of them.

        >>> import dagrun as dr
        >>> dr.repeat(dr.asarray([1, 2]), 2)
        array([1, 1, 2, 2])
    """
    x = as_array(x)
    if axis is None:
        x, axis = ravel(x), 0
    place = normal_axis(axis, x.ndim, "repeat")
    counts = np.asarray(repeats)
    if counts.ndim and counts.size != 1:
        return take(x, np.repeat(np.arange(x.shape[place]), counts), axis=place)
    count = int(counts.item())
    if count < 0:
        raise ValueError(f"repeat: {count} times, expected a number that is not negative")
    shape = (*x.shape[: place + 1], count, *x.shape[place + 1 :])
    final = (*x.shape[:place], x.shape[place] * count, *x.shape[place + 1 :])
    return reshape(broadcast_to(expand_dims(x, place + 1), shape), final, copy=True)


def roll(x: Any, /, shift: Axes, axis: Axes | None = None) -> Array:
    """Elements moved by `shift` places along an axis, those that leave entering at the other end."""
    x = as_array(x)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    shifts, axes = np.broadcast_arrays(np.atleast_1d(shift), np.atleast_1d(axis))
    result = x
    for places, along in zip(shifts.tolist(), axes.tolist(), strict=True):
        place = normal_axis(along, x.ndim, "roll")
        cutting = -places % x.shape[place] if x.shape[place] else 0
        lead = (slice(None),) * place
        result = concatenate([result[(*lead, slice(cutting, None))], result[(*lead, slice(None, cutting))]], place)
    return result.copy() if result is x else result


concat = concatenate

extend(repeat=repeat)
