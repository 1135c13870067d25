"""The type `Array`, made of the core's handle, and the ways in and out of it: NumPy, DLPack, scalars, pickles."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack
from typing import TYPE_CHECKING, Any

import numpy as np

from dagrun.array import foreign
from dagrun.array.dtypes import as_dtype
from dagrun.array.foreign import DLPACK_CPU, DLPACK_CUDA
from dagrun.array.printing import format_array
from dagrun.backends import cuda
from dagrun.core import TaskStory, device_index, native, story_of
from dagrun.devices import Device, current_device
from dagrun.devices import device as find_device
from dagrun.record import layout
from dagrun.record.tape import Leaf, place_of, source

_HOST = find_device("cpu:0")  # where values of GPUs are read and come from

if TYPE_CHECKING:

    class Array:
        """What type checkers see of the native type; the operators' methods are added by `dagrun.ops`."""

        shape: tuple[int, ...]
        strides: tuple[int, ...]
        dtype: np.dtype[Any]
        ndim: int
        size: int
        nbytes: int
        itemsize: int
        device: Device
        task: TaskStory
        T: Array
        mT: Array
        _layout: Any
        _offset: int
        _buffer: int
        _version: int
        _node: Any
        _family: Any
        _tracked: bool
        _requires_grad: bool
        requires_grad: bool
        grad: Array | None

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Array: ...
        def __radd__(self, other: Any) -> Array: ...
        def __sub__(self, other: Any) -> Array: ...
        def __rsub__(self, other: Any) -> Array: ...
        def __mul__(self, other: Any) -> Array: ...
        def __rmul__(self, other: Any) -> Array: ...
        def __truediv__(self, other: Any) -> Array: ...
        def __rtruediv__(self, other: Any) -> Array: ...
        def __matmul__(self, other: Any) -> Array: ...
        def __pow__(self, other: Any) -> Array: ...
        def __neg__(self) -> Array: ...
        def __invert__(self) -> Array: ...
        def __and__(self, other: Any) -> Array: ...
        def __or__(self, other: Any) -> Array: ...
        def __xor__(self, other: Any) -> Array: ...
        def __lt__(self, other: Any) -> Array: ...
        def __le__(self, other: Any) -> Array: ...
        def __gt__(self, other: Any) -> Array: ...
        def __ge__(self, other: Any) -> Array: ...
        def __iter__(self) -> Iterator[Array]: ...
        def __bool__(self) -> bool: ...
        def __float__(self) -> float: ...
        def __int__(self) -> int: ...
        def __index__(self) -> int: ...
        def __getitem__(self, key: Any) -> Array: ...
        def __setitem__(self, key: Any, value: Any) -> None: ...
        def __len__(self) -> int: ...

else:
    Array = native.Array


def extend(**members: Any) -> None:
    """Adds methods and properties to the array type."""
    for name, member in members.items():
        setattr(Array, name, member)


_WEAK = frozenset((bool, int, float))
_PLAIN = _WEAK | {list, tuple, np.ndarray}  # what needs no question where it is


def is_weak(value: object) -> bool:
    """Whether a value is a Python scalar, whose dtype follows that of the arrays it meets."""
    return type(value) in _WEAK


