"""Models by name: what a command line or a benchmark needs to know to run a training step of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.models.alexnet import AlexNet
from dagrun.models.googlenet import GoogLeNet, googlenet_loss
from dagrun.models.language import LSTMLanguageModel, TransformerLanguageModel, next_token_loss
from dagrun.models.lenet import LeNet5, OriginalLeNet5
from dagrun.models.mlp import mlp
from dagrun.models.resnet import cifar_resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from dagrun.models.vgg import vgg11, vgg13, vgg16, vgg16_1x1, vgg19
from dagrun.nn import Module
from dagrun.nn import functional as F

Example = Callable[[np.random.Generator, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def images(*shape: int, classes: int = 10) -> Example:
    """Draws made-up images of this shape, float32 in [0, 1), and classes: what speed is measured with."""

    def draw(rng: np.random.Generator, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return rng.random((rows, *shape), np.float32), rng.integers(0, classes, rows)

    return draw


def text(length: int, tokens: int) -> Example:
    """Draws made-up tokens (length, rows), and those that follow them."""

    def draw(rng: np.random.Generator, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        drawn = rng.integers(0, tokens, (length + 1, rows))
        return drawn[:-1], drawn[1:]

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


_PHOTOS, _TINY = images(3, 224, 224, classes=1000), images(3, 32, 32)
_ENTRIES = (
    Entry("lenet", "LeNet-5 in its modern form, 62 thousand parameters", LeNet5, images(1, 28, 28), digits=True),
    Entry("lenet-1998", "LeNet-5 of the paper, with its connection table", OriginalLeNet5, images(1, 32, 32)),
    Entry("mlp", "four hidden layers of 1024, 4 million parameters", mlp, images(1, 28, 28), digits=True),
    Entry("alexnet", "AlexNet in one column, 61 million parameters", AlexNet, _PHOTOS),
    Entry("vgg11", "VGG A, 133 million parameters", vgg11, _PHOTOS, batch=32),
    Entry("vgg13", "VGG B, 133 million parameters", vgg13, _PHOTOS, batch=32),
    Entry("vgg16-1x1", "VGG C, 134 million parameters", vgg16_1x1, _PHOTOS, batch=32),
    Entry("vgg16", "VGG D, 138 million parameters", vgg16, _PHOTOS, batch=32),
    Entry("vgg19", "VGG E, 144 million parameters", vgg19, _PHOTOS, batch=32),
    Entry("googlenet", "GoogLeNet, 13 million parameters", GoogLeNet, _PHOTOS, googlenet_loss, batch=32),
    Entry("resnet18", "ResNet-18, 12 million parameters", resnet18, _PHOTOS, batch=32),
    Entry("resnet34", "ResNet-34, 22 million parameters", resnet34, _PHOTOS, batch=32),
    Entry("resnet50", "ResNet-50, 26 million parameters", resnet50, _PHOTOS, batch=32),
    Entry("resnet101", "ResNet-101, 45 million parameters", resnet101, _PHOTOS, batch=32),
    Entry("resnet152", "ResNet-152, 60 million parameters", resnet152, _PHOTOS, batch=32),
    Entry("resnet18-cifar", "ResNet-18 for 32 x 32", partial(resnet18, 10, small=True), _TINY),
    *(
        Entry(f"resnet{n}-cifar", f"the thin ResNet-{n} for 32 x 32", partial(cifar_resnet, n), _TINY)
        for n in (20, 32, 44, 56, 110)
    ),
    Entry("lstm", "LSTM language model, 10 000 words", partial(LSTMLanguageModel, 10_000), text(35, 10_000),
          next_token_loss, batch=20),
    Entry("transformer", "transformer language model of bytes", partial(TransformerLanguageModel, 256), text(128, 256),
          next_token_loss, batch=32),
)  # fmt: skip
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
