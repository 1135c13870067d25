"""Batch normalisation over the whole batch of all replicas."""

from __future__ import annotations

from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.nn import BatchNorm1d, BatchNorm2d, Module
from dagrun.parallel.lockstep import MeetingLayer, meet


class SyncBatchNorm(BatchNorm2d, MeetingLayer):
    """`BatchNorm1d` and `BatchNorm2d` whose mean and variance in training are those of all replicas' parts together.

    Inside `DataParallel` and `Replicas` the parts exchange sums, then sums of squared deviations; elsewhere it is plain
    batch normalisation. Same parameters and state_dict keys. `convert` turns the layers of a module into it.

        >>> import dagrun as dr
        >>> net = dr.nn.Sequential(dr.nn.Linear(3, 2), dr.nn.BatchNorm1d(2))
        >>> both = dr.parallel.DataParallel(dr.parallel.SyncBatchNorm.convert(net), ["cpu:0", "cpu:1"])
        >>> y = both(dr.random.normal(size=(4, 3)).astype("float32"))
        >>> bool((abs(y.mean(axis=0)) < 1e-5).all())
        True
    """

    def forward(self, input: Array) -> Array:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"SyncBatchNorm({self.num_features}) of an input of shape {input.shape}: expected (N, "
                f"{self.num_features}, ...)"
            )
        shape = (1, -1) + (1,) * (input.ndim - 2)
        axes = (0, *range(2, input.ndim))
        if self.training or self.running_mean is None:
            count = meet(input.size // self.num_features, sum)
            mean = _sum_over_replicas(ops.sum(input, axes)) / float(max(1, count))
            centred = input - mean.reshape(shape)
            squares = _sum_over_replicas(ops.sum(centred * centred, axes))
            var = squares / float(max(1, count))
            if self.training and self.running_mean is not None:
                self._move_running(mean.detach(), squares.detach() / float(max(1, count - 1)))
        else:
            var = self.running_var
            centred = input - self.running_mean.reshape(shape)
        y = centred / ops.sqrt(var + self.eps).reshape(shape)
        y = y if self.weight is None else y * self.weight.reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)

    def _move_running(self, mean: Array, unbiased: Array) -> None:
        with no_grad():
            self.num_batches_tracked += 1
            rate = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean[...] = self.running_mean * (1.0 - rate) + mean * rate
            self.running_var[...] = self.running_var * (1.0 - rate) + unbiased * rate

    @classmethod
    def convert(cls, module: Module) -> Module:
        """The module with its `BatchNorm1d` and `BatchNorm2d` layers replaced; parameters and statistics are kept."""
        if isinstance(module, (BatchNorm1d, BatchNorm2d)) and not isinstance(module, cls):
            made: Any = cls.__new__(cls)
            made.__dict__.update(module.__dict__)
            return made
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = cls.convert(child)
        return module


def _sum_over_replicas(own: Array) -> Array:
    """The sum of all replicas' arrays in their order, on the device of this one's."""
    total: Array = meet(own, _add)
    return total.to_device(own.device)


def _add(offers: list[Array]) -> Array:
    total = offers[0]
    for offer in offers[1:]:
        total = total + offer.to_device(total.device)
    return total
