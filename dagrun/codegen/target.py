"""What the kernel functions of this package make: native CPU code, or CUDA kernels.

Under "cuda" a `..._kernel` function returns the address of a `CudaKernel`, a key into the table of
`dagrun.codegen.cuda.registry`, in the place of a native address; it takes the same params, data and scalars.

    >>> with lowering_for("cuda"):
    ...     target()
    'cuda'
    >>> target()
    'cpu'
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

_target: ContextVar[str] = ContextVar("dagrun_target", default="cpu")


def target() -> str:
    """ "cpu" or "cuda"."""
    return _target.get()


@contextmanager
def lowering_for(name: str) -> Iterator[None]:
    """Within it, in this thread, kernels are made for a target: "cpu" or "cuda"."""
    if name not in ("cpu", "cuda"):
        raise ValueError(f"no target named {name!r}: expected 'cpu' or 'cuda'")
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)


def cuda_kernel(family: str, *arguments: Any) -> int:
    """Address of the kernel that `kernel` of dagrun.codegen.cuda.<family> makes; imported when first asked for."""
    return import_module(f"dagrun.codegen.cuda.{family}").kernel(*arguments)


def cuda_params(family: str, *arguments: Any) -> bytes:
    """The params block of a family whose CUDA kernels have another one than the CPU's."""
    return import_module(f"dagrun.codegen.cuda.{family}").params(*arguments)
