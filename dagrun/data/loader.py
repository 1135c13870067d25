"""`DataLoader`: batches of a dataset as dagrun arrays, in an order that depends on seed and epoch alone.

The life of a batch: the iterating thread takes its indices from the batch sampler and hands them to a worker; the
worker loads and collates the samples into host memory; the iterating thread waits for the batch whose turn it is and
makes dagrun arrays of it. On CPU devices these take the batch's memory as it is. On others a copy is recorded; the
program runs ahead of the engine, so that copy overlaps the work on the batches before.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from dagrun.data.collate import collate, convert, to_device, to_devices
from dagrun.data.dataset import Dataset
from dagrun.data.errors import LoaderError
from dagrun.data.randomness import checked_seed, sample_streams
from dagrun.data.samplers import BatchSampler, RandomSampler, Sampler, SequentialSampler, as_sampler
from dagrun.data.workers import Batch, Workers
from dagrun.devices import Device
from dagrun.devices import device as find_device

Collate = Callable[[list[Any]], Any]


class _Stopped(Exception):
    """The iterator was closed while a worker was at a batch of it."""


def _load(
    dataset: Any,
    collate_fn: Collate | None,
    seed: int,
    epoch: int,
    number: int,
    indices: Sequence[int],
    stop: threading.Event | None,
) -> Any:
    """The batch in host memory, unless told to `stop`. What fails is raised as a LoaderError from what was raised."""
    index: int | None = None
    try:
        if collate_fn is None and isinstance(dataset, Dataset):
            rows = dataset.take(np.asarray(indices, np.int64))
            if rows is not NotImplemented:
                return rows
        samples = []
        with sample_streams(seed, epoch, number) as streams:
            for place, index in enumerate(indices):
                if stop is not None and stop.is_set():
                    raise _Stopped
                streams.place = place
                samples.append(dataset[index])
        index = None
        return (collate_fn or collate)(samples)
    except _Stopped:
        raise
    except Exception as error:
        raise LoaderError(epoch, number, index, error) from error


@dataclass(slots=True)
class _Place:
    """How far an iterator has come: what `state_dict` tells."""

    epoch: int
    batch: int  # batches given out so far
    ended: bool = False
    indices: Sequence[int] = ()


class _Batches(Iterator[Any]):
    """The batches of one epoch, from one on."""

    def __init__(self, loader: DataLoader, place: _Place) -> None:
        self._place = place
        self._load = partial(_load, loader.dataset, loader.collate_fn, loader.seed, place.epoch)
        self._place_array = loader._placing()
        self._numbered = enumerate(islice(iter(loader.batch_sampler), place.batch, None), place.batch)
        self._ahead: deque[Batch] = deque()  # in order of the epoch: handed to workers, not yet given out
        self._workers: Workers | None = None
        self._closed = False
        if loader.num_workers:
            self._workers = Workers(loader.num_workers, self._load)
            self._closing = weakref.finalize(self, self._workers.close)
            for _ in range(loader.prefetch):
                self._submit()

    def _submit(self) -> None:
        """Hands the next batch to the workers, if there is one."""
        assert self._workers is not None
        for number, indices in islice(self._numbered, 1):
            batch = Batch(number, indices)
            self._ahead.append(batch)
            self._workers.submit(batch)

    def _next(self) -> tuple[int, Sequence[int], Any] | None:
        """Number, indices and values of the batch whose turn it is; None at the end. Raises what went wrong with it."""
        if self._workers is None:
            for number, indices in self._numbered:
                return number, indices, self._load(number, indices, None)
            return None
        if not self._ahead:
            return None
        self._workers.take(self._ahead[0])
        batch = self._ahead.popleft()
        if batch.error is not None:
            raise batch.error
        self._submit()
        return batch.number, batch.indices, batch.result

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            loaded = self._next()
            if loaded is not None:
                number, indices, values = loaded
                made = convert(values, self._place_array)
                self._place.batch, self._place.indices = number + 1, indices
                return made
            self._place.ended = True
        except BaseException:  # Ctrl-C too
            self.close()
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Ends the iteration and the workers; what they are at is finished first, sample by sample."""
        self._closed = True
        self._ahead.clear()
        if self._workers is not None:
            self._closing()


