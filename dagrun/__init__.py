"""dagrun: write serial NumPy programs; they run as a graph, on every core and device at once.

    import dagrun as dr

    a = dr.ones((1000, 1000), device="cpu:0")
    b = dr.ones((1000, 1000), device="cpu:1")
    c, d = a @ a, b @ b            # both run now, at the same time, while this program goes on
    print((c + d.to_device("cpu:0")).sum())

Layers, each importing only from below:

    cli  examples  viz      tools for people: commands, programs, graphs, profiles
    models                  networks by name
    train                   the trainer, its callbacks, metrics, checkpoints
    models                  networks by name
    parallel                many devices: collectives, data and model parallel training, the key-value store
    data  optim             datasets and loaders; optimizers, schedules, clipping, loss scaling
    nn                      modules: layers, losses, initialisers
    autodiff                gradients: the reverse walk over recorded operations
    ops -> array -> record  operators and their user functions; handles; the one place a task is made
    codegen                 scalar expressions to LLVM IR; kernel cache
    backends: cpu, sim      what one kind of device is made of
    core                    tasks, accesses, buffers, executor, trace
    devices config errors   the ground
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from dagrun import autodiff as _autodiff
from dagrun import backends as backends
from dagrun import ops as _ops
from dagrun._version import __version__ as __version__
from dagrun.array import Array, asarray
from dagrun.autodiff import *  # noqa: F403
from dagrun.backends.cuda import gpus
from dagrun.core import empty_cache, engine, engine_stats, memory_report, memory_stats, wait
from dagrun.devices import Device, default_device, device, devices
from dagrun.errors import DagrunError, DeviceError, OperationError
from dagrun.ops import *  # noqa: F403
from dagrun.ops import linalg as linalg
from dagrun.ops import random as random

# Imported on first use, so that `import dagrun` stays fast.
_PACKAGES = ("data", "models", "nn", "optim", "parallel", "train")
_PICTURES = ("Graph", "Profile", "graph", "profile")  # networkx and graphviz are loaded on first use

__array_api_version__ = "2024.12"

__all__ = [
    "Array",
    "DagrunError",
    "Device",
    "DeviceError",
    "OperationError",
    "asarray",
    "default_device",
    "device",
    "devices",
    "empty_cache",
    "engine",
    "engine_stats",
    "gpus",
    "memory_report",
    "memory_stats",
    "random",
    "wait",
    *_PACKAGES,
    *_PICTURES,
    *_autodiff.__all__,
    *_ops.__all__,
]


def __getattr__(name: str) -> _Any:
    if name in _PACKAGES:
        return _import_module(f"dagrun.{name}")
    if name in _PICTURES:
        from dagrun import viz

        return getattr(viz, name)
    raise AttributeError(f"module 'dagrun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
