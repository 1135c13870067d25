"""Recurrent layers over whole sequences: one operation, whose tasks are the steps' products and gate arithmetic.

The hidden units are cut into pieces, so that several lanes share a step: the product of a piece needs all units of the
state before, and the gate arithmetic of a piece only its own product. What has gates is arranged by pieces: the last
axis of length P * G * (H / P) holds piece by piece, in each gate by gate. `arrange` does that to weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dagrun.array import Array
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.gemm import gemm_kernel, gemm_params
from dagrun.codegen.recurrent import STEPS, step_kernel, step_params
from dagrun.core import device_index
from dagrun.ops.manipulation import permute_dims, reshape
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, Operator, apply, common_device, layout

LEAST_UNITS = 128  # of a piece: with fewer, a task is too short to be worth another lane
MOST_PIECES = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """A kind of recurrent cell: its gates in the product, and what of them backward needs."""

    name: str
    gates: int
    kept: int  # tables of `gates` kept for backward; their first ones take the product
    has_c: bool = False


CELLS = {
    cell.name: cell
    for cell in (Cell("lstm", 4, 4, has_c=True), Cell("gru", 3, 4), Cell("rnn_tanh", 1, 1), Cell("rnn_relu", 1, 1))
}


def pieces_of(units: int) -> int:
    """Into how many pieces the hidden units are cut: by their number alone.

    >>> [pieces_of(units) for units in (64, 256, 384, 650)]
    [1, 2, 3, 5]
    """
    return max(p for p in range(1, MOST_PIECES + 1) if units % p == 0 and (p == 1 or units // p >= LEAST_UNITS))


def supported(dtype: Any) -> bool:
    """Whether the operators have bodies for a dtype: that takes the BLAS that NumPy ships."""
    return gemm_kernel(dtype) is not None


def arrange(weight: Array, gates: int, pieces: int) -> Array:
    """The rows (gates * units, ...) of a weight or bias arranged by pieces."""
    if pieces == 1 or gates == 1:
        return weight
    units = weight.shape[0] // gates
    parts = reshape(weight, (gates, pieces, units // pieces, *weight.shape[1:]))
    return reshape(permute_dims(parts, (1, 0, *range(2, parts.ndim))), weight.shape)


def disarrange(weight: Array, gates: int, pieces: int) -> Array:
    """The inverse of `arrange`."""
    return arrange(weight, pieces, gates) if gates > 1 else weight


class _Table:
    """One operand of the bodies: its gates, and how many tables of one gate it holds for each piece."""

    def __init__(self, index: int, view: Any, gates: int = 1, tables: int | None = None) -> None:
        self.index, self.view, self.gates = index, view, gates
        self.tables = gates if tables is None else tables

    def part(self, mode: int, step: int | None, first: int, columns: int) -> tuple[Operand, tuple[int, ...]]:
        """`columns` columns from `first` on, of a step (None: there are no steps): the operand, and its strides."""
        view, itemsize = self.view, self.view.dtype.itemsize
        offset = first * itemsize + (0 if step is None else step * view.strides[0])
        if view.ndim == 1:  # a bias: the same for all rows
            return Operand(self.index, mode, offset, layout(view.dtype, (columns,), (itemsize,))), (0, itemsize)
        strides = view.strides[-2:]
        return Operand(self.index, mode, offset, layout(view.dtype, (view.shape[-2], columns), strides)), strides


class _Bodies:
    """Makes the bodies of one operation."""

    def __init__(self, cell: Cell, rows: int, units: int, dtype: Any) -> None:
        self.cell, self.rows, self.units, self.dtype = cell, rows, units, dtype
        self.pieces = pieces_of(units)
        self.width = units // self.pieces  # units of a piece
        gemm = gemm_kernel(dtype)
        assert gemm is not None
        self.gemm = gemm

    def step(self, kernel: str, piece: int, *places: tuple[_Table, int | None]) -> Body:
        """The gate arithmetic of a piece: results, then inputs, each with its step."""
        results = len(STEPS[kernel].results)
        operands, strides = [], []
        for k, (table, step) in enumerate(places):
            mode = WRITE | OVERWRITE if k < results else READ
            operand, own = table.part(mode, step, piece * table.tables * self.width, table.gates * self.width)
            operands.append(operand)
            strides.append(own[0])
        itemsize = self.dtype.itemsize
        params = step_params(self.rows, self.width, self.width * itemsize, strides)
        moved = sum(table.gates for table, _ in places) * self.rows * self.width * itemsize
        return Body(step_kernel(kernel, self.dtype), params, tuple(operands), 4 * moved)

    def product(
        self, result: _Table, step: int | None, first: int, left: tuple[_Table, int | None], weight: Operand,
        b_strides: tuple[int, int], columns: int,
    ) -> Body:  # fmt: skip
        """result[:, first : first + columns] = left @ weight."""
        c, c_strides = result.part(WRITE | OVERWRITE, step, first, columns)
        inner = left[0].view.shape[-1]
        a, a_strides = left[0].part(READ, left[1], 0, inner)
        params = gemm_params((self.rows, columns), inner, c_strides, a_strides, b_strides, self.dtype.itemsize)
        if params is None:
            raise Unsupported("BLAS does not take these operands as they lie")
        return Body(self.gemm, params, (c, a, weight), self.rows * columns * inner // 2)


def _infer_forward(inputs: Sequence[Any], scalars: Sequence[Any], *, cell: str) -> Any:
    given, kind = inputs[0], CELLS[cell]
    steps, rows, columns = given.shape
    units = columns // kind.gates
    results = [((steps, rows, units), given.dtype)] * (1 + kind.has_c)
    return (*results, ((steps, rows, kind.kept * units), given.dtype))


def _lower_forward(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, cell: str) -> Any:
    """Inputs: x's share of the gates (T, N, G H), their bias or biases, weight (G H, H), h0, and c0 of an LSTM."""
    kind = CELLS[cell]
    steps, rows, units = outputs[0].shape
    make = _Bodies(kind, rows, units, outputs[0].dtype)
    count, biases = len(outputs), 2 if cell == "gru" else 1
    y = _Table(0, outputs[0])
    gates = _Table(count - 1, outputs[-1], kind.kept)
    product = _Table(count - 1, outputs[-1], kind.gates, kind.kept)
    shares = [_Table(count + k, view, kind.gates) for k, view in enumerate(inputs[: 1 + biases])]
    weight, h0, *c0 = (_Table(count + 1 + biases + k, view) for k, view in enumerate(inputs[1 + biases :]))
    columns = kind.gates * make.width
    across, along = weight.view.strides

    def bodies() -> Iterator[Body]:
        for t in range(steps):
            before = (y, t - 1) if t else (h0, None)
            for p in range(make.pieces):
                part = layout(make.dtype, (columns, units), weight.view.strides)
                rows_of_piece = Operand(weight.index, READ, p * columns * across, part)
                first = p * kind.kept * make.width
                yield make.product(product, t, first, before, rows_of_piece, (along, across), columns)
            given = [(product, t), (shares[0], t), *((bias, None) for bias in shares[1:])]
            for p in range(make.pieces):
                if kind.has_c:
                    c = _Table(1, outputs[1])
                    yield make.step(cell, p, (y, t), (c, t), (gates, t), *given, (c, t - 1) if t else (c0[0], None))
                elif cell == "gru":
                    yield make.step(cell, p, (y, t), (gates, t), *given, before)
                else:
                    yield make.step(cell, p, (y, t), *given)

    return tuple(bodies())


