"""Einstein summation: products of any number of arrays, summed over labelled axes, composed of matrix products."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from string import ascii_letters
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.ops.elementwise import MOST_PLANS, written
from dagrun.ops.linalg.products import matmul
from dagrun.ops.manipulation import diagonal, expand_dims, permute_dims, reshape, squeeze
from dagrun.ops.reductions import any as any_of
from dagrun.ops.reductions import sum as sum_of
from dagrun.record import common_device

Steps = tuple[tuple[int, ...], ...]


def _without_dots(labels: str, ndim: int, spare: str) -> str:
    """Labels with "..." written out: the last of the spare ones stand for the last of those axes."""
    if "..." not in labels:
        return labels
    count = ndim - len(labels) + 3
    if count < 0 or labels.count(".") != 3:
        raise ValueError(f"einsum: labels {labels!r} for an operand of {ndim} axes")
    return labels.replace("...", spare[len(spare) - count :])


@lru_cache(MOST_PLANS)
def _plan(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[str, ...], str, Steps]:
    """The labels of each operand and of the result, and which operands are multiplied in turn (`numpy.einsum_path`).

    ValueError where labels and shapes do not fit.
    """
    given, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"einsum: {subscripts!r} names {len(terms)} operands, got {len(shapes)}")
    free = "".join(letter for letter in ascii_letters if letter not in given)
    most = max([len(shape) - len(term) + 3 for term, shape in zip(terms, shapes) if "..." in term], default=0)
    spare = free[:most]
    labels = tuple(_without_dots(term, len(shape), spare) for term, shape in zip(terms, shapes))
    if not arrow:  # labels that stand once, in the order of the alphabet
        joined = "".join(labels)
        result = spare + "".join(sorted(label for label in set(joined) - set(spare) if joined.count(label) == 1))
    result = result.replace("...", spare)
    for own, shape in zip(labels, shapes):
        if len(own) != len(shape):
            raise ValueError(f"einsum: labels {own!r} for an operand of shape {shape}, expected {len(shape)} of them")
        for label in set(own):
            lengths = {length for other, length in zip(own, shape) if other == label}
            if len(lengths) > 1:
                raise ValueError(f"einsum: axes {label!r} of an operand of shape {shape} differ, expected one length")
    likes = [np.broadcast_to(np.empty((), np.bool_), shape) for shape in shapes]
    path = np.einsum_path(f"{','.join(labels)}->{result}", *likes, optimize="greedy")[0]
    return labels, result, tuple(path[1:])


def _summed(x: Array, labels: str, kept: str) -> tuple[Array, str]:
    """The sum over the axes whose labels are not kept."""
    axes = tuple(axis for axis, label in enumerate(labels) if label not in kept)
    if axes:
        x = any_of(x, axis=axes) if x.dtype == np.bool_ else sum_of(x, axis=axes, dtype=x.dtype)
    return x, "".join(label for label in labels if label in kept)


def _single(x: Array, labels: str) -> tuple[Array, str]:
    """The diagonal where a label stands several times."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first, second = labels.index(label), labels.rindex(label)
            x = diagonal(x, 0, first, second)
            labels = "".join(other for axis, other in enumerate(labels) if axis not in (first, second)) + label
    return x, labels


def _narrowed(x: Array, labels: str, other: Array, others: str) -> tuple[Array, str]:
    """Without axes of length 1 that the other operand has longer: its elements count for all of them."""
    axes = tuple(
        axis
        for axis, label in enumerate(labels)
        if x.shape[axis] == 1 and label in others and other.shape[others.index(label)] != 1
    )
    return squeeze(x, axes) if axes else x, "".join(label for axis, label in enumerate(labels) if axis not in axes)


def _arranged(x: Array, labels: str, *groups: str) -> Array:
    """The axes of each group of labels as one."""
    x = permute_dims(x, tuple(labels.index(label) for group in groups for label in group))
    lengths = iter(x.shape)
    return reshape(x, tuple(prod(next(lengths) for _ in group) for group in groups))


def _product(a: Array, own: str, b: Array, other: str, kept: str) -> tuple[Array, str]:
    """The product of two operands, summed over the labels that are not kept."""
    (a, own), (b, other) = _narrowed(a, own, b, other), _narrowed(b, other, a, own)
    a, own = _summed(a, own, kept + other)
    b, other = _summed(b, other, kept + own)
    sizes = dict(zip(own, a.shape)) | dict(zip(other, b.shape))
    rows = "".join(label for label in own if label not in other)
    columns = "".join(label for label in other if label not in own)
    batch = "".join(label for label in own if label in other and label in kept)
    summed = "".join(label for label in own if label in other and label not in kept)
    lead = (batch,) if batch else ()
    if summed:
        made = matmul(_arranged(a, own, *lead, rows, summed), _arranged(b, other, *lead, summed, columns))
    else:
        made = expand_dims(_arranged(a, own, *lead, rows), -1) * expand_dims(_arranged(b, other, *lead, columns), -2)
    labels = batch + rows + columns
    return reshape(made, tuple(sizes[label] for label in labels)), labels


def einsum(subscripts: str, /, *operands: Any, out: Array | None = None, optimize: Any = True) -> Array:
    """Sums of products over labelled axes, as `numpy.einsum`: "ij,jk->ik" is a matrix product.

    A letter labels an axis; operands are separated by commas. Axes of one label are multiplied element by element, and
    summed over where the result after "->" does not name the label; without "->" the result has the labels that stand
    once, in alphabetical order. "..." stands for any further axes. Axes of length 1 count for any length. Products of
    more than two operands go in the order that `numpy.einsum_path` finds; `optimize` is taken and does nothing.
    `out`: an array to write the result into. ValueError where labels and shapes differ.

        >>> import dagrun as dr
        >>> a = dr.asarray([[1, 2], [3, 4]])
        >>> dr.einsum("ij,jk->ik", a, a), dr.einsum("ii", a)
        (array([[ 7, 10],
               [15, 22]]), array(5))
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: subscripts are a {type(subscripts).__name__}, expected a string such as 'ij,jk->ik'")
    arrays = [as_array(operand) for operand in operands]
    if not arrays:
        raise ValueError("einsum: expected at least one operand")
    common_device("einsum", arrays)
    labels, result, steps = _plan(subscripts, tuple(x.shape for x in arrays))
    terms = [_single(x, own) for x, own in zip(arrays, labels)]
    for step in steps:
        chosen = [terms[place] for place in step]
        terms = [term for place, term in enumerate(terms) if place not in step]
        made = chosen[0]
        for number, following in enumerate(chosen[1:], 2):
            rest = [own for _, own in (*terms, *chosen[number:])]
            made = _product(*made, *following, result + "".join(rest))
        terms.append(made)
    x, own = _summed(*terms[0], result)
    return written(permute_dims(x, tuple(own.index(label) for label in result)), out, "einsum")
