"""A core by itself, with one device and short names for what scenarios do with it.

Arrays hold float64; bodies are Python functions behind C pointers: they can wait for each other, count and fail.
Bodies proper never touch Python. That these do is safe unless they run where they are recorded (below the cost `LONG`)
while other threads record too.
"""

import ctypes
import importlib.machinery
import importlib.util
import itertools
import struct
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[3] / "dagrun"
FLOAT64 = 12  # how NumPy numbers it
READ, WRITE, OVERWRITE = 1, 2, 4
OUT, INOUT = WRITE | OVERWRITE, READ | WRITE
COMPUTE, COPY, COMMUNICATION, PYTHON = range(4)
LONG = 1 << 20  # a cost at which no task runs where it is recorded


def native_file() -> Path | None:
    """The extension module, where it was built."""
    names = [PACKAGE / f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    return next((name for name in names if name.exists()), None)


def load(core: str) -> ModuleType:
    """A core by itself, without the package around it."""
    if core == "native":
        spec = importlib.util.spec_from_file_location("dagrun._native", native_file())
    else:
        folder = PACKAGE / "core" / "fallback"
        spec = importlib.util.spec_from_file_location(
            "fallback", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BODY = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_double),
    ctypes.POINTER(ctypes.c_int64),
)  # fmt: skip
kept: list[Any] = []


def address_of(body: Callable[..., int]) -> int:
    """Where C finds a Python function body(data, params, scalars, error)."""
    pointer = BODY(body)
    kept.append(pointer)
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def elementwise(function: Callable[..., float]) -> int:
    """The body that puts function(*inputs, *scalars) into its output; parameters: see `Lab.record`."""

    def body(data: Any, params: Any, scalars: Any, error: Any) -> int:
        rows, columns, operands, count = params[0:4]
        for i, j in itertools.product(range(rows), range(columns)):
            at = [data[k] + i * params[4 + 2 * k] + j * params[5 + 2 * k] for k in range(operands)]
            inputs = [ctypes.c_double.from_address(where).value for where in at[1:]]
            ctypes.c_double.from_address(at[0]).value = function(*inputs, *scalars[0:count])
        return 0

    return address_of(body)


ADD, MULTIPLY, SHIFT = (elementwise(f) for f in (lambda a, b: a + b, lambda a, b: a * b, lambda a, b=1.0: a + b))
COPY_OF = elementwise(lambda a: a)


class CoreError(Exception):
    """What `make_error` makes of a failure."""


class Lab:
    """A core with one CPU device, and short names for what the tests do with it."""

    def __init__(self, core: str) -> None:
        self.n: Any = load(core)
        self.n.set_hooks(make_error=CoreError)
        self.cpu = self.n.add_device("cpu:0", "label 0", 4, 2, 1)

    def start(self, workers: int = 2, **options: Any) -> Any:
        self.n.start(workers=workers, **options)
        return self.n

    def layout(self, *shape: int, strides: tuple[int, ...] | None = None) -> Any:
        return self.n.layout("f8", FLOAT64, 8, shape, strides)

    def array(self, values: Any, *shape: int, device: int = 0) -> Any:
        memory = array("d", values)
        return self.n.from_memory(self.layout(*(shape or (len(memory),))), device, memory, True)

    def values(self, x: Any) -> list[float]:
        memory = memoryview(self.n.export(x)).cast("d")
        indices = itertools.product(*map(range, x.shape))
        return [memory[(x._offset + sum(i * s for i, s in zip(index, x.strides))) // 8] for index in indices]

    def view(self, x: Any, rows: range, columns: range) -> Any:
        shape = (len(rows), len(columns))
        strides = (x.strides[0] * rows.step, x.strides[1] * columns.step)
        offset = rows.start * x.strides[0] + columns.start * x.strides[1]
        return self.n.view(x, self.layout(*shape, strides=strides), x._offset + offset)

    def signature(
        self, name: str, body: int, output: Any, inputs: list[Any], mode: int = OUT, lane: int = COMPUTE,
        priority: int = 0, scalars: int = 0, cost: int = LONG, explain: Any = None, pieces: int = 1,
    ) -> Any:  # fmt: skip
        layouts = [output, *inputs]
        strides = [((0,) * (2 - item.ndim) + item.strides) for item in layouts]
        rows, columns = ((1,) * (2 - output.ndim) + output.shape)[:2]
        numbers = [rows, columns, len(layouts), scalars, *itertools.chain(*strides)]
        params = struct.pack(f"{len(numbers)}q", *numbers)
        operands = ((0, 0, mode, None), *((i, 0, READ, None) for i in range(1, len(layouts))))
        signature = self.n.Signature(
            name, f"shapes of {name}", (output,), tuple(inputs), ((body, params, cost, operands),) * pieces, lane,
            priority, scalars, "f", 0, 0, explain,
        )  # fmt: skip
        signature.context = f"context of {name}"
        return signature

    def record(
        self, name: str, body: int, *inputs: Any, out: Any = None, device: int = 0, scalars: tuple[float, ...] = (),
        callable: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        layout = (inputs[0] if out is None else out)._layout
        signature = self.signature(name, body, layout, [x._layout for x in inputs], scalars=len(scalars), **options)
        packed = struct.pack(f"{len(scalars)}d", *scalars)
        return self.n.record(signature, inputs, packed, None if out is None else (out,), device, callable)

    def waiting(self) -> list[list[Any]]:
        """Names of the unfinished tasks, with those each waits for."""
        tasks = self.n.unfinished()
        names = {task[0]: task[2] for task in tasks}
        return [[task[2], task[1], sorted(names[sequence] for sequence in task[6])] for task in tasks]

    def error_of(self, x: Any) -> dict[str, Any]:
        try:
            self.n.wait(x)
        except CoreError as error:
            return error.args[0]
        raise AssertionError("nothing failed")


def message_of(action: Callable[[], object]) -> str:
    """How an action fails."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")


def failing(*details: int) -> int:
    """A body that returns 7 and these details."""

    def body(data: Any, params: Any, scalars: Any, error: Any) -> int:
        for i, detail in enumerate(details):
            error[i] = detail
        return 7

    return address_of(body)


class Gate:
    """A body that stays inside until it is opened, then adds one."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

        def function(value: float) -> float:
            self.entered.set()
            self.opened.wait()
            return value + 1

        self.body = elementwise(function)
