"""Products of matrices and vectors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray, extend, is_weak
from dagrun.core import device_index, native
from dagrun.devices import Device
from dagrun.ops.elementwise import MOST_PLANS, cast_into, check_writable, fits, serve_slot, written
from dagrun.ops.joining import stack
from dagrun.ops.manipulation import expand_dims, moveaxis, normal_axis, permute_dims, ravel, reshape
from dagrun.ops.precision import narrow
from dagrun.ops.products import product_bodies
from dagrun.record import Gradients, Known, Operator, apply, common_device, layout, signature_for, submit


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, result: Any) -> Any:
    a, b = inputs
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (((*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ())), result),)


def _compute(xp: Any, a: Any, b: Any, *, result: Any) -> Any:
    return xp.matmul(a.astype(result, copy=False), b.astype(result, copy=False))


def _with_axis(view: Any, place: int) -> Any:
    """The layout with a new axis of length 1."""
    shape, strides = list(view.shape), list(view.strides)
    shape.insert(place, 1)
    strides.insert(place, 0)
    return layout(view.dtype, tuple(shape), tuple(strides))


def _lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, result: Any) -> Any:
    (c,), (a, b) = outputs, inputs
    if b.ndim == 1:  # a column
        b, c = _with_axis(b, 1), _with_axis(c, c.ndim)
    if a.ndim == 1:  # a row
        a, c = _with_axis(a, 0), _with_axis(c, c.ndim - 1)
    return product_bodies(c, a, b)


def _left_gradient(g: Any, b: Any, call: Any, xp: Any) -> Any:
    row, column = (view.ndim == 1 for view in call.inputs)
    if column:
        g, b = xp.expand_dims(g, -1), xp.expand_dims(b, -1)
    if row:
        g = xp.expand_dims(g, -2)
    flow = xp.matmul(g, xp.matrix_transpose(b))
    return xp.squeeze(flow, -2) if row else flow


def _right_gradient(g: Any, a: Any, call: Any, xp: Any) -> Any:
    row, column = (view.ndim == 1 for view in call.inputs)
    if column:
        g = xp.expand_dims(g, -1)
    if row:
        g, a = xp.expand_dims(g, -2), xp.expand_dims(a, -2)
    flow = xp.matmul(xp.matrix_transpose(a), g)
    return xp.squeeze(flow, -1) if column else flow


# Vectors are rows on the left and columns on the right. Leading axes that broadcast are summed over, as always.
_RULES = Gradients(_left_gradient, _right_gradient)
MATMUL = Operator("matmul", _infer, _compute, _lower, grad=_RULES)


def _operands(x1: Any, x2: Any, name: str) -> tuple[Array, Array, Device]:
    first = next((x.device for x in (x1, x2) if isinstance(x, Array)), None)
    a, b = (x if isinstance(x, Array) else asarray(x, device=first) for x in (x1, x2))
    return a, b, common_device(name, (a, b))


def matmul(x1: Any, x2: Any, /, *, out: Array | None = None) -> Array:
    """The matrix product; vectors as in NumPy, leading axes broadcast.

    float32 and float64 products run in the BLAS that NumPy ships, one thread to a task; large ones are cut into
    tasks by a fixed table of their sizes, so that the bits never depend on lanes.

        >>> import dagrun as dr
        >>> dr.matmul(dr.ones((2, 3)), dr.ones((3, 2)))
        array([[3., 3.],
               [3., 3.]])
    """
    a, b, where = _operands(x1, x2, "matmul")
    a, b = narrow(a), narrow(b)
    known = _plan(a._layout, b._layout)
    if out is not None:
        return _matmul_into(a, b, out)
    if known is not None:
        return submit(known, (a, b), device_index(where))
    result = a.dtype if a.dtype == b.dtype else np.result_type(a.dtype, b.dtype)
    product: Array = _product(a, b, result, where)
    return product


@lru_cache(MOST_PLANS)
def _plan(a: Any, b: Any) -> Known | None:
    """The signature of a product of layouts; None where they are cast first. ValueError: no fit."""
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape}: expected at least one axis each; use * for scalars")
    rows = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != rows:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not fit: {a.shape[-1]} columns, {rows} rows")
    if a.dtype != b.dtype:
        return None
    return signature_for(MATMUL, (a, b), attributes=(("result", a.dtype),))


def _product(left: Array, right: Array, result: np.dtype[Any], where: Device, out: Array | None = None) -> Any:
    left, right = left.astype(result, copy=False), right.astype(result, copy=False)
    outputs = None if out is None else (out,)
    return apply(MATMUL, (left, right), device_index(where), outputs=outputs, attributes=(("result", result),))


def _matmul_into(a: Array, b: Array, out: Array) -> Array:
    """The product written into an array: at once where nothing stands in the way, else computed apart and copied."""
    where = common_device("matmul", (a, b, out))
    result = np.result_type(a.dtype, b.dtype)
    if not np.can_cast(result, out.dtype, "same_kind"):
        raise TypeError(f"matmul: a result of {result} cannot be cast to {out.dtype} by the same_kind rule")
    check_writable(out)
    if out.dtype == result and out._buffer not in (a._buffer, b._buffer):
        ((shape, _),) = _infer((a, b), (), result=result)
        if out.shape == shape:
            _product(a, b, result, where, out)
            return out
    product = matmul(a, b)
    own = min(a.ndim - 1, 1) + min(b.ndim - 1, 1)  # the axes of the matrices do not broadcast
    same = product.shape[product.ndim - own :] == out.shape[out.ndim - own :]
    if not same or not fits(product.shape, out.shape):
        raise ValueError(f"matmul: a result of shape {product.shape} does not fit into an array of shape {out.shape}")
    cast_into(product, out)
    return out


_SLOT = 7  # of @, see handles.cpp


def _matmul_slot(left: Any, right: Any, in_place: bool) -> Any:
    if is_weak(left) or is_weak(right):
        raise ValueError("matmul: a scalar operand is not allowed; use * instead")
    if in_place:
        return matmul(left, right, out=left)
    product = matmul(left, right)
    if type(left) is Array and type(right) is Array:
        known = _plan(left._layout, right._layout)
        if known is not None and known[1] is None:
            native.install_binary(_SLOT, left, right, False, known[0])
    return product


serve_slot(_SLOT, _matmul_slot)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Array:
    """The dot products of vectors along an axis; the other axes broadcast.

    >>> import dagrun as dr
    >>> dr.vecdot(dr.asarray([[1, 2], [3, 4]]), dr.asarray([1, 1]))
    array([3, 7])
    """
    a, b, _ = _operands(x1, x2, "vecdot")
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    product = matmul(expand_dims(a, -2), expand_dims(b, -1))
    return reshape(product, product.shape[:-2])


def dot(x1: Any, x2: Any, /, out: Array | None = None) -> Array:
    """NumPy's dot: inner product of vectors, matrix product, or sum over the last and the last but one axis.

    `out`: an array to write the result into.

    >>> import dagrun as dr
    >>> dr.dot(dr.asarray([1, 2]), dr.asarray([3, 4])).item()
    11
    """
    a, b, _ = _operands(x1, x2, "dot")
    if out is not None:
        return written(dot(a, b), out, "dot")
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if b.ndim > 2:
        return tensordot(a, b, axes=((a.ndim - 1,), (b.ndim - 2,)))
    return matmul(a, b)


def inner(x1: Any, x2: Any, /) -> Array:
    """The sum of products over the last axes of both."""
    a, b, _ = _operands(x1, x2, "inner")
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    return tensordot(a, b, axes=((-1,), (-1,)))


def tensordot(x1: Any, x2: Any, /, axes: int | Sequence[Any] = 2) -> Array:
    """The sum of products over pairs of axes: the last and first `axes`, or the two lists given.

    >>> import dagrun as dr
    >>> dr.tensordot(dr.ones((2, 3, 4)), dr.ones((3, 4, 5))).shape
    (2, 5)
    """
    a, b, _ = _operands(x1, x2, "tensordot")
    if isinstance(axes, Sequence):
        first, second = (tuple(part) if isinstance(part, Sequence) else (part,) for part in axes)
        own = tuple(normal_axis(i, a.ndim, "tensordot") for i in first)
        other = tuple(normal_axis(i, b.ndim, "tensordot") for i in second)
    else:
        count = operator.index(axes)
        own, other = tuple(range(a.ndim - count, a.ndim)), tuple(range(count))
    if (
        len(own) != len(other)
        or min((0, *own)) < 0
        or max((0, *other)) >= max(b.ndim, 1)
        or any(a.shape[i] != b.shape[j] for i, j in zip(own, other, strict=True))
    ):
        raise ValueError(f"tensordot: shapes {a.shape} and {b.shape} do not fit over axes {axes}")
    kept_a = tuple(i for i in range(a.ndim) if i not in own)
    kept_b = tuple(i for i in range(b.ndim) if i not in other)
    rows, columns = tuple(a.shape[i] for i in kept_a), tuple(b.shape[i] for i in kept_b)
    length = prod([a.shape[i] for i in own])
    left = reshape(permute_dims(a, kept_a + own), (prod(rows), length))
    right = reshape(permute_dims(b, other + kept_b), (length, prod(columns)))
    return reshape(matmul(left, right), rows + columns)


def outer(x1: Any, x2: Any, /) -> Array:
    """The products of all pairs of elements of two vectors.

    >>> import dagrun as dr
    >>> dr.outer([1, 2], [3, 4])
    array([[3, 4],
           [6, 8]])
    """
    return expand_dims(ravel(as_array(x1)), 1) * expand_dims(ravel(as_array(x2)), 0)


def vdot(x1: Any, x2: Any, /) -> Array:
    """The dot product of all elements of two arrays, each as one vector."""
    return dot(ravel(as_array(x1)), ravel(as_array(x2)))


def kron(x1: Any, x2: Any, /) -> Array:
    """The Kronecker product: x2 in blocks, one for each element of x1 and scaled by it.

    >>> import dagrun as dr
    >>> dr.kron([1, 10], [1, 2])
    array([ 1,  2, 10, 20])
    """
    a, b, _ = _operands(x1, x2, "kron")
    ndim = max(a.ndim, b.ndim)
    a, b = (reshape(x, (1,) * (ndim - x.ndim) + x.shape) for x in (a, b))
    products = expand_dims(a, tuple(range(1, 2 * ndim, 2))) * expand_dims(b, tuple(range(0, 2 * ndim, 2)))
    return reshape(products, tuple(m * n for m, n in zip(a.shape, b.shape, strict=True)))


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Array:
    """The cross products of vectors of three elements along an axis; the other axes broadcast.

    >>> import dagrun as dr
    >>> dr.cross([1, 0, 0], [0, 1, 0])
    array([0, 0, 1])
    """
    a, b, _ = _operands(x1, x2, "cross")
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise ValueError(f"cross: vectors of {a.shape[-1]} and {b.shape[-1]} elements, expected three each")
    parts = [a[..., i] * b[..., j] - a[..., j] * b[..., i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return moveaxis(stack(parts, -1), -1, axis)


def multi_dot(arrays: Sequence[Any], /, *, out: Array | None = None) -> Array:
    """The product of several matrices (the first and last may be vectors), in the cheapest order.

    >>> import dagrun as dr
    >>> dr.linalg.multi_dot([dr.ones((2, 3)), dr.ones((3, 4)), dr.ones((4, 5))]).shape
    (2, 5)
    """
    parts = [as_array(x) for x in arrays]
    if len(parts) < 2:
        raise ValueError(f"multi_dot: {len(parts)} arrays, expected at least two")
    if any(part.ndim != 2 for part in parts[1:-1]) or any(part.ndim not in (1, 2) for part in parts):
        raise np.linalg.LinAlgError(f"multi_dot: shapes {[part.shape for part in parts]}, expected matrices")
    rows = [part.shape[0] if part.ndim == 2 else 1 for part in parts[:1]] + [part.shape[0] for part in parts[1:]]
    sizes = [*rows, parts[-1].shape[1] if parts[-1].ndim == 2 else 1]

    @lru_cache(None)
    def cheapest(first: int, last: int) -> tuple[int, int]:
        """The multiplications of the best order of a run of matrices, and where it is cut."""
        if first == last:
            return 0, first
        return min(
            (cheapest(first, k)[0] + cheapest(k + 1, last)[0] + sizes[first] * sizes[k + 1] * sizes[last + 1], k)
            for k in range(first, last)
        )

    def product(first: int, last: int) -> Array:
        if first == last:
            return parts[first]
        cut = cheapest(first, last)[1]
        return matmul(product(first, cut), product(cut + 1, last))

    return written(product(0, len(parts) - 1), out, "multi_dot")


extend(dot=dot)
