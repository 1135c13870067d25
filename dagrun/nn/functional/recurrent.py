"""Recurrent layers over whole sequences, as one operation with a gradient of its own.

Forward: one product for x's share of all steps; then `ops.recurrent`, a product and a kernel for each step and piece.
Backward: the same in reverse, then one product over all steps for each weight. Where gradients of gradients are asked
for, and for dtypes without native bodies, the layer is composed of operators, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff import enable_grad, gradients, no_grad
from dagrun.core import native
from dagrun.ops import recurrent as native_steps
from dagrun.ops.precision import narrow
from dagrun.ops.recurrent import CELLS, arrange, disarrange, pieces_of
from dagrun.record import Gradients
from dagrun.record.tape import Call, attach

OPERANDS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")
RESULTS = ("y", "h", "c", "cs", "kept", "wx", "wh")
ROWS = (
    256  # of a product over all steps: pieces of so many rows start the first steps early and keep several lanes busy
)


def _product(left: Array, right: Array) -> Array:
    """left @ right by pieces of rows, each a task."""
    rows = left.shape[0]
    result = ops.empty((rows, right.shape[1]), dtype=left.dtype, device=left.device)
    count = max(1, rows // ROWS)
    for piece in range(count):
        part = slice(rows * piece // count, rows * (piece + 1) // count)
        ops.matmul(left[part], right, out=result[part])
    return result


def recurrent(
    cell: str,
    x: Array,
    weights: Sequence[Array | None],
    h0: Array | None = None,
    c0: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """One layer in one direction: x (T, N, in) to y (T, N, H), the last h (N, H), and the last c of an LSTM.

    `cell`: "lstm", "gru", "rnn_tanh" or "rnn_relu"; `weights`: w_ih (G H, in), w_hh (G H, H), and biases b_ih, b_hh (G
    H) or None, gates in PyTorch's order (i f g o; r z n). h0 and c0 (N, H) are zeros where None. A fifth weight w_hr
    (P, H) projects the h of an LSTM to P units (Sak et al. 2014): w_hh is (G H, P) then, y and h have P units, c has H.
    """
    kind = CELLS[cell]
    x, h0, c0 = narrow(x), narrow(h0), narrow(c0)
    w_ih, w_hh, b_ih, b_hh, w_hr = map(narrow, (*weights, None)[:5])
    assert w_ih is not None and w_hh is not None
    if x.ndim != 3 or x.shape[0] == 0 or x.shape[2] != w_ih.shape[1]:
        raise ValueError(f"{cell}: an input of shape {x.shape}, expected (steps, batch, {w_ih.shape[1]}), steps not 0")
    for name, state, units in (("h0", h0, w_hh.shape[1]), ("c0", c0, w_hh.shape[0] // kind.gates)):
        if state is not None and state.shape != (x.shape[1], units):
            raise ValueError(f"{cell}: {name} of shape {state.shape}, expected {(x.shape[1], units)}")
    if w_hr is not None:
        return composed(cell, x, w_ih, w_hh, b_ih, b_hh, h0, c0, w_hr)
    operands = [x, w_ih, w_hh, b_ih, b_hh, h0, c0]
    arrays = [operand for operand in operands if operand is not None]
    if len({a.dtype for a in arrays}) > 1 or not native_steps.supported(x.dtype):
        return composed(cell, *operands)
    with no_grad():
        results = _forward(cell, *operands)
    if native.gradients() and any(a.requires_grad for a in arrays):
        wanted = tuple(operand is not None and operand.requires_grad for operand in operands)
        layouts = tuple(None if operand is None else operand._layout for operand in operands)
        call = Call({"cell": cell, "wanted": wanted}, layouts, tuple(r._layout for r in results), x.device)
        attach(cell, _RULES, operands, results, call)
    return results[0], results[1], results[2] if kind.has_c else None


def _forward(
    cell: str, x: Array, w_ih: Array, w_hh: Array, b_ih: Array | None, b_hh: Array | None, h0: Array | None,
    c0: Array | None,
) -> tuple[Array, ...]:  # fmt: skip
    kind = CELLS[cell]
    steps, rows, width = x.shape
    units = w_hh.shape[1]
    pieces = pieces_of(units)
    wx, wh = (arrange(w, kind.gates, pieces) for w in (w_ih, w_hh))
    given = _product(ops.reshape(x, (steps * rows, width)), ops.matrix_transpose(wx))
    zeros = ops.zeros((rows, units), dtype=x.dtype, device=x.device)
    none = ops.zeros((kind.gates * units,), dtype=x.dtype, device=x.device)
    of_x, of_state = (none if b is None else arrange(b, kind.gates, pieces) for b in (b_ih, b_hh))
    biases = (of_state, of_x) if cell == "gru" else (of_x + of_state,)
    states = [zeros if state is None else _rows(state) for state in ((h0, c0) if kind.has_c else (h0,))]
    given = ops.reshape(given, (steps, rows, kind.gates * units))
    y, *more = native_steps.forward(cell, given, *biases, _rows(wh), *states)
    cs = more[0]
    c = ops.copy(cs[-1]) if kind.has_c else zeros
    # Detached: where there is one piece, they are the weights themselves.
    return y, ops.copy(y[-1]), c, cs, more[-1], wx.detach(), wh.detach()


def _rows(x: Array) -> Array:
    """The array with contiguous rows, as the bodies expect."""
    return x if x._layout.contiguous else ops.copy(x)


def _backward(call: Call, gs: list[Any], x: Array, w_ih: Array, w_hh: Array, b_ih: Any, b_hh: Any, h0: Any, c0: Any,
              y: Array, cs: Array, kept: Array, wx: Array, wh: Array) -> tuple[Any, ...]:  # fmt: skip
    cell, wanted = call["cell"], call["wanted"]
    kind = CELLS[cell]
    if native.gradients():
        return _recomputed(cell, gs, (x, w_ih, w_hh, b_ih, b_hh, h0, c0), wanted)
    steps, rows, units = y.shape
    pieces = pieces_of(units)
    zeros = ops.zeros((rows, units), dtype=y.dtype, device=y.device)
    dy = ops.zeros_like(y) if gs[0] is None else _rows(gs[0])
    dh, dc = (zeros if g is None else _rows(g) for g in gs[1:3])
    start = zeros if h0 is None else _rows(h0)
    if kind.has_c:
        first_c = zeros if c0 is None else _rows(c0)
        dgates, dh0, dc0 = native_steps.backward(cell, dy, dh, _rows(wh), dc, kept, cs, first_c)
        from_state = dgates
    elif cell == "gru":
        dgates, from_state, dh0, dc0 = native_steps.backward(cell, dy, dh, _rows(wh), zeros, kept, y, start)
        dh0 = dh0 + dc0  # the second is what goes past the gates
    else:
        dgates, dh0 = native_steps.backward(cell, dy, dh, _rows(wh), y)
        from_state, dc0 = dgates, zeros
    all_rows, columns = steps * rows, kind.gates * units
    flat, flat_state = (ops.reshape(g, (all_rows, columns)) for g in (dgates, from_state))
    flows: list[Any] = [None] * len(OPERANDS)
    if wanted[0]:
        flows[0] = ops.reshape(_product(flat, wx), x.shape)
    if wanted[1]:
        dwx = _product(ops.matrix_transpose(flat), ops.reshape(x, (all_rows, x.shape[2])))
        flows[1] = disarrange(dwx, kind.gates, pieces)
    if wanted[2]:
        before = ops.reshape(y, (all_rows, units))[: all_rows - rows]
        dwh = _product(ops.matrix_transpose(flat_state[rows:]), before)
        if h0 is not None:
            dwh += ops.matrix_transpose(flat_state[:rows]) @ h0
        flows[2] = disarrange(dwh, kind.gates, pieces)
    if wanted[3]:
        flows[3] = disarrange(ops.sum(flat, axis=0), kind.gates, pieces)
    if wanted[4]:
        same = flows[3] is not None and from_state is dgates
        flows[4] = flows[3] if same else disarrange(ops.sum(flat_state, axis=0), kind.gates, pieces)
    flows[5] = dh0 if wanted[5] else None
    flows[6] = dc0 if wanted[6] else None
    return tuple(flows)


def _recomputed(cell: str, gs: list[Any], operands: tuple[Any, ...], wanted: tuple[bool, ...]) -> tuple[Any, ...]:
    """The gradients through the composed layer, themselves differentiable."""
    with enable_grad():
        results = composed(cell, *operands)
    pairs = [(r, g) for r, g in zip(results, gs, strict=False) if r is not None and g is not None]
    inputs = [operand for operand, asked in zip(operands, wanted, strict=True) if asked]
    found = iter(gradients([r for r, _ in pairs], inputs, [g for _, g in pairs], create_graph=True))
    return tuple(next(found) if asked else None for asked in wanted)


_RULES = Gradients(joint=_backward, operands=OPERANDS, results=RESULTS)


# ---- composed of operators


def _split(x: Array, gates: int) -> list[Array]:
    return ops.split(x, gates, axis=-1)


def composed(
    cell: str, x: Array, w_ih: Array, w_hh: Array, b_ih: Array | None, b_hh: Array | None, h0: Array | None,
    c0: Array | None, w_hr: Array | None = None,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """`recurrent`, composed of operators."""
    kind = CELLS[cell]
    h, c = (
        ops.zeros((x.shape[1], units), dtype=x.dtype, device=x.device) if state is None else state
        for state, units in ((h0, w_hh.shape[1]), (c0, w_hh.shape[0] // kind.gates))
    )
    wr = None if w_hr is None else ops.matrix_transpose(w_hr)
    wx, wh = ops.matrix_transpose(w_ih), ops.matrix_transpose(w_hh)
    outputs = []
    for t in range(x.shape[0]):
        given, product = x[t] @ wx, h @ wh
        given = given if b_ih is None else given + b_ih
        product = product if b_hh is None else product + b_hh
        if kind.has_c:
            i, f, g, o = _split(given + product, 4)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(c)
            h = h if wr is None else h @ wr
        elif cell == "gru":
            (r, z, n), (r_state, z_state, inner) = _split(given, 3), _split(product, 3)
            z = ops.sigmoid(z + z_state)
            n = ops.tanh(n + ops.sigmoid(r + r_state) * inner)
            h = n + z * (h - n)
        else:
            h = (ops.tanh if cell == "rnn_tanh" else ops.relu)(given + product)
        outputs.append(h)
    return ops.stack(outputs), h, c if kind.has_c else None
