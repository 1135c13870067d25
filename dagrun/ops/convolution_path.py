"""Which way a convolution goes on a GPU: a function of shapes, dtypes and settings, so that runs repeat bit for bit."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np

from dagrun.codegen.convolution import Geometry
from dagrun.config import settings
from dagrun.ops.columns import CHUNK_BYTES

Path = Literal["columns", "implicit", "direct"]

FEW = 8  # channels and outputs of a group that is summed directly: a product would be filled up to 64 of each
MOST_PLACES = 1 << 27  # of all images or results: the implicit kernels keep numbers and steps of 32 bits
# Operations that a GPU does in the time of moving a byte, from the data sheet of H200: 67 TFLOP/s in float32, about 500
# and 1000 on tensor cores, 4.8 TB/s. An estimate: nothing here was measured.
FLOPS_PER_BYTE = {"float32": 14, "tf32": 100, "float16": 200}


def path_of(
    kind: str, x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any], way: str = ""
) -> Path:
    """The path of "forward", "to_input" or "to_weight"; `way`: "columns" or "implicit" wherever that can be done.

    - More places than the kernels of the other ways count: columns.
    - Groups of few channels: directly. Their products would be almost all filling.
    - float64: columns.
    - A kernel of one element that reads each element once: a product of the images as they are (columns, without any).
      For the weight see below.
    - Other groups: implicit. By columns they are as many small products as images and groups.
    - float16: implicit. Sums over windows and over images stay in float32 until the end.
    - Columns of one image that exceed the bound of what is there at a time: implicit.
    - Else columns, unless writing and reading them takes longer than the product itself: then implicit.
    """
    channels, rows = x[1] // groups, outputs // groups
    name = "tf32" if dtype == np.float32 and settings().cuda_tf32 else str(dtype)
    too_many = x[0] * max(geometry.places, prod(geometry.size)) >= MOST_PLACES
    if way == "columns" or too_many:
        return "columns"
    if groups > 1 and max(channels, rows) <= FEW:
        return "direct"
    if name not in FLOPS_PER_BYTE:
        return "columns"
    if way == "implicit":
        return "implicit"
    if geometry.pointwise and groups == 1 and kind != "to_weight":
        return "columns"
    if groups > 1 or name == "float16":
        return "implicit"
    taps, places, item = channels * prod(geometry.kernel), geometry.places, dtype.itemsize
    if taps * places * item > CHUNK_BYTES:
        return "implicit"
    moved = 0 if geometry.pointwise else taps * places
    if kind == "to_weight":  # and a weight for each image, or what is gathered
        gathered = places * (rows + (channels if geometry.pointwise else 0))
        moved += min(rows * taps, gathered)
    flops = 2 * rows * taps * places
    return "implicit" if 2 * item * moved * FLOPS_PER_BYTE[name] > flops else "columns"
