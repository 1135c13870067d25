"""CUDA devices: the streams of GPUs, opened through the driver. Nothing here imports CuPy before a device is opened.

`cuda:k` is GPU k; with `DAGRUN_CUDA_LOGICAL=n` each GPU stands for n devices, with memory accounting and streams of
their own. How the streams are fed is in `dagrun/native/cuda.cpp`.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from dagrun.backends.cuda.platform import Platform
from dagrun.config import settings
from dagrun.core import native, open_with
from dagrun.core.engine import engine_info
from dagrun.devices import Device, device
from dagrun.errors import DeviceError

COMPUTE_STREAMS = 4
COPY_STREAMS = 2
COMMUNICATION_STREAMS = 1

_lock = threading.Lock()
_platform: Platform | None = None
_count: int | None = None  # of GPUs; None: the driver is not opened
_blas_problem = ""
_functions: dict[tuple[int, str], int] = {}


def use_platform(chosen: Platform) -> None:
    """Takes CUDA from this platform; before the first CUDA device is opened (tests)."""
    global _platform
    if _count is not None:
        raise RuntimeError("the CUDA driver is open already")
    _platform = chosen


def platform() -> Platform:
    """The platform in use. Raises DeviceError where CuPy is missing or does not load."""
    global _platform
    if _platform is None:
        if importlib.util.find_spec("cupy") is None:
            raise DeviceError(
                "CUDA devices need CuPy, which is not installed: pip install 'dagrun[cuda13]' (or dagrun[cuda12] for a "
                "driver older than 580)"
            )
        try:
            with warnings.catch_warnings():  # CuPy looks for libraries that are found here in another way
                warnings.simplefilter("ignore")
                module: Any = importlib.import_module("dagrun.backends.cuda.cupy_platform")
        except ImportError as error:
            raise DeviceError(f"CUDA devices need CuPy, which does not load here: {error}") from error
        _platform = module.CupyPlatform()
    return _platform


def gpu_count() -> int:
    """How many GPUs there are. Raises DeviceError, saying what is missing, where CUDA cannot be used."""
    global _count, _blas_problem
    with _lock:
        if _count is None:
            if engine_info().core != "native":
                raise DeviceError(
                    "CUDA devices need the native core: install a C++17 compiler, then dagrun, and unset DAGRUN_CORE"
                )
            chosen = platform()
            try:
                _count, _blas_problem = native.open_driver(chosen.driver(), chosen.blas())
            except RuntimeError as error:
                raise DeviceError(f"CUDA devices need NVIDIA's driver and a GPU: {error}") from error
    return _count


def gpus() -> tuple[Device, ...]:
    """The CUDA devices that can be used here; none where CuPy, driver or GPU is missing (`dagrun info` says what).

    >>> import dagrun as dr
    >>> where = dr.gpus() or (dr.device("cpu:0"), dr.device("cpu:1"))
    >>> parts = [dr.ones(3, device=device) for device in where]
    """
    try:
        count = gpu_count()
    except DeviceError:
        return ()
    return _devices(count)


def _logical() -> int:
    """How many devices each GPU stands for."""
    return max(1, settings().cuda_logical)


def _devices(count: int) -> tuple[Device, ...]:
    """Those of so many GPUs; dr.devices() names them from now on."""
    return tuple(device(f"cuda:{number}") for number in range(count * _logical()))


def has_blas() -> bool:
    """Whether products can run on cuBLAS."""
    return gpu_count() > 0 and not _blas_problem


def describe() -> list[str]:
    """The GPUs, one line each, or one line that says what is missing (for `dagrun info`)."""
    try:
        count = gpu_count()
    except DeviceError as error:
        return [f"none: {error}"]
    lines = []
    logical = _logical()
    for gpu in range(count):
        name, nbytes, capability, peers = native.describe_gpu(gpu)
        labels = ", ".join(f"cuda:{gpu * logical + k}" for k in range(logical))
        reach = f", reaches the memory of GPU {', '.join(map(str, peers))}" if peers else ""
        lines.append(f"{labels}: {name}, {nbytes / 2**30:.1f} GiB, compute capability {capability / 10:.1f}{reach}")
    return [*lines, f"through {platform().name}, cuBLAS {_blas_problem or 'found'}"]


def open_device(which: Device) -> int:
    """Adds a CUDA device to the executor; returns its index."""
    s = settings()
    count, logical = gpu_count(), _logical()
    if which.number >= count * logical:
        raise DeviceError(
            f"no device {which}: expected cuda:0 to cuda:{count * logical - 1}; there are {count} GPUs, and each "
            f"stands for {logical} (DAGRUN_CUDA_LOGICAL)"
        )
    _devices(count)
    return int(
        native.add_device(
            name=str(which),
            object=which,
            compute=COMPUTE_STREAMS,
            copy=COPY_STREAMS,
            communication=COMMUNICATION_STREAMS,
            memory_limit=s.device_memory_bytes,
            overwrite_freed=platform().overwrite_freed,
            gpu=gpu_of(which),
        )
    )


def gpu_of(which: Device) -> int:
    """Which GPU a CUDA device is on."""
    return which.number // _logical()


def first_device(gpu: int) -> Device:
    """The first CUDA device on a GPU."""
    return device(f"cuda:{gpu * _logical()}")


def foreign(obj: Any) -> tuple[Any, int]:
    """An array of the platform's namespace over what another library holds on a GPU, and which GPU that is."""
    gpu_count()
    return platform().foreign(obj)


def function_of(gpu: int, name: str, source: str, include: str, shared_bytes: int) -> int:
    """The address of a kernel's function on a GPU, compiled and loaded on first use."""
    with _lock:
        known = _functions.get((gpu, name))
    if known is None:
        image = platform().compile(source, name, include, native.describe_gpu(gpu)[2])
        known = native.load_kernel(gpu, image, name, shared_bytes)
        with _lock:
            _functions[gpu, name] = known
    return known


def arrays_of(operands: Sequence[tuple[Any, int]], layouts: Sequence[Any]) -> list[Any]:
    """Arrays of the platform's namespace over the operands of a task of the Python lane: (memory, offset) pairs."""
    chosen = platform()
    return [
        chosen.array(memory, offset, view.shape, view.dtype, view.strides)
        if view.size
        else chosen.xp.empty(view.shape, view.dtype)
        for (memory, offset), view in zip(operands, layouts, strict=True)
    ]


open_with("cuda", open_device)
