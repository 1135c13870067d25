"""Modules that live on every device: each takes its part of the batch, gradients are exchanged, all update at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import gradients as gradients_of
from dagrun.autodiff import no_grad
from dagrun.core import scopes
from dagrun.devices import Device
from dagrun.errors import DeviceError
from dagrun.nn import Module
from dagrun.nn.module import mark_backward
from dagrun.ops import zeros_like
from dagrun.parallel.batches import row_count, split_batch
from dagrun.parallel.buckets import BUCKET_BYTES, Reduce, exchange
from dagrun.parallel.collectives import ordered_all_reduce
from dagrun.parallel.data_parallel import shard_places
from dagrun.parallel.lockstep import run_in_lockstep
from dagrun.parallel.replicate import part_of_step
from dagrun.parallel.ring import all_reduce

Loss = Callable[[Module, Any], Array]  # (module, part of the batch) -> the mean loss over its rows


def _loss_of(loss: Loss, module: Module, part: Any) -> Array:
    with scopes.scope("loss"):
        value = loss(module, part)
    mark_backward(value, scopes.Scope("loss", "", True))
    return value


class Replicas:
    """A module with a copy of its own on every device, kept equal by exchanging gradients.

    `step(loss, batch)` records forward and backward of every part and the exchange, and sets the gradients of all
    copies; every copy has its optimizer, so all devices update at once. The exchange of the last layers' gradients runs
    while backward computes those of the layers before: their tasks are independent. The first copy is the module
    itself, moved to the first device; on one device a module whose layers are placed on several stays as it is.

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
        self.devices, self.places = shard_places(devices, shards, "Replicas")
        own = {x.device for x in chain(module.parameters(), module.buffers())}
        if len(own) > 1 and len(self.devices) > 1:
            raise DeviceError(
                f"Replicas: the layers are placed on {', '.join(sorted(map(str, own)))} already; make the single "
                "stages DataParallel instead"
            )
        self.modules = [module if len(own) > 1 else module.to(self.devices[0])]
        self.modules += [copy.deepcopy(module).to(d) for d in self.devices[1:]]
        self._ordered = ordered or len(self.places) > len(self.devices)
        if self._ordered and reduce is not None:
            raise ValueError("Replicas: a collective of one's own sums one part for each device, without ordered=True")
        self.reduce = reduce or (self._in_order if self._ordered else all_reduce)
        self._bucket_bytes = bucket_bytes

    def _in_order(self, arrays: Sequence[Array], *, priority: int = 0) -> list[Array]:
        return ordered_all_reduce(arrays, self.devices, priority=priority)

    def step(self, loss: Loss, batch: Any) -> Array:
        """The mean loss over the batch, on the first device, and the gradients in every copy's parameters.

        `loss(module, part)` gives the mean over the part's rows. Parameters that no part's loss depends on get None.
        """
        parts = split_batch(batch, self.places)
        rows = [row_count(part) for part in parts]
        modules = self._modules_of(len(parts))
        calls = [partial(_loss_of, loss, m, p) for m, p in zip(modules, parts, strict=True)]
        # The mean over all rows is the sum of the parts' shares.
        with scopes.scope("loss"):
            shares = [
                _checked(value) * (own / max(1, sum(rows)))
                for value, own in zip(run_in_lockstep(calls, modules), rows, strict=True)
            ]
        parameters = [_wanted(module) for module in modules]
        # One walk from all parts together: with SyncBatchNorm each part's loss depends on the others' rows.
        with scopes.scope("loss", backward=True):
            flat = iter(gradients_of(shares, [p for own in parameters for p in own], allow_unused=True))
        self._set(parameters, [[next(flat) for _ in own] for own in parameters])
        with no_grad():
            total = shares[0].detach()
            for share in shares[1:]:
                total = total + share.detach().to_device(total.device)
        return total

    def _modules_of(self, parts: int) -> list[Module]:
        """For each part the module of its device: the first part's on a device itself, the others' share its memory."""
        made = []
        for k, place in enumerate(self.places[:parts]):
            module = self.modules[self.devices.index(place)]
            made.append(part_of_step(module) if place in self.places[:k] else module)
        return made

    def _set(self, parameters: list[list[Array]], found: list[list[Array | None]]) -> None:
        """Gives every copy's parameters the totals of what was found for the parts."""
        used = [i for i in range(len(parameters[0])) if any(own[i] is not None for own in found)]
        with no_grad():
            sources = [
                [zeros_like(p[i]) if (g := own[i]) is None else g for i in used]
                for p, own in zip(parameters, found, strict=True)
            ]
            if not self._ordered:  # a batch of fewer rows than devices
                for place in self.devices[len(sources) :]:
                    sources.append([zeros_like(g, device=place) for g in sources[0]])
        totals: list[list[Array]]
        if not used:
            totals = [[] for _ in self.devices]
        elif len(self.devices) == len(sources) == 1:
            totals = sources
        else:
            totals = exchange(sources, reduce=self.reduce, bucket_bytes=self._bucket_bytes)
        for module, own in zip(self.modules, totals, strict=True):
            wanted = _wanted(module)
            for p in wanted:
                p.grad = None
            for i, g in zip(used, own, strict=True):
                wanted[i].grad = g

    def parameters(self) -> Iterator[Array]:
        """The parameters of the first copy: those to save."""
        return self.modules[0].parameters()


def _wanted(module: Module) -> list[Array]:
    return [p for p in module.parameters() if p.requires_grad]


def _checked(loss: Any) -> Array:
    if not isinstance(loss, Array) or loss.size != 1:
        given = f"an array of shape {loss.shape}" if isinstance(loss, Array) else f"a {type(loss).__name__}"
        raise ValueError(
            f"Replicas.step: the loss is {given}, expected an array of one element, the mean over the rows"
        )
    return loss
