"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.nn import functional as F
from dagrun.nn import init
from dagrun.nn.linear import blank
from dagrun.nn.module import Module


class _Affine(Module):
    """A scale `weight`, first 1, and a shift `bias`, first 0, or neither."""

    def _affine(self, shape: Sequence[int], weight: bool, bias: bool, device: Any, dtype: Any) -> None:
        self.register_parameter("weight", blank(shape, device, dtype) if weight else None)
        self.register_parameter("bias", blank(shape, device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1 and shift 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _BatchNorm(_Affine):
    """Normalises each channel over the batch and the image axes (Ioffe and Szegedy 2015).

    In training by the batch's mean and variance, of which running means are kept: new = (1 - momentum) * old +
    momentum * batch's, the variance with n - 1 (`momentum=None`: the plain mean of all batches). In evaluation by
    those.
    """

    axes: tuple[int, ...] = ()

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        own: list[Array | None] = [None, None, None]
        if track_running_stats:
            with no_grad():
                mean = blank((num_features,), device, dtype).detach()
                own = [mean, ops.ones_like(mean), ops.zeros((), dtype="int64", device=device)]
        for name, buffer in zip(("running_mean", "running_var", "num_batches_tracked"), own, strict=True):
            self.register_buffer(name, buffer)
        self._affine((num_features,), affine, affine and bias, device, dtype)

    def _check(self, input: Array, axis: int) -> None:
        """ValueError unless the input has one of the numbers of axes, and its axis `axis` is that of the channels."""
        if input.ndim not in self.axes or input.shape[axis] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}({self.num_features}) of an input of shape {input.shape}: expected "
                f"{' or '.join(str(n) for n in self.axes)} axes, and {self.num_features} channels"
            )

    def forward(self, input: Array) -> Array:
        self._check(input, 1)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats:
            with no_grad():
                self.num_batches_tracked += 1
            if self.momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        use_batch = self.training or self.running_mean is None
        keep = (self.training and self.track_running_stats) or not use_batch
        return F.batch_norm(
            input, self.running_mean if keep else None, self.running_var if keep else None, self.weight, self.bias,
            use_batch, momentum, self.eps,
        )  # fmt: skip

    def reset_running_stats(self) -> None:
        """Forgets the running means."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L)."""

    __doc__ = f"{__doc__}\n\n{_BatchNorm.__doc__}"
    axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W)."""

    __doc__ = f"{__doc__}\n\n{_BatchNorm.__doc__}"
    axes = (4,)


class LayerNorm(_Affine):
    """Normalises each sample over its last axes (Ba et al. 2016), of shape `normalized_shape`.

    >>> import dagrun as dr
    >>> dr.nn.LayerNorm(2)(dr.asarray([[1.0, 3.0]], dtype="float32")).detach().round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._affine(shape, elementwise_affine, elementwise_affine and bias, device, dtype)

    def forward(self, input: Array) -> Array:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Affine):
    """Normalises groups of channels of each sample (Wu and He 2018): (N, C, *)."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._affine((num_channels,), affine, affine and bias, device, dtype)

    def forward(self, input: Array) -> Array:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class RMSNorm(_Affine):
    """Divides each sample by the root of the mean square of its last axes (Zhang and Sennrich 2019).

    >>> import dagrun as dr
    >>> dr.nn.RMSNorm(2)(dr.asarray([[1.0, 7.0]], dtype="float32")).detach()
    array([[0.2, 1.4]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter("weight", blank(shape, device, dtype) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Array) -> Array:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class _InstanceNorm(_BatchNorm):
    """Normalises each channel of each image or line (Ulyanov et al. 2016), by its own mean and variance.

    With `track_running_stats`, running means of them are kept in training and used in evaluation.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Array) -> Array:
        self._check(input, input.ndim - self.axes[0])
        x = input if input.ndim == self.axes[-1] else ops.expand_dims(input, 0)
        y = F.instance_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, 0.0 if self.momentum is None else self.momentum, self.eps,
        )  # fmt: skip
        return y if x is input else y[0]


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L) or (C, L)."""

    __doc__ = f"{__doc__}\n\n{_InstanceNorm.__doc__}"
    axes = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W) or (C, H, W)."""

    __doc__ = f"{__doc__}\n\n{_InstanceNorm.__doc__}"
    axes = (3, 4)


class LocalResponseNorm(Module):
    """Divides by the activity of neighbouring channels (Krizhevsky et al. 2012, section 3.3): (N, C, *)."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Array) -> Array:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
