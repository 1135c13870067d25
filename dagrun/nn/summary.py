"""A table of a module's layers: output shapes, parameters, bytes; from a real forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.nn.module import Module


@dataclass(frozen=True, slots=True)
class Row:
    """One layer: what its forward gave, and what it owns itself (not what is below it)."""

    name: str
    kind: str
    output_shape: Any  # a shape, or a tuple of them
    parameters: int
    trainable: int
    nbytes: int  # of its parameters and buffers
    output_nbytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows in the order of their calls, and totals. `print` it for the table."""

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    nbytes: int
    output_nbytes: int

    def __str__(self) -> str:
        head = ("layer", "kind", "output shape", "parameters", "bytes", "output bytes")
        body = [
            (
                row.name,
                row.kind,
                str(row.output_shape),
                f"{row.parameters:,}",
                f"{row.nbytes:,}",
                f"{row.output_nbytes:,}",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

        def text(line: tuple[str, ...]) -> str:
            left = "  ".join(cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True))
            right = "  ".join(cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True))
            return f"{left}  {right}"

        ruler = "-" * len(text(head))
        totals = (
            f"parameters: {self.parameters:,} ({self.trainable:,} trainable), {self.nbytes:,} bytes with buffers",
            f"outputs of layers: {self.output_nbytes:,} bytes",
        )
        return "\n".join((text(head), ruler, *map(text, body), ruler, *totals))


def _arrays(value: Any) -> list[Array]:
    if isinstance(value, Array):
        return [value]
    return [x for part in value for x in _arrays(part)] if isinstance(value, (tuple, list)) else []


def _shape(value: Any) -> Any:
    shapes = tuple(x.shape for x in _arrays(value))
    return shapes[0] if len(shapes) == 1 else shapes


def _count(arrays: Sequence[Array]) -> tuple[int, int, int]:
    return sum(x.size for x in arrays), sum(x.size for x in arrays if x.requires_grad), sum(x.nbytes for x in arrays)


def summary(module: Module, *input_shapes: Sequence[int], dtype: Any = np.float32) -> Summary:
    """Runs the module on zeros of these shapes (the batch's axis too), on its own device, in evaluation mode.

    A layer called several times has a row for each call; its parameters count once. Outputs count for modules without
    modules below them, as the others hand on what those made. Modes and gradients are as before afterwards.

        >>> import dagrun as dr
        >>> print(dr.nn.summary(dr.nn.Sequential(dr.nn.Linear(4, 3), dr.nn.ReLU()), (2, 4)))
        layer  kind        output shape  parameters  bytes  output bytes
        ----------------------------------------------------------------
        0      Linear      (2, 3)                15     60            24
        1      ReLU        (2, 3)                 0      0            24
               Sequential  (2, 3)                 0      0             0
        ----------------------------------------------------------------
        parameters: 15 (15 trainable), 60 bytes with buffers
        outputs of layers: 48 bytes
    """
    names = {id(part): name for name, part in module.named_modules()}
    modes = [(part, part.training) for part in module.modules()]
    rows: list[Row] = []
    counted: set[int] = set()

    def note(part: Module, inputs: Any, result: Any) -> None:
        own = [x for x in part.parameters(recurse=False) if id(x) not in counted]
        buffers = [x for x in part.buffers(recurse=False) if id(x) not in counted]
        counted.update(map(id, own + buffers))
        total, trainable, nbytes = _count(own)
        output = 0 if any(True for _ in part.children()) else sum(x.nbytes for x in _arrays(result))
        name = names[id(part)]
        rows.append(
            Row(name, type(part).__name__, _shape(result), total, trainable, nbytes + _count(buffers)[2], output)
        )

    first = next(iter([*module.parameters(), *module.buffers()]), None)
    inputs = [ops.zeros(tuple(s), dtype=dtype, device=None if first is None else first.device) for s in input_shapes]
    handles = [part.register_forward_hook(note) for part in module.modules()]
    try:
        with no_grad():
            module.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes:
            part.__dict__["training"] = mode
    total, trainable, nbytes = _count(list(module.parameters()))
    nbytes += _count(list(module.buffers()))[2]
    return Summary(tuple(rows), total, trainable, nbytes, sum(row.output_nbytes for row in rows))
