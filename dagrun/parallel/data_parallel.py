"""One module over several devices: the batch is split, every device computes its part, the results are joined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from dagrun.devices import Device
from dagrun.devices import device as find_device
from dagrun.errors import DeviceError
from dagrun.nn import Module
from dagrun.parallel.batches import join, split_batch
from dagrun.parallel.lockstep import run_in_lockstep
from dagrun.parallel.replicate import replicas_of_step
from dagrun.parallel.ring import bounds


def shard_places(devices: Sequence[str | Device], shards: int | None, name: str) -> tuple[list[Device], list[Device]]:
    """The devices, and the device of each shard: consecutive shards stay together. Raises where they do not fit."""
    found = [find_device(d) for d in devices]
    if not found or len(set(found)) != len(found):
        raise DeviceError(f"{name}: devices {[str(d) for d in found]}, expected one or more that differ")
    count = len(found) if shards is None else shards
    if count < len(found):
        raise ValueError(f"{name}: {count} shards for {len(found)} devices, expected at least one for each")
    places = [place for place, (start, stop) in zip(found, bounds(count, len(found)), strict=True)
              for _ in range(start, stop)]  # fmt: skip
    return found, places


class DataParallel(Module):
    """`module` computed on several devices: outputs and gradients are those of the module on the whole batch.

    The module stays on `devices[0]`. Each call splits the batch along its first axis, copies the parameters to the
    other devices, records every device's part and joins the results; backward adds the parts' gradients, in their
    order, into the module's own parameters, so any optimizer works as before. The devices work at once because their
    parts do not depend on each other. `shards`: into how many parts the batch is split (as many as devices unless
    given): as many shards give the same bits on any number of devices.

    DeviceError where devices repeat or the module is not on the first.

        >>> import dagrun as dr
        >>> net = dr.parallel.DataParallel(dr.nn.Linear(3, 2), ["cpu:0", "cpu:1"])
        >>> net(dr.ones((4, 3), "float32")).shape
        (4, 2)
    """

    def __init__(self, module: Module, devices: Sequence[str | Device], *, shards: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.devices, self.places = shard_places(devices, shards, "DataParallel")
        self._check()

    def _check(self) -> None:
        first = self.devices[0]
        for name, x in chain(self.module.named_parameters(), self.module.named_buffers()):
            if x.device is not first:
                raise DeviceError(
                    f"DataParallel: {name} is on {x.device}, expected {first}, the first device; move the module with "
                    f"module.to({str(first)!r})"
                )

    def forward(self, *inputs: Any, **options: Any) -> Any:
        self._check()  # it may have been moved since
        parts = split_batch((inputs, options), self.places)
        twins = replicas_of_step(self.module, self.places[: len(parts)])
        calls = [lambda t=t, p=p: t(*p[0], **p[1]) for t, p in zip(twins, parts, strict=True)]
        return join(run_in_lockstep(calls, twins), self.devices[0])
