"""Simulated stream devices: a GPU's streams and events on the CPU, completed in a seeded hostile order.

What runs right on `sim:k` has every event wait and every lifetime that a GPU needs: work on different streams overtakes
wherever no event forbids it, and freed memory is overwritten at once. Values are those of the CPU, bit for bit.
"""

from __future__ import annotations

from dagrun.config import settings
from dagrun.core import native, open_with
from dagrun.devices import Device

COMPUTE_STREAMS = 4
COPY_STREAMS = 2  # one each way
COMMUNICATION_STREAMS = 1


def open_device(which: Device) -> int:
    """Adds a simulated device to the executor; returns its index."""
    s = settings()
    return int(
        native.add_device(
            name=str(which),
            object=which,
            compute=COMPUTE_STREAMS,
            copy=COPY_STREAMS,
            communication=COMMUNICATION_STREAMS,
            streams=True,
            memory_limit=s.device_memory_bytes,
            cache_bytes=s.cache_bytes,
            overwrite_freed=True,
            seed=s.sim_seed,
        )
    )


open_with("sim", open_device)
