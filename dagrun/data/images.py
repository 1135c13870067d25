"""Images, decoded by Pillow: one from bytes or a file, or a folder of them with one subfolder for each class."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dagrun.data.dataset import Dataset, checked_index
from dagrun.data.errors import DataError

# Formats that Pillow decodes itself or by the common libraries; no others are tried, whatever a file begins with.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 1 << 26
MODES = ("RGB", "L")


def decode_image(
    source: bytes | str | os.PathLike[str], mode: str = "RGB", *, max_pixels: int = MAX_PIXELS
) -> np.ndarray[Any, Any]:
    """The pixels of an image, given as the bytes of a file or by its path: uint8 of shape (channels, height, width).

    `mode` is "RGB" (3 channels) or "L" (1, grey). Of animations the first picture. An orientation noted in the file is
    not applied. DataError, naming the file, where it is no image of a known format, is damaged, or has more than
    `max_pixels` pixels, which is looked at before any memory is taken for them.

        >>> import io
        >>> from PIL import Image
        >>> from dagrun import data
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (4, 2), (255, 0, 7)).save(file, "PNG")
        >>> data.decode_image(file.getvalue())[:, 0, 0]
        array([255,   0,   7], dtype=uint8)
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(source), f"<{len(source)} bytes>", mode, max_pixels)
    with open(source, "rb") as file:
        return _decoded(file, os.fspath(source), mode, max_pixels)


def _decoded(file: Any, name: str, mode: str, max_pixels: int) -> np.ndarray[Any, Any]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(name, f"an image of {width} x {height} pixels, expected at most {max_pixels} in all")
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except DataError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError, ValueError and others
        reason = str(error).replace(repr(file), "its content")
        raise DataError(name, f"no readable image: {type(error).__name__}: {reason}") from error
    return np.ascontiguousarray(pixels.reshape(height, width, -1).transpose(2, 0, 1))


def pixels(image: Any) -> Any:
    """The pixels of a Pillow image, of shape (channels, height, width); whatever else is given, as it is.

    Pictures with a palette become RGB ones.

        >>> from PIL import Image
        >>> pixels(Image.new("L", (4, 2))).shape
        (1, 2, 4)
    """
    if not isinstance(image, Image.Image):
        return image
    values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


class ImageFolder(Dataset):
    """The images under `root/<class>/`: sample i is (image, class number).

    Classes are the subfolders of the root in the order of their names; their images are found at any depth, in the
    order of their paths, by the extensions of `EXTENSIONS`. An image is uint8 of shape (channels, height, width), see
    `decode_image`, given to `transform` where there is one. Attributes: `classes` (names), `class_to_idx`, `samples`
    (path and class number of each), `labels` (class numbers as an array). FileNotFoundError where there are no images;
    DataError, naming the file, for one that cannot be read.
    """

    def __init__(
        self, root: str | os.PathLike[str], transform: Callable[[Any], Any] | None = None, *, mode: str = "RGB"
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}")
        self.root, self.transform, self.mode = Path(root), transform, mode
        self.classes = sorted(folder.name for folder in self.root.iterdir() if folder.is_dir())
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.samples = [
            (path, number)
            for name, number in self.class_to_idx.items()
            for path in sorted((self.root / name).rglob("*"))
            if path.suffix.lower() in EXTENSIONS and path.is_file()
        ]
        if not self.samples:
            raise FileNotFoundError(f"{self.root}: no images, expected <class>/<image> with {', '.join(EXTENSIONS)}")
        self.labels = np.array([number for _, number in self.samples], np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, number = self.samples[checked_index(index, len(self), "ImageFolder")]
        pixels = decode_image(path, self.mode)
        return (pixels if self.transform is None else self.transform(pixels)), number
