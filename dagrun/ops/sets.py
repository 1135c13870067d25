"""Distinct elements, set operations and counts. The size of most results depends on values: these functions wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dagrun.array import Array, as_array, asarray, host_view
from dagrun.core import native
from dagrun.ops.elementwise import place
from dagrun.ops.indexing import take
from dagrun.ops.manipulation import flip
from dagrun.ops.mathematics import equal, logical_not
from dagrun.ops.sorting import searchsorted, sort


class UniqueAllResult(NamedTuple):
    """Distinct elements; where each stands first; which of them each element is; how many there are of each."""

    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCountsResult(NamedTuple):
    """Distinct elements, and how many there are of each."""

    values: Array
    counts: Array


class UniqueInverseResult(NamedTuple):
    """Distinct elements, and which of them each element is."""

    values: Array
    inverse_indices: Array


def unique(
    x: Any,
    /,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    *,
    equal_nan: bool = True,
    sorted: bool = True,
) -> Any:
    """The distinct elements, sorted; on request also their first places, the inverse and counts, as a tuple.

    With `axis` the distinct slices along it. Always sorted. The gradient of a value goes to the first of the elements
    that have it.

        >>> import dagrun as dr
        >>> dr.unique(dr.asarray([3, 1, 3]), return_counts=True)
        (array([1, 3]), array([1, 2]))
    """
    x = as_array(x)
    follows = x.requires_grad and native.gradients()
    extras: Any = {"return_inverse": return_inverse, "return_counts": return_counts, "axis": axis}
    found: Any = np.unique(host_view(x), return_index=return_index or follows, equal_nan=equal_nan, **extras)
    if not isinstance(found, tuple):
        return asarray(found, device=x.device)
    values, *rest = (asarray(part, device=x.device) for part in found)
    if follows:
        values = take(x, rest[0], axis)
        rest = rest if return_index else rest[1:]
    return (values, *rest) if rest else values


def unique_values(x: Any, /) -> Array:
    """The distinct elements, sorted; every NaN is one (array API)."""
    return unique(x, equal_nan=False)


def unique_all(x: Any, /) -> UniqueAllResult:
    """Distinct elements, their first places, the inverse and counts; every NaN is one (array API)."""
    return UniqueAllResult(*unique(x, True, True, True, equal_nan=False))


def unique_counts(x: Any, /) -> UniqueCountsResult:
    """Distinct elements and how many there are of each; every NaN is one (array API)."""
    return UniqueCountsResult(*unique(x, return_counts=True, equal_nan=False))


def unique_inverse(x: Any, /) -> UniqueInverseResult:
    """Distinct elements and which of them each element is; every NaN is one (array API)."""
    return UniqueInverseResult(*unique(x, return_inverse=True, equal_nan=False))


def _pair(x1: Any, x2: Any, name: str) -> tuple[Array, Array]:
    (a, b), where = place((x1, x2), name)
    return asarray(a, device=where), asarray(b, device=where)


def isin(element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False) -> Array:
    """Whether each element is one of the test elements (is not, with `invert`); `assume_unique` changes nothing.

    >>> import dagrun as dr
    >>> dr.isin(dr.asarray([1, 2, 3]), [3, 1])
    array([ True, False,  True])
    """
    a, b = _pair(element, test_elements, "isin")
    line = sort(b, None)
    if line.size:
        places = searchsorted(line, a)
        found = equal(take(line, places.clip(0, line.size - 1)), a)
    else:
        found = asarray(np.zeros(a.shape, np.bool_), device=a.device)
    return logical_not(found) if invert else found


def _of_two(name: str, x1: Any, x2: Any, **options: Any) -> Any:
    a, b = _pair(x1, x2, name)
    found = getattr(np, name)(host_view(a), host_view(b), **options)
    if isinstance(found, tuple):
        return tuple(asarray(part, device=a.device) for part in found)
    return asarray(found, device=a.device)


def intersect1d(x1: Any, x2: Any, /, assume_unique: bool = False, return_indices: bool = False) -> Any:
    """The sorted distinct elements that both arrays have; with `return_indices` also where they stand first in each."""
    return _of_two("intersect1d", x1, x2, assume_unique=assume_unique, return_indices=return_indices)


def union1d(x1: Any, x2: Any, /) -> Array:
    """The sorted distinct elements that one of two arrays has."""
    result: Array = _of_two("union1d", x1, x2)
    return result


def setdiff1d(x1: Any, x2: Any, /, assume_unique: bool = False) -> Array:
    """The sorted distinct elements of x1 that x2 does not have."""
    result: Array = _of_two("setdiff1d", x1, x2, assume_unique=assume_unique)
    return result


def setxor1d(x1: Any, x2: Any, /, assume_unique: bool = False) -> Array:
    """The sorted distinct elements that only one of two arrays has."""
    result: Array = _of_two("setxor1d", x1, x2, assume_unique=assume_unique)
    return result


# ---- counts


def bincount(x: Any, /, weights: Any = None, minlength: int = 0) -> Array:
    """How often each number from 0 on is among integers, or the sum of their weights.

    >>> import dagrun as dr
    >>> dr.bincount(dr.asarray([0, 2, 2]))
    array([1, 0, 2])
    """
    x = as_array(x)
    found = np.bincount(host_view(x), None if weights is None else host_view(as_array(weights)), minlength)
    return asarray(found, device=x.device)


def histogram(
    x: Any, /, bins: Any = 10, range: Sequence[float] | None = None, density: bool | None = None, weights: Any = None
) -> tuple[Array, Array]:
    """How many elements fall between each two of the edges; and the edges.

    `bins`: their number, or the edges, or a rule of NumPy's. `density`: the share of all for each unit of length.

        >>> import dagrun as dr
        >>> dr.histogram(dr.asarray([1.0, 2.0, 2.5]), bins=[0, 2, 4])[0]
        array([1, 2])
    """
    x = as_array(x)
    edges: Any = host_view(bins) if isinstance(bins, Array) else bins
    limits: Any = None if range is None else tuple(range)
    scale = None if weights is None else host_view(as_array(weights))
    counts, edges = np.histogram(host_view(x), edges, limits, density, scale)
    return asarray(counts, device=x.device), asarray(edges, device=x.device)


def digitize(x: Any, /, bins: Any, right: bool = False) -> Array:
    """Which bin each element falls into: how many edges are at most as large (smaller, with `right`).

    Edges may also descend. They are read at once; ValueError where they go up and down.

        >>> import dagrun as dr
        >>> dr.digitize(dr.asarray([0.2, 6.4, 3.0]), [0.0, 1.0, 2.5, 4.0])
        array([1, 4, 3])
    """
    x = as_array(x)
    edges = bins if isinstance(bins, Array) else asarray(bins, device=x.device)
    steps = np.diff(host_view(edges))
    if edges.ndim != 1 or not ((steps >= 0).all() or (steps <= 0).all()):
        raise ValueError("digitize: bins must be a vector that does not go up and down")
    if (steps >= 0).all():
        return searchsorted(edges, x, "left" if right else "right")
    return edges.size - searchsorted(flip(edges), x, "left" if right else "right")
