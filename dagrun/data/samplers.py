"""Samplers: the order in which a loader takes samples. The order of an epoch is settled when the epoch begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import chain, cycle, islice
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.data.randomness import ORDER, bits, checked_seed, permutation, uniforms


class Sampler:
    """Indices of samples, in order; a subclass defines `__iter__` and `__len__`.

    A loader calls `set_epoch` before it iterates. The order must depend on the epoch, and on what `state_dict` holds,
    alone: that is what resuming in the middle of an epoch rests on.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch is iterated next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} has no __iter__")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no __len__")

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on besides the epoch and the arguments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def shard(self, index: int, count: int, *, drop_last: bool = False) -> ShardedSampler:
        """Every `count`-th index of the order, beginning with the `index`-th: one of `count` disjoint shards.

        All shards have one length: where the indices do not divide, the first are given out once more, or the last
        are left out with `drop_last`. This is what PyTorch's DistributedSampler does.

            >>> from dagrun import data
            >>> [list(data.SequentialSampler(range(5)).shard(i, 2)) for i in range(2)]
            [[0, 2, 4], [1, 3, 0]]
        """
        return ShardedSampler(self, index, count, drop_last)


def _ints(order: np.ndarray[Any, Any]) -> Iterator[int]:
    """The elements as Python integers, some thousands of them at a time."""
    return chain.from_iterable(order[i : i + 4096].tolist() for i in range(0, len(order), 4096))


class ShardedSampler(Sampler):
    """One of `count` disjoint parts of another sampler's order; see `Sampler.shard`."""

    def __init__(self, sampler: Sampler, index: int, count: int, drop_last: bool = False) -> None:
        if not 0 <= index < count:
            raise ValueError(f"shard {index} of {count}: expected an index from 0 to {count - 1}")
        self.sampler, self.index, self.count, self.drop_last = sampler, index, count, drop_last

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        order = list(self.sampler)
        return islice(cycle(order), self.index, len(self) * self.count, self.count)

    def __len__(self) -> int:
        total = len(self.sampler)
        return total // self.count if self.drop_last else -(-total // self.count)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)


class IterableSampler(Sampler):
    """Whatever the user's iterable gives, such as a list of indices or of batches."""

    def __init__(self, indices: Iterable[Any]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices)

    def __len__(self) -> int:
        if not isinstance(self.indices, Sized):
            raise TypeError(f"a sampler of type {type(self.indices).__name__} has no length")
        return len(self.indices)


def as_sampler(sampler: Sampler | Iterable[Any]) -> Sampler:
    """The sampler itself, or one that iterates over it anew in each epoch."""
    return sampler if isinstance(sampler, Sampler) else IterableSampler(sampler)


