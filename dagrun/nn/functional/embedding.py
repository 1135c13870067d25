"""Embedding: rows of a table by index; names and arguments as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrun.array import Array, as_array, asarray
from dagrun.autodiff import no_grad
from dagrun.ops.indexing import gather
from dagrun.ops.manipulation import expand_dims
from dagrun.ops.mathematics import equal, minimum, sqrt
from dagrun.ops.reductions import sum
from dagrun.ops.selection import where


def _rows(table: Array, index: Array) -> Array:
    """Rows at indices from 0 on: negative ones do not count from the end here."""
    return gather(table, (index,), (0,), 0, (0,), back=False)


def embedding(
    input: Any, weight: Any, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0
) -> Array:
    """The rows of a table at indices: (*input.shape, dimension) of a weight (count, dimension).

    input: integers 0 to count - 1; any other fails when the values are computed: IndexError at the wait. `padding_idx`:
    a row that gets no gradient. `max_norm`: rows that are asked for and are longer are scaled down to it in the table,
    in place (`norm_type` 2 only). Gradients of equal indices add up in ascending position.

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
        if norm_type != 2:
            raise NotImplementedError(f"embedding: norm_type is {norm_type}, expected 2")
        with no_grad():
            rows = _rows(w, index.reshape(-1))
            lengths = sqrt(sum(rows * rows, -1, keepdims=True))
            w[index.reshape(-1)] = rows * minimum(max_norm / (lengths + 1e-7), 1.0)
    rows = _rows(w, index)
    if padding_idx is None:
        return rows
    if not -count <= padding_idx < count:
        raise ValueError(f"embedding: padding_idx is {padding_idx}, expected {-count} to {count - 1}")
    padding = expand_dims(equal(index, padding_idx % count), -1)
    return where(padding, rows.detach(), rows)
