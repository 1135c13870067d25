"""Transforms of one sample: callables on NumPy arrays whose last axes are (height, width), such as (channels, H, W).

Pillow images are taken, too, as uint8 arrays of shape (channels, H, W); what comes out is always an array.

Random ones draw from `sample_generator()`, so what they do depends on the loader's seed, the epoch and the place of the
sample alone. Any callable is a transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dagrun.data.images import pixels
from dagrun.data.randomness import sample_generator

Size = int | tuple[int, int]


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size is {size}, expected at least 1 by 1")
    return height, width


class Compose:
    """Transforms one after another.

    >>> from dagrun import data
    >>> data.Compose([abs, lambda x: x + 1])(-3)
    4
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, x: Any) -> Any:
        for transform in self.transforms:
            x = transform(x)
        return x


class ToFloat:
    """float32; integers are scaled from the range of their dtype, so that uint8 images lie in [0, 1].

    >>> import numpy as np
    >>> from dagrun import data
    >>> data.ToFloat()(np.array([0, 51, 255], "uint8"))
    array([0. , 0.2, 1. ], dtype=float32)
    """

    def __call__(self, x: Any) -> np.ndarray[Any, Any]:
        x = pixels(x)
        values = np.asarray(x, np.float32)
        return values / np.float32(np.iinfo(x.dtype).max) if x.dtype.kind in "iu" else values


class Normalize:
    """(x - mean) / std, of one number each or of one for each channel of (channels, H, W); gives float32.

    >>> import numpy as np
    >>> from dagrun import data
    >>> data.Normalize([0.5], [0.25])(np.ones((1, 1, 2), "float32"))
    array([[[2., 2.]]], dtype=float32)
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean, self.std = (
            x if x.ndim == 0 else x.reshape(-1, 1, 1) for x in (np.asarray(mean, "f4"), np.asarray(std, "f4"))
        )
        if np.any(self.std == 0):
            raise ValueError(f"std is {std}, expected no zero")

    def __call__(self, x: Any) -> np.ndarray[Any, Any]:
        x = pixels(x)
        values = np.asarray(x, np.float32)
        return (values - self.mean) / self.std


def _crop(x: np.ndarray[Any, Any], top: int, left: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    return x[..., top : top + size[0], left : left + size[1]]


def _room(x: np.ndarray[Any, Any], size: tuple[int, int]) -> tuple[int, int]:
    """How far a crop may be moved down and right; ValueError where it is larger than the image."""
    if x.ndim < 2 or x.shape[-2] < size[0] or x.shape[-1] < size[1]:
        raise ValueError(
            f"a crop of {size} from an image of shape {x.shape}: expected at least that many rows, columns"
        )
    return x.shape[-2] - size[0], x.shape[-1] - size[1]


class CenterCrop:
    """The middle of the image, (height, width); a view. ValueError where the image is smaller."""

    def __init__(self, size: Size) -> None:
        self.size = _pair(size)

    def __call__(self, x: Any) -> np.ndarray[Any, Any]:
        x = pixels(x)
        down, right = _room(x, self.size)
        return _crop(x, down // 2, right // 2, self.size)


class RandomCrop:
    """A part of the image at a random place, after `padding` rows and columns of zeros were added on each side.

    >>> import numpy as np
    >>> from dagrun import data
    >>> data.RandomCrop(32, padding=4)(np.ones((3, 32, 32))).shape
    (3, 32, 32)
    """

    def __init__(self, size: Size, padding: int = 0) -> None:
        if padding < 0:
            raise ValueError(f"padding is {padding}, expected at least 0")
        self.size, self.padding = _pair(size), padding

    def __call__(self, x: Any) -> np.ndarray[Any, Any]:
        x = pixels(x)
        if self.padding:
            x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(self.padding, self.padding)] * 2)
        down, right = _room(x, self.size)
        top, left = sample_generator().integers(0, (down + 1, right + 1))
        return _crop(x, int(top), int(left), self.size)


class RandomHorizontalFlip:
    """Left and right changed with probability `p`; a view."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}, expected a probability")
        self.p = p

    def __call__(self, x: Any) -> np.ndarray[Any, Any]:
        x = pixels(x)
        flipped: np.ndarray[Any, Any] = x[..., ::-1] if sample_generator().random() < self.p else x
        return flipped


class Resize:
    """A uint8 image of shape (1 or 3, H, W) at another height and width, by Pillow's bilinear filter.

    One number is both height and width; the sides keep no ratio.

    >>> import numpy as np
    >>> from dagrun import data
    >>> data.Resize((8, 6))(np.zeros((3, 40, 30), "uint8")).shape
    (3, 8, 6)
    """

    def __init__(self, size: Size) -> None:
        self.size = _pair(size)

    def __call__(self, x: Any) -> np.ndarray[Any, Any]:
        x = pixels(x)
        if x.dtype != np.uint8 or x.ndim != 3 or x.shape[0] not in (1, 3):
            raise ValueError(f"Resize of {x.dtype}{x.shape}: expected uint8 of shape (1 or 3, height, width)")
        height, width = self.size
        planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in x]
        return np.stack([np.asarray(plane) for plane in planes])