def _infer_backward(inputs: Sequence[Any], scalars: Sequence[Any], *, cell: str) -> Any:
    kind, dy = CELLS[cell], inputs[0]
    steps, rows, units = dy.shape
    flows = [((steps, rows, kind.gates * units), dy.dtype)] * (2 if cell == "gru" else 1)
    states = [((rows, units), dy.dtype)] * (2 if kind.has_c or cell == "gru" else 1)
    return (*flows, *states)


def _lower_backward(outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, cell: str) -> Any:
    """Inputs: dy (T, N, H), the gradient of the last h, weight, and

    LSTM: that of the last c, kept gates, c, c0; GRU: zeros (N, H), kept gates, y, h0; RNN: y.
    Results: gradients of the gates before activation (of a GRU those of x's share, then of the state's), of h0, and of
    c0; of a GRU the last is what goes to h0 past the gates.
    """
    kind = CELLS[cell]
    steps, rows, units = inputs[0].shape
    make = _Bodies(kind, rows, units, inputs[0].dtype)
    count, flows = len(outputs), 2 if cell == "gru" else 1
    dgates = [_Table(k, outputs[k], kind.gates) for k in range(flows)]
    dh, *direct = (_Table(flows + k, view) for k, view in enumerate(outputs[flows:]))
    dy, dh_last, weight, *rest = (_Table(count + k, view) for k, view in enumerate(inputs))
    if direct:
        rest[1].gates = rest[1].tables = kind.kept
    across, along = weight.view.strides

    def bodies() -> Iterator[Body]:
        for t in reversed(range(steps)):
            last = t == steps - 1
            given = [(dy, t), (dh_last if last else dh, None)]
            if direct:
                direct_last, gates, values, first = rest
                given += [(direct_last if last else direct[0], None), (gates, t)]
                before = (values, t - 1) if t else (first, None)
                given += [(values, t), before] if kind.has_c else [before]
            else:
                given += [(rest[0], t)]
            results = [(table, t) for table in dgates] + [(table, None) for table in direct]
            for p in range(make.pieces):
                yield make.step(f"{cell}_backward", p, *results, *given)
            for p in range(make.pieces):
                start = p * make.width
                part = layout(make.dtype, (kind.gates * units, make.width), weight.view.strides)
                columns_of_piece = Operand(weight.index, READ, start * along, part)
                left = (dgates[-1], t)
                yield make.product(dh, None, start, left, columns_of_piece, (across, along), make.width)

    return tuple(bodies())


def _native_only(xp: Any, *operands: Any, **attributes: Any) -> Any:
    raise NotImplementedError("recurrent layers over whole sequences have native bodies only")


FORWARD = {name: Operator(name, _infer_forward, _native_only, _lower_forward) for name in CELLS}
BACKWARD = {name: Operator(f"{name}_backward", _infer_backward, _native_only, _lower_backward) for name in CELLS}


def _run(operators: dict[str, Operator], cell: str, *operands: Array) -> tuple[Array, ...]:
    where = common_device(cell, operands)
    results = apply(operators[cell], operands, device_index(where), attributes=(("cell", cell),))
    return results if isinstance(results, tuple) else (results,)


forward, backward = partial(_run, FORWARD), partial(_run, BACKWARD)
