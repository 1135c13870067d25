"""Model parallelism: layers on devices of their own, and pipelines of micro-batches over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagrun.devices import Device
from dagrun.devices import device as find_device
from dagrun.nn import Module, ModuleList
from dagrun.parallel.batches import join, move, row_count, split_batch


class OnDevice(Module):
    """`module`, its parameters and its inputs on a device: whatever comes in is moved there first.

    >>> import dagrun as dr
    >>> layer = dr.parallel.OnDevice(dr.nn.Linear(3, 2), "cpu:1")
    >>> layer(dr.ones((1, 3), "float32")).device
    device('cpu:1')
    """

    def __init__(self, module: Module, device: str | Device) -> None:
        super().__init__()
        self.device = find_device(device)
        self.module = module.to(self.device)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.module(*move(inputs, self.device), **move(options, self.device))


class Pipeline(Module):
    """Stages on devices of their own, through which a batch goes in `micro_batches` parts.

    Stage 2 works on the first part while stage 1 works on the second (Huang et al. 2019, GPipe): that falls out of the
    dependencies, the parts are recorded one after another. The result is that of the stages one after another, joined
    along the first axis; layers that look at the whole batch, such as batch normalisation, see one part at a time.
    A stage may be a `DataParallel` on several devices, of which the first is named here.

        >>> import dagrun as dr
        >>> stages = [dr.nn.Linear(3, 4), dr.nn.Linear(4, 2)]
        >>> dr.parallel.Pipeline(stages, ["cpu:0", "cpu:1"], micro_batches=2)(dr.ones((4, 3), "float32")).shape
        (4, 2)
    """

    def __init__(self, stages: Sequence[Module], devices: Sequence[str | Device], micro_batches: int = 1) -> None:
        super().__init__()
        if len(stages) != len(devices) or not stages:
            raise ValueError(f"Pipeline: {len(stages)} stages and {len(devices)} devices, expected one for each")
        if micro_batches < 1:
            raise ValueError(f"Pipeline: {micro_batches} micro-batches, expected at least 1")
        self.micro_batches = micro_batches
        self.stages = ModuleList([OnDevice(stage, place) for stage, place in zip(stages, devices, strict=True)])

    def forward(self, x: Any) -> Any:
        first, last = self.stages[0].device, self.stages[-1].device
        results = []
        for part in split_batch(x, [first] * max(1, min(self.micro_batches, row_count(x)))):
            for stage in self.stages:
                part = stage(part)
            results.append(part)
        return join(results, last)