class SequentialSampler(Sampler):
    """0, 1, 2, ... for every sample of a dataset."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """Every sample once, in an order that depends on seed and epoch; or `num_samples` draws with `replacement`.

    >>> from dagrun import data
    >>> order = data.RandomSampler(range(5), seed=1)
    >>> first = list(order)
    >>> sorted(first), first == list(order)
    ([0, 1, 2, 3, 4], True)
    >>> order.set_epoch(1)
    >>> first == list(order)
    False
    """

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None, *, seed: int = 0
    ) -> None:
        self.data_source, self.replacement, self.seed = data_source, replacement, checked_seed(seed)
        self.num_samples = len(data_source) if num_samples is None else num_samples
        most = len(data_source)
        if self.num_samples < 0 or (self.num_samples > most and not (replacement and most)):
            raise ValueError(f"num_samples is {self.num_samples}, expected 0 to {most} without replacement")

    def __iter__(self) -> Iterator[int]:
        key, total = (ORDER, self.seed, self.epoch), len(self.data_source)
        if self.replacement:  # the high half of a 64-bit number times the length: a bias below 2**-32 x length
            high = bits(self.num_samples, *key) >> np.uint64(32)
            return _ints((high * np.uint64(total)) >> np.uint64(32))
        return _ints(permutation(total, *key)[: self.num_samples])

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """Given indices in an order that depends on seed and epoch."""

    def __init__(self, indices: Sequence[int], *, seed: int = 0) -> None:
        self.indices, self.seed = np.asarray(indices, np.int64).reshape(-1), checked_seed(seed)

    def __iter__(self) -> Iterator[int]:
        return _ints(self.indices[permutation(len(self.indices), ORDER, self.seed, self.epoch)])

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """Draws index i with a probability in proportion to `weights[i]`.

    Without replacement by the exponential keys of Efraimidis and Spirakis (2006). ValueError for weights that are
    negative, not finite or all zero, or where fewer are positive than are to be drawn without replacement.
    """

    def __init__(self, weights: Any, num_samples: int, replacement: bool = True, *, seed: int = 0) -> None:
        self.weights = np.asarray(weights, np.float64).reshape(-1)
        self.num_samples, self.replacement, self.seed = num_samples, replacement, checked_seed(seed)
        total = self.weights.sum()
        if not (np.all(self.weights >= 0) and 0 < total < np.inf):
            raise ValueError("weights: expected finite numbers that are not negative, at least one above 0")
        most = np.inf if replacement else np.count_nonzero(self.weights)
        if not 0 <= num_samples <= most:
            raise ValueError(f"num_samples is {num_samples}, expected 0 to {most}, the number of positive weights")

    def __iter__(self) -> Iterator[int]:
        key = (ORDER, self.seed, self.epoch)
        if self.replacement:
            ends = np.cumsum(self.weights)
            drawn = np.searchsorted(ends, uniforms(self.num_samples, *key) * ends[-1], side="right")
            return _ints(np.minimum(drawn, np.flatnonzero(self.weights)[-1]))
        candidates = np.flatnonzero(self.weights)
        keys = -np.log1p(-uniforms(len(self.weights), *key)[candidates]) / self.weights[candidates]
        return _ints(candidates[np.argsort(keys, kind="stable")[: self.num_samples]])

    def __len__(self) -> int:
        return self.num_samples


class HardFirstSampler(Sampler):
    """Every sample once, those of the largest last known loss first; samples without a known loss before all others.

    `update` may be called at any time; an epoch keeps the order that it began with.

        >>> from dagrun import data
        >>> sampler = data.HardFirstSampler(range(4))
        >>> sampler.update([0, 1, 2, 3], [0.1, 0.9, 0.5, 0.9])
        >>> sampler.set_epoch(1)
        >>> list(sampler)
        [1, 3, 2, 0]
    """

    def __init__(self, data_source: Sized) -> None:
        self.epoch = -1  # none yet: what was noted before the first epoch counts in it
        self.losses = np.full(len(data_source), np.inf)
        self.order = np.arange(len(data_source))

    def update(self, indices: Any, losses: Any) -> None:
        """Notes the losses of samples: arrays of one length (dagrun arrays are waited for). A NaN counts as hardest."""
        rows, values = (x.numpy() if isinstance(x, Array) else np.asarray(x) for x in (indices, losses))
        if rows.shape != values.shape:
            raise ValueError(f"update: {rows.shape} indices and {values.shape} losses, expected as many of both")
        self.losses[rows] = np.where(np.isnan(values), np.inf, values)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.order = np.argsort(-self.losses, kind="stable")
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return _ints(self.order)

    def __len__(self) -> int:
        return len(self.losses)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "losses": self.losses.copy(), "order": self.order.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        losses, order = np.array(state["losses"], np.float64), np.array(state["order"], np.int64)
        if losses.shape != self.losses.shape or order.shape != self.order.shape:
            raise ValueError(f"state of {losses.shape} samples, expected {self.losses.shape}")
        self.epoch, self.losses, self.order = int(state["epoch"]), losses, order


class BatchSampler(Sampler):
    """Lists of `batch_size` indices of another sampler; the last one is shorter, or left out with `drop_last`.

    >>> from dagrun import data
    >>> list(data.BatchSampler(range(5), batch_size=2))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Sampler | Iterable[int], batch_size: int, drop_last: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.sampler, self.batch_size, self.drop_last = as_sampler(sampler), batch_size, drop_last

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches(iter(self.sampler))  # the order is settled now, not at the first batch

    def _batches(self, indices: Iterator[int]) -> Iterator[list[int]]:
        least = self.batch_size if self.drop_last else 1
        while len(batch := list(islice(indices, self.batch_size))) >= least:
            yield batch

    def __len__(self) -> int:
        total = len(self.sampler)
        return total // self.batch_size if self.drop_last else -(-total // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)