def asarray(
    obj: Any,
    dtype: Any = None,
    *,
    device: str | Device | None = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Array:
    """An array from anything that NumPy understands, or from another array.

    NumPy arrays are copied when this is called: later changes to them do not show. With `copy=False` the memory is
    lent instead, which needs a C-contiguous NumPy array of that dtype that cannot be written (`x.flags.writeable =
    False`); ValueError otherwise. What another library holds on a GPU (CuPy, PyTorch) is copied there. An `Array` is
    returned as it is, cast or moved where dtype or device ask for it. With `requires_grad` gradients of it are gathered
    in its `grad`.

        >>> import dagrun as dr
        >>> dr.asarray([1, 2, 3]) + 1
        array([2, 3, 4])
    """
    if isinstance(obj, Array):
        return leaf(_from_array(obj, dtype, device, copy), requires_grad)
    if copy is False and not isinstance(obj, np.ndarray):
        raise ValueError(f"asarray(copy=False) of a {type(obj).__name__}: only a read-only NumPy array can be lent")
    if type(obj) not in _PLAIN and foreign.is_on_gpu(obj):
        return leaf(_from_array(foreign.take(obj), dtype, device, None), requires_grad)
    where = current_device() if device is None else find_device(device)
    if isinstance(obj, (list, tuple)) and any(isinstance(item, Array) for item in _leaves(obj)):
        obj = _to_numpy(obj)
    source = np.asarray(obj, dtype=None if dtype is None else as_dtype(dtype))
    final = as_dtype(source.dtype)
    if copy is False:
        if where.kind == "cuda":
            raise ValueError(f"asarray(copy=False): memory of the CPU cannot be lent to {where}; let it be copied")
        if source is not obj or not source.flags.c_contiguous or source.dtype != final:
            raise ValueError(
                "asarray(copy=False): the array must be C-contiguous, in native byte order and of the dtype asked for"
            )
        if source.flags.writeable or _writable_base(source):
            raise ValueError(
                "asarray(copy=False): the array can be written, and recorded work reads it later; "
                "set x.flags.writeable = False on it and on what it is a view of, or let it be copied"
            )
        return leaf(native.from_memory(layout(final, source.shape), device_index(where), source, False), requires_grad)
    flat = np.ascontiguousarray(source, dtype=final).reshape(-1).view(np.uint8)
    if where.kind == "cuda":  # its memory is written by its own streams: from a copy, which nobody changes meanwhile
        held: Array = native.from_memory(layout(final, source.shape), device_index(_HOST), flat, True)
        return leaf(held.to_device(where), requires_grad)
    return leaf(native.from_memory(layout(final, source.shape), device_index(where), flat, True), requires_grad)


def leaf(x: Array, requires_grad: bool) -> Array:
    """The array, with gradients asked for where `requires_grad` says so."""
    if requires_grad:
        x.requires_grad = True
    return x


def as_array(obj: Any) -> Array:
    """The array itself, or an array on the default device from anything that NumPy understands."""
    return obj if type(obj) is Array else asarray(obj)


def _leaves(obj: Any) -> Iterator[Any]:
    for item in obj:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        else:
            yield item


def _to_numpy(obj: Any) -> Any:
    if isinstance(obj, Array):
        return obj.numpy()
    return [_to_numpy(item) for item in obj] if isinstance(obj, (list, tuple)) else obj


def _writable_base(source: np.ndarray[Any, Any]) -> bool:
    base = source.base
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return False


def _from_array(array: Array, dtype: Any, where: str | Device | None, copy: bool | None) -> Array:
    result = array
    if where is not None and find_device(where) is not array.device:
        if copy is False:
            raise ValueError(
                f"asarray(copy=False): the array is on {array.device}, and {find_device(where)} needs a copy"
            )
        result = result.to_device(where)
    if dtype is not None and as_dtype(dtype) != array.dtype:
        if copy is False:
            raise ValueError(f"asarray(copy=False): the array is {array.dtype}, and {as_dtype(dtype)} needs a copy")
        result = result.astype(dtype)
    return result.copy() if copy and result is array else result


# ---- methods that read values: the only ones that block


def numpy(self: Array, *, copy: bool = True) -> np.ndarray[Any, Any]:
    """The values as a NumPy array; waits for them. Raises what failed on the way to them.

    With `copy=False` it is a read-only view of the array's memory; a later write to the array goes to fresh memory.
    ValueError where the memory is a GPU's: the CPU cannot read it.
    """
    if self.device.kind == "cuda":
        if not copy:
            raise ValueError(
                f"numpy(copy=False): the array is on {self.device}, whose memory the CPU cannot read: "
                "use x.numpy() or x.to_device('cpu:0')"
            )
        return host_view(self).copy()
    memory = native.export(self)
    if self.size == 0:
        return np.empty(self.shape, self.dtype)
    view: np.ndarray[Any, Any] = np.ndarray(
        self.shape, self.dtype, buffer=memory, offset=self._offset, strides=self.strides
    )
    return view.copy() if copy else view


def host_view(x: Array) -> np.ndarray[Any, Any]:
    """The values as a read-only NumPy array: a view where the CPU can read the memory, else a copy."""
    if x.device.kind != "cuda":
        return numpy(x, copy=False)
    recording = native.set_gradients(False)
    try:
        return numpy(x.to_device(_HOST), copy=False)
    finally:
        native.set_gradients(recording)


def wait(self: Array) -> Array:
    """Blocks until the array is computed; returns it. Raises OperationError if it, or what it depends on, failed."""
    return native.wait(self)


def item(self: Array, *index: int) -> Any:
    """The single element, or the one at `index` (flat, or one for each axis), as a Python scalar; waits for it.

    ValueError where there are several elements and no index; IndexError for an index out of range.
    """
    if not index and self.size != 1:
        raise ValueError(
            f"item() of an array of shape {self.shape}: it has {self.size} elements, expected one; give an index"
        )
    if index or self.device.kind == "cuda":
        return host_view(self).item(*index)
    return unpack(self.dtype.char, native.element(self))[0]


def tolist(self: Array) -> Any:
    """The values as nested lists of Python scalars; waits for them."""
    return host_view(self).tolist()


def tobytes(self: Array, order: str | None = "C") -> bytes:
    """The bytes of the values, in C order unless told; waits for them."""
    return host_view(self).tobytes(order)  # type: ignore[arg-type]


def _truth(self: Array) -> bool:
    if self.size != 1:
        raise ValueError(
            f"the truth value of an array of shape {self.shape} is ambiguous, expected one element: "
            "use .any(), .all(), or compare the size"
        )
    return bool(item(self))


def _index(self: Array) -> int:
    if self.ndim or self.dtype.kind not in "iu":
        raise TypeError(
            f"an array of {self.dtype} and shape {self.shape} is no index: expected an integer array of shape ()"
        )
    return int(item(self))


def _scalar_of(kind: type) -> Any:
    def convert(self: Array) -> Any:
        if self.size != 1:
            raise TypeError(
                f"{kind.__name__}() of an array of shape {self.shape}: expected one element, it has {self.size}"
            )
        return kind(item(self))

    return convert


def _array(self: Array, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
    if copy is False:
        view = numpy(self, copy=False)
        if dtype is not None and np.dtype(dtype) != view.dtype:
            raise ValueError(f"the array is {view.dtype}: {np.dtype(dtype)} needs a copy")
        return view
    values = numpy(self)
    return values if dtype is None else values.astype(dtype, copy=False)


def _length(self: Array) -> int:
    if not self.ndim:
        raise TypeError("len() of an array without axes: expected at least one; its size is 1")
    return self.shape[0]


def _iterate(self: Array) -> Iterator[Array]:
    if not self.ndim:
        raise TypeError("iteration over an array without axes: expected at least one; use x.item()")
    return (self[i] for i in range(self.shape[0]))


def _contains(self: Array, value: Any) -> bool:
    return bool((host_view(self) == (value.numpy() if isinstance(value, Array) else value)).any())


def _dlpack(
    self: Array,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A capsule of a copy, on the array's GPU or, where `dl_device` asks for it, on the CPU; waits for the values.

    With `copy=False` the memory itself, read-only, of an array of the CPU; BufferError elsewhere.
    """
    how = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": None}
    if self.device.kind != "cuda":
        return numpy(self, copy=copy is not False).__dlpack__(**how)
    if copy is False:
        raise BufferError(
            f"__dlpack__(copy=False): memory of {self.device} is not lent to other libraries; let it be copied"
        )
    on_host = dl_device is not None and dl_device[0] == DLPACK_CPU
    return (numpy(self) if on_host else foreign.give(self)).__dlpack__(**how)


def _dlpack_device(self: Array) -> tuple[int, int]:
    return (DLPACK_CUDA, cuda.gpu_of(self.device)) if self.device.kind == "cuda" else (DLPACK_CPU, 0)


def _gradient(self: Array) -> str:
    """What `repr` says of gradients: whether the array asked for them, or the operation that it was computed by."""
    record = source(self)
    if record is None:
        return ""
    node, _ = place_of(record)
    return "requires_grad=True" if type(node) is Leaf else f"grad_fn=<{node.plan.name}>"


extend(
    numpy=numpy,
    wait=wait,
    item=item,
    tolist=tolist,
    tobytes=tobytes,
    task=property(
        story_of, doc="What last wrote the array: its name, the user's line, its state; see `TaskStory.story`."
    ),
    __bool__=_truth,
    __float__=_scalar_of(float),
    __int__=_scalar_of(int),
    __complex__=_scalar_of(complex),
    __index__=_index,
    __array__=_array,
    __len__=_length,
    __iter__=_iterate,
    __contains__=_contains,
    __dlpack__=_dlpack,
    __dlpack_device__=_dlpack_device,
    __cupy_get_ndarray__=lambda self: foreign.give(self),
    __repr__=lambda self: format_array(host_view(self), str(self.device), _gradient(self)),
    __str__=lambda self: str(host_view(self)),
    __format__=lambda self, spec: format(item(self) if spec else self.__str__(), spec),
)
