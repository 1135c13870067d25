"""Convolutions as columns and products, each a task of its own: how they are lowered for CUDA.

The CPU's kernels make columns and multiply them within one task (see `codegen.convolution`). A product by cuBLAS is a
task itself: so the images go chunk by chunk through scratch memory, where columns are made, multiplied and folded.

    forward      unfold x; y[n, g] = w[g] @ columns[n, g]; add the bias
    to_input     columns[n, g] = w[g]^T @ y[n, g]; fold into x
    to_weight    either: unfold x; w[n, g] = y[n, g] @ columns[n, g]^T; add up the images' weights
                 or: unfold x and gather y, all images side by side; w[g] = y[g] @ columns[g]^T; add up the chunks'

The first way to the weight writes a weight for each image and reads it again, the second one what it gathers: the
smaller of the two is taken. A kernel of one element that reads each element once needs no columns: an image is its own,
and all images go at once. The result is that of the CPU but for the order of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.convolution import Geometry, convolution_kernel, convolution_params
from dagrun.codegen.elementwise import elementwise, elementwise_params
from dagrun.codegen.gemm import gemm_kernel, gemm_params
from dagrun.codegen.reduction import reduction_kernel, reduction_params
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, layout

CHUNK_BYTES = 1 << 26  # of the columns that are there at a time, about what a large GPU's cache holds
_ALIGNED = 256

Strides = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The sizes of a convolution, and where in its scratch memory what lies."""

    geometry: Geometry
    groups: int
    images: int
    channels: int  # of all groups
    outputs: int  # of all groups
    item: int

    @property
    def places(self) -> int:
        return self.geometry.places

    @property
    def taps(self) -> int:
        """Of one group."""
        return self.channels // self.groups * prod(self.geometry.kernel)

    @property
    def column_nbytes(self) -> int:
        """Of one image."""
        return self.groups * self.taps * self.places * self.item

    @property
    def weights(self) -> int:
        return self.outputs * self.taps

    @property
    def itself(self) -> bool:
        """Whether an image is its own matrix of columns."""
        return self.geometry.pointwise

    @property
    def alone(self) -> bool:
        """Whether each image has a weight of its own (see above). float16 is rounded once for each chunk instead."""
        moved = self.places * (self.outputs + (self.channels if self.itself else 0))
        return self.item > 2 and self.weights <= moved and self.images * self.weights * self.item <= CHUNK_BYTES

    def chunks(self, kind: str) -> list[tuple[int, int]]:
        """The images that are worked on at a time."""
        if self.itself and (kind != "to_weight" or self.alone):
            return [(0, self.images)]
        most = max(1, CHUNK_BYTES // max(1, self.column_nbytes))
        return [(start, min(start + most, self.images)) for start in range(0, self.images, most)]

    def parts(self, kind: str) -> tuple[int, int, int]:
        """Where in the scratch memory gathered results begin and partial weights begin, and its size."""
        chunks = self.chunks(kind)
        longest = max((stop - start for start, stop in chunks), default=0)
        to_weight = kind == "to_weight"
        gathered = 0 if self.itself and (self.alone or not to_weight) else _aligned(longest * self.column_nbytes)
        if not to_weight:
            return gathered, gathered, gathered
        partial = gathered + (0 if self.alone else _aligned(longest * self.outputs * self.places * self.item))
        count = self.images if self.alone else len(chunks)
        return gathered, partial, partial + (count * self.weights * self.item if count > 1 else 0)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED


def scratch_nbytes(
    kind: str, x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: np.dtype[Any]
) -> int:
    """How much scratch memory the tasks of `kind` need."""
    return _Sizes(geometry, groups, x[0], x[1], outputs, dtype.itemsize).parts(kind)[-1]


class _Columns:
    """Makes the bodies of one operation."""

    def __init__(self, kind: str, x: Any, y: Any, weight: Any, scratch: Any, geometry: Geometry, groups: int) -> None:
        self.x, self.y, self.weight, self.dtype = x, y, weight, x.dtype
        self.sizes = _Sizes(geometry, groups, x.shape[0], x.shape[1], y.shape[1], x.dtype.itemsize)
        self.kind = kind
        self.gathered, self.partial, needed = self.sizes.parts(kind)
        if scratch.nbytes < needed:
            raise Unsupported("the scratch memory is that of another device's tasks")
        dense = x.strides[3] == x.dtype.itemsize and x.strides[2] == x.shape[3] * x.dtype.itemsize
        if self.sizes.itself and not dense:
            raise Unsupported("an image whose rows do not follow each other is not its own columns: copy it first")
        gemm = gemm_kernel(self.dtype)
        if gemm is None:
            raise Unsupported(f"cuBLAS multiplies no {self.dtype}")
        self.gemm = gemm
        item, (out_channels, in_channels, *_) = self.sizes.item, weight.shape
        self.w_row = self.sizes.taps * item
        self.w_group = out_channels // groups * self.w_row
        self.y_group = out_channels // groups * y.strides[1]
        self.x_group = in_channels * x.strides[1]

    def scratch(self, mode: int, shape: tuple[int, ...], offset: int = 0) -> Operand:
        return Operand(1, mode, offset, layout(self.dtype, shape))

    def images(self, index: int, mode: int, view: Any, start: int, stop: int) -> Operand:
        part = layout(view.dtype, (stop - start, *view.shape[1:]), view.strides)
        return Operand(index, mode, start * view.strides[0], part)

    def columns_of(self, count: int) -> tuple[int, ...]:
        return count, self.sizes.groups * self.sizes.taps, self.sizes.places

    def move(self, kind: str, operands: tuple[Operand, Operand], count: int, **words: int) -> Body:
        """Columns of `count` images, or the images that columns sum up to."""
        strides = zip(("image", "channel", "row", "column"), self.x.strides, strict=True)
        words = {f"x_{name}": stride for name, stride in strides} | words
        params = convolution_params(self.sizes.geometry, images=count, channels=self.x.shape[1], **words)
        return Body(convolution_kernel(kind, self.dtype), params, operands, 2 * count * self.sizes.column_nbytes)

    def multiply(
        self, shape: tuple[int, ...], k: int, strides: tuple[Strides, Strides, Strides], operands: tuple[Operand, ...]
    ) -> Body:
        """C = A @ B, with the strides and operands of C, A and B."""
        params = gemm_params(shape, k, strides[0], strides[1], strides[2], self.sizes.item)
        if params is None:
            raise Unsupported("cuBLAS does not take these operands as they lie")
        return Body(self.gemm, params, operands, prod(shape) * k // 2)

    def unfolded(self, index: int, start: int, stop: int, bodies: list[Body]) -> Operand:
        """The columns of some images, each image's for itself; what makes them is added to the bodies."""
        source = self.images(index, READ, self.x, start, stop)
        if self.sizes.itself:
            return source
        columns = self.columns_of(stop - start)
        target = self.scratch(WRITE | OVERWRITE, columns)
        bodies.append(self.move("unfold", (target, source), stop - start, y_image=self.sizes.column_nbytes))
        return self.scratch(READ, columns)

    def batch(self, count: int) -> tuple[tuple[int, int], Strides, Strides, Strides]:
        """(images, groups) and the strides of y, w and columns, or of x where it is its own columns."""
        s, item = self.sizes, self.sizes.item
        columns = (s.column_nbytes, self.w_row * s.places, s.places * item, item)
        if self.sizes.itself:
            columns = (self.x.strides[0], self.x_group, self.x.strides[1], item)
        return (
            (count, s.groups),
            (self.y.strides[0], self.y_group, self.y.strides[1], item),
            (0, self.w_group, self.w_row, item),
            columns,
        )


def forward_bodies(
    x: Any, y: Any, weight: Any, bias: bool, scratch: Any, geometry: Geometry, groups: int
) -> tuple[Body, ...]:
    """The tasks of a convolution. Operands: y, scratch, x, w [, bias]."""
    make = _Columns("forward", x, y, weight, scratch, geometry, groups)
    s, item = make.sizes, make.sizes.item
    bodies: list[Body] = []
    for start, stop in s.chunks(make.kind):
        source = make.unfolded(2, start, stop, bodies)
        batch, of_y, of_w, of_columns = make.batch(stop - start)
        operands = make.images(0, WRITE | OVERWRITE, y, start, stop), Operand(3), source
        shape = (*batch, s.outputs // groups, s.places)
        bodies.append(make.multiply(shape, s.taps, (of_y, of_w, of_columns), operands))
    if bias:
        address = elementwise("add", [y.dtype, y.dtype], y.dtype, y.dtype)
        params = elementwise_params(y.shape, [y.strides, y.strides, (0, item, 0, 0)], [item] * 3)
        operands = Operand(0, READ | WRITE), Operand(0, READ), Operand(4)
        bodies.append(Body(address, params, operands, 2 * y.nbytes))
    return tuple(bodies)


def input_bodies(x: Any, y: Any, weight: Any, scratch: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The tasks of the adjoint in the image. Operands: x, scratch, y, w."""
    make = _Columns("to_input", x, y, weight, scratch, geometry, groups)
    s = make.sizes
    bodies = []
    for start, stop in s.chunks(make.kind):
        columns, image = make.columns_of(stop - start), make.images(0, WRITE | OVERWRITE, x, start, stop)
        batch, of_y, of_w, of_columns = make.batch(stop - start)
        of_w = (*of_w[:2], of_w[3], of_w[2])  # transposed
        target = image if s.itself else make.scratch(WRITE | OVERWRITE, columns)
        operands = target, Operand(3), make.images(2, READ, y, start, stop)
        shape = (*batch, s.taps, s.places)
        bodies.append(make.multiply(shape, s.outputs // groups, (of_columns, of_w, of_y), operands))
        if not s.itself:
            both = image, make.scratch(READ, columns)
            bodies.append(make.move("fold", both, stop - start, y_image=s.column_nbytes))
    return tuple(bodies)


def weight_bodies(weight: Any, y: Any, x: Any, scratch: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The tasks of the adjoint in the weight. Operands: w, scratch, y, x."""
    make = _Columns("to_weight", x, y, weight, scratch, geometry, groups)
    s, item, chunks = make.sizes, make.sizes.item, make.sizes.chunks("to_weight")
    bodies = _weights_of_images(make) if s.alone else _weights_of_chunks(make)
    parts = (s.images if s.alone else len(chunks), s.weights)
    if parts[0] > 1:
        params = reduction_params(parts, (s.weights * item, item), (0,), item, item)
        address = reduction_kernel("sum", weight.dtype, np.result_type(weight.dtype, np.float32), weight.dtype)
        both = Operand(0, WRITE | OVERWRITE), make.scratch(READ, parts, make.partial)
        bodies.append(Body(address, params, both, (parts[0] + 1) * weight.nbytes))
    return tuple(bodies)


def _weights_of_images(make: _Columns) -> list[Body]:
    """A weight for each image, to the partial weights; that of one image is the result."""
    s, item = make.sizes, make.sizes.item
    bodies: list[Body] = []
    for start, stop in s.chunks("to_weight"):
        count = stop - start
        columns = make.unfolded(3, start, stop, bodies)
        batch, of_y, _, of_columns = make.batch(count)
        of_columns = (*of_columns[:2], of_columns[3], of_columns[2])  # transposed
        of_w = (s.weights * item, make.w_group, make.w_row, item)
        target = Operand(0, WRITE | OVERWRITE)
        if s.images > 1:
            place = make.partial + start * s.weights * item
            target = make.scratch(WRITE | OVERWRITE, (count, *make.weight.shape), place)
        operands = target, make.images(2, READ, make.y, start, stop), columns
        shape = (*batch, s.outputs // s.groups, s.taps)
        bodies.append(make.multiply(shape, s.places, (of_w, of_y, of_columns), operands))
    return bodies


def _weights_of_chunks(make: _Columns) -> list[Body]:
    """A weight for each chunk of images, to the partial weights; that of a single chunk is the result."""
    s, item, y = make.sizes, make.sizes.item, make.y
    chunks = s.chunks("to_weight")
    copy = elementwise("cast", [y.dtype], y.dtype, y.dtype)
    bodies = []
    for number, (start, stop) in enumerate(chunks):
        count = stop - start
        line = count * s.places * item  # of one channel, for all images
        columns, results = (s.groups * s.taps, count, s.places), (s.outputs, count, s.places)
        target = make.scratch(WRITE | OVERWRITE, columns)
        source = make.images(3, READ, make.x, start, stop)
        bodies.append(make.move("unfold", (target, source), count, y_image=s.places * item, y_channel=line))
        of_y = (y.strides[1], y.strides[0], item)
        params = elementwise_params(results, [(line, s.places * item, item), of_y], [item] * 2)
        target = make.scratch(WRITE | OVERWRITE, results, make.gathered)
        bodies.append(Body(copy, params, (target, make.images(2, READ, y, start, stop)), 2 * prod(results) * item))
        target = Operand(0, WRITE | OVERWRITE)
        if len(chunks) > 1:
            target = make.scratch(WRITE | OVERWRITE, make.weight.shape, make.partial + number * s.weights * item)
        shape, k = (s.groups, s.outputs // s.groups, s.taps), count * s.places
        strides = (
            (make.w_group, make.w_row, item),
            (s.outputs // s.groups * line, line, item),
            (s.taps * line, item, line),
        )
        operands = target, make.scratch(READ, results, make.gathered), make.scratch(READ, columns)
        bodies.append(make.multiply(shape, k, strides, operands))
    return bodies
