"""Multi-head attention and positions."""

from __future__ import annotations

import math
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn import init
from dagrun.nn.dropout import Dropout
from dagrun.nn.linear import Linear, blank
from dagrun.nn.module import Module


class MultiheadAttention(Module):
    """Attention by several heads (Vaswani et al. 2017, section 3.2.2).

    A call takes query (L, N, E), key (S, N, kdim) and value (S, N, vdim), or (N, L, E)... with `batch_first`, or
    without N; it returns the result, like the query, and the weights (N, L, S) or None. In `attn_mask` (L, S) or
    (N * heads, L, S) and `key_padding_mask` (N, S), True means "do not look"; floating masks are added.

        >>> import dagrun as dr
        >>> x = dr.ones((2, 5, 8), dtype="float32")
        >>> y, weights = dr.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
        >>> y.shape, weights.shape
        ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        widths = (embed_dim, kdim or embed_dim, vdim or embed_dim)
        self._joined = widths == (embed_dim,) * 3
        rows = 3 * embed_dim
        self.register_parameter("in_proj_weight", blank((rows, embed_dim), device, dtype) if self._joined else None)
        for name, width in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), widths, strict=True):
            self.register_parameter(name, None if self._joined else blank((embed_dim, width), device, dtype))
        self.register_parameter("in_proj_bias", blank((rows,), device, dtype) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, blank((1, 1, embed_dim), device, dtype) if add_bias_kv else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's initial values: Xavier for weights, 0 for biases."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if self._parameters[name] is not None:
                init.xavier_uniform_(self._parameters[name])
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def _projections(self, shared: bool) -> tuple[tuple[Array, Array | None], ...]:
        """Weight and bias for query, key and value; all of them three times where one product serves for all."""
        if self._joined and shared:
            return ((self.in_proj_weight, self.in_proj_bias),) * 3
        size = self.embed_dim
        parts = [slice(i * size, (i + 1) * size) for i in range(3)]
        if self._joined:
            weights = [self.in_proj_weight[part] for part in parts]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None if self.in_proj_bias is None else self.in_proj_bias[part] for part in parts]
        return tuple(zip(weights, biases, strict=True))

    def forward(
        self, query: Array, key: Array, value: Array, key_padding_mask: Array | None = None, need_weights: bool = True,
        attn_mask: Array | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Array, Array | None]:  # fmt: skip
        shared = query is key and key is value
        single = query.ndim == 2

        def batched(x: Array) -> Array:
            return ops.expand_dims(x, 0) if single else x if self.batch_first else ops.swapaxes(x, 0, 1)

        q = batched(query)
        k, v = (q, q) if shared else (batched(key), batched(value))
        if single and key_padding_mask is not None:
            key_padding_mask = ops.expand_dims(key_padding_mask, 0)
        result, weights = F.multi_head_attention(
            q, k, v, self.num_heads, self._projections(shared), (self.out_proj.weight, self.out_proj.bias),
            bias_k=self.bias_k, bias_v=self.bias_v, add_zero_attn=self.add_zero_attn, key_padding_mask=key_padding_mask,
            attn_mask=attn_mask, is_causal=is_causal, dropout_p=self.dropout if self.training else 0.0,
            need_weights=need_weights, average_attn_weights=average_attn_weights,
        )  # fmt: skip
        if single:
            return result[0], None if weights is None else weights[0]
        return result if self.batch_first else ops.swapaxes(result, 0, 1), weights

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"


class PositionalEncoding(Module):
    """Adds sines and cosines of the position (Vaswani et al. 2017, section 3.5), then drops out.

    Input (L, N, E), or (N, L, E) with `batch_first`. The table is no part of the state.
    """

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 5000, batch_first: bool = False,
                 device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        self.dropout, self.batch_first = Dropout(dropout), batch_first
        position = ops.expand_dims(ops.arange(max_len, dtype="float64", device=device), 1)
        speed = ops.exp(ops.arange(0, d_model, 2, dtype="float64", device=device) * (-math.log(10000.0) / d_model))
        angle = position * speed
        table = ops.zeros((max_len, d_model), dtype="float32" if dtype is None else dtype, device=device)
        table[:, 0::2] = ops.sin(angle)
        table[:, 1::2] = ops.cos(angle[:, : d_model // 2])
        self.register_buffer("table", table, persistent=False)

    def forward(self, input: Array) -> Array:
        length = input.shape[1 if self.batch_first else 0]
        if length > self.table.shape[0]:
            raise ValueError(f"PositionalEncoding: {length} positions, expected at most {self.table.shape[0]}")
        rows = self.table[:length]
        result: Array = self.dropout(input + (rows if self.batch_first else ops.expand_dims(rows, 1)))
        return result
