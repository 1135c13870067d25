"""Arrays of other libraries in GPU memory (CuPy, PyTorch, ...), taken and given as copies within the GPU.

Copies, because the libraries' streams and the engine's know nothing of each other: who holds a view would have to keep
it until its own kernels are done, and nobody does. They go through DLPack (https://dmlc.github.io/dlpack) and the CUDA
array interface (Numba documentation, "CUDA Array Interface", version 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagrun.array.dtypes import as_dtype
from dagrun.backends import cuda
from dagrun.core import device_index, native
from dagrun.devices import Device
from dagrun.record import layout

if TYPE_CHECKING:
    from dagrun.array.array import Array

# Kinds of device in dlpack.h; managed memory is on a GPU for whoever uses it there.
DLPACK_CPU, DLPACK_CUDA, DLPACK_CUDA_MANAGED = 1, 2, 13


def is_on_gpu(obj: Any) -> bool:
    """Whether another library's object says that its elements are in a GPU's memory."""
    where = getattr(obj, "__dlpack_device__", None)
    if where is not None:
        return where()[0] in (DLPACK_CUDA, DLPACK_CUDA_MANAGED)
    return getattr(obj, "__cuda_array_interface__", None) is not None


def take(obj: Any) -> Array:
    """A copy of another library's array, on the first device of its GPU; waits for all work of that GPU."""
    held, gpu = cuda.foreign(obj)
    where: Device = cuda.first_device(gpu)
    made: Array = native.empty(layout(as_dtype(held.dtype), held.shape), device_index(where))
    if made.size:
        with cuda.platform().computing(gpu):
            _view(made, gpu)[...] = held
    return made


def give(x: Array) -> Any:
    """A copy in an array of CuPy, on the array's GPU; waits for it. An array of the CPU is copied to CuPy's GPU."""
    if x.device.kind != "cuda":
        return cuda.platform().xp.asarray(x.numpy(copy=False))
    gpu = cuda.gpu_of(x.device)
    with cuda.platform().computing(gpu):
        return _view(x, gpu).copy()


def _view(x: Array, gpu: int) -> Any:
    """The array's own memory, as an array of CuPy."""
    memory = native.export(x)
    if not x.size:
        return cuda.platform().xp.empty(x.shape, x.dtype)
    return cuda.platform().array(memory, x._offset, x.shape, x.dtype, x.strides)