class DataLoader:
    """Batches of a dataset as dagrun arrays; each `iter()` of it is one epoch.

    - `dataset`: has `__len__` and `__getitem__`; a `Dataset` that can `take` rows is read without a loop over samples.
    - `batch_size`, `shuffle`, `drop_last`; or `sampler`, the order of indices; or `batch_sampler`, lists of indices.
    - `num_workers` threads load batches; 0: the iterating thread does. `prefetch` batches, by default two for each
      worker, are loaded or being loaded beyond the one given out, never more.
    - `collate_fn(samples)` makes the batch, in the worker; without it samples are stacked (see `collate`).
    - `device`: where the arrays are (default: the default device when a batch is given out). `devices`: every array
      becomes a tuple, its rows in consecutive parts, one on each device, the first parts longer by at most one row.

    Order and contents depend on `seed`, epoch and place in the epoch alone, transforms included (`sample_generator`).
    The first `iter()` is epoch 0, the next one epoch 1, whether or not the first came to its end; `set_epoch` chooses.
    `state_dict()` tells how many batches of the epoch were given out, and after `load_state_dict` the next `iter()`
    goes on there. `batch_indices` are those of the batch given out last.

    A sample that cannot be loaded raises LoaderError when it is its batch's turn, with what was raised as `__cause__`,
    and ends the iteration. Leaving the loop ends the workers.

        >>> import numpy as np
        >>> from dagrun import data
        >>> dataset = data.ArrayDataset(np.arange(6.0).reshape(3, 2), [0, 1, 0])
        >>> for x, y in data.DataLoader(dataset, batch_size=2):
        ...     print(x.shape, y)
        (2, 2) [0 1]
        (1, 2) [0]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Sampler | Iterable[int] | None = None,
        batch_sampler: Sampler | Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        *,
        drop_last: bool = False,
        seed: int = 0,
        prefetch: int | None = None,
        device: str | Device | None = None,
        devices: Sequence[str | Device] | None = None,
    ) -> None:
        if batch_sampler is not None and (sampler is not None or shuffle or drop_last or batch_size != 1):
            raise ValueError("batch_sampler: expected no batch_size, shuffle, sampler or drop_last beside it")
        if sampler is not None and shuffle:
            raise ValueError("sampler: expected no shuffle beside it, the sampler is the order")
        if device is not None and devices is not None:
            raise ValueError("device and devices: expected one of them")
        if devices is not None and not devices:
            raise ValueError("devices: expected at least one")
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}, expected at least 0")
        if prefetch is not None and (prefetch < 1 or not num_workers):
            raise ValueError(f"prefetch is {prefetch} with {num_workers} workers, expected at least 1 of each")
        self.dataset, self.collate_fn = dataset, collate_fn
        self.seed = checked_seed(seed)
        self.num_workers = num_workers
        self.prefetch = 2 * num_workers if prefetch is None else prefetch
        self.device = None if device is None else find_device(device)
        self.devices = None if devices is None else tuple(find_device(label) for label in devices)
        if batch_sampler is not None:
            self.batch_sampler = as_sampler(batch_sampler)
        else:
            if sampler is None:
                sampler = RandomSampler(dataset, seed=self.seed) if shuffle else SequentialSampler(dataset)
            self.batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self._at = _Place(0, 0)  # where the next `iter()` begins
        self._running: _Place | None = None  # that of the latest iterator, unless a place was chosen since

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return len(self.batch_sampler)

    @property
    def epoch(self) -> int:
        """The epoch that the next `iter()` runs, or goes on with."""
        return self._at.epoch

    def set_epoch(self, epoch: int) -> None:
        """Lets the next `iter()` begin this epoch."""
        self._at, self._running = _Place(checked_seed(epoch), 0), None

    @property
    def batch_indices(self) -> list[int]:
        """The dataset's indices of the batch that the latest iterator gave out last."""
        return list(self._running.indices) if self._running else []

    def __iter__(self) -> Iterator[Any]:
        place = self._at
        self.batch_sampler.set_epoch(place.epoch)
        batches = _Batches(self, place)
        self._running, self._at = place, _Place(place.epoch + 1, 0)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Where the latest iterator stands, and the sampler's state: plain numbers and NumPy arrays."""
        place = self._running or self._at
        epoch, batch = (place.epoch + 1, 0) if place.ended else (place.epoch, place.batch)
        return {
            "epoch": epoch,
            "batch": batch,
            "seed": self.seed,
            "samples": len(self.dataset),
            "batches": len(self),
            "sampler": self.batch_sampler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next `iter()` go on where `state` was taken. ValueError where it is of a loader unlike this one."""
        ours = {"seed": self.seed, "samples": len(self.dataset), "batches": len(self)}
        for name, value in ours.items():
            if state[name] != value:
                raise ValueError(f"the state is of a loader with {name} {state[name]}, expected {value}")
        self.batch_sampler.load_state_dict(state["sampler"])
        self._at, self._running = _Place(int(state["epoch"]), int(state["batch"])), None

    def _placing(self) -> Callable[[np.ndarray[Any, Any]], Any]:
        """What makes dagrun arrays of the arrays of a batch. Those of the user's own collate function are copied."""
        own = self.collate_fn is None
        if self.devices is not None:
            return partial(to_devices, devices=self.devices, own=own)
        return partial(to_device, device=self.device, own=own)
