"""Embedding: rows of a table by index; names and arguments as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray
from dagrun.autodiff import no_grad
from dagrun.nn.functional.vectors import norm
from dagrun.ops.creation import arange, ones, zeros
from dagrun.ops.indexing import gather
from dagrun.ops.manipulation import expand_dims
from dagrun.ops.mathematics import equal, minimum
from dagrun.ops.reductions import max
from dagrun.ops.scattering import index_add
from dagrun.ops.selection import where
from dagrun.record import Gradients, composed


def _rows(table: Array, index: Array) -> Array:
    """Rows at indices from 0 on: negative ones do not count from the end here."""
    return gather(table, (index,), (0,), 0, (0,), back=False)


def _divided_by_frequency(rows: Array, index: Array, count: int) -> Array:
    """The rows themselves; their gradients are divided by how often each is asked for."""
    flat = index.reshape(-1)
    often = index_add(
        zeros(count, rows.dtype, device=rows.device), flat, ones(flat.size, rows.dtype, device=rows.device)
    )
    share = expand_dims(1.0 / _rows(often, index), -1)
    made: Array = composed("embedding", _DIVIDED, lambda rows, share: rows.detach(), (rows, share))
    return made


_DIVIDED = Gradients(lambda g, b: g * b)


def embedding(
    input: Any, weight: Any, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Array:  # fmt: skip
    """The rows of a table at indices: (*input.shape, dimension) of a weight (count, dimension).

    input: integers 0 to count - 1; any other fails when the values are computed: IndexError at the wait. `padding_idx`:
    a row that gets no gradient. `max_norm`: rows that are asked for and whose norm (`norm_type`) is larger are scaled
    down to it in the table, in place. Gradients of equal indices add up in ascending position; `scale_grad_by_freq`
    divides them by how many there are. `sparse` is taken and does nothing: gradients are whole tables.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.embedding([1, 0], dr.asarray([[1.0, 2.0], [3.0, 4.0]]))
        array([[3., 4.],
               [1., 2.]])
    """
    w = as_array(weight)
    index = input if isinstance(input, Array) else asarray(input, device=w.device)
    if w.ndim != 2:
        raise ValueError(f"embedding: weight of shape {w.shape}, expected (count, dimension)")
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding: input of dtype {index.dtype}, expected integers")
    count = w.shape[0]
    index = index.astype(np.int64) if index.dtype == np.uint64 else index
    if max_norm is not None:
        with no_grad():
            rows = _rows(w, index.reshape(-1))
            lengths = norm(rows, norm_type, -1, True)
            w[index.reshape(-1)] = rows * minimum(max_norm / (lengths + 1e-7), 1.0)
    rows = _rows(w, index)
    if scale_grad_by_freq:
        rows = _divided_by_frequency(rows, index, count)
    if padding_idx is None:
        return rows
    if not -count <= padding_idx < count:
        raise ValueError(f"embedding: padding_idx is {padding_idx}, expected {-count} to {count - 1}")
    padding = expand_dims(equal(index, padding_idx % count), -1)
    return where(padding, rows.detach(), rows)


def one_hot(tensor: Any, num_classes: int = -1) -> Array:
    """For each class number its row of the unit matrix: (*tensor.shape, num_classes), int64.

    `num_classes` -1: one more than the largest number, for which this waits. A number out of range fails when the
    values are computed: IndexError at the wait. TypeError for what is no integer.

        >>> import dagrun as dr
        >>> dr.nn.functional.one_hot([2, 0], 3)
        array([[0, 0, 1],
               [1, 0, 0]])
    """
    classes = as_array(tensor)
    if classes.dtype.kind not in "iu":
        raise TypeError(f"one_hot: classes of dtype {classes.dtype}, expected integers")
    if num_classes == -1:
        num_classes = int(max(classes).item()) + 1 if classes.size else 0
    if num_classes < 1:
        raise ValueError(f"one_hot: num_classes is {num_classes}, expected at least 1 (or -1 and some classes)")
    numbers = arange(num_classes, dtype=np.int64, device=classes.device)
    found = gather(numbers, (classes,), (0,), 0, (0,), back=False)  # themselves, and an error for those out of range
    return equal(expand_dims(found, -1), numbers).astype(np.int64)
