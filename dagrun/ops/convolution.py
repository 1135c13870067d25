"""Convolutions in two dimensions and their adjoints, unfold and fold, as operators that differentiate into each other.

`convolve` is linear in the image and in the weight; `spread` is its adjoint in the image, `correlate` that in the
weight. So the gradients of each of the three are the other two, to any order. Images have shape (n, channels, rows,
columns), weights (outputs, channels of a group, kernel rows, kernel columns).

How the work is cut depends on shapes alone: images into tasks, and within a task into chunks whose columns fit the
cache (see `codegen.convolution`). For CUDA there are three ways, of which `convolution_path` chooses: columns and
products as tasks of their own (`columns`), products without columns (`implicit`), and sums over windows (`direct`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from dagrun.array import Array
from dagrun.codegen.convolution import Geometry, convolution_kernel, convolution_params
from dagrun.codegen.reduction import reduction_kernel, reduction_params
from dagrun.codegen.target import target
from dagrun.config import settings
from dagrun.core import device_index
from dagrun.ops import columns, direct, implicit
from dagrun.ops.convolution_path import path_of
from dagrun.ops.cutting import cut
from dagrun.ops.depthwise import Depthwise
from dagrun.ops.elementwise import copied
from dagrun.ops.gathering import zero_bodies
from dagrun.ops.reductions import sum
from dagrun.record import OVERWRITE, READ, WRITE, Body, Gradients, Operand, Operator, apply, layout

CHUNK_BYTES = 1 << 19  # of the columns that a task makes at a time: half of a core's second cache
NARROW, WIDE = 128, 512  # columns of a product: at least so many; with so many, an image stands alone
PIECE_PRODUCTS = 1 << 21  # multiplications of a task: about 0.1 ms
MOST_PIECES = 16
_BYTE = np.dtype(np.uint8)


def _round(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def _dense(x: Array) -> Array:
    return x if x._layout.contiguous else copied(x)


def _rows_dense(x: Array) -> Array:
    """The array where each plane is contiguous, as kernels read results of a convolution; else a copy."""
    item, (rows, columns) = x.itemsize, x.shape[-2:]
    lies = (columns == 1 or x.strides[-1] == item) and (rows == 1 or x.strides[-2] == columns * item)
    return x if lies and x.strides[1] >= rows * columns * item else copied(x)


def _strides(view: Any) -> dict[str, int]:
    return {f"x_{name}": s for name, s in zip(("image", "channel", "row", "column"), view.strides, strict=True)}


# ---- NumPy's way: the second oracle, and the way without a BLAS


def _taps(geometry: Geometry) -> list[tuple[int, int, tuple[slice, slice]]]:
    """For each kernel place: its row, its column, and the slices of a padded image that it reads."""
    found = []
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            begin = (i * geometry.dilation[0], j * geometry.dilation[1])
            both = [slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(begin, geometry.out, geometry.stride)]
            found.append((i, j, (both[0], both[1])))
    return found


def _framed(geometry: Geometry) -> tuple[int, int]:
    """The size of an image with all the padding that its windows reach."""
    return tuple(
        max(p + n, (o - 1) * s + (k - 1) * d + 1)
        for p, n, o, s, k, d in zip(
            geometry.padding, geometry.size, geometry.out, geometry.stride, geometry.kernel, geometry.dilation
        )
    )


def _within(geometry: Geometry) -> tuple[slice, slice]:
    top, left = geometry.padding
    return slice(top, top + geometry.size[0]), slice(left, left + geometry.size[1])


def _columns_of(xp: Any, x: Any, geometry: Geometry) -> Any:
    """(n, c, kernel rows, kernel columns, rows, columns)"""
    framed = xp.zeros((*x.shape[:2], *_framed(geometry)), x.dtype)
    framed[(..., *_within(geometry))] = x
    columns = xp.zeros((*x.shape[:2], *geometry.kernel, *geometry.out), x.dtype)
    for i, j, window in _taps(geometry):
        columns[:, :, i, j] = framed[(..., *window)]
    return columns


def _folded(xp: Any, columns: Any, geometry: Geometry) -> Any:
    framed = xp.zeros((*columns.shape[:2], *_framed(geometry)), columns.dtype)
    for i, j, window in _taps(geometry):
        framed[(..., *window)] += columns[:, :, i, j]
    return framed[(..., *_within(geometry))]


def _grouped(x: Any, groups: int, axis: int) -> Any:
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])


# ---- unfold and fold


def _plane_bodies(kind: str, image: Any, columns: Any, geometry: Geometry) -> tuple[Body, ...]:
    """The tasks of unfold (columns from images) or fold (images from columns): pieces of the batch."""
    address = convolution_kernel(kind, image.dtype)
    n, channels = image.shape[:2]
    moved = image.nbytes + columns.nbytes
    bodies = []
    for start, stop in cut(n, moved) if n else []:
        params = convolution_params(
            geometry, images=stop - start, channels=channels, y_image=columns.strides[0], **_strides(image)
        )
        views = (columns, image) if kind == "unfold" else (image, columns)
        operands = tuple(
            Operand(
                k, READ if k else WRITE | OVERWRITE, start * view.strides[0],
                layout(view.dtype, (stop - start, *view.shape[1:]), view.strides),
            )
            for k, view in enumerate(views)
        )  # fmt: skip
        bodies.append(Body(address, params, operands, moved // n * (stop - start)))
    return tuple(bodies) or (_nothing(address, geometry),)


def _nothing(address: int, geometry: Geometry) -> Body:
    """The task of an empty result."""
    uses = (Operand(0, WRITE | OVERWRITE), Operand(1))
    return Body(address, convolution_params(geometry), uses, 0)


def _infer_unfold(inputs: Sequence[Any], scalars: Sequence[Any], *, geometry: Geometry) -> Any:
    (x,) = inputs
    return (((x.shape[0], x.shape[1] * prod(geometry.kernel), geometry.places), x.dtype),)


def _infer_fold(inputs: Sequence[Any], scalars: Sequence[Any], *, geometry: Geometry) -> Any:
    (x,) = inputs
    return (((x.shape[0], x.shape[1] // prod(geometry.kernel), *geometry.size), x.dtype),)


def _split_columns(columns: Any, geometry: Geometry) -> Any:
    n, rows, _ = columns.shape
    return columns.reshape(n, rows // prod(geometry.kernel), *geometry.kernel, *geometry.out)


UNFOLD = Operator(
    "unfold",
    _infer_unfold,
    lambda xp, x, geometry: _columns_of(xp, x, geometry).reshape(x.shape[0], -1, geometry.places),
    lambda outputs, inputs, scalars, geometry: _plane_bodies("unfold", inputs[0], outputs[0], geometry),
    grad=Gradients(lambda g, call: fold(g, call["geometry"])),
)
FOLD = Operator(
    "fold",
    _infer_fold,
    lambda xp, columns, geometry: _folded(xp, _split_columns(columns, geometry), geometry),
    lambda outputs, inputs, scalars, geometry: _plane_bodies("fold", outputs[0], inputs[0], geometry),
    grad=Gradients(lambda g, call: unfold(g, call["geometry"])),
)


def unfold(x: Array, geometry: Geometry) -> Array:
    """The columns (n, channels * kernel places, output places) of images (n, channels, rows, columns)."""
    return apply(UNFOLD, (x,), device_index(x.device), attributes=(("geometry", geometry),))


def fold(columns: Array, geometry: Geometry) -> Array:
    """Images with the columns summed over the elements that `unfold` reads them from: its adjoint."""
    return apply(FOLD, (_dense(columns),), device_index(columns.device), attributes=(("geometry", geometry),))


# ---- the three products: how they are cut


def _chunk(geometry: Geometry, taps: int, itemsize: int, images: int) -> tuple[int, int]:
    """Images and output rows of a chunk: several whole images or rows of one, so that columns stay in the cache."""
    width = max(NARROW, CHUNK_BYTES // (taps * itemsize))
    if geometry.places <= width:
        return (1 if geometry.places >= WIDE else min(images, max(1, width // geometry.places))), geometry.out[0]
    rows = max(1, width // geometry.out[1])
    blocks = -(-geometry.out[0] // rows)
    return 1, -(-geometry.out[0] // blocks)


class _Cut:
    """How a product is cut into tasks, and how its scratch memory lies."""

    def __init__(
        self, kind: str, geometry: Geometry, groups: int, n: int, channels: int, outputs: int, dtype: np.dtype[Any]
    ) -> None:
        self.dtype = dtype
        taps = channels // groups * prod(geometry.kernel)
        self.products = n * geometry.places * outputs * taps
        pieces = max(1, min(MOST_PIECES, self.products // PIECE_PRODUCTS))
        self.weights = outputs * taps
        # The adjoint in the weight sums over images. Where a sum for each piece would be large against the work, all
        # pieces go through all images, each for channels of its own.
        self.along_channels = kind == "to_weight" and self.weights * dtype.itemsize > 1 << 18 and pieces > 1
        length = channels // groups if self.along_channels else n
        if kind == "to_weight" and not self.along_channels:
            pieces = min(pieces, max(1, n // 4))
        pieces = min(pieces, length) or 1
        self.pieces = [(length * i // pieces, length * (i + 1) // pieces) for i in range(pieces)]
        longest = max(stop - start for start, stop in self.pieces)
        own_taps = longest * prod(geometry.kernel) if self.along_channels else taps
        self.images, self.rows = _chunk(geometry, own_taps, dtype.itemsize, n if self.along_channels else longest)
        width = self.images * self.rows * geometry.out[1]
        self.columns = _round(own_taps * width * dtype.itemsize)
        gathered = outputs // groups * width * dtype.itemsize if self.images > 1 else 0
        self.share = self.columns + _round(gathered)
        partial = kind == "to_weight" and not self.along_channels and pieces > 1
        self.partial = _round(self.weights * dtype.itemsize) if partial else 0
        self.nbytes = (self.share + self.partial) * pieces

    def scratch(self, piece: int, index: int = 1) -> Operand:
        """The memory of one task."""
        return Operand(index, WRITE | OVERWRITE, piece * self.share, layout(_BYTE, (self.share,)))


def _batch(use: int, mode: int, view: Any, start: int, stop: int) -> Operand:
    """Images [start, stop) of an operand."""
    return Operand(
        use, mode, start * view.strides[0], layout(view.dtype, (stop - start, *view.shape[1:]), view.strides)
    )


def _words(x: Any, y: Any, weight: Any, groups: int, cut: _Cut) -> dict[str, int]:
    outputs, channels = weight.shape[0] // groups, weight.shape[1]
    row = channels * weight.shape[2] * weight.shape[3] * weight.dtype.itemsize
    return {
        "groups": groups, "channels": channels, "outputs": outputs, "chunk_images": cut.images, "chunk_rows": cut.rows,
        "x_group": channels * x.strides[1], "y_image": y.strides[0], "y_channel": y.strides[1],
        "w_group": outputs * row, "w_row": row, "scratch": cut.columns, **_strides(x),
    }  # fmt: skip


def _image_bodies(
    kind: str, x: Any, y: Any, weight: Any, bias: Any | None, geometry: Geometry, groups: int
) -> tuple[Body, ...]:
    """The tasks of `convolve` and `spread`: pieces of the batch."""
    if target() == "cuda":  # no images
        return (_nothing(convolution_kernel("unfold", x.dtype), geometry),)
    how = kind, geometry, groups, x.shape[0], x.shape[1], y.shape[1], x.dtype
    if depthwise := Depthwise.of(*how):
        return depthwise.bodies(x, y, weight, bias)
    own = _Cut(*how)
    address = convolution_kernel(kind, x.dtype, bias is not None)
    words = _words(x, y, weight, groups, own)
    written, read = (y, x) if kind == "forward" else (x, y)
    bodies = []
    for piece, (start, stop) in enumerate(own.pieces):
        operands = (
            _batch(0, WRITE | OVERWRITE, written, start, stop),
            own.scratch(piece),
            _batch(2, READ, read, start, stop),
            Operand(3),
            *([] if bias is None else [Operand(4)]),
        )
        params = convolution_params(geometry, images=stop - start, **words)
        bodies.append(Body(address, params, operands, x.nbytes + y.nbytes + own.products // len(own.pieces) // 2))
    return tuple(bodies)


def _weight_bodies(weight: Any, y: Any, x: Any, geometry: Geometry, groups: int) -> tuple[Body, ...]:
    """The tasks of `correlate`: pieces of the channels, or of the batch and then the sum of what they gave."""
    if not x.shape[0]:
        return zero_bodies(weight)
    how = "to_weight", geometry, groups, x.shape[0], x.shape[1], y.shape[1], x.dtype
    if depthwise := Depthwise.of(*how):
        return depthwise.bodies(x, y, weight)
    own = _Cut(*how)
    address = convolution_kernel("to_weight", x.dtype)
    words = _words(x, y, weight, groups, own)
    cost = x.nbytes + y.nbytes + own.products // len(own.pieces) // 2
    bodies = []
    for piece, (start, stop) in enumerate(own.pieces):
        count, target = stop - start, Operand(0, WRITE | OVERWRITE)
        if own.along_channels:
            words["channels"] = count
            shape = (weight.shape[0], count, *weight.shape[2:])
            part = layout(weight.dtype, shape, weight.strides)
            target = Operand(0, WRITE | OVERWRITE, start * weight.strides[1], part)
            inputs = Operand(2), Operand(3, READ, start * x.strides[1])
            if groups == 1:
                part = layout(x.dtype, (x.shape[0], count, *x.shape[2:]), x.strides)
                inputs = Operand(2), Operand(3, READ, start * x.strides[1], part)
            count = x.shape[0]
        else:
            if own.partial:
                place = own.share * len(own.pieces) + own.partial * piece
                target = Operand(1, WRITE | OVERWRITE, place, layout(weight.dtype, weight.shape))
            inputs = _batch(2, READ, y, start, stop), _batch(3, READ, x, start, stop)
        params = convolution_params(geometry, images=count, **words)
        bodies.append(Body(address, params, (target, own.scratch(piece), *inputs), cost))
    if own.partial:
        shape, item = (len(own.pieces), weight.size), weight.dtype.itemsize
        params = reduction_params(shape, (own.partial, item), (0,), item, item)
        parts = layout(weight.dtype, shape, (own.partial, item))
        reads = Operand(1, READ, own.share * len(own.pieces), parts)
        address = reduction_kernel("sum", weight.dtype, weight.dtype, weight.dtype)
        bodies.append(Body(address, params, (Operand(0, WRITE | OVERWRITE), reads), own.partial * (shape[0] + 1)))
    return tuple(bodies)


# ---- the three products: operators


# `gpu`: not empty where the scratch memory is that of a GPU's tasks: the way they go, "auto", "columns" or "implicit".


_PATHS: dict[str, Any] = {"columns": columns, "implicit": implicit, "direct": direct}


def _scratch(kind: str, x: tuple[int, ...], outputs: int, geometry: Geometry, groups: int, dtype: Any, gpu: str) -> Any:
    if gpu or target() == "cuda":
        sizes = kind, x, outputs, geometry, groups, dtype
        return (_PATHS[path_of(*sizes, gpu)].scratch_nbytes(*sizes) if x[0] else 0,), _BYTE
    how = kind, geometry, groups, x[0], x[1], outputs, dtype
    return ((Depthwise.of(*how) or _Cut(*how)).nbytes,), _BYTE


def _infer_convolve(
    inputs: Sequence[Any], scalars: Sequence[Any], *, geometry: Geometry, groups: int, gpu: str = ""
) -> Any:
    x, w = inputs[:2]
    made = ((x.shape[0], w.shape[0], *geometry.out), x.dtype)
    return made, _scratch("forward", x.shape, w.shape[0], geometry, groups, x.dtype, gpu)


def _infer_spread(
    inputs: Sequence[Any], scalars: Sequence[Any], *, geometry: Geometry, groups: int, gpu: str = ""
) -> Any:
    y, w = inputs
    shape = (y.shape[0], w.shape[1] * groups, *geometry.size)
    return (shape, y.dtype), _scratch("to_input", shape, y.shape[1], geometry, groups, y.dtype, gpu)


def _infer_correlate(
    inputs: Sequence[Any], scalars: Sequence[Any], *, geometry: Geometry, groups: int, gpu: str = ""
) -> Any:
    y, x = inputs
    shape = (y.shape[1], x.shape[1] // groups, *geometry.kernel)
    return (shape, y.dtype), _scratch("to_weight", x.shape, y.shape[1], geometry, groups, y.dtype, gpu)


def _with_scratch(infer: Any, compute: Any) -> Any:
    """`compute` with the scratch memory, which NumPy does not need, as second result."""

    def both(xp: Any, *operands: Any, geometry: Geometry, groups: int, gpu: str = "") -> Any:
        _, (shape, dtype) = infer(operands, (), geometry=geometry, groups=groups, gpu=gpu)
        return compute(xp, *operands, geometry, groups), xp.zeros(shape, dtype)

    return both


def _numpy_convolve(xp: Any, x: Any, w: Any, *rest: Any) -> Any:
    *bias, geometry, groups = rest
    columns = _grouped(_columns_of(xp, x, geometry), groups, 1)
    y = xp.einsum("ngcijhw,gocij->ngohw", columns, _grouped(w, groups, 0), optimize=True)
    y = y.reshape(x.shape[0], w.shape[0], *geometry.out)
    return y + bias[0][:, None, None] if bias else y


def _numpy_spread(xp: Any, y: Any, w: Any, geometry: Geometry, groups: int) -> Any:
    columns = xp.einsum("ngohw,gocij->ngcijhw", _grouped(y, groups, 1), _grouped(w, groups, 0), optimize=True)
    return _folded(xp, columns.reshape(y.shape[0], -1, *geometry.kernel, *geometry.out), geometry)


def _numpy_correlate(xp: Any, y: Any, x: Any, geometry: Geometry, groups: int) -> Any:
    columns = _grouped(_columns_of(xp, x, geometry), groups, 1)
    w = xp.einsum("ngohw,ngcijhw->gocij", _grouped(y, groups, 1), columns, optimize=True)
    return w.reshape(y.shape[1], -1, *geometry.kernel)


_CONVOLVE_RULES = Gradients(
    lambda g, w, call: spread(g, w, call["geometry"], call["groups"]),
    lambda g, x, call: correlate(g, x, call["geometry"], call["groups"]),
    lambda g: sum(g, axis=(0, 2, 3)),
    operands=("x", "w", "b"),
)


def _lower_convolve(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], gpu: str = "", **how: Any
) -> Any:
    (y, scratch), (x, w, *bias) = outputs, inputs
    if gpu and target() != "cuda":
        return None
    if target() == "cuda" and x.shape[0]:
        path = path_of("forward", x.shape, w.shape[0], dtype=x.dtype, way=gpu, **how)
        return _PATHS[path].forward_bodies(x, y, w, bool(bias), scratch, **how)
    return _image_bodies("forward", x, y, w, bias[0] if bias else None, **how)


def _lower_spread(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], gpu: str = "", **how: Any
) -> Any:
    (x, scratch), (y, w) = outputs, inputs
    if gpu and target() != "cuda":
        return None
    if target() == "cuda" and x.shape[0]:
        path = path_of("to_input", x.shape, w.shape[0], dtype=x.dtype, way=gpu, **how)
        return _PATHS[path].input_bodies(x, y, w, scratch, **how)
    return _image_bodies("to_input", x, y, w, None, **how)


def _lower_correlate(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], gpu: str = "", **how: Any
) -> Any:
    (weight, scratch), (y, x) = outputs, inputs
    if gpu and target() != "cuda":
        return None
    if target() == "cuda" and x.shape[0]:
        path = path_of("to_weight", x.shape, weight.shape[0], dtype=x.dtype, way=gpu, **how)
        return _PATHS[path].weight_bodies(weight, y, x, scratch, **how)
    return _weight_bodies(weight, y, x, **how)


CONVOLVE = Operator(
    "convolve",
    _infer_convolve,
    _with_scratch(_infer_convolve, _numpy_convolve),
    _lower_convolve,
    grad=_CONVOLVE_RULES,
)
SPREAD = Operator(
    "convolve_transposed",
    _infer_spread,
    _with_scratch(_infer_spread, _numpy_spread),
    _lower_spread,
    grad=Gradients(
        lambda g, w, call: convolve(g, w, None, call["geometry"], call["groups"]),
        lambda g, a, call: correlate(a, g, call["geometry"], call["groups"]),
        operands=("a", "w"),
    ),
)
CORRELATE = Operator(
    "convolve_weight",
    _infer_correlate,
    _with_scratch(_infer_correlate, _numpy_correlate),
    _lower_correlate,
    grad=Gradients(
        lambda g, x, call: convolve(x, g, None, call["geometry"], call["groups"]),
        lambda g, a, call: spread(a, g, call["geometry"], call["groups"]),
        operands=("a", "x"),
    ),
)


def _apply(op: Operator, operands: tuple[Array, ...], geometry: Geometry, groups: int) -> Array:
    attributes: tuple[tuple[str, Any], ...] = (("geometry", geometry), ("groups", groups))
    if operands[0].device.kind == "cuda":
        attributes += (("gpu", settings().cuda_convolution),)
    made: tuple[Array, Array] = apply(op, operands, device_index(operands[0].device), attributes=attributes)
    return made[0]  # the scratch memory goes back when the tasks are done


def _readable(x: Array, geometry: Geometry) -> Array:
    """Images as a GPU's tasks read them: where they may be their own columns, each plane contiguous."""
    return _rows_dense(x) if geometry.pointwise and x.device.kind == "cuda" else x


def convolve(x: Array, w: Array, bias: Array | None, geometry: Geometry, groups: int) -> Array:
    """The convolution (n, outputs, rows, columns) of images with a weight, plus a bias (outputs,)."""
    x = _readable(x, geometry)
    operands = (x, _dense(w)) if bias is None else (x, _dense(w), _dense(bias))
    return _apply(CONVOLVE, operands, geometry, groups)


def spread(y: Array, w: Array, geometry: Geometry, groups: int) -> Array:
    """The adjoint of `convolve` in the image: from (n, outputs, rows, columns) to images of `geometry.size`."""
    return _apply(SPREAD, (_rows_dense(y), _dense(w)), geometry, groups)


def correlate(y: Array, x: Array, geometry: Geometry, groups: int) -> Array:
    """The adjoint of `convolve` in the weight: from results and images to a weight."""
    return _apply(CORRELATE, (_rows_dense(y), _readable(x, geometry)), geometry, groups)
