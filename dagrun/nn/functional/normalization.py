"""Normalisation: batch, layer, group, instance and local response; names and arguments as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from dagrun.array import Array, as_array
from dagrun.autodiff import no_grad
from dagrun.codegen.pooling import Windows
from dagrun.ops.creation import ones, zeros
from dagrun.ops.mathematics import sqrt
from dagrun.ops.normalization import normalize, normalize_rows
from dagrun.ops.pooling import mean_pool
from dagrun.ops.precision import in_single
from dagrun.ops.reductions import mean as mean_of
from dagrun.record import common_device


def _checked(name: str, input: Any, axes: int) -> Array:
    x = as_array(input)
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: input of dtype {x.dtype}, expected a floating dtype; use astype")
    if x.ndim < axes:
        raise ValueError(f"{name}: input of shape {x.shape}, expected at least {axes} axes, (n, channels, ...)")
    return x


def _vector(name: str, what: str, value: Any, x: Array, shape: tuple[int, ...]) -> Array | None:
    if value is None:
        return None
    v = as_array(value)
    common_device(name, [x, v])
    if v.shape != shape:
        raise ValueError(f"{name}: {what} of shape {v.shape}, expected {shape} for an input of shape {x.shape}")
    return v


def _affine(y: Array, weight: Array | None, bias: Array | None, shape: tuple[int, ...]) -> Array:
    """y weight + bias, both of a shape that broadcasts to y's, in y's dtype."""
    if weight is not None:
        y = y * weight.astype(y.dtype, copy=False).reshape(shape)
    return y if bias is None else y + bias.astype(y.dtype, copy=False).reshape(shape)


def _both(x: Array, weight: Array | None, bias: Array | None, count: int) -> tuple[Any, Any]:
    """Weight and bias, or neither: the one that is missing as ones or zeros."""
    if weight is None and bias is None:
        return None, None
    w = ones(count, x.dtype, device=x.device) if weight is None else weight
    return w, zeros(count, x.dtype, device=x.device) if bias is None else bias


def _move(average: Array | None, now: Array, rate: float) -> None:
    """Moves a running average, where there is one, towards a value."""
    if average is not None:
        average *= 1 - rate
        average += (rate * now).astype(average.dtype, copy=False)


def _last(name: str, x: Array, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """The lengths of the last axes that are normalised."""
    last = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
    if not last or x.shape[-len(last) :] != last:
        raise ValueError(f"{name}: input of shape {x.shape} does not end in normalized_shape {last}")
    return last


def batch_norm(
    input: Any, running_mean: Array | None, running_var: Array | None, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """Each channel made to have mean 0 and variance 1 over the batch and its places (Ioffe and Szegedy 2015).

    input (n, channels, ...); the other arrays (channels,). With `training`, mean and variance are those of the batch,
    and running averages, where given, move towards them in place by `momentum` (the variance with n - 1, as PyTorch
    has it); else the running averages are used. ValueError with `training` where a channel has one value only.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.batch_norm(dr.asarray([[1.0], [3.0]]), None, None, training=True, eps=0.0)
        array([[-1.],
               [ 1.]])
    """
    name = "batch_norm"
    x = _checked(name, input, 2)
    channels = x.shape[1]
    own = (channels,)
    w, b = _vector(name, "weight", weight, x, own), _vector(name, "bias", bias, x, own)
    mean, var = (
        _vector(name, "running_mean", running_mean, x, own), _vector(name, "running_var", running_var, x, own),
    )  # fmt: skip
    if not training:
        if mean is None or var is None:
            raise ValueError(f"{name}: no running_mean or running_var, expected both outside of training")
        wide = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
        scale = 1.0 / sqrt(var.astype(wide, copy=False) + eps)
        scale = scale if w is None else scale * w.astype(wide, copy=False)
        shift = -mean.astype(wide, copy=False) * scale
        shift = shift if b is None else shift + b.astype(wide, copy=False)
        return _affine(x, scale, shift, (channels, *(1,) * (x.ndim - 2)))
    count = x.shape[0] * prod(x.shape[2:])
    if count == 1:
        raise ValueError(f"{name}: input of shape {x.shape} has one value for a channel, expected more in training")
    if x.size == 0:
        return _affine(x.copy(), w, b, (channels, *(1,) * (x.ndim - 2)))
    w, b = _both(x, w, b, channels)
    y, own_mean, own_var = normalize(x.reshape(x.shape[0], channels, -1), w, b, eps)
    if mean is not None or var is not None:
        rate = 0.1 if momentum is None else float(momentum)
        with no_grad():
            for average, now in ((mean, own_mean), (var, own_var * (count / (count - 1)))):
                _move(average, now, rate)
    return y.reshape(x.shape)


@in_single
def layer_norm(
    input: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Array:
    """The last axes, of `normalized_shape`, made to have mean 0 and variance 1 (Ba, Kiros and Hinton 2016).

    input (..., *normalized_shape), weight and bias of `normalized_shape`.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.layer_norm(dr.asarray([[1.0, 3.0]]), 2, eps=0.0)
        array([[-1.,  1.]])
    """
    name = "layer_norm"
    x = _checked(name, input, 1)
    last = _last(name, x, normalized_shape)
    w, b = _vector(name, "weight", weight, x, last), _vector(name, "bias", bias, x, last)
    if x.size == 0:
        return _affine(x.copy(), w, b, last)
    count = prod(last)
    w, b = _both(x, w, b, count)
    if w is None:
        return normalize(x.reshape(1, -1, count), None, None, eps)[0].reshape(x.shape)
    return normalize_rows(x.reshape(-1, count, 1), w.reshape(-1), b.reshape(-1), eps).reshape(x.shape)


@in_single
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Array:
    """For each image, groups of channels made to have mean 0 and variance 1 over their places (Wu and He 2018).

    input (n, channels, ...), channels a multiple of `num_groups`; weight and bias (channels,).

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.group_norm(dr.asarray([[[1.0], [3.0]]]), 1, eps=0.0)
        array([[[-1.],
                [ 1.]]])
    """
    name = "group_norm"
    x = _checked(name, input, 2)
    channels = x.shape[1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"{name}: {channels} channels in {num_groups} groups, expected a divisor of the channels")
    w, b = _vector(name, "weight", weight, x, (channels,)), _vector(name, "bias", bias, x, (channels,))
    if x.size == 0:
        return _affine(x.copy(), w, b, (channels, *(1,) * (x.ndim - 2)))
    w, b, rows = *_both(x, w, b, channels), x.shape[0] * num_groups
    if w is None:
        return normalize(x.reshape(1, rows, -1), None, None, eps)[0].reshape(x.shape)
    return normalize_rows(x.reshape(rows, channels // num_groups, -1), w, b, eps).reshape(x.shape)


@in_single
def rms_norm(input: Any, normalized_shape: int | Sequence[int], weight: Any = None, eps: float | None = None) -> Array:
    """The last axes, of `normalized_shape`, divided by the root of their mean square (Zhang and Sennrich 2019).

    input (..., *normalized_shape), weight of `normalized_shape`; `eps`, the dtype's smallest step unless given, is
    added to the mean. float16 is computed in float32.

        >>> import dagrun as dr
        >>> dr.nn.functional.rms_norm(dr.asarray([[1.0, 7.0]]), 2)
        array([[0.2, 1.4]])
    """
    name = "rms_norm"
    x = _checked(name, input, 1)
    last = _last(name, x, normalized_shape)
    w = _vector(name, "weight", weight, x, last)
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    axes = tuple(range(-len(last), 0))
    eps = float(np.finfo(wide.dtype).eps) if eps is None else eps
    y = wide / sqrt(mean_of(wide * wide, axes, keepdims=True) + eps)
    return _affine(y.astype(x.dtype, copy=False), w, None, last)


def instance_norm(
    input: Any, running_mean: Array | None = None, running_var: Array | None = None, weight: Any = None,
    bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """`group_norm` with a group for each channel (Ulyanov, Vedaldi and Lempitsky 2016).

    input (n, channels, ...). Running averages (channels,), where given, move in place by `momentum` towards the mean
    of the images' means and variances; without `use_input_stats` they are used instead, as in `batch_norm`. ValueError
    where a channel of an image has one value only.
    """
    name = "instance_norm"
    x = _checked(name, input, 3)
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    count, channels = prod(x.shape[2:]), x.shape[1]
    if count == 1:
        raise ValueError(f"{name}: input of shape {x.shape} has one value for a channel of an image, expected more")
    averages = [
        _vector(name, what, value, x, (channels,))
        for what, value in (("running_mean", running_mean), ("running_var", running_var))
    ]
    if x.size and any(average is not None for average in averages):
        with no_grad():
            _, means, variances = normalize(x.detach().reshape(1, -1, count), None, None, eps)
            for average, now in zip(averages, (means, variances * (count / (count - 1))), strict=True):
                _move(average, mean_of(now.reshape(-1, channels), 0), momentum)
    return group_norm(x, channels, weight, bias, eps)


@in_single
def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """x / (k + alpha / size * sum of the squares of `size` neighbouring channels) ** beta (Krizhevsky et al. 2012).

    input (n, channels, ...). PyTorch's function of this name: alpha is divided by `size`.

        >>> import dagrun as dr
        >>> from dagrun.nn import functional as F
        >>> F.local_response_norm(dr.ones((1, 1, 1)), 1, alpha=3.0, beta=0.5)
        array([[[0.5]]])
    """
    name = "local_response_norm"
    x = _checked(name, input, 3)
    if size < 1:
        raise ValueError(f"{name}: size is {size}, expected at least 1")
    if x.size == 0:
        return x.copy()
    channels, places = x.shape[1], prod(x.shape[2:])
    bounds = [(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1)) for c in range(channels)]
    rows = Windows(tuple((start, stop - start, size) for start, stop in bounds))
    columns = Windows(tuple((place, 1, 1) for place in range(places)))
    squares = (x * x).reshape(x.shape[0], channels, places)
    return x / (mean_pool(squares, rows, columns).reshape(x.shape) * alpha + k) ** beta
