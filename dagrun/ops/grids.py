"""Matrices and index arrays made from numbers: triangles, powers, coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray
from dagrun.devices import Device
from dagrun.ops.creation import arange, eye
from dagrun.ops.joining import stack
from dagrun.ops.manipulation import broadcast_to, diagonal, ravel, reshape
from dagrun.ops.mathematics import power
from dagrun.ops.matrices import diag
from dagrun.ops.reductions import all as all_of


def identity(n: int, dtype: Any = None, *, device: str | Device | None = None) -> Array:
    """The square matrix with ones on its diagonal."""
    return eye(n, None, 0, dtype, device=device)


def tri(
    N: int, M: int | None = None, k: int = 0, dtype: Any = np.float64, *, device: str | Device | None = None
) -> Array:
    """Ones on diagonal `k` and below it, zeros above.

    >>> import dagrun as dr
    >>> dr.tri(2, 3)
    array([[1., 0., 0.],
           [1., 1., 0.]])
    """
    return asarray(np.tri(N, M, k, dtype), device=device)


def vander(x: Any, /, N: int | None = None, increasing: bool = False) -> Array:
    """The powers of a vector's elements as columns, the highest first unless `increasing` (Vandermonde's matrix).

    >>> import dagrun as dr
    >>> dr.vander(dr.asarray([1, 2, 3]))
    array([[1, 1, 1],
           [4, 2, 1],
           [9, 3, 1]])
    """
    x = as_array(x)
    if x.ndim != 1:
        raise ValueError(f"vander: an array of shape {x.shape}, expected a vector")
    count = x.size if N is None else N
    exponents = np.arange(count)[:: 1 if increasing else -1]
    if x.dtype.kind == "b":
        x = x.astype(np.int64)
    return power(reshape(x, (-1, 1)), exponents.astype(np.result_type(x.dtype, np.int64)))


def diagflat(x: Any, /, k: int = 0) -> Array:
    """All elements as diagonal `k` of a new matrix."""
    return diag(ravel(x), k)


def tril_indices(
    n: int, k: int = 0, m: int | None = None, *, device: str | Device | None = None
) -> tuple[Array, Array]:
    """Row and column numbers of what is on diagonal `k` and below it, of a matrix of n rows and m (or n) columns."""
    rows, columns = np.tril_indices(n, k, m)
    return asarray(rows, device=device), asarray(columns, device=device)


def triu_indices(
    n: int, k: int = 0, m: int | None = None, *, device: str | Device | None = None
) -> tuple[Array, Array]:
    """Row and column numbers of what is on diagonal `k` and above it, of a matrix of n rows and m (or n) columns.

    >>> import dagrun as dr
    >>> dr.triu_indices(2)
    (array([0, 0, 1]), array([0, 1, 1]))
    """
    rows, columns = np.triu_indices(n, k, m)
    return asarray(rows, device=device), asarray(columns, device=device)


def diag_indices(n: int, ndim: int = 2, *, device: str | Device | None = None) -> tuple[Array, ...]:
    """The indices of the main diagonal of an array of `ndim` axes of length n."""
    return (arange(n, device=device),) * ndim


def indices(
    dimensions: Sequence[int], dtype: Any = np.int64, sparse: bool = False, *, device: str | Device | None = None
) -> Any:
    """The index of every element of a grid along each axis, stacked; with `sparse` a tuple of arrays that broadcast."""
    shape = tuple(dimensions)
    along = [
        reshape(arange(n, dtype=dtype, device=device), (n,) + (1,) * (len(shape) - 1 - axis))
        for axis, n in enumerate(shape)
    ]
    if sparse:
        lead = [(1,) * axis for axis in range(len(shape))]
        return tuple(reshape(x, (*ones, *x.shape)) for ones, x in zip(lead, along, strict=True))
    return stack([broadcast_to(x, shape) for x in along]) if along else asarray(np.empty((0,), dtype), device=device)


def ix_(*sequences: Any) -> tuple[Array, ...]:
    """Vectors shaped so that together they index the grid of their elements; a mask stands for its true places (waits).

    >>> import dagrun as dr
    >>> dr.arange(6).reshape(2, 3)[dr.ix_([0, 1], [2, 0])]
    array([[2, 0],
           [5, 3]])
    """
    made = []
    for place, given in enumerate(sequences):
        x = as_array(given)
        if x.ndim != 1:
            raise ValueError(f"ix_: a sequence of shape {x.shape}, expected vectors")
        if x.dtype == np.bool_:
            x = asarray(np.flatnonzero(x.numpy()), device=x.device)
        elif not x.size:
            x = x.astype(np.int64)
        made.append(reshape(x, (1,) * place + (-1,) + (1,) * (len(sequences) - 1 - place)))
    return tuple(made)


def unravel_index(flat: Any, /, shape: int | Sequence[int]) -> tuple[Array, ...]:
    """The index along each axis of an array of a shape, of elements numbered in C order. Out of range: ValueError.

    Indices are checked when this is called: it waits for an array of them.

        >>> import dagrun as dr
        >>> [int(i) for i in dr.unravel_index(5, (2, 3))]
        [1, 2]
    """
    x: Any = as_array(flat)
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    if x.dtype.kind not in "iu":
        raise TypeError(f"unravel_index: indices are {x.dtype}, expected integers")
    if x.size and not bool(all_of((x >= 0) & (x < prod(lengths)))):
        raise ValueError(f"unravel_index: an index is out of range for shape {lengths} of {prod(lengths)} elements")
    found: list[Array] = []
    for length in reversed(lengths):
        found.append((x % max(length, 1)).astype(np.int64, copy=False))
        x = x // max(length, 1)
    return tuple(reversed(found))


def fill_diagonal(x: Array, /, val: Any, wrap: bool = False) -> None:
    """Writes a number, or the elements of a vector in turn, to the main diagonal of an array, in place.

    ValueError for less than two axes, and for more where their lengths differ. `wrap` starts a tall matrix's diagonal
    anew below it.
    """
    if x.ndim < 2 or (x.ndim > 2 and len(set(x.shape)) > 1):
        raise ValueError(f"fill_diagonal: an array of shape {x.shape}, expected two axes, or more of one length")
    value = as_array(val).astype(x.dtype, copy=False)
    if x.ndim > 2:
        x[diag_indices(x.shape[0], x.ndim, device=x.device)] = _in_turn(value, x.shape[0])
        return
    rows, columns = x.shape
    target = diagonal(x)
    target[...] = _in_turn(value, target.size)
    if wrap and rows > columns:
        done = target.size
        for start in range(columns + 1, rows, columns + 1):
            target = diagonal(x[start:])
            target[...] = _in_turn(value, target.size, done)
            done += target.size


def _in_turn(value: Array, count: int, start: int = 0) -> Array:
    if value.size == 1:
        return reshape(value, ())
    return ravel(value)[(np.arange(count) + start) % value.size]
