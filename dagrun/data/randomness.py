"""Random numbers that depend on a seed and on places alone: the order of an epoch, the transforms of one sample.

The bits come from NumPy's `SeedSequence` and `Philox` (Salmon et al. 2011), whose streams NumPy keeps for good; what
is made of them is made here, so orders stay the same from one release of NumPy to the next.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

# First word of each key, so that no two uses share a stream.
ORDER, SAMPLE, SPLIT = 1, 2, 3


def checked_seed(seed: int) -> int:
    """The seed as an int; ValueError where it is negative."""
    value = operator.index(seed)
    if value < 0:
        raise ValueError(f"seed is {value}, expected an integer that is not negative")
    return value


def bits(count: int, *key: int) -> np.ndarray[Any, Any]:
    """`count` random 64-bit integers that depend on the key alone."""
    return np.asarray(np.random.Philox(np.random.SeedSequence(key)).random_raw(count), np.uint64)


def uniforms(count: int, *key: int) -> np.ndarray[Any, Any]:
    """`count` numbers in [0, 1) with 53 random bits, as float64."""
    return (bits(count, *key) >> np.uint64(11)) * 2.0**-53


def permutation(count: int, *key: int) -> np.ndarray[Any, Any]:
    """0 .. count - 1 in an order that depends on the key alone, as int64."""
    return np.argsort(bits(count, *key), kind="stable")


@dataclass(slots=True)
class Streams:
    """The streams that the transforms of some samples draw from, one for each `place`; set it before each sample."""

    key: tuple[int, ...]
    place: int | None = None
    generator: np.random.Generator | None = None  # made when something draws from it
    made_for: int | None = None  # the place that it was made for


class _Current(threading.local):
    streams: Streams | None = None


_current = _Current()


@contextmanager
def sample_streams(*key: int) -> Iterator[Streams]:
    """Within the block, transforms of this thread draw from streams that depend on the key and the place alone."""
    before = _current.streams
    _current.streams = streams = Streams(key)
    try:
        yield streams
    finally:
        _current.streams = before


@contextmanager
def sample_seed(*key: int) -> Iterator[None]:
    """Within the block, transforms of this thread draw from a stream that depends on the key alone.

    The loader gives every sample such a stream, with its seed, the epoch, the batch and the place in the batch as key.

        >>> import numpy as np
        >>> from dagrun import data
        >>> flip = data.RandomHorizontalFlip()
        >>> with data.sample_seed(2):
        ...     flip(np.array([[1, 2]]))
        array([[2, 1]])
    """
    with sample_streams(*key):
        yield


def sample_generator() -> np.random.Generator:
    """The generator of the sample that this thread loads: what a random transform draws from.

    Outside a loader and of `sample_seed` it is a fresh one with seed 0, so that looking twice shows the same.

        >>> from dagrun import data
        >>> first = data.sample_generator().integers(100)
        >>> first == data.sample_generator().integers(100)
        np.True_
    """
    streams = _current.streams
    if streams is None:
        return _generator(0)
    place = streams.place
    if streams.generator is None or streams.made_for != place:
        streams.generator = _generator(*streams.key, *(() if place is None else (place,)))
        streams.made_for = place
    return streams.generator


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((SAMPLE, *key))))
