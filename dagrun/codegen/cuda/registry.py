"""The table of CUDA kernels: an address (a small positive int) stands for each.

>>> source = '#include "dagrun.cuh"\\nDAGRUN_KERNEL(nothing, 32) {}'
>>> kernel = CudaKernel("nothing", source, lambda params: Launch(1, 32))
>>> kernel_at(register(kernel)) is kernel
True
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dagrun.codegen.compiler import Unsupported

MOST_OPERANDS, MOST_PARAMS, MOST_SCALARS = 12, 112, 12  # of a call: as in kernels/cuda/dagrun.cuh
THREADS = 256  # of a block, where nothing speaks for another number
MOST_BLOCKS = 4096  # of a grid whose threads each go over many elements


@dataclass(frozen=True, slots=True)
class Launch:
    """The geometry of a launch, one-dimensional; no kernel asks for more than 48 KiB of shared memory."""

    blocks: int
    threads: int
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """`source` is CUDA C++ that defines `name`; `launch(params)` is computed from the params block alone."""

    name: str
    source: str
    launch: Callable[[bytes], Launch]


@dataclass(frozen=True, slots=True)
class CublasGemm:
    """A product by cuBLAS, with the params of `codegen/gemm.gemm_params` and data C, A, B."""

    dtype: str

    @property
    def name(self) -> str:
        return f"cublas_gemm_{self.dtype}"


@dataclass(frozen=True, slots=True)
class MemoryCopy:
    """A copy of bytes between two memories, of which one at least is a GPU's; params: how many."""

    name: str = "memory_copy"


AnyKernel: TypeAlias = CudaKernel | CublasGemm | MemoryCopy

_lock = threading.Lock()
_kernels: list[AnyKernel] = []
_addresses: dict[str, int] = {}


def register(kernel: AnyKernel) -> int:
    """The address of a kernel; a kernel of a known name is not taken again."""
    with _lock:
        if kernel.name not in _addresses:
            _kernels.append(kernel)
            _addresses[kernel.name] = len(_kernels)
        return _addresses[kernel.name]


def kernel_at(address: int) -> AnyKernel:
    """The kernel of an address that `register` gave."""
    if not 0 < address <= len(_kernels):
        raise KeyError(f"no CUDA kernel has the address {address}")
    return _kernels[address - 1]


def known(name: str) -> int | None:
    """The address of the kernel of a name, if there is one."""
    return _addresses.get(name)


def include_directory() -> Path:
    """Where the headers are: `kernels/cuda` in a checkout, `dagrun/kernels/cuda` where the package is installed."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "kernels" / "cuda"
    return installed if installed.is_dir() else package.parent / "kernels" / "cuda"


def words_of(params: bytes) -> tuple[int, ...]:
    """The words of a params block; Unsupported where a call has no room for them."""
    count = len(params) // 8
    if count > MOST_PARAMS:
        raise Unsupported(f"a CUDA kernel takes {MOST_PARAMS} params words, not {count}")
    return struct.unpack(f"<{count}q", params)


def grid(items: int, threads: int = THREADS, shared_bytes: int = 0) -> Launch:
    """A launch with a thread for each item, or for each few where they are many."""
    return Launch(max(1, min(MOST_BLOCKS, -(-items // threads))), threads, shared_bytes)
