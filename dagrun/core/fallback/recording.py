"""The types of the module, and the one place where tasks are made from user calls."""

import ctypes
import operator
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import prod
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from .executor import Executor
from .regions import region_of_view, shifted
from .tasks import (
    OVERWRITE,
    PYTHON,
    UNKNOWN,
    WRITE,
    Body,
    Buffer,
    Device,
    Operand,
    OperandSpec,
    Site,
    Task,
    function_at,
)

executor = Executor()


@dataclass(slots=True)
class Hooks:
    """What the layers above provide."""

    binary_slow: Callable[..., Any] | None = None  # (operator number, left, right, in place)
    make_error: Callable[[dict[str, Any]], BaseException] | None = None
    start: Callable[[], object] | None = None  # called before the first task
    gradient_hook: Callable[..., object] | None = None  # (context, inputs, result, scalars or callable, in place)
    view_hook: Callable[..., object] | None = None  # (array, view, rule and its arguments): a tracked array was viewed
    write_guard: Callable[..., object] | None = None  # (array): a tracked array is about to be written
    scalar_types: tuple[type, ...] = ()  # further types whose values are scalars of a dtype


class Mode(threading.local):
    """What each thread has switched on."""

    gradients = True
    autocast: Any = None  # the dtype that products compute in
    lent_site: Site | None = None  # the line that operations name where no line of the user is found
    observer: Callable[..., object] | None = None  # called with each autodiff node and its results


hooks = Hooks()
mode = Mode()

# ---- types


