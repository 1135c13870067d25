"""Kernels for one step of a recurrent layer: everything but the products, forward and backward.

Operands (`data`) are tables (rows, columns) whose columns are contiguous; those of several gates hold one such table
for each gate, `gate` bytes apart. Params, int64 words: 0 columns, 1 rows, 2 gate, 3.. the bytes from row to row of each
operand (0: the same row for all). Results may be the memory of inputs at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.scalars import apply
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Value

Gates = list[Value]


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel: how many gates its results and its inputs have, and what it computes of them."""

    results: tuple[int, ...]
    inputs: tuple[int, ...]
    compute: Callable[..., list[Gates]]


def _sigmoid(x: Value) -> Value:
    return apply("sigmoid", [x])


def _tanh(x: Value) -> Value:
    return apply("tanh", [x])


def _lstm(product: Gates, given: Gates, bias: Gates, before: Gates) -> list[Gates]:
    """y, c, activated gates i f g o (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""
    i, f, g, o = ((p + x) + b for p, x, b in zip(product, given, bias, strict=True))
    i, f, g, o = _sigmoid(i), _sigmoid(f), _tanh(g), _sigmoid(o)
    c = f * before[0] + i * g
    return [[o * _tanh(c)], [c], [i, f, g, o]]


def _lstm_backward(dy: Gates, dh: Gates, dc: Gates, gates: Gates, c: Gates, before: Gates) -> list[Gates]:
    """Gradients of the gates before activation, and of the c before."""
    i, f, g, o = gates
    total, t = dy[0] + dh[0], _tanh(c[0])
    inner = dc[0] + total * o * (1.0 - t * t)
    return [
        [
            inner * g * (i * (1.0 - i)),
            inner * before[0] * (f * (1.0 - f)),
            inner * i * (1.0 - g * g),
            total * t * (o * (1.0 - o)),
        ],
        [inner * f],
    ]


def _gru(product: Gates, given: Gates, bias: Gates, given_bias: Gates, before: Gates) -> list[Gates]:
    """y; the gates r, z, n and the product for n (Cho et al. 2014, with the product inside the reset, as cuDNN)."""
    r, z = (_sigmoid((product[k] + bias[k]) + (given[k] + given_bias[k])) for k in range(2))
    inner = product[2] + bias[2]
    n = _tanh((given[2] + given_bias[2]) + r * inner)
    return [[n + z * (before[0] - n)], [r, z, n, inner]]


def _gru_backward(dy: Gates, dh: Gates, direct: Gates, gates: Gates, before: Gates) -> list[Gates]:
    """Gradients of what the inputs and of what the states give to the gates; what goes to the h before past them."""
    r, z, n, inner = gates
    total = (dy[0] + dh[0]) + direct[0]
    dn = total * (1.0 - z) * (1.0 - n * n)
    dz = total * (before[0] - n) * (z * (1.0 - z))
    dr = dn * inner * (r * (1.0 - r))
    return [[dr, dz, dn], [dr, dz, dn * r], [total * z]]


def _rnn(activation: str) -> Callable[..., list[Gates]]:
    def step(product: Gates, given: Gates, bias: Gates) -> list[Gates]:
        return [[apply(activation, [(product[0] + given[0]) + bias[0]])]]

    return step


def _rnn_backward(slope: Callable[[Value], Value]) -> Callable[..., list[Gates]]:
    return lambda dy, dh, y: [[(dy[0] + dh[0]) * slope(y[0])]]


STEPS = {
    "lstm": Step((1, 1, 4), (4, 4, 4, 1), _lstm),
    "lstm_backward": Step((4, 1), (1, 1, 1, 4, 1, 1), _lstm_backward),
    "gru": Step((1, 4), (3, 3, 3, 3, 1), _gru),
    "gru_backward": Step((3, 3, 1), (1, 1, 1, 4, 1), _gru_backward),
    "rnn_tanh": Step((1,), (1, 1, 1), _rnn("tanh")),
    "rnn_tanh_backward": Step((1,), (1, 1, 1), _rnn_backward(lambda y: 1.0 - y * y)),
    "rnn_relu": Step((1,), (1, 1, 1), _rnn("relu")),
    "rnn_relu_backward": Step((1,), (1, 1, 1), _rnn_backward(lambda y: y.emitter.select(y > 0.0, 1.0, y.like(0.0)))),
}


def step_kernel(name: str, dtype: object) -> int:
    """Address of the kernel of a step, a key of STEPS, for float32 or float64."""
    if str(dtype) not in ("float32", "float64"):
        raise Unsupported(f"recurrent kernels are for float32 and float64, not {dtype}")
    if target() == "cuda":
        return cuda_kernel("recurrent", name, str(dtype))
    key = f"recurrent; {name} {dtype}"
    return compile_kernel(key, lambda: _step_ir(STEPS[name], str(dtype), entry_name(key)))


def step_params(rows: int, columns: int, gate: int, row_strides: Sequence[int]) -> bytes:
    """The params block: results first, then inputs; all but the first two in bytes."""
    return layout.pack((columns, rows, gate, *row_strides))


def _step_ir(step: Step, dtype: str, name: str) -> str:
    e = Emitter()
    columns, rows, gate = (e.load_at("%params", k) for k in range(3))
    counts = (*step.results, *step.inputs)
    bases = [e.load_at("%data", k, "pointer") for k in range(len(counts))]
    strides = [e.load_at("%params", 3 + k) for k in range(len(counts))]
    lanes = 32 // ITEMSIZE[dtype]
    with e.loop(rows) as row:
        starts = [e.offset(base, row * stride) for base, stride in zip(bases, strides, strict=True)]
        tables = [[e.offset(s, gate * g) for g in range(count)] for s, count in zip(starts, counts, strict=True)]

        def element(i: Value, width: int) -> None:
            inputs = [
                [e.load(e.element(table, i, dtype), dtype, width) for table in gates]
                for gates in tables[len(step.results) :]
            ]
            for gates, values in zip(tables, step.compute(*inputs), strict=False):
                for table, value in zip(gates, values, strict=True):
                    e.store(e.element(table, i, dtype), value)

        with e.vector_loop(columns, lanes) as i:
            element(i, lanes)
        with e.left_over(columns, lanes) as i:
            element(i, 1)
    e.finish()
    return e.module(name)
