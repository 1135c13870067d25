"""Scaled dot-product attention and its multi-head form (Vaswani et al. 2017), composed of operators."""

from __future__ import annotations

import math
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn.functional.dropout import dropout
from dagrun.nn.functional.linear import linear
from dagrun.nn.functional.softmax import softmax


def _scores_with(scores: Array, mask: Array | None, allowed: bool) -> Array:
    """Scores plus a floating mask, or -inf where a boolean mask does not allow (or forbids) to look."""
    if mask is None:
        return scores
    if mask.dtype.kind == "b":
        return ops.where(mask, scores, -math.inf) if allowed else ops.where(mask, -math.inf, scores)
    return scores + mask


def _causal(rows: int, columns: int, device: Any) -> Array:
    """True where a query may look: at keys not after it."""
    places = ops.arange(columns, device=device), ops.expand_dims(ops.arange(rows, device=device), 1)
    return places[0] <= places[1]


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """softmax(query @ key.T * scale) @ value: (*, L, E), (*, S, E), (*, S, V) to (*, L, V).

    `scale` is 1 / sqrt(E) unless given. A boolean mask is True where a query may look, a floating one is added. With
    `enable_gqa`, each head of key and value (the third axis from the end) serves several of the query.

        >>> import dagrun as dr
        >>> q = k = v = dr.eye(2)
        >>> dr.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
        array([1., 0.])
    """
    if is_causal:
        if attn_mask is not None:
            raise ValueError("scaled_dot_product_attention: is_causal and attn_mask exclude each other")
        attn_mask = _causal(query.shape[-2], key.shape[-2], query.device)
    if enable_gqa:
        heads = query.shape[-3], key.shape[-3], value.shape[-3]
        if heads[1] != heads[2] or heads[0] % heads[1]:
            raise ValueError(f"scaled_dot_product_attention: {heads} heads, expected those of key and value to divide")
        key, value = (ops.repeat(x, heads[0] // heads[1], axis=-3) for x in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = ops.matmul(query * factor, ops.matrix_transpose(key))
    weights = softmax(_scores_with(scores, attn_mask, allowed=True), -1)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p, True)
    return ops.matmul(weights, value)


def multi_head_attention(
    query: Array,
    key: Array,
    value: Array,
    num_heads: int,
    in_proj: tuple[tuple[Array, Array | None], ...],
    out_proj: tuple[Array, Array | None],
    *,
    bias_k: Array | None = None,
    bias_v: Array | None = None,
    add_zero_attn: bool = False,
    key_padding_mask: Array | None = None,
    attn_mask: Array | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    need_weights: bool = True,
    average_attn_weights: bool = True,
) -> tuple[Array, Array | None]:
    """Attention by several heads: query (N, L, E), key and value (N, S, *); results (N, L, E) and weights (N, L, S).

    `in_proj`: weight and bias for query, key and value, or three times those of all together; `out_proj`: for the
    result. In masks True means "do not look".
    """
    batch, length, _ = query.shape
    if in_proj[0][0] is in_proj[1][0]:  # self-attention: one product for all three
        q, k, v = ops.split(linear(query, *in_proj[0]), 3, axis=-1)
    else:
        q, k, v = (linear(x, w, b) for x, (w, b) in zip((query, key, value), in_proj, strict=True))
    if bias_k is not None and bias_v is not None:
        k, v = (
            ops.concatenate([x, ops.broadcast_to(b, (batch, 1, b.shape[-1]))], axis=1)
            for x, b in ((k, bias_k), (v, bias_v))
        )
    extra = k.shape[1] - key.shape[1]
    if add_zero_attn:
        nothing = ops.zeros((batch, 1, k.shape[2]), dtype=k.dtype, device=k.device)
        k, v, extra = ops.concatenate([k, nothing], axis=1), ops.concatenate([v, nothing], axis=1), extra + 1
    width = q.shape[-1] // num_heads

    def heads(x: Array) -> Array:
        return ops.permute_dims(ops.reshape(x, (batch, x.shape[1], num_heads, width)), (0, 2, 1, 3))

    scores = ops.matmul(heads(q) * (1 / math.sqrt(width)), ops.permute_dims(heads(k), (0, 1, 3, 2)))
    if is_causal and attn_mask is None:
        attn_mask = ~_causal(length, key.shape[1], query.device)
    scores = _scores_with(scores, _widened(attn_mask, extra, num_heads), allowed=False)
    if key_padding_mask is not None:
        scores = _scores_with(scores, _longer(key_padding_mask, extra)[:, None, None, :], allowed=False)
    weights = softmax(scores, -1)
    dropped = dropout(weights, dropout_p, True) if dropout_p > 0 else weights
    joined = ops.reshape(ops.permute_dims(ops.matmul(dropped, heads(v)), (0, 2, 1, 3)), (batch, length, q.shape[-1]))
    result = linear(joined, *out_proj)
    if not need_weights:
        return result, None
    return result, ops.mean(dropped, axis=1) if average_attn_weights else dropped


def _longer(mask: Array, extra: int) -> Array:
    """A mask with columns for keys that were added: all may look at them."""
    if not extra:
        return mask
    return ops.concatenate([mask, ops.zeros((*mask.shape[:-1], extra), dtype=mask.dtype, device=mask.device)], axis=-1)


def _widened(mask: Array | None, extra: int, num_heads: int) -> Array | None:
    """A mask (L, S) or (N * heads, L, S) as one that broadcasts to (N, heads, L, S)."""
    if mask is None:
        return None
    mask = _longer(mask, extra)
    return mask if mask.ndim == 2 else ops.reshape(mask, (-1, num_heads, *mask.shape[1:]))
