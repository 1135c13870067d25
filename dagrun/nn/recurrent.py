"""Recurrent layers and cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array, as_array
from dagrun.nn import functional as F
from dagrun.nn import init
from dagrun.nn.linear import blank
from dagrun.nn.module import Module
from dagrun.ops.recurrent import CELLS


class _Weights(Module):
    """What layers and cells share: weights of PyTorch's names, uniform in +-1/sqrt(hidden_size)."""

    cell = ""
    hidden_size: int
    proj_size = 0  # of an LSTM: how many units its h is projected to, 0 where it is not

    def _add(self, suffix: str, inputs: int, bias: bool, device: Any, dtype: Any) -> None:
        rows, units = CELLS[self.cell].gates * self.hidden_size, self.proj_size or self.hidden_size
        self.register_parameter(f"weight_ih{suffix}", blank((rows, inputs), device, dtype))
        self.register_parameter(f"weight_hh{suffix}", blank((rows, units), device, dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(f"{name}{suffix}", blank((rows,), device, dtype) if bias else None)
        if self.proj_size:
            shape = self.proj_size, self.hidden_size
            self.register_parameter(f"weight_hr{suffix}", blank(shape, device, dtype))

    def reset_parameters(self) -> None:
        """Draws the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _of(self, suffix: str) -> list[Array | None]:
        own = self._parameters
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *(("weight_hr",) if self.proj_size else ()))
        return [own[f"{name}{suffix}"] for name in names]


class _Recurrent(_Weights):
    """Layers of one kind of cell, in one direction or both."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool, dropout: float,
        bidirectional: bool, device: Any, dtype: Any, proj_size: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_layers < 1 or not 0 <= dropout <= 1:
            raise ValueError(f"{type(self).__name__}: {num_layers} layers and dropout {dropout}, expected at least one "
                             "layer and a probability")  # fmt: skip
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        if not 0 <= proj_size < max(hidden_size, 1):
            raise ValueError(f"{type(self).__name__}: proj_size is {proj_size}, expected 0 (none) to {hidden_size - 1}")
        self.proj_size = proj_size
        self._directions = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            inputs = (proj_size or hidden_size) * len(self._directions) if layer else input_size
            for direction in self._directions:
                self._add(f"_l{layer}{direction}", inputs, bias, device, dtype)
        self.reset_parameters()

    def _run(self, input: Array, h0: Array | None, c0: Array | None) -> tuple[Array, Array, Array | None]:
        input = as_array(input)
        h0, c0 = (None if state is None else as_array(state) for state in (h0, c0))
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__} of an input of shape {input.shape}: expected (steps, batch, {self.input_size})"
                f"{' with batch first' if self.batch_first else ''}, or without batch"
            )
        single = input.ndim == 2
        x = ops.expand_dims(input, 1) if single else ops.swapaxes(input, 0, 1) if self.batch_first else input
        if single:
            h0, c0 = (None if state is None else ops.expand_dims(state, 1) for state in (h0, c0))
        for state, units in ((h0, self.proj_size or self.hidden_size), (c0, self.hidden_size)):
            wanted = (self.num_layers * len(self._directions), x.shape[1], units)
            if state is not None and state.shape != wanted:
                raise ValueError(f"{type(self).__name__}: an initial state of shape {state.shape}, expected {wanted}")
        last_h: list[Array] = []
        last_c: list[Array] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = F.dropout(x, self.dropout, True)
            outputs = []
            for direction in self._directions:
                states = [None if state is None else state[len(last_h)] for state in (h0, c0)]
                ordered = ops.flip(x, axis=0) if direction else x
                y, h, c = F.recurrent(self.cell, ordered, self._of(f"_l{layer}{direction}"), *states)
                outputs.append(ops.flip(y, axis=0) if direction else y)
                last_h.append(h)
                if c is not None:
                    last_c.append(c)
            x = ops.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        h, c = ops.stack(last_h), ops.stack(last_c) if last_c else None
        if single:
            return x[:, 0], h[:, 0], None if c is None else c[:, 0]
        return ops.swapaxes(x, 0, 1) if self.batch_first else x, h, c

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
                 "proj_size": 0}  # fmt: skip
        return text + "".join(f", {k}={getattr(self, k)}" for k, value in usual.items() if getattr(self, k) != value)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000).

    A call takes (L, N, in), or (N, L, in) with `batch_first`, or (L, in), and perhaps (h0, c0), each (layers *
    directions, N, H). It returns the output (L, N, directions * H) and (h_n, c_n). Keys as weight_ih_l0 (4 H, in),
    weight_hh_l0 (4 H, H), bias_ih_l0, bias_hh_l0, gates i f g o; "_reverse" for the second direction. With `proj_size`
    h, and so the output, is projected to so many units by weight_hr_l0 (proj_size, H); c keeps H (Sak et al. 2014).
    Such a layer is composed of operators, step by step.

        >>> import dagrun as dr
        >>> y, (h, c) = dr.nn.LSTM(3, 5, num_layers=2)(dr.zeros((7, 2, 3), dtype="float32"))
        >>> y.shape, h.shape, c.shape
        ((7, 2, 5), (2, 2, 5), (2, 2, 5))
    """

    cell = "lstm"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, proj_size
        )

    def forward(self, input: Array, hx: Sequence[Array] | None = None) -> tuple[Array, tuple[Array, Array]]:
        h0, c0 = (None, None) if hx is None else hx
        y, h, c = self._run(input, h0, c0)
        assert c is not None
        return y, (h, c)


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014); the reset gate multiplies the product, as in cuDNN and PyTorch.

    A call takes the input and perhaps h0, as LSTM, and returns the output and h_n. Gates r z n.
    """

    cell = "gru"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)

    def forward(self, input: Array, hx: Array | None = None) -> tuple[Array, Array]:
        y, h, _ = self._run(input, hx, None)
        return y, h


