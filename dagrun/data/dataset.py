"""Map-style datasets: a length, and a sample for each index."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from dagrun.array import Array

Transform = Callable[[Any], Any]


class Dataset:
    """Samples by index: a subclass defines `__len__` and `__getitem__`, which several threads may call at once.

    >>> from dagrun import data
    >>> class Squares(data.Dataset):
    ...     def __len__(self):
    ...         return 4
    ...
    ...     def __getitem__(self, index):
    ...         return index, index**2
    >>> next(iter(data.DataLoader(Squares(), batch_size=3)))
    (array([0, 1, 2]), array([0, 1, 4]))
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no __len__")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__")

    def take(self, indices: np.ndarray[Any, Any]) -> Any:
        """The batch of these samples, as fresh NumPy arrays that the caller may keep, without a loop over samples.

        NotImplemented where there is no such way: then the loader collates the samples one by one.
        """
        return NotImplemented

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


def checked_index(index: int, length: int, what: str) -> int:
    """The index counted from the front; IndexError where there is no such sample."""
    if not -length <= index < length:
        raise IndexError(f"index {index} of a {what} of {length} samples: expected {-length} to {length - 1}")
    return index + length if index < 0 else index


class ArrayDataset(Dataset):
    """Rows of arrays that have one length: sample i is the tuple of their rows i.

    Arrays are NumPy arrays (not copied; memory-mapped ones are fine), dagrun arrays (read once, here) or what
    `np.asarray` understands. With `transform` the first of the tuple is transformed, one sample at a time; without it
    batches are taken from the arrays at once. ValueError where the lengths differ.

        >>> from dagrun import data
        >>> data.ArrayDataset([[1.0, 2.0], [3.0, 4.0]], [0, 1])[1]
        (array([3., 4.]), np.int64(1))
    """

    def __init__(self, *arrays: Any, transform: Transform | None = None) -> None:
        if not arrays:
            raise ValueError("ArrayDataset: expected at least one array")
        self.arrays = tuple(x.numpy() if isinstance(x, Array) else np.asarray(x) for x in arrays)
        shapes = [x.shape for x in self.arrays]
        if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"ArrayDataset: expected arrays of one length, got shapes {', '.join(map(str, shapes))}")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        place = checked_index(index, len(self), "ArrayDataset")
        sample = tuple(x[place] for x in self.arrays)
        return sample if self.transform is None else (self.transform(sample[0]), *sample[1:])

    def take(self, indices: np.ndarray[Any, Any]) -> Any:
        if self.transform is not None:
            return NotImplemented
        return tuple(np.asarray(x.take(indices, axis=0)) for x in self.arrays)


TensorDataset = ArrayDataset  # PyTorch's name


class Subset(Dataset):
    """The samples of a dataset at given indices, in their order.

    >>> from dagrun import data
    >>> data.Subset(data.ArrayDataset([10, 20, 30]), [2, 0])[0]
    (np.int64(30),)
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray[Any, Any]) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        n = len(dataset)
        if self.indices.size and not (-n <= np.min(self.indices) and np.max(self.indices) < n):
            held = f"{np.min(self.indices)} to {np.max(self.indices)}"
            raise IndexError(f"Subset: indices {held} of {n} samples, expected {-n} to {n - 1}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[checked_index(index, len(self), "Subset")])]

    def take(self, indices: np.ndarray[Any, Any]) -> Any:
        return self.dataset.take(self.indices[indices]) if isinstance(self.dataset, Dataset) else NotImplemented


class ConcatDataset(Dataset):
    """Datasets one after another; also `a + b`.

    >>> from dagrun import data
    >>> both = data.ArrayDataset([1, 2]) + data.ArrayDataset([3])
    >>> len(both), both[-1]
    (3, (np.int64(3),))
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: expected at least one dataset")
        self.ends = list(accumulate(len(part) for part in self.datasets))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Any:
        place = checked_index(index, len(self), "ConcatDataset")
        part = bisect_right(self.ends, place)
        return self.datasets[part][place - (self.ends[part - 1] if part else 0)]
