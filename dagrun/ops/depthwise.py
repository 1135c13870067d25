"""Convolutions of groups of few channels: which they are, and how they are cut into tasks; see `codegen.depthwise`.

Tasks take some images, or some groups where these are more. Sums over images stay within a task: for weights all tasks
take groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dagrun.codegen.convolution import Geometry
from dagrun.codegen.depthwise import Dealt, depthwise_kernel, depthwise_params
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, layout

MOST_PRODUCTS = 16  # channels times outputs of a group: with more, products of matrices are faster
PIECE_PRODUCTS = 1 << 20  # multiplications of a task: about 0.1 ms
MOST_PIECES = 16
_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Depthwise:
    """A convolution of groups of few channels."""

    kind: str  # "forward", "to_input" or "to_weight"
    geometry: Geometry
    images: int
    groups: int
    channels: int  # of a group
    outputs: int  # of a group
    itemsize: int

    @staticmethod
    def of(
        kind: str, geometry: Geometry, groups: int, images: int, channels: int, outputs: int, dtype: Any
    ) -> Depthwise | None:
        """The convolution, if it is one; `channels`, `outputs`: of all groups."""
        few = groups > 1 and (channels // groups) * (outputs // groups) <= MOST_PRODUCTS
        if not few or str(dtype) not in ("float32", "float64"):
            return None
        return Depthwise(kind, geometry, images, groups, channels // groups, outputs // groups, dtype.itemsize)

    @property
    def _products(self) -> int:
        """Multiplications for an image."""
        kernel = self.geometry.kernel[0] * self.geometry.kernel[1]
        return self.geometry.places * self.groups * self.channels * self.outputs * kernel

    @property
    def pieces(self) -> list[tuple[slice, slice]]:
        """The images and the groups of each task."""
        count = max(1, min(MOST_PIECES, self.images * self._products // PIECE_PRODUCTS))
        by_group = self.kind == "to_weight" or self.images < min(count, self.groups)
        length = self.groups if by_group else self.images
        count = min(count, length) or 1
        bounds = [length * i // count for i in range(count + 1)]
        cut = [slice(start, stop) for start, stop in pairwise(bounds)]
        images, groups = slice(0, self.images), slice(0, self.groups)
        return [(images, own) for own in cut] if by_group else [(own, groups) for own in cut]

    @property
    def _share(self) -> int:
        """The scratch memory of a task."""
        nbytes = Dealt(self.geometry).nbytes(self.kind, self.channels, self.outputs, self.itemsize)
        return -(-nbytes // 64) * 64

    @property
    def nbytes(self) -> int:
        """The scratch memory of all tasks."""
        return self._share * len(self.pieces)

    def bodies(self, x: Any, y: Any, weight: Any, bias: Any | None = None) -> tuple[Body, ...]:
        """The tasks."""
        address, dealt = depthwise_kernel(self.kind, x.dtype, bias is not None), Dealt(self.geometry)
        per_group = {"x": self.channels, "y": self.outputs, "w": self.outputs, "b": self.outputs}
        views = {"x": x, "y": y, "w": weight} | ({} if bias is None else {"b": bias})
        order = {"forward": "yxwb", "to_input": "xyw", "to_weight": "wyx"}[self.kind]
        cost = x.nbytes + y.nbytes + self.images * self._products // 4

        def part(name: str, use: int, images: slice, groups: slice) -> Operand:
            view, own = views[name], slice(groups.start * per_group[name], groups.stop * per_group[name])
            axes = (images, own) if name in "xy" else (own,)
            shape = tuple(axis.stop - axis.start for axis in axes)
            offset = sum(axis.start * step for axis, step in zip(axes, view.strides, strict=False))
            lies = layout(view.dtype, (*shape, *view.shape[len(shape) :]), view.strides)
            return Operand(use, READ if use else WRITE | OVERWRITE, offset, lies)

        pieces, bodies = self.pieces, []
        for number, (images, groups) in enumerate(pieces):
            params = depthwise_params(
                dealt, self.itemsize, images=images.stop - images.start, groups=groups.stop - groups.start,
                channels=self.channels, outputs=self.outputs, y_image=y.strides[0], y_channel=y.strides[1],
                x_image=x.strides[0], x_channel=x.strides[1], x_row=x.strides[2], x_column=x.strides[3],
            )  # fmt: skip
            scratch = Operand(1, WRITE | OVERWRITE, number * self._share, layout(_BYTE, (self._share,)))
            written, *read = (
                part(name, use + (use > 0), images, groups) for use, name in enumerate(order) if name in views
            )
            bodies.append(Body(address, params, (written, scratch, *read), cost // len(pieces)))
        return tuple(bodies)
