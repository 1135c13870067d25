"""Pooling of planes, the last two axes: largest elements with their places, means, and their adjoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.pooling import Windows, pooling_kernel, pooling_params
from dagrun.core import device_index
from dagrun.ops.cutting import cut
from dagrun.ops.elementwise import copied
from dagrun.record import OVERWRITE, READ, WRITE, Body, Gradients, Operand, Operator, apply, layout

_PLACE = np.dtype(np.int32)
_FLOAT = np.dtype(np.float32)
WINDOW_COST = 2  # an element of a window takes as long as moving so many times its bytes

Size = tuple[int, int]


def _bodies(
    kind: str, views: Sequence[Any], written: int, image: Any, rows: Windows, columns: Windows
) -> tuple[Body, ...]:
    """The tasks of a pooling: pieces of the first axis outside of the planes that has more than one element."""
    address = pooling_kernel(kind, image.dtype)
    lead = image.shape[:-2]
    axis = next((d for d, length in enumerate(lead) if length > 1), -1)
    taps = sum(w[1] for w in rows.table) * sum(w[1] for w in columns.table)
    cost = sum(view.nbytes for view in views) + WINDOW_COST * taps * int(np.prod(lead)) * image.dtype.itemsize
    bodies = []
    for start, stop in cut(lead[axis], cost) if axis >= 0 else [(0, 1)]:
        shape = lead if axis < 0 else (*lead[:axis], stop - start, *lead[axis + 1 :])
        outer = [view.strides[:-2] for view in views]
        params = pooling_params(image.shape[-2:], rows, columns, image.strides[-2:], shape, outer)
        operands = tuple(
            Operand(
                k, WRITE | OVERWRITE if k < written else READ, start * view.strides[axis] if axis >= 0 else 0,
                layout(view.dtype, (*shape, *view.shape[-2:]), view.strides),
            )
            for k, view in enumerate(views)
        )  # fmt: skip
        bodies.append(Body(address, params, operands, cost * (stop - start) // max(1, lead[axis] if lead else 1)))
    return tuple(bodies)


def _dense(x: Array) -> Array:
    return x if x._layout.contiguous else copied(x)


# ---- NumPy's way


def _elements(first: int, count: int, dilation: int) -> slice:
    return slice(first, first + (count - 1) * dilation + 1, dilation)


def _pool(xp: Any, x: Any, rows: Windows, columns: Windows, reduce: Any) -> Any:
    """reduce(window, its first place, its divisor) of each window, as an array of results."""
    made = [
        [
            reduce(x[..., _elements(r, h, rows.dilation), _elements(c, w, columns.dilation)], (r, c), a * b)
            for c, w, b in columns.table
        ]
        for r, h, a in rows.table
    ]
    return xp.moveaxis(xp.asarray(made), (0, 1), (-2, -1))


def _numpy_max(xp: Any, x: Any, *, rows: Windows, columns: Windows) -> Any:
    width = x.shape[-1]

    def place(window: Any, first: Size, divisor: int) -> Any:
        flat = window.reshape(*window.shape[:-2], -1)
        best = flat.argmax(-1)
        if flat.dtype.kind == "f":  # of several NaN the last
            nan = xp.isnan(flat)
            best = xp.where(nan.any(-1), flat.shape[-1] - 1 - nan[..., ::-1].argmax(-1), best)
        i, j = xp.divmod(best, window.shape[-1])
        return (first[0] + i * rows.dilation) * width + first[1] + j * columns.dilation

    places = _pool(xp, x, rows, columns, place).astype(_PLACE)
    return _numpy_pick(xp, x, places), places


def _numpy_mean(xp: Any, x: Any, *, rows: Windows, columns: Windows) -> Any:
    wide = _FLOAT if x.dtype == np.float16 else x.dtype
    return _pool(xp, x, rows, columns, lambda w, first, divisor: w.sum((-2, -1), dtype=wide) / divisor)


def _numpy_spread(xp: Any, y: Any, *, size: Size, rows: Windows, columns: Windows) -> Any:
    x = xp.zeros((*y.shape[:-2], *size), y.dtype)
    for i, (r, h, a) in enumerate(rows.table):
        for j, (c, w, b) in enumerate(columns.table):
            window = x[..., _elements(r, h, rows.dilation), _elements(c, w, columns.dilation)]
            window += (y[..., i, j] / (a * b))[..., None, None]
    return x


def _numpy_pick(xp: Any, x: Any, places: Any) -> Any:
    flat = x.reshape(*x.shape[:-2], -1)
    picked = xp.take_along_axis(flat, places.reshape(*places.shape[:-2], -1).astype(np.int64), -1)
    return picked.reshape(places.shape)


def _numpy_put(xp: Any, y: Any, places: Any, *, size: Size) -> Any:
    x = xp.zeros((int(np.prod(y.shape[:-2])), size[0] * size[1]), y.dtype)
    planes = xp.arange(len(x))[:, None]
    xp.add.at(x, (planes, places.reshape(len(x), -1)), y.reshape(len(x), -1))
    return x.reshape(*y.shape[:-2], *size)


# ---- operators


def _out(x: Any, rows: Windows, columns: Windows) -> tuple[int, ...]:
    return (*x.shape[:-2], len(rows.table), len(columns.table))


def _flat_windows(view: Any) -> tuple[Windows, Windows]:
    """Only the sizes of these matter: pick and put read places."""
    return Windows(((0, 0, 1),) * view.shape[-2]), Windows(((0, 0, 1),) * view.shape[-1])


MAX_POOL = Operator(
    "max_pool",
    lambda inputs, scalars, rows, columns: (
        (_out(inputs[0], rows, columns), inputs[0].dtype),
        (_out(inputs[0], rows, columns), _PLACE),
    ),
    _numpy_max,
    lambda outputs, inputs, scalars, rows, columns: _bodies("max", (*outputs, inputs[0]), 2, inputs[0], rows, columns),
    grad=Gradients(lambda g, z, call: put(g, z, call.inputs[0].shape[-2:])),
)
MEAN_POOL = Operator(
    "mean_pool",
    lambda inputs, scalars, rows, columns: ((_out(inputs[0], rows, columns), inputs[0].dtype),),
    _numpy_mean,
    lambda outputs, inputs, scalars, rows, columns: _bodies(
        "mean", (outputs[0], inputs[0]), 1, inputs[0], rows, columns
    ),
    grad=Gradients(lambda g, call: mean_spread(g, call.inputs[0].shape[-2:], call["rows"], call["columns"])),
)
MEAN_SPREAD = Operator(
    "mean_spread",
    lambda inputs, scalars, size, rows, columns: (((*inputs[0].shape[:-2], *size), inputs[0].dtype),),
    _numpy_spread,
    lambda outputs, inputs, scalars, size, rows, columns: _bodies(
        "spread", (outputs[0], inputs[0]), 1, outputs[0], rows, columns
    ),
    grad=Gradients(lambda g, call: mean_pool(g, call["rows"], call["columns"])),
)
PICK = Operator(
    "pick_places",
    lambda inputs, scalars: ((inputs[1].shape, inputs[0].dtype),),
    _numpy_pick,
    lambda outputs, inputs, scalars: _bodies("pick", (outputs[0], *inputs), 1, inputs[0], *_flat_windows(inputs[1])),
    grad=Gradients(lambda g, b, call: put(g, b, call.inputs[0].shape[-2:])),
)
PUT = Operator(
    "put_places",
    lambda inputs, scalars, size: (((*inputs[0].shape[:-2], *size), inputs[0].dtype),),
    _numpy_put,
    lambda outputs, inputs, scalars, size: _bodies(
        "put", (outputs[0], *inputs), 1, outputs[0], *_flat_windows(inputs[0])
    ),
    grad=Gradients(lambda g, b: pick(g, b)),
)


def max_pool(x: Array, rows: Windows, columns: Windows) -> tuple[Array, Array]:
    """The largest element of each window (NaN wins) and its place in the plane, row * width + column (int32)."""
    found: tuple[Array, Array] = apply(
        MAX_POOL, (x,), device_index(x.device), attributes=(("rows", rows), ("columns", columns))
    )
    return found


def mean_pool(x: Array, rows: Windows, columns: Windows) -> Array:
    """The sum of each window over its divisor."""
    return apply(MEAN_POOL, (x,), device_index(x.device), attributes=(("rows", rows), ("columns", columns)))


def mean_spread(y: Array, size: Size, rows: Windows, columns: Windows) -> Array:
    """The adjoint of `mean_pool`: planes of a size."""
    attributes = (("size", tuple(size)), ("rows", rows), ("columns", columns))
    return apply(MEAN_SPREAD, (_dense(y),), device_index(y.device), attributes=attributes)


def pick(x: Array, places: Array) -> Array:
    """The elements of each plane at places that `max_pool` gave."""
    return apply(PICK, (_dense(x), places), device_index(x.device))


def put(y: Array, places: Array, size: Size) -> Array:
    """Planes of zeros with elements added at places: the adjoint of `pick`."""
    return apply(PUT, (_dense(y), places), device_index(y.device), attributes=(("size", tuple(size)),))
