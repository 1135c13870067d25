"""Modules that live on every device: each takes its part of the batch, gradients are exchanged, each updates its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import gradients as gradients_of
from dagrun.autodiff import no_grad
from dagrun.core import scopes
from dagrun.devices import Device
from dagrun.devices import device as find_device
from dagrun.nn import Module
from dagrun.parallel.buckets import BUCKET_BYTES, Reduce, exchange
from dagrun.parallel.collectives import ordered_all_reduce
from dagrun.parallel.data_parallel import row_count, shard_places, split_batch
from dagrun.parallel.lockstep import run_in_lockstep
from dagrun.parallel.replicate import own_copy
from dagrun.parallel.ring import all_reduce

Loss = Callable[[Module, Any], Array]  # (module, part of the batch) -> the mean loss over its rows


class Replicas:
    """A module with a copy of its own on every device, kept equal by exchanging gradients.

    `step(loss, batch)` records forward and backward of every part and the exchange, and sets the gradients of all
    copies; every copy has its optimizer, so all devices update at once. The exchange of the last layers' gradients runs
    while backward computes those of the layers before: their tasks are independent.

    `shards`: parts of the batch (as many as devices unless given); with more than devices, or `ordered=True`, sums are
    taken in the order of the shards, so that as many shards give the same bits on any number of devices. `reduce`:
    another collective, such as one of `parallel.compression`.

        >>> import dagrun as dr
        >>> both = dr.parallel.Replicas(dr.nn.Linear(2, 1), ["cpu:0", "cpu:1"])
        >>> loss = both.step(lambda net, part: (net(part) ** 2).mean(), dr.ones((4, 2), "float32"))
        >>> [net.weight.grad.device for net in both.modules]
        [device('cpu:0'), device('cpu:1')]
    """

    def __init__(
        self,
        module: Module,
        devices: Sequence[str | Device],
        *,
        shards: int | None = None,
        ordered: bool = False,
        reduce: Reduce | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.devices = [find_device(d) for d in devices]
        if not self.devices or len(set(self.devices)) != len(self.devices):
            raise ValueError(f"Replicas: devices {[str(d) for d in self.devices]}, expected one or more that differ")
        count = len(self.devices) if shards is None else shards
        if count < len(self.devices):
            raise ValueError(f"Replicas: {count} shards for {len(self.devices)} devices, expected one for each")
        self.places = shard_places(self.devices, count)
        self.modules = [module.to(self.devices[0])] + [own_copy(module, d) for d in self.devices[1:]]
        self._ordered = ordered or count > len(self.devices)
        if self._ordered and reduce is not None:
            raise ValueError("Replicas: a collective of one's own sums one part for each device, without ordered=True")
        self._reduce = reduce or (self._in_order if self._ordered else all_reduce)
        self._bucket_bytes = bucket_bytes

    def _in_order(self, arrays: Sequence[Array], *, priority: int = 0) -> list[Array]:
        return ordered_all_reduce(arrays, self.devices, priority=priority)

    def step(self, loss: Loss, batch: Any) -> Array:
        """The mean loss over the batch, on the first device, and the gradients in every copy's parameters."""
        parts = split_batch(batch, self.places)
        rows = [row_count(part) for part in parts]
        losses, found = self._forward(loss, parts), []
        for k, value in enumerate(losses):
            module = self._module_of(k)
            parameters = [p for p in module.parameters() if p.requires_grad]
            with scopes.scope("loss"):
                share = value * (rows[k] / sum(rows))  # the mean over all rows, as the sum of the parts' shares
            with scopes.scope("loss", backward=True):
                own = gradients_of(share, parameters, allow_unused=True)
            with no_grad():
                found.append([p * 0.0 if g is None else g for p, g in zip(parameters, own, strict=True)])
            losses[k] = share.detach()
        self._set(found)
        with no_grad():
            total = losses[0]
            for value in losses[1:]:
                total = total + value.to_device(self.devices[0])
        return total

    def _module_of(self, shard: int) -> Module:
        return self.modules[self.devices.index(self.places[shard])]

    def _forward(self, loss: Loss, parts: Sequence[Any]) -> list[Array]:
        modules = [self._module_of(k) for k in range(len(parts))]

        def call(module: Module, part: Any) -> Array:
            with scopes.scope("loss"):
                return loss(module, part)

        calls = [partial(call, m, p) for m, p in zip(modules, parts, strict=True)]
        return run_in_lockstep(calls, modules)

    def _set(self, found: list[list[Array]]) -> None:
        if len(found) == 1 and len(self.devices) == 1:
            totals = found
        else:
            while len(found) < len(self.devices):  # a batch of fewer rows than devices
                place = self.devices[len(found)]
                with no_grad():
                    found.append([(g * 0.0).to_device(place) for g in found[0]])
            totals = exchange(found, reduce=self._reduce, bucket_bytes=self._bucket_bytes)
        for module, own in zip(self.modules, totals, strict=True):
            for parameter, g in zip((p for p in module.parameters() if p.requires_grad), own, strict=True):
                parameter.grad = g

    def parameters(self) -> Iterator[Array]:
        """The parameters of the first copy: those to save."""
        return iter(self.modules[0].parameters())
