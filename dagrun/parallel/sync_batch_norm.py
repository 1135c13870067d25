"""Batch normalisation over the whole batch of all replicas."""

from __future__ import annotations

from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.nn import BatchNorm1d, BatchNorm2d, Module
from dagrun.parallel.lockstep import meet


class SyncBatchNorm(BatchNorm2d):
    """`BatchNorm1d` and `BatchNorm2d` whose mean and variance in training are those of all replicas' parts together.

    Inside `DataParallel` the replicas exchange sums and sums of squared deviations; elsewhere it is plain batch
    normalisation. Same parameters and state_dict keys as `BatchNorm2d`. `convert` turns the layers of a module into it.
    """

    meets = True

    def _check(self, x: Array) -> None:
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"SyncBatchNorm: input of shape {x.shape}, expected (N, {self.num_features}, ...)")

    def forward(self, x: Array) -> Array:
        self._check(x)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        axes = (0, *range(2, x.ndim))
        if self.training or self.running_mean is None:
            count = x.size // x.shape[1]
            total = _sum_over_replicas(ops.sum(x, axes), x)
            counts = _counts(count)
            mean = total / float(counts)
            centred = x - mean.reshape(shape)
            squares = _sum_over_replicas(ops.sum(centred * centred, axes), x)
            var = squares / float(counts)
            self._move_running(mean, squares, counts)
        else:
            mean, var = self.running_mean, self.running_var
            centred = x - mean.reshape(shape)
        y = centred / ops.sqrt(var + self.eps).reshape(shape)
        if self.weight is not None:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        return y

    def _move_running(self, mean: Array, squares: Array, count: int) -> None:
        if self.running_mean is None:
            return
        with no_grad():
            self.num_batches_tracked += 1
            rate = self.momentum
            self.running_mean[...] = self.running_mean * (1.0 - rate) + mean.detach() * rate
            unbiased = squares.detach() / float(max(1, count - 1))
            self.running_var[...] = self.running_var * (1.0 - rate) + unbiased * rate

    @classmethod
    def convert(cls, module: Module) -> Module:
        """The module with its `BatchNorm1d` and `BatchNorm2d` layers replaced; parameters and statistics are kept."""
        if isinstance(module, (BatchNorm1d, BatchNorm2d)) and not isinstance(module, cls):
            twin: Any = cls.__new__(cls)
            twin.__dict__ = dict(module.__dict__)
            return twin
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = cls.convert(child)
        return module


def _sum_over_replicas(own: Array, x: Array) -> Array:
    total: Array = meet(own, _add)
    return total.to_device(x.device)


def _add(offers: list[Array]) -> Array:
    total = offers[0]
    for offer in offers[1:]:
        total = total + offer.to_device(total.device)
    return total


def _counts(own: int) -> int:
    return int(meet(own, sum))
