"""Transformers: encoders, decoders, and both together (Vaswani et al. 2017)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn import init
from dagrun.nn.attention import MultiheadAttention
from dagrun.nn.containers import ModuleList
from dagrun.nn.dropout import Dropout
from dagrun.nn.linear import Linear
from dagrun.nn.module import Module
from dagrun.nn.normalization import LayerNorm

Activation = str | Callable[[Array], Array]


def _function_of(activation: Activation) -> Any:
    if isinstance(activation, str) and activation not in ("relu", "gelu"):
        raise ValueError(f"activation {activation!r}, expected 'relu', 'gelu' or a function")
    return getattr(F, activation) if isinstance(activation, str) else activation


class TransformerEncoderLayer(Module):
    """Self-attention and a two-layer network, each with dropout, a skip and layer norm (Vaswani et al. 2017).

    `norm_first`: the norms stand before them (Xiong et al. 2020). Input and output (L, N, E), or (N, L, E) with
    `batch_first`.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Array], Array] = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **made)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = _function_of(activation)

    def forward(
        self, src: Array, src_mask: Array | None = None, src_key_padding_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:  # fmt: skip
        def attend(x: Array) -> Array:
            y, _ = self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)
            dropped: Array = self.dropout1(y)
            return dropped

        def feed(x: Array) -> Array:
            fed: Array = self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))
            return fed

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + feed(self.norm2(x))
        x = self.norm1(src + attend(src))
        result: Array = self.norm2(x + feed(x))
        return result


class TransformerEncoder(Module):
    """Copies of an encoder layer, one after the other, and a norm at the end if one is given.

    `enable_nested_tensor` and `mask_check` are taken and do nothing: they choose how PyTorch computes it.
    """

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None, enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.register_module("norm", norm)

    def forward(
        self, src: Array, mask: Array | None = None, src_key_padding_mask: Array | None = None, is_causal: bool = False
    ) -> Array:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal=is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoderLayer(Module):
    """Self-attention, attention to a memory and a two-layer network, each with dropout, a skip and layer norm.

    A call takes the target (L, N, E) and the memory (S, N, E), or (N, L, E) and (N, S, E) with `batch_first`, and
    masks as those of `MultiheadAttention`; the result is like the target.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Array], Array] = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **made)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.dropout1, self.dropout2, self.dropout3 = Dropout(dropout), Dropout(dropout), Dropout(dropout)
        self.activation = _function_of(activation)

    def forward(
        self, tgt: Array, memory: Array, tgt_mask: Array | None = None, memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None, memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Array:  # fmt: skip
        def attend(x: Array) -> Array:
            y, _ = self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)
            dropped: Array = self.dropout1(y)
            return dropped

        def look(x: Array) -> Array:
            y, _ = self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask, is_causal=memory_is_causal
            )
            dropped: Array = self.dropout2(y)
            return dropped

        def feed(x: Array) -> Array:
            fed: Array = self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))
            return fed

        x = tgt
        for part, norm in ((attend, self.norm1), (look, self.norm2), (feed, self.norm3)):
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x


class TransformerDecoder(Module):
    """Copies of a decoder layer, one after the other, and a norm at the end if one is given."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.register_module("norm", norm)

    def forward(
        self, tgt: Array, memory: Array, tgt_mask: Array | None = None, memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None, memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Array:  # fmt: skip
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """An encoder of the source and a decoder of the target that looks at it, each with a norm at the end.

    A call takes the source (S, N, E) and the target (L, N, E), or with `batch_first` (N, S, E) and (N, L, E); the
    result is like the target. Embeddings, positions and the layer that chooses words are the user's.

        >>> import dagrun as dr
        >>> net = dr.nn.Transformer(8, 2, 1, 1, 16)
        >>> net(dr.ones((5, 3, 8), "float32"), dr.ones((4, 3, 8), "float32")).shape
        (4, 3, 8)
    """

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: str | Callable[[Array], Array] = "relu",
        custom_encoder: Module | None = None, custom_decoder: Module | None = None, layer_norm_eps: float = 1e-5,
        batch_first: bool = False, norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        layer = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
                 device, dtype)  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(TransformerEncoderLayer(*layer), num_encoder_layers, norm())
        self.decoder = custom_decoder or TransformerDecoder(TransformerDecoderLayer(*layer), num_decoder_layers, norm())
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Array:
        """The floating mask that lets a place look at itself and those before: -inf above the diagonal, 0 elsewhere."""
        return ops.triu(ops.full((sz, sz), -math.inf, "float32" if dtype is None else dtype, device=device), 1)

    def forward(
        self, src: Array, tgt: Array, src_mask: Array | None = None, tgt_mask: Array | None = None,
        memory_mask: Array | None = None, src_key_padding_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None, memory_key_padding_mask: Array | None = None,
        src_is_causal: bool | None = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Array:  # fmt: skip
        axis = 0 if self.batch_first else 1
        if (src.ndim == 3 and src.shape[axis] != tgt.shape[axis]) or {src.shape[-1], tgt.shape[-1]} != {self.d_model}:
            raise ValueError(
                f"Transformer: a source of shape {src.shape} and a target of shape {tgt.shape}, expected one batch and "
                f"{self.d_model} features"
            )
        memory = self.encoder(src, src_mask, src_key_padding_mask, bool(src_is_causal))
        result: Array = self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
            memory_is_causal,
        )  # fmt: skip
        return result
