"""Gradients in low precision: collectives that send fewer bits, with error feedback.

Each takes the place of `all_reduce` in `exchange`. What rounding took away is kept on the source and added to its next
gradient (error feedback: Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.autodiff import no_grad
from dagrun.parallel.buckets import Reduce
from dagrun.parallel.ring import all_reduce, check

Codes = tuple[Array, ...]  # what travels


def half(reduce: Reduce = all_reduce) -> Reduce:
    """Sums in float16: half the bytes of float32. Totals beyond 65504 become infinite.

    >>> import dagrun as dr
    >>> grads = [dr.ones(2, "float32", device=d) for d in ("cpu:0", "cpu:1")]
    >>> dr.parallel.compression.half()(grads, priority=0)[1]
    array([2., 2.], dtype=float32, device='cpu:1')
    """

    if isinstance(reduce, Quantized):
        raise ValueError(
            "half: Quantized sends 8 bits or fewer already and keeps what it loses; its sources in float16 would lose "
            "more without keeping it. Use one of the two"
        )

    def collective(arrays: Sequence[Array], *, priority: int = 0) -> list[Array]:
        check(arrays, "half all_reduce", distinct=False)
        if arrays[0].dtype.kind != "f":
            raise TypeError(f"half all_reduce: arrays of {arrays[0].dtype}, expected a floating dtype")
        totals = reduce([ops.astype(x, np.float16) for x in arrays], priority=priority)
        return [ops.astype(total, arrays[0].dtype) for total in totals]

    return collective


def _pack(bits: Array, width: int) -> Array:
    """Small unsigned integers, 8 // width to a byte."""
    count = 8 // width
    padded = ops.concatenate([bits, ops.zeros(-bits.size % count, np.uint8, device=bits.device)])
    weights = asarray(np.array([1 << width * k for k in range(count)], np.uint8), device=bits.device)
    return ops.sum(ops.reshape(padded, (-1, count)) * weights, axis=1, dtype=np.uint8)


def _unpack(packed: Array, width: int, size: int) -> Array:
    count = 8 // width
    shifts = asarray(np.array([width * k for k in range(count)], np.uint8), device=packed.device)
    return ops.reshape(ops.bitwise_and(ops.right_shift(packed[:, None], shifts), (1 << width) - 1), -1)[:size]


def encode_8bit(x: Array) -> Codes:
    """Signed bytes, and the one scale that makes the largest magnitude 127."""
    scale = ops.max(ops.abs(x), axis=0, keepdims=True) / 127.0
    safe = ops.where(scale > 0, scale, 1.0)
    return ops.astype(ops.rint(x / safe), np.int8), scale


def decode_8bit(codes: Codes, size: int, dtype: Any) -> Array:
    """What `encode_8bit` kept."""
    return ops.astype(codes[0], dtype) * ops.astype(codes[1], dtype)


def encode_2bit(x: Array) -> Codes:
    """-t, 0 or t, four to a byte; t is the mean magnitude (MXNet's 2-bit compression fixes it beforehand)."""
    threshold = ops.mean(ops.abs(x), axis=0, keepdims=True)
    levels = ops.astype(x > threshold * 0.5, np.uint8) + ops.astype(x < threshold * -0.5, np.uint8) * 2
    return _pack(levels, 2), threshold


def decode_2bit(codes: Codes, size: int, dtype: Any) -> Array:
    """What `encode_2bit` kept."""
    levels = _unpack(codes[0], 2, size)
    signs = ops.astype(ops.equal(levels, 1), dtype) - ops.astype(ops.equal(levels, 2), dtype)
    return signs * ops.astype(codes[1], dtype)


def encode_1bit(x: Array) -> Codes:
    """Signs, eight to a byte, and the mean of the elements of either sign (Seide et al. 2014)."""
    positive = x >= 0
    count = ops.sum(positive, axis=0, keepdims=True, dtype=x.dtype)
    above = ops.sum(ops.where(positive, x, 0.0), axis=0, keepdims=True) / ops.maximum(count, 1.0)
    below = ops.sum(ops.where(positive, 0.0, x), axis=0, keepdims=True) / ops.maximum(x.size - count, 1.0)
    return _pack(ops.astype(positive, np.uint8), 1), above, below


def decode_1bit(codes: Codes, size: int, dtype: Any) -> Array:
    """What `encode_1bit` kept."""
    positive = ops.astype(_unpack(codes[0], 1, size), np.bool_)
    return ops.where(positive, ops.astype(codes[1], dtype), ops.astype(codes[2], dtype))


_CODES: dict[int, tuple[Callable[[Array], Codes], Callable[[Codes, int, Any], Array]]] = {
    8: (encode_8bit, decode_8bit),
    2: (encode_2bit, decode_2bit),
    1: (encode_1bit, decode_1bit),
}


class Quantized:
    """A collective that sends 8, 2 or 1 bits for each element; what was lost is added to the source's next gradient.

    Every device decodes the codes of all sources and adds them in their order, so all get the same bits. State: one
    residual for each source and bucket; `priority` tells the buckets apart, as in `exchange`. A bucket of another shape
    begins anew.

        >>> import dagrun as dr
        >>> grads = [dr.asarray([0.5, -1.0, 0.25], "float32", device=d) for d in ("cpu:0", "cpu:1")]
        >>> reduce = dr.parallel.compression.Quantized(8)
        >>> bool(dr.allclose(reduce(grads)[0], dr.asarray([1.0, -2.0, 0.5]), atol=0.02))
        True
    """

    def __init__(self, bits: int) -> None:
        if bits not in _CODES:
            raise ValueError(f"Quantized: {bits} bits, expected one of {sorted(_CODES)}; 16 bits are `half`")
        self._encode, self._decode = _CODES[bits]
        self._residuals: dict[tuple[int, int], Array] = {}

    def __call__(self, arrays: Sequence[Array], *, priority: int = 0) -> list[Array]:
        check(arrays, "quantized all_reduce")
        shape, size, dtype = arrays[0].shape, arrays[0].size, arrays[0].dtype
        if dtype.kind != "f":
            raise TypeError(f"quantized all_reduce: arrays of {dtype}, expected a floating dtype")
        if not size:
            return [ops.copy(x) for x in arrays]
        with no_grad():
            codes = [self._compress((priority, k), ops.reshape(x, -1)) for k, x in enumerate(arrays)]
            totals = []
            for own in arrays:
                parts = [self._decode(tuple(c.to_device(own.device) for c in code), size, dtype) for code in codes]
                total = parts[0]
                for part in parts[1:]:
                    total = total + part
                totals.append(ops.reshape(total, shape))
            return totals

    def state_dict(self) -> dict[str, Any]:
        """What was lost so far, by bucket and source: what a checkpoint has to keep for the same bits."""
        return {"residuals": dict(self._residuals)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._residuals = dict(state["residuals"])

    def _compress(self, key: tuple[int, int], x: Array) -> Codes:
        residual = self._residuals.get(key)
        wanted = x if residual is None or residual.shape != x.shape else x + residual.to_device(x.device)
        codes = self._encode(wanted)
        self._residuals[key] = wanted - self._decode(codes, x.size, x.dtype)
        return codes
