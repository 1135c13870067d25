"""CUDA through CuPy: the array namespace of operators without a kernel. The only module that imports cupy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np

from dagrun.backends.cuda.libraries import cuda_library
from dagrun.backends.cuda.nvrtc import architecture_for, compile_cached

KEPT_BYTES = 1 << 28  # what CuPy's pool may keep of memory that it needed in between


class CupyPlatform:
    """The GPUs that CuPy and the driver see."""

    overwrite_freed = False

    def __init__(self) -> None:
        self._streams: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return f"CuPy {cupy.__version__}"

    def driver(self) -> str:
        return "libcuda.so.1"

    def blas(self) -> str:
        return cuda_library("cublas")

    def compile(self, source: str, name: str, include: str, capability: int) -> bytes:
        path = cuda_library("nvrtc")
        if not path:
            raise RuntimeError("no NVRTC was found: install cupy with its extra [ctk], or set CUDA_PATH")
        architecture = f"--gpu-architecture={architecture_for(path, capability)}"
        options = ("-fmad=false", "-std=c++17", f"-I{include}", architecture)
        return compile_cached(path, source, name, include, options)

    @property
    def xp(self) -> Any:
        return cupy

    @contextmanager
    def computing(self, gpu: int) -> Iterator[None]:
        with cupy.cuda.Device(gpu):
            if gpu not in self._streams:
                self._streams[gpu] = cupy.cuda.Stream(non_blocking=True)
            with self._streams[gpu] as stream:
                try:
                    yield
                finally:
                    stream.synchronize()
            pool = cupy.get_default_memory_pool()
            if pool.free_bytes() > KEPT_BYTES:
                pool.free_all_blocks()

    def array(
        self, memory: Any, offset: int, shape: Sequence[int], dtype: np.dtype[Any], strides: Sequence[int]
    ) -> Any:
        whole = cupy.cuda.UnownedMemory(memory.address, memory.nbytes, memory, memory.gpu)
        return cupy.ndarray(tuple(shape), dtype, cupy.cuda.MemoryPointer(whole, offset), tuple(strides))

    def foreign(self, obj: Any) -> tuple[Any, int]:
        spoken = hasattr(obj, "__cuda_array_interface__")
        held = cupy.asarray(obj) if spoken else cupy.from_dlpack(obj)
        held.device.synchronize()  # whose stream wrote it is not always said
        return held, held.device.id

    def to_host(self, x: Any) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = cupy.asnumpy(x)
        return values

    def from_host(self, target: Any, values: np.ndarray[Any, Any]) -> None:
        target[...] = cupy.asarray(values)
