"""One module over several devices: the batch is split, every device computes its part, the results are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.devices import Device
from dagrun.devices import device as find_device
from dagrun.nn import Module
from dagrun.parallel.lockstep import run_in_lockstep
from dagrun.parallel.replicate import replicas_of_step
from dagrun.parallel.ring import bounds


def split_batch(batch: Any, devices: Sequence[Device]) -> list[Any]:
    """Consecutive parts of a batch along its first axis, as even as can be, one on each device.

    A batch is an array (of dagrun or NumPy), or a tuple, list or dict of arrays with as many rows. Parts without rows are left out.
    """
    rows = row_count(batch)
    return [
        _part(batch, start, stop, place)
        for (start, stop), place in zip(bounds(rows, len(devices)), devices, strict=True)
        if stop > start or rows == 0
    ]


def row_count(batch: Any) -> int:
    """The length of a batch's arrays along their first axis. ValueError where they differ."""
    if isinstance(batch, (Array, np.ndarray)):
        if batch.ndim == 0:
            raise ValueError("a batch without axes cannot be split: expected rows along the first axis")
        return int(batch.shape[0])
    counts = {row_count(item) for item in (batch.values() if isinstance(batch, dict) else batch)}
    if len(counts) != 1:
        raise ValueError(f"the parts of a batch have {sorted(counts)} rows, expected one number")
    return counts.pop()


def _part(batch: Any, start: int, stop: int, place: Device) -> Any:
    if isinstance(batch, Array):
        return batch[start:stop].to_device(place)
    if isinstance(batch, np.ndarray):
        return asarray(batch[start:stop], device=place)
    if isinstance(batch, dict):
        return {key: _part(item, start, stop, place) for key, item in batch.items()}
    return type(batch)(_part(item, start, stop, place) for item in batch)


def join(parts: Sequence[Any], place: Device) -> Any:
    """Results of the parts joined along their first axis, on one device."""
    first = parts[0]
    if isinstance(first, Array):
        moved = [part.to_device(place) for part in parts]
        if first.ndim == 0:
            raise ValueError("a result without axes cannot be joined: return one row for each row of the batch")
        return moved[0] if len(moved) == 1 else ops.concatenate(moved, 0)
    if isinstance(first, dict):
        return {key: join([part[key] for part in parts], place) for key in first}
    return type(first)(join(items, place) for items in zip(*parts, strict=True))


class DataParallel(Module):
    """`module` computed on several devices: outputs and gradients are those of the module on the whole batch.

    The module stays on `devices[0]`. Each call splits the batch along its first axis, copies the parameters to the
    other devices, records every device's part and joins the results; backward adds the parts' gradients, in their
    order, into the module's own parameters, so any optimizer works as before. The devices work at once because their
    parts do not depend on each other. `shards`: into how many parts the batch is split (as many as devices unless
    given): as many shards give the same bits on any number of devices.

        >>> import dagrun as dr
        >>> net = dr.parallel.DataParallel(dr.nn.Linear(3, 2), ["cpu:0", "cpu:1"])
        >>> net(dr.ones((4, 3), "float32")).shape
        (4, 2)
    """

    def __init__(self, module: Module, devices: Sequence[str | Device], *, shards: int | None = None) -> None:
        super().__init__()
        places = [find_device(d) for d in devices]
        if not places or len(set(places)) != len(places):
            raise ValueError(f"DataParallel: devices {[str(d) for d in places]}, expected one or more that differ")
        count = len(places) if shards is None else shards
        if count < len(places):
            raise ValueError(f"DataParallel: {count} shards for {len(places)} devices, expected at least one for each")
        self.module = module
        self.devices = places
        self._places = shard_places(places, count)
        for name, parameter in module.named_parameters():
            if parameter.device is not places[0]:
                raise ValueError(
                    f"DataParallel: the parameter {name} is on {parameter.device}, expected {places[0]}, the first "
                    f"device; move the module with module.to({str(places[0])!r})"
                )

    def forward(self, *batch: Any, **options: Any) -> Any:
        parts = split_batch(tuple(batch), self._places)
        twins = replicas_of_step(self.module, self._places[: len(parts)])
        results = run_in_lockstep([lambda t=t, p=p: t(*p, **options) for t, p in zip(twins, parts, strict=True)], twins)
        return join(results, self.devices[0])


def shard_places(devices: Sequence[Device], shards: int) -> list[Device]:
    """The device of each shard: consecutive shards stay together."""
    return [place for place, (start, stop) in zip(devices, bounds(shards, len(devices)), strict=True)
            for _ in range(start, stop)]  # fmt: skip
