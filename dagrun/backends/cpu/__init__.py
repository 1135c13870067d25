"""CPU devices: any `cpu:k` is one, with memory accounting and lane bounds of its own; all share the pool of workers."""

from __future__ import annotations

from dagrun.config import settings
from dagrun.core import native, open_with
from dagrun.devices import Device

# Copies and collectives are bound by memory: more of them at once than this only take cores from compute.
COPY_LANES = 2
COMMUNICATION_LANES = 2
UNBOUNDED = 1 << 30  # as many as there are threads to run them: workers, and those that help while they wait


def open_device(which: Device) -> int:
    """Adds a CPU device to the executor; returns its index."""
    s = settings()
    return int(
        native.add_device(
            name=str(which),
            object=which,
            compute=s.cpu_lanes or UNBOUNDED,
            copy=COPY_LANES,
            communication=COMMUNICATION_LANES,
            memory_limit=s.device_memory_bytes,
            cache_bytes=s.cache_bytes,
        )
    )


open_with("cpu", open_device)
