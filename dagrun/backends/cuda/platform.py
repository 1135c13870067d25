"""What a CUDA device needs of a platform beside its driver: libraries, a compiler, an array namespace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np


class Platform(Protocol):
    """Where CUDA comes from: CuPy (`cupy_platform.py`); in tests, an emulator (`tests/cuda/emulated.py`)."""

    overwrite_freed: bool  # freed memory is filled at once, so that every use after free shows (tests)

    @property
    def name(self) -> str:
        """What `dagrun info` calls it, with its version."""

    def driver(self) -> str:
        """The driver library, as the system's loader finds it."""

    def blas(self) -> str:
        """The cuBLAS library; empty where there is none."""

    def compile(self, source: str, name: str, include: str, capability: int) -> bytes:
        """The module image of a CUDA source for GPUs of a compute capability (90 for 9.0)."""

    @property
    def xp(self) -> Any:
        """The namespace of arrays in GPU memory that operators without a kernel compute with."""

    def computing(self, gpu: int) -> AbstractContextManager[None]:
        """Within it this thread computes on a GPU; when it ends, what was computed is done."""

    def array(
        self, memory: Any, offset: int, shape: Sequence[int], dtype: np.dtype[Any], strides: Sequence[int]
    ) -> Any:
        """An array of `xp` over memory of a GPU: an object with `address`, `nbytes` and `gpu`, which it keeps alive."""

    def foreign(self, obj: Any) -> tuple[Any, int]:
        """An array of `xp` over what another library holds on a GPU, whose work is done then, and which GPU that is."""

    def to_host(self, x: Any) -> np.ndarray[Any, Any]:
        """A NumPy copy of an array of `xp`."""

    def from_host(self, target: Any, values: np.ndarray[Any, Any]) -> None:
        """Copies NumPy values of the same shape and dtype into an array of `xp`."""