class RNN(_Recurrent):
    """The simple recurrent network (Elman 1990), with "tanh" or "relu". A call is as that of GRU."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        self.__dict__["cell"] = _rnn_cell(nonlinearity)
        self.__dict__["nonlinearity"] = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)

    def forward(self, input: Array, hx: Array | None = None) -> tuple[Array, Array]:
        y, h, _ = self._run(input, hx, None)
        return y, h


def _rnn_cell(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity {nonlinearity!r}, expected 'tanh' or 'relu'")
    return f"rnn_{nonlinearity}"


class _Cell(_Weights):
    """One step of a recurrent layer: (N, in) or (in,)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self._add("", input_size, bias, device, dtype)
        self.reset_parameters()

    def _step(self, input: Array, *states: Array | None) -> tuple[Array, ...]:
        single = input.ndim == 1
        x = ops.expand_dims(input, (0, 1)) if single else ops.expand_dims(input, 0)
        own = [None if s is None else ops.expand_dims(s, 0) if single else s for s in states]
        _, *results = F.recurrent(self.cell, x, self._of(""), *own)
        return tuple(r[0] if single else r for r in results if r is not None)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class LSTMCell(_Cell):
    """One step of an LSTM: input and (h, c) to (h, c)."""

    cell = "lstm"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Array, hx: Sequence[Array] | None = None) -> tuple[Array, Array]:
        h, c = self._step(input, *((None, None) if hx is None else hx))
        return h, c


class GRUCell(_Cell):
    """One step of a GRU: input and h to h."""

    cell = "gru"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Array, hx: Array | None = None) -> Array:
        return self._step(input, hx)[0]


class RNNCell(_Cell):
    """One step of an RNN: input and h to h."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        self.__dict__["cell"] = _rnn_cell(nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Array, hx: Array | None = None) -> Array:
        return self._step(input, hx)[0]
