"""Gradients of views in general and of writes into a part of a buffer, in coordinates of the whole buffer.

A buffer as a whole is an array of one axis. `_get` reads the elements of a view of it, `_put` is its adjoint, `_clear`
sets them to zero; each is its own operation for autodiff, so that gradients of any order pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.core import native
from dagrun.record import layout
from dagrun.record.gradients import Gradients
from dagrun.record.tape import SELECTED, STRIDED, WRITTEN, Call, composed


def _view(flat: Array, view: Any, offset: int) -> Array:
    return native.view(flat, view, flat._offset + offset)


def _run_get(flat: Array, view: Any, offset: int, size: int) -> Array:
    return ops.copy(_view(flat if flat._layout.contiguous else ops.copy(flat), view, offset))


def _run_put(g: Array, view: Any, offset: int, size: int) -> Array:
    flat = ops.zeros(size, dtype=g.dtype, device=g.device)
    repeated = tuple(axis for axis, stride in enumerate(view.strides) if stride == 0 and view.shape[axis] > 1)
    if repeated:  # a broadcast view: its elements gather in one place
        g = ops.sum(g, axis=repeated, keepdims=True)
        shape = tuple(1 if axis in repeated else length for axis, length in enumerate(view.shape))
        view = layout(view.dtype, shape, view.strides)
    _view(flat, view, offset)[...] = g
    return flat


def _run_clear(flat: Array, view: Any, offset: int, size: int) -> Array:
    kept = ops.copy(flat)
    _view(kept, view, offset)[...] = 0
    return kept


def _run_unselect(g: Array, select: Callable[..., Array], further: tuple[Any, ...], shape: tuple[int, ...]) -> Array:
    whole = ops.zeros(shape, dtype=g.dtype, device=g.device)
    select(whole, *further)[...] = g
    return whole


_GET, _PUT, _CLEAR, _UNSELECT = Gradients(), Gradients(), Gradients(), Gradients()
_get = partial(composed, "view", _GET, _run_get)
_put = partial(composed, "view_gradient", _PUT, _run_put)
_clear = partial(composed, "write_gradient", _CLEAR, _run_clear)
_unselect = partial(composed, "selection_gradient", _UNSELECT, _run_unselect)


def _unselected(g: Array, call: Call) -> Array:
    select, *further = call["arguments"]
    return _unselect((g,), select=select, further=tuple(further), shape=call.inputs[0].shape)


def _where(call: Call) -> dict[str, Any]:
    return {name: call[name] for name in ("view", "offset", "size")}


_GET.set(lambda g, call: _put((g,), **_where(call)))
_PUT.set(lambda g, call: _get((g,), **_where(call)))
_CLEAR.set(lambda g, call: _clear((g,), **_where(call)))
_UNSELECT.set(lambda g, call: call["select"](g, *call["further"]))
SELECTED.set(_unselected)
STRIDED.set(lambda g, call: _put((g,), **_where(call)))
WRITTEN.set(
    lambda g, call: ops.reshape(_clear((g,), **_where(call)), call["before"]),
    lambda g, call: _get((g,), **_where(call)),
)
