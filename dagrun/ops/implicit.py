"""Convolutions as products without columns: how they are lowered for CUDA (kernels/cuda/implicit_gemm.cuh).

    forward      pack the weight; y = convolution of x
    to_input     the same of y with the weight turned round, for each phase of the stride: the elements of x whose row
                 and column leave the same rests are read by the same places of the kernel
    to_weight    a weight for each part of the images, in float32; add them up

The result is that of the CPU but for the order of sums. float16 is rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np

from dagrun.codegen.convolution import Geometry
from dagrun.codegen.cuda.implicit_gemm import (
    FULL,
    Tile,
    pack_kernel,
    pack_params,
    product_kernel,
    product_params,
    tile_for,
)
from dagrun.codegen.reduction import reduction_kernel, reduction_params
from dagrun.config import settings
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, layout

PARTS_BYTES = 1 << 26  # of partial weights
PART_DEPTH = 512  # places that a part sums over, at least
_SINGLE = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Phase:
    """Elements of a result along one axis that the same places of the kernel reach."""

    first: int  # element
    count: int
    start: int  # place of the kernel
    every: int  # places of the kernel to the next one that reaches them
    taps: int  # how many do
    shift: int  # what one of them on means for the place that is read
    before: int  # the place that the first element reads is -before


def phases(size: int, kernel: int, stride: int, dilation: int, padding: int) -> list[Phase]:
    """The phases of the adjoint along an axis: element e is reached from place (e + padding - k dilation) / stride.

    >>> [(p.first, p.start, p.every, p.taps) for p in phases(8, 3, 2, 1, 1)]
    [(0, 1, 2, 1), (1, 0, 2, 2)]
    """
    every = stride // gcd(stride, dilation)
    found = []
    for first in range(min(stride, size)):
        starts = [k for k in range(min(kernel, every)) if (first + padding - k * dilation) % stride == 0]
        start = starts[0] if starts else 0
        taps = -(-(kernel - start) // every) if starts else 0
        count = -(-(size - first) // stride)
        before = -((first + padding - start * dilation) // stride)
        found.append(Phase(first, count, start, every, taps, -(every * dilation // stride), before))
    return found


def _round(nbytes: int) -> int:
    return -(-nbytes // 256) * 256


@dataclass(frozen=True, slots=True)
class _Packed:
    """A weight as the kernel reads it: for each group, rows of outputs."""

    tile: Tile
    groups: int
    outputs: int
    channels: int
    taps: tuple[int, int]

    @property
    def padded(self) -> int:
        return -(-self.channels // self.tile.run) * self.tile.run

    @property
    def rows(self) -> int:
        return -(-self.outputs // self.tile.rows) * self.tile.rows

    @property
    def tiles(self) -> int:
        return -(-self.padded * prod(self.taps) // self.tile.depth)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.groups, self.rows, self.tiles * self.tile.depth


def _tile(dtype: np.dtype[Any], rows: int, columns: int, groups: int) -> Tile:
    return tile_for(str(dtype), settings().cuda_tf32, rows, columns, groups)


def _forward(x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any]) -> _Packed:
    tile = _tile(dtype, outputs // groups, x[0] * geometry.places, groups)
    return _Packed(tile, groups, outputs // groups, x[1] // groups, geometry.kernel)


def _backward(
    x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any]
) -> Iterator[tuple[Phase, Phase, _Packed]]:
    axes = zip(geometry.size, geometry.kernel, geometry.stride, geometry.dilation, geometry.padding, strict=True)
    for down, across in product(*(phases(*axis) for axis in axes)):
        tile = _tile(dtype, x[1] // groups, x[0] * down.count * across.count, groups)
        yield down, across, _Packed(tile, groups, x[1] // groups, outputs // groups, (down.taps, across.taps))


@dataclass(frozen=True, slots=True)
class _Parts:
    """How the adjoint in the weight is cut."""

    tile: Tile
    runs: int  # of an image
    parts: int

    @classmethod
    def of(cls, x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any]) -> _Parts:
        rows, columns = outputs // groups, x[1] // groups * prod(geometry.kernel)
        depth, weights = x[0] * geometry.places, outputs * columns
        most = max(1, min(depth // PART_DEPTH, PARTS_BYTES // (4 * weights)))
        tile = _tile(dtype, rows, columns, groups * most)
        parts = min(most, -(-2 * FULL // (tile.blocks(rows, columns) * groups)))
        return cls(tile, -(-geometry.places // tile.run), parts)


def scratch_nbytes(
    kind: str, x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any]
) -> int:
    """How much scratch memory the tasks of `kind` need."""
    if kind == "to_weight":
        own = _Parts.of(x, outputs, geometry, groups, dtype)
        alone = own.parts == 1 and dtype == _SINGLE
        return 0 if alone else own.parts * outputs * (x[1] // groups) * prod(geometry.kernel) * 4
    if kind == "forward":
        return _round(prod(_forward(x, outputs, geometry, groups, dtype).shape) * dtype.itemsize)
    return sum(
        _round(prod(packed.shape) * dtype.itemsize)
        for _, _, packed in _backward(x, outputs, geometry, groups, dtype)
    )  # fmt: skip


class _Images:
    """Makes the tasks of one convolution of images: the weight is operand 3, scratch memory operand 1."""

    def __init__(self, x: Any, weight: Any, groups: int) -> None:
        self.dtype, self.groups, self.place = x.dtype, groups, 0
        outputs, channels, rows, columns = weight.shape
        item = x.dtype.itemsize
        self.w_column, self.w_row, self.w_channel = item, columns * item, rows * columns * item
        self.w_output = channels * self.w_channel
        self.w_group = outputs // groups * self.w_output

    def packed(self, packed: _Packed, bodies: list[Body], **words: int) -> Operand:
        """The packed weight; what packs it is added to the bodies."""
        size = prod(packed.shape)
        nbytes = size * self.dtype.itemsize
        params = pack_params(
            groups=packed.groups, outputs=packed.outputs, padded_outputs=packed.rows, channels=packed.channels,
            padded=packed.padded, depth=packed.shape[2], kernel_rows=packed.taps[0], kernel_columns=packed.taps[1],
            w_group=self.w_group, **words,
        )  # fmt: skip
        part = layout(self.dtype, (size,))
        operands = Operand(1, WRITE | OVERWRITE, self.place, part), Operand(3)
        bodies.append(Body(pack_kernel(str(self.dtype)), params, operands, 2 * nbytes))
        read = Operand(1, READ, self.place, part)
        self.place += _round(nbytes)
        return read


def forward_bodies(
    x: Any, y: Any, weight: Any, bias: bool, scratch: Any, geometry: Geometry, groups: int
) -> tuple[Body, ...]:
    """The tasks of a convolution. Operands: y, scratch, x, w [, bias]."""
    packed = _forward(x.shape, y.shape[1], geometry, groups, x.dtype)
    make, bodies = _Images(x, weight, groups), list[Body]()
    left = make.packed(
        packed, bodies, w_output=make.w_output, w_channel=make.w_channel, w_row=make.w_row, w_column=make.w_column,
        w_start=0,
    )  # fmt: skip
    params = product_params(
        images=x.shape[0], groups=groups, outputs=packed.outputs, channels=packed.channels, padded=packed.padded,
        tiles=packed.tiles, bias=int(bias), **window_words(geometry), **source_words(x, groups),
        **result_words(y, groups),
    )  # fmt: skip
    operands = (Operand(0, WRITE | OVERWRITE), left, Operand(2), *([Operand(4)] if bias else []))
    bodies.append(
        Body(product_kernel("convolve_images", packed.tile), params, operands, y.size * prod(weight.shape[1:]) // 2)
    )
    return tuple(bodies)


def input_bodies(x: Any, y: Any, weight: Any, scratch: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The tasks of the adjoint in the image. Operands: x, scratch, y, w."""
    make, bodies = _Images(x, weight, groups), list[Body]()
    for down, across, packed in _backward(x.shape, y.shape[1], geometry, groups, x.dtype):
        left = Operand(2)  # nothing reaches these elements: they are 0, and nothing is read
        if packed.tiles:
            left = make.packed(
                packed, bodies, w_output=make.w_channel, w_channel=make.w_output, w_row=down.every * make.w_row,
                w_column=across.every * make.w_column, w_start=down.start * make.w_row + across.start * make.w_column,
            )  # fmt: skip
        step = {"row_step": 1, "column_step": 1, "row_shift": down.shift, "column_shift": across.shift}
        strides = (*x.strides[:2], geometry.stride[0] * x.strides[2], geometry.stride[1] * x.strides[3])
        part = layout(x.dtype, (*x.shape[:2], down.count, across.count), strides)
        params = product_params(
            images=x.shape[0], groups=groups, outputs=packed.outputs, channels=packed.channels, padded=packed.padded,
            tiles=packed.tiles, rows=geometry.out[0], columns=geometry.out[1], kernel_rows=down.taps,
            kernel_columns=across.taps, out_rows=down.count, out_columns=across.count, top=down.before,
            left=across.before, **step, **source_words(y, groups), **result_words(part, groups),
        )  # fmt: skip
        place = down.first * x.strides[2] + across.first * x.strides[3]
        operands = Operand(0, WRITE | OVERWRITE, place, part), left, Operand(2)
        cost = part.nbytes + part.size * packed.channels * prod(packed.taps) // 2
        bodies.append(Body(product_kernel("convolve_images", packed.tile), params, operands, cost))
    return tuple(bodies)


