"""Models by name: what a command line or a benchmark needs to know to run a training step of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.models.lenet import LeNet5, OriginalLeNet5
from dagrun.models.mlp import mlp
from dagrun.nn import Module
from dagrun.nn import functional as F

Example = Callable[[np.random.Generator, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def images(*shape: int, classes: int = 10) -> Example:
    """Draws made-up images of this shape, float32 in [0, 1), and classes: what speed is measured with."""

    def draw(rng: np.random.Generator, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return rng.random((rows, *shape), np.float32), rng.integers(0, classes, rows)

    return draw


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that can be named: how to make it, and batches (inputs, targets) of as many rows as asked for."""

    name: str
    what: str  # in a few words
    make: Callable[[], Module]
    example: Example
    loss: Callable[[Any, Any], Array] = F.cross_entropy  # (outputs, targets) -> the mean over the rows
    digits: bool = False  # whether it takes the images of `data.mnist`
    batch: int = 128  # rows that all devices together take in a step, where not told


_ENTRIES = (
    Entry("lenet", "LeNet-5 in its modern form, 62 thousand parameters", LeNet5, images(1, 28, 28), digits=True),
    Entry("lenet-1998", "LeNet-5 of the paper, with its connection table", OriginalLeNet5, images(1, 32, 32)),
    Entry("mlp", "four hidden layers of 1024, 4 million parameters", mlp, images(1, 28, 28), digits=True),
)
_BY_NAME = {entry.name: entry for entry in _ENTRIES}


def names() -> list[str]:
    """The names that `find` knows."""
    return list(_BY_NAME)


def find(name: str) -> Entry:
    """The model of a name. ValueError, with the name that was perhaps meant, where there is none.

    >>> import dagrun as dr
    >>> dr.models.find("lenet").what
    'LeNet-5 in its modern form, 62 thousand parameters'
    """
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name.lower(), _BY_NAME, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no model is named {name!r}, expected one of {', '.join(_BY_NAME)}{hint}")
    return _BY_NAME[name]
