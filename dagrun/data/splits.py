"""Datasets cut in parts: at random, or with every class in proportion. A cut depends on the seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.data.dataset import Dataset, Subset
from dagrun.data.randomness import SPLIT, checked_seed, permutation

Lengths = Sequence[int] | Sequence[float]


def _shares(total: int, lengths: Lengths) -> list[int]:
    """Lengths in samples. Fractions of one are rounded so that they sum to the total, largest remainder first."""
    if all(isinstance(n, (int, np.integer)) for n in lengths):
        counts = [int(n) for n in lengths]
        if min(counts, default=-1) < 0 or sum(counts) != total:
            raise ValueError(f"lengths {list(lengths)} sum to {sum(counts)}, expected {total}, the number of samples")
        return counts
    if any(not 0 <= n <= 1 for n in lengths) or not math.isclose(math.fsum(lengths), 1):
        raise ValueError(f"fractions {list(lengths)} sum to {math.fsum(lengths)}, expected numbers in [0, 1] of sum 1")
    exact = [total * n for n in lengths]
    counts = [math.floor(n) for n in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _cut(order: np.ndarray[Any, Any], counts: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    return np.split(order, np.cumsum(counts[:-1]))


def random_split(dataset: Dataset, lengths: Lengths, seed: int = 0) -> list[Subset]:
    """Disjoint random subsets of the given lengths, or fractions that sum to one. ValueError where they do not fit.

    >>> from dagrun import data
    >>> [len(part) for part in data.random_split(data.ArrayDataset(range(10)), [0.75, 0.25])]
    [8, 2]
    """
    order = permutation(len(dataset), SPLIT, checked_seed(seed))
    return [Subset(dataset, rows) for rows in _cut(order, _shares(len(dataset), lengths))]


def stratified_split(dataset: Dataset, fractions: Sequence[float], labels: Any, seed: int = 0) -> list[Subset]:
    """Disjoint random subsets in which each label has its share of every subset, to within one sample.

    `labels` has one entry for each sample; `fractions` sum to one. Each subset is shuffled. ValueError otherwise.

        >>> from dagrun import data
        >>> y = [0] * 8 + [1] * 4
        >>> parts = data.stratified_split(data.ArrayDataset(y), [0.75, 0.25], y)
        >>> [[sum(int(sample[0]) == label for sample in part) for label in (0, 1)] for part in parts]
        [[6, 3], [2, 1]]
    """
    classes = np.asarray(labels)
    if classes.shape != (len(dataset),):
        raise ValueError(f"labels have shape {classes.shape}, expected ({len(dataset)},): one for each sample")
    order = permutation(len(dataset), SPLIT, checked_seed(seed))
    shuffled = classes[order]
    parts: list[list[np.ndarray[Any, Any]]] = [[np.empty(0, np.int64)] for _ in fractions]
    for label in np.unique(classes):
        rows = np.flatnonzero(shuffled == label)
        counts = _shares(len(rows), [float(n) for n in fractions])
        for part, piece in zip(parts, _cut(rows, counts), strict=True):
            part.append(piece)
    return [Subset(dataset, order[np.sort(np.concatenate(part))]) for part in parts]
