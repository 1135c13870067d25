"""dagrun: write serial NumPy programs; they run as a graph, on every core and device at once.

    import dagrun as dr

    a = dr.ones((1000, 1000), device="cpu:0")
    b = dr.ones((1000, 1000), device="cpu:1")
    c, d = a @ a, b @ b            # both run now, at the same time, while this program goes on
    print((c + d.to_device("cpu:0")).sum())

Layers, each importing only from below:

    cli  viz                tools for people: commands, graphs, profiles
    parallel                many devices: ring all-reduce
    ops -> array -> record  operators and their user functions; handles; the one place a task is made
    codegen                 scalar expressions to LLVM IR; kernel cache
    backends: cpu, sim      what one kind of device is made of
    core                    tasks, accesses, buffers, executor, trace
    devices config errors   the ground
"""

from dagrun import backends, parallel
from dagrun._version import __version__
from dagrun.array import Array, asarray
from dagrun.core import engine, engine_stats, memory_stats, wait
from dagrun.devices import Device, default_device, device
from dagrun.errors import DagrunError, DeviceError, OperationError
from dagrun.ops import *  # noqa: F403