def weight_bodies(weight: Any, y: Any, x: Any, scratch: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The tasks of the adjoint in the weight. Operands: w, scratch, y, x."""
    own = _Parts.of(x.shape, y.shape[1], geometry, groups, x.dtype)
    params = product_params(
        images=x.shape[0], groups=groups, outputs=weight.shape[0] // groups, channels=weight.shape[1],
        padded=own.runs, tiles=own.parts, **window_words(geometry), **source_words(x, groups),
        **result_words(y, groups),
    )  # fmt: skip
    alone = own.parts == 1 and x.dtype == _SINGLE
    parts = layout(_SINGLE, (own.parts, weight.size))
    target = Operand(0, WRITE | OVERWRITE) if alone else Operand(1, WRITE | OVERWRITE, 0, parts)
    cost = y.size * prod(weight.shape[1:]) // 2
    bodies = [Body(product_kernel("convolve_weights", own.tile), params, (target, Operand(2), Operand(3)), cost)]
    if not alone:
        bodies.append(sum_of_parts(weight, parts))
    return tuple(bodies)


def sum_of_parts(weight: Any, parts: Any) -> Body:
    """Adds up partial weights (parts, weights), which lie in operand 1 from its first byte on, to operand 0."""
    params = reduction_params(parts.shape, parts.strides, (0,), parts.dtype.itemsize, weight.dtype.itemsize)
    address = reduction_kernel("sum", parts.dtype, parts.dtype, weight.dtype)
    return Body(
        address, params, (Operand(0, WRITE | OVERWRITE), Operand(1, READ, 0, parts)), parts.nbytes + weight.nbytes
    )


def window_words(g: Geometry) -> dict[str, int]:
    return {
        "rows": g.size[0], "columns": g.size[1], "kernel_rows": g.kernel[0], "kernel_columns": g.kernel[1],
        "out_rows": g.out[0], "out_columns": g.out[1], "row_step": g.stride[0], "column_step": g.stride[1],
        "row_shift": g.dilation[0], "column_shift": g.dilation[1], "top": g.padding[0], "left": g.padding[1],
    }  # fmt: skip


def source_words(view: Any, groups: int) -> dict[str, int]:
    image, channel, row, column = view.strides
    group = view.shape[1] // groups * channel
    return {"source_image": image, "source_group": group, "source_channel": channel, "source_row": row,
            "source_column": column}  # fmt: skip


def result_words(view: Any, groups: int) -> dict[str, int]:
    return {name.replace("source", "result"): word for name, word in source_words(view, groups).items()}