class Layout:
    """dtype, shape and strides of a view; interned: equal layouts are one object."""

    __slots__ = (
        "__weakref__", "_exact", "contiguous", "dtype", "itemsize", "nbytes", "ndim", "region", "shape", "size",
        "strides",
    )  # fmt: skip

    def __init__(self, dtype: Any, itemsize: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.dtype, self.itemsize, self.shape, self.strides = dtype, itemsize, shape, strides
        self.ndim, self.size = len(shape), prod(shape)
        self.nbytes = self.size * itemsize
        expected = contiguous_strides(shape, itemsize)
        self.contiguous = not self.size or all(n == 1 or s == e for n, s, e in zip(shape, strides, expected))
        self.region, self._exact = region_of_view(shape, strides, itemsize)


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The steps in bytes of an array in C order; lengths of zero count as one."""
    strides = []
    for length in reversed(shape):
        strides.append(itemsize)
        itemsize *= length or 1
    return tuple(reversed(strides))


class Signature:
    """An operation on given layouts, ready to be recorded.

    bodies: tuple of (address, params, cost, operands), operands: tuple of (index, offset, mode, Layout or None).
    """

    __slots__ = (
        "_bodies",
        "_high",
        "_inputs",
        "_low",
        "_scalar_count",
        "_scalar_kind",
        "context",
        "name",
        "origin",
        "outputs",
    )
    context: Any  # what autodiff knows of it; None where results do not depend on operands differentiably

    def __init__(
        self, name: str, shapes: str, outputs: tuple[Layout, ...], inputs: tuple[Layout, ...],
        bodies: tuple[tuple, ...], lane: int, priority: int, scalar_count: int, scalar_kind: str, low: int, high: int,
        explain: object, /,
    ) -> None:  # fmt: skip
        self.name, self.outputs, self._inputs, self.context = name, outputs, inputs, None
        self.origin: Any = None  # what the layer above lowers it from
        self._scalar_count, self._scalar_kind, self._low, self._high = scalar_count, scalar_kind[:1], low, high
        layouts = (*outputs, *inputs)
        for item in layouts:
            as_layout(item)
        made = []
        for address, params, cost, operands in bodies:
            specs = []
            for index, offset, mode, layout in operands:
                if not 0 <= index < len(layouts):
                    raise IndexError(f"operand {index} of {len(layouts)}")
                view = layouts[index] if layout is None else layout
                mode = mode if view._exact else mode & ~OVERWRITE
                specs.append(OperandSpec(index, offset, mode, shifted(view.region, offset)))
            function = function_at(address)
            made.append(Body(name, shapes, function, params, tuple(specs), lane, priority, cost, explain))
        self._bodies = tuple(made)


class Family:
    """What all views of one buffer that came from each other share for autodiff."""

    __slots__ = ("node", "root", "token", "tracked")

    def __init__(self, root: Any) -> None:
        self.root = root  # the autodiff record of the array that was first viewed
        self.node = self.token = None  # that of the whole buffer since a differentiable write; changes with each
        self.tracked = False


class Node:
    """One recorded operation, as autodiff remembers it: see dagrun/record/tape.py."""

    __slots__ = ("hooks", "kept", "parents", "plan", "saved", "sequence", "site", "token")

    def __init__(self, plan: Any, parents: tuple[Any, ...], saved: tuple[Any, ...], /) -> None:
        self.plan, self.parents, self.saved = plan, parents, saved
        self.sequence, self.site = sequence(), current_site()
        self.hooks = self.kept = self.token = None


_numbers = count(1)


def sequence() -> int:
    """A number; nodes made from now on have larger ones."""
    return next(_numbers)


class Array:
    """A view of a buffer. The layers above add methods to this type itself."""

    __slots__ = ("_family", "_layout", "_memory", "_node", "_offset", "_requires_grad")
    _layout: Layout
    _memory: Buffer
    _offset: int  # bytes
    _node: Any  # the autodiff record that made it
    _family: Family | None  # None before the first view
    _requires_grad: bool

    def __new__(cls) -> NoReturn:
        raise TypeError("cannot create 'dagrun.Array' instances")

    def __del__(self, drop: Callable[[Any], None] = executor.dropped.append) -> None:
        drop(self._memory)

    dtype = property(lambda self: self._layout.dtype, doc="The element type, a numpy.dtype.")
    shape = property(lambda self: self._layout.shape, doc="The length of each axis.")
    strides = property(lambda self: self._layout.strides, doc="The step in bytes along each axis.")
    ndim = property(lambda self: self._layout.ndim, doc="The number of axes.")
    size = property(lambda self: self._layout.size, doc="The number of elements.")
    nbytes = property(lambda self: self._layout.nbytes, doc="The bytes that the elements take.")
    itemsize = property(lambda self: self._layout.itemsize, doc="The bytes of one element.")
    device = property(lambda self: self._memory.device.label, doc="The device that holds the array.")
    _buffer = property(lambda self: self._memory.id)
    _version = property(lambda self: self._memory.version)
    _extent = property(lambda self: self._memory.nbytes)
    _tracked = property(lambda self: self._requires_grad or (self._family is not None and self._family.tracked))
    _region = property(lambda self: self._memory.region_in(shifted(self._layout.region, self._offset)))

    # By identity: == gives an array, and arrays are keys of optimizer state and of caches.
    __hash__ = object.__hash__


Array.__module__ = "dagrun"


_OPERATORS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
_COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")


def _add_operators() -> None:
    def operator(number: int, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
        def method(self: Array, other: Any) -> Any:
            return binary(number, other, self) if reflected else binary(number, self, other, in_place)

        return method

    for number, name in enumerate(_OPERATORS):
        setattr(Array, f"__{name}__", operator(number))
        setattr(Array, f"__r{name}__", operator(number, reflected=True))
        setattr(Array, f"__i{name}__", operator(number, in_place=True))
    for number, name in enumerate(_COMPARISONS, start=16):
        setattr(Array, f"__{name}__", operator(number))


_add_operators()


def make_array(layout: Layout, buffer: Buffer, offset: int = 0) -> Array:
    """Takes over one handle of the buffer."""
    array: Any = object.__new__(Array)  # type: ignore[arg-type]
    array._layout, array._memory, array._offset = layout, buffer, offset
    array._node, array._family, array._requires_grad = None, None, False
    return array


def as_array(item: object) -> Array:
    """Raises TypeError unless given an array."""
    if type(item) is not Array:
        raise TypeError(f"expected a dagrun array, got {type(item).__name__}")
    return item  # type: ignore[return-value]


def as_layout(item: object) -> Layout:
    """Raises TypeError unless given a layout."""
    if not isinstance(item, Layout):
        raise TypeError(f"expected a Layout, got {type(item).__name__}")
    return item


# ---- user lines

_own_folder = str(Path(__file__).parent)
_prefixes = ("\x01", "\x01")  # the package, and the folder in it that counts as user code


@cache
def _is_internal(file: str) -> bool:
    package, user = _prefixes
    if file.endswith("/threading.py"):
        return True  # what starts a thread is nobody's line
    return file.startswith(_own_folder) or (file.startswith(package) and not file.startswith(user))


def set_package_prefix(package: str, user: str) -> None:
    """Says which files are not user code."""
    global _prefixes
    _prefixes = (package, user)
    _is_internal.cache_clear()


def current_site() -> Site:
    """The innermost line outside the package."""
    frame: FrameType | None = sys._getframe(1)
    while frame and _is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    return (
        (frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname)
        if frame
        else mode.lent_site or UNKNOWN
    )


# ---- record


def ready_to_record(what: str) -> None:
    """Starts the engine where it does not run; raises RuntimeError where nothing may be recorded."""
    if executor.in_task():
        raise RuntimeError(
            f"cannot {what} inside a task: a custom operator's function gets NumPy arrays and must compute with NumPy; "
            "record dagrun operations outside of it"
        )
    if executor.forked:
        raise RuntimeError(
            f"cannot {what} in a forked child process: its worker threads stayed in the parent; use the 'spawn' start "
            "method, or fork before the first dagrun operation (finished CPU arrays may still be read here)"
        )
    if not executor.started:
        if not hooks.start:
            raise RuntimeError("the engine has been shut down")
        hooks.start()


def _detach_body(nbytes: int) -> Body:
    whole = OperandSpec(0, 0, WRITE, (0, nbytes, 0, 0))  # what is poisoned moves with the rest
    return Body("detach", operands=(whole,), cost=1 << 20, detaches=True)


def record_operation(
    signature: Signature, inputs: tuple[Array, ...], scalars: bytes, outputs: tuple[Array, ...] | None, device: Device,
    callable: Callable[[Any], object] | None,
) -> Any:  # fmt: skip
    """Makes the tasks of one operation; gives its output, or a tuple of them."""
    ready_to_record("record an operation")
    if outputs and mode.gradients and hooks.write_guard:
        for output in outputs:
            if output._tracked or (output._family and output._family.root is not None):
                hooks.write_guard(output)
    site = current_site()
    executor.wait_for_space()
    owned: list[Task] = []
    with executor.lock:
        executor.drain()
        if outputs is None:
            made = [executor.new_buffer(device, layout.nbytes) for layout in signature.outputs]
            results = tuple(make_array(layout, buffer) for layout, buffer in zip(signature.outputs, made))
        else:
            results = outputs
            for buffer in {output._memory.id: output._memory for output in outputs}.values():
                if buffer.needs_detach():  # exported or lent memory must not change under its holder
                    body = _detach_body(buffer.nbytes)
                    owned.append(executor.new_task(body, ((buffer, 0),), b"", None, buffer.device, site))
                    executor.push(owned[-1])
        operands = tuple((array._memory, array._offset) for array in (*results, *inputs))
        first = executor.next_sequence
        for body in signature._bodies:
            inline = not callable and executor.may_inline(body, operands, device)
            task = executor.new_task(body, operands, scalars, callable, device, site)
            task.operation = first
            if inline:
                executor.settle(task, executor.execute(task))
                executor.inlined += 1
                continue
            executor.push(task)
            owned.append(task)
        if owned:
            executor.condition.notify_all()
    executor.dispose()
    for task in owned if executor.settings.serial else ():
        executor.run_serially(task)
    result = results[0] if len(results) == 1 else results
    if signature.context is not None and mode.gradients and hooks.gradient_hook:
        if any(array._tracked for array in (*inputs, *(outputs or ()))):
            hooks.gradient_hook(signature.context, inputs, result, callable or scalars, outputs is not None)
    return result


def prepared_call(call: Any, device: Device) -> tuple[Body, tuple[Operand, ...], bytes]:
    """What a task of a batch runs, from (signature, outputs, inputs, scalars)."""
    signature, outputs, inputs, scalars = call
    arrays = [as_array(item) for item in (*outputs, *inputs)]
    layouts = (*signature.outputs, *signature._inputs)
    if (len(outputs), len(inputs)) != (len(signature.outputs), len(signature._inputs)) or any(
        array._layout is not layout for array, layout in zip(arrays, layouts)
    ):
        raise ValueError(f"operands do not fit the signature of {signature.name}")
    bodies = signature._bodies
    if len(bodies) != 1 or bodies[0].lane == PYTHON:
        kind = " in Python" if len(bodies) == 1 else ""
        raise ValueError(
            f"{signature.name} on {device.name} is {len(bodies)} tasks{kind}: a batch takes operations that are one "
            "native task"
        )
    if any(array._memory.needs_detach() for array in outputs):
        raise BufferError("a call of a batch writes memory that is exported: drop the export first")
    return bodies[0], tuple((array._memory, array._offset) for array in arrays), scalars


# ---- binary operators

_PRODUCT = 7  # the number slot of @
_signatures: dict[tuple, Signature] = {}  # by operator, what is known of both operands, and whether in place


def _known(operand: Any) -> object:
    """What a signature depends on: an array's layout, or the type of a scalar."""
    if type(operand) is Array:
        return operand._layout
    return type(operand) if type(operand) in (float, int, bool, *hooks.scalar_types) else None


def _pack_scalar(signature: Signature, value: Any) -> bytes | None:
    try:
        match signature._scalar_kind:
            case "f":
                return struct.pack("d", value)
            case "s":
                return bytes(ctypes.c_float(float(value))) + bytes(4)
            case "?":
                return struct.pack("Q", value) if isinstance(value, bool) else None
            case "i" | "u" as kind:
                value = operator.index(value)
                low = signature._low if kind == "i" else 0
                return struct.pack("q" if kind == "i" else "Q", value) if low <= value <= signature._high else None
    except (OverflowError, TypeError, struct.error):
        pass
    return None


def binary(number: int, left: Any, right: Any, in_place: bool = False) -> Any:
    """One of the number operators, recorded at once where its signature is known."""
    signature = _signatures.get((number, _known(left), _known(right), in_place))
    if signature and not (mode.autocast and number == _PRODUCT):
        inputs = tuple(operand for operand in (left, right) if type(operand) is Array)
        scalars: bytes | None = b""
        if len(inputs) == 1:
            scalars = _pack_scalar(signature, right if inputs[0] is left else left)
        elif left._memory.device is not right._memory.device:
            scalars = None
        elif in_place and left._memory is right._memory and left is not right:
            scalars = None  # writing over an operand that overlaps the other one may need a copy first
        if in_place and mode.gradients and any(array._tracked for array in inputs):
            scalars = None  # a gradient may read what is about to be overwritten: the slow path keeps it
        if scalars is not None:
            outputs = (left,) if in_place else None
            return record_operation(signature, inputs, scalars, outputs, inputs[0]._memory.device, None)
    if not hooks.binary_slow:
        raise RuntimeError("operators are not registered yet")
    return hooks.binary_slow(number, left, right, in_place)


def install_binary(number: int, left: Any, right: Any, in_place: bool, signature: Signature, /) -> None:
    """Makes `binary` record the signature for such operands from now on."""
    key = (number, _known(left), _known(right), bool(in_place))
    if key[1] is None or key[2] is None:
        return
    if len(_signatures) >= 8192:
        _signatures.clear()
    _signatures[key] = signature
