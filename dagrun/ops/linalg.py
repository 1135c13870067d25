"""Products of matrices and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, extend, is_weak
from dagrun.core import device_index
from dagrun.ops.elementwise import cast_into, overlaps_elsewhere, serve_slot
from dagrun.ops.manipulation import _normal, expand_dims, moveaxis, permute_dims, reshape
from dagrun.ops.products import product_bodies
from dagrun.record import Operator, apply
from dagrun.record.apply import common_device


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, result: Any) -> Any:
    a, b = inputs
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (((*batch, a.shape[-2], b.shape[-1]), result),)


def _compute(xp: Any, a: Any, b: Any, *, result: Any) -> Any:
    return xp.matmul(a.astype(result, copy=False), b.astype(result, copy=False))


def _lower(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, result: Any) -> Any:
    return product_bodies(outputs[0], *inputs)


MATMUL = Operator("matmul", _infer, _compute, _lower)


def matmul(x1: Any, x2: Any, /, *, out: Array | None = None) -> Array:
    """The matrix product; vectors as in NumPy, leading axes broadcast.

    float32 and float64 products run in the BLAS that NumPy ships, one thread to a task; large ones are cut into tasks by
    a fixed table of their sizes, so that the bits never depend on lanes.

        >>> import dagrun as dr
        >>> dr.matmul(dr.ones((2, 3)), dr.ones((3, 2)))
        array([[3., 3.],
               [3., 3.]])
    """
    first = next((x.device for x in (x1, x2) if isinstance(x, Array)), None)
    a, b = (x if isinstance(x, Array) else asarray(x, device=first) for x in (x1, x2))
    where = common_device("matmul", [a, b])
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape}: expected at least one axis each; use * for scalars")
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not fit: {a.shape[-1]} columns, {inner} rows")
    left, right = (expand_dims(a, 0) if a.ndim == 1 else a), (expand_dims(b, 1) if b.ndim == 1 else b)
    result = np.result_type(a.dtype, b.dtype)
    if left.dtype != result and result.kind == "f":
        left = left.astype(result)
    if right.dtype != result and result.kind == "f":
        right = right.astype(result)
    target = None
    if out is not None:
        if (
            a.ndim == 1
            or b.ndim == 1
            or out.dtype != result
            or overlaps_elsewhere(a, out)
            or out._buffer in (a._buffer, b._buffer)
        ):
            cast_into(matmul(a, b), out)
            return out
        expected = _infer((left._layout, right._layout), (), result=result)[0][0]
        if out.shape != expected:
            raise ValueError(f"matmul: a result of shape {expected} does not fit into an array of shape {out.shape}")
        common_device("matmul", [a, out])
        target = (out,)
    product = apply(MATMUL, (left, right), device_index(where), outputs=target, attributes=(("result", result),))
    if a.ndim == 1 and b.ndim == 1:
        return reshape(product, ())
    if a.ndim == 1:
        return reshape(product, (*product.shape[:-2], product.shape[-1]))
    return reshape(product, product.shape[:-1]) if b.ndim == 1 else product  # type: ignore[no-any-return]


def _matmul_slot(left: Any, right: Any, in_place: bool) -> Any:
    if is_weak(left) or is_weak(right):
        raise ValueError("matmul: a scalar operand is not allowed; use * instead")
    return matmul(left, right, out=left) if in_place else matmul(left, right)


serve_slot(7, _matmul_slot)


def vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """The dot products of vectors along an axis."""
    a = moveaxis(x1, axis, -1)
    b = moveaxis(x2, axis, -1)
    product = matmul(expand_dims(a, -2), expand_dims(b, -1))
    return reshape(product, product.shape[:-2])


def dot(x1: Any, x2: Any, /) -> Array:
    """NumPy's dot for arrays of up to two axes, and scalars: inner product, matrix product, or product with a scalar."""
    a, b = (x if isinstance(x, Array) or is_weak(x) else asarray(x) for x in (x1, x2))
    if is_weak(a) or is_weak(b) or a.ndim == 0 or b.ndim == 0:
        return a * b  # type: ignore[no-any-return]
    if b.ndim > 2:
        return tensordot(a, b, axes=((a.ndim - 1,), (b.ndim - 2,)))
    return matmul(a, b)


def tensordot(x1: Array, x2: Array, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Array:
    """The sum of products over pairs of axes: the last and first `axes`, or the two lists given."""
    if isinstance(axes, int):
        pairs = (list(range(x1.ndim - axes, x1.ndim)), list(range(axes)))
    else:
        pairs = (
            [_normal(i, x1.ndim, "tensordot") for i in axes[0]],
            [_normal(i, x2.ndim, "tensordot") for i in axes[1]],
        )
    if len(pairs[0]) != len(pairs[1]) or any(x1.shape[i] != x2.shape[j] for i, j in zip(*pairs, strict=True)):
        raise ValueError(f"tensordot: shapes {x1.shape} and {x2.shape} do not fit over axes {axes}")
    kept1 = [i for i in range(x1.ndim) if i not in pairs[0]]
    kept2 = [i for i in range(x2.ndim) if i not in pairs[1]]
    length = int(np.prod([x1.shape[i] for i in pairs[0]], dtype=np.int64))
    a = reshape(
        permute_dims(x1, kept1 + pairs[0]), (-1 if length else int(np.prod([x1.shape[i] for i in kept1])), length)
    )
    b = reshape(
        permute_dims(x2, pairs[1] + kept2), (length, -1 if length else int(np.prod([x2.shape[i] for i in kept2])))
    )
    return reshape(matmul(a, b), (*(x1.shape[i] for i in kept1), *(x2.shape[i] for i in kept2)))


def outer(x1: Array, x2: Array, /) -> Array:
    """The outer product of two vectors."""
    return reshape(x1, (-1, 1)) * reshape(x2, (1, -1))


extend(dot=dot)
