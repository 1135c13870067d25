"""From an operator and operands to a recorded task, through a cache of signatures."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from dagrun.codegen.compiler import Unsupported
from dagrun.core import native
from dagrun.core.engine import LANES
from dagrun.errors import DeviceError
from dagrun.record.gradients import undefined
from dagrun.record.lowering import compute_on_gpu, uses_of, whole_operands
from dagrun.record.operator import Body, Operator
from dagrun.record.tape import Context

MOST_SIGNATURES = 16384  # beyond, the cache starts anew: a program with ever new shapes must not grow for ever

Known = tuple[Any, Callable[..., None] | None]  # a signature, and the body for the Python lane

_signatures: dict[tuple[Any, ...], Known] = {}


def layout(dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> Any:
    """The interned layout of a view; contiguous in C order where strides (in bytes) are not given."""
    return native.layout(dtype, dtype.num, dtype.itemsize, shape, strides)


def describe(inputs: Sequence[Any], scalars: Sequence[Any], outputs: Sequence[Any]) -> str:
    """Dtypes and shapes as messages show them: "float32(64, 784), float32(784, 10) -> float32(64, 10)"."""
    left = [f"{view.dtype}{view.shape}" for view in inputs] + [f"{dtype} scalar" for dtype in scalars]
    return f"{_few(left)} -> {_few([f'{view.dtype}{view.shape}' for view in outputs])}"


def _few(texts: Sequence[str]) -> str:
    """All of them, or the first ones and how many more there are."""
    return ", ".join(texts if len(texts) <= 8 else [*texts[:7], f"{len(texts) - 7} more"])


def scalar_kind(dtype: np.dtype[Any]) -> tuple[str, int, int]:
    """How the native core packs a Python scalar for a kernel that computes in `dtype`: letter, lowest, highest."""
    if dtype.kind == "f":
        return {8: "f", 4: "s"}.get(dtype.itemsize, "-"), 0, 0
    if dtype.kind == "b":
        return "?", 0, 1
    limits = np.iinfo(dtype)
    return ("i" if dtype.kind == "i" else "u"), int(limits.min), int(limits.max)


_SLOTS = {"b": "<?7x", "i": "<q", "u": "<Q", "f2": "<e6x", "f4": "<f4x", "f8": "<d"}


@cache
def _slot(dtype: np.dtype[Any]) -> struct.Struct:
    return struct.Struct(_SLOTS.get(dtype.str[1:], _SLOTS.get(dtype.kind, "<d")))


def pack_scalar(value: Any, dtype: np.dtype[Any]) -> bytes:
    """The eight bytes of a per-call scalar: its bits in `dtype`, integers extended to 64 bits.

    >>> pack_scalar(1.0, np.dtype("float32")).hex()
    '0000803f00000000'
    """
    slot = _slot(dtype)
    try:
        return slot.pack(value)
    except OverflowError:  # a float beyond the largest of its dtype
        return slot.pack(math.copysign(math.inf, value))
    except struct.error:  # a value of another kind; OverflowError for an integer beyond the largest double
        if dtype.kind == "f" and type(value) is not float:
            return pack_scalar(float(value), dtype)
        return slot.pack(int(value))


def _arrays_of(operands: Sequence[tuple[Any, int]], layouts: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [
        np.ndarray(view.shape, view.dtype, buffer=memory, offset=offset, strides=view.strides)
        if view.size
        else np.empty(view.shape, view.dtype)
        for (memory, offset), view in zip(operands, layouts, strict=True)
    ]


def _python_body(
    operator: Operator,
    layouts: tuple[Any, ...],
    count: int,
    attributes: dict[str, Any],
    values: tuple[Any, ...],
    operands: Any,
    packed: bytes = b"",
) -> None:
    """Runs `compute` on the Python lane: operands are the core's (memory, offset) pairs, outputs first."""
    if getattr(operands[0][0], "gpu", -1) >= 0:
        compute_on_gpu(operator, layouts, count, attributes, values, operands)
        return
    arrays = _arrays_of(operands, layouts)
    outputs, inputs = arrays[:count], arrays[count:]
    with np.errstate(all="ignore"):
        if operator.updates:
            operator.compute(np, *outputs, *inputs, *values, **attributes)
            return
        results = operator.compute(np, *inputs, *values, **attributes)
        if count == 1:
            results = (results,)
        for output, result in zip(outputs, results, strict=True):
            operator.check_shape(np.shape(result), output.shape)
            np.copyto(output, result, casting="unsafe")


def signature_for(
    operator: Operator,
    inputs: tuple[Any, ...],
    scalars: tuple[np.dtype[Any], ...] = (),
    outputs: tuple[Any, ...] | None = None,
    attributes: tuple[tuple[str, Any], ...] = (),
) -> Known:
    """The signature of an operator on layouts, and its Python body where it has no native one."""
    key = (operator, inputs, scalars, outputs, attributes)
    known = _signatures.get(key)
    if known is not None:
        return known
    named = dict(attributes)
    if outputs is None:
        outputs = tuple(layout(dtype, shape) for shape, dtype in operator.infer(inputs, scalars, **named))
    try:
        bodies = operator.lower(outputs, inputs, scalars, **named) if operator.lower else None
    except Unsupported:
        bodies = None
    run: Callable[..., None] | None = None
    lane = operator.lane
    if bodies is None:
        bodies = (Body(0, b"", whole_operands(operator, len(outputs), len(inputs)), 1 << 20),)
        run = partial(_python_body, operator, outputs + inputs, len(outputs), named)
        lane = "python"
    kind = scalar_kind(scalars[0]) if len(scalars) == 1 else ("-", 0, 0)
    signature = native.Signature(
        operator.name,
        describe(inputs, scalars, outputs),
        outputs,
        inputs,
        tuple((body.address, body.params, body.cost, uses_of(body)) for body in bodies),
        LANES[lane],
        operator.priority,
        len(scalars) if run is None else 0,
        *kind,
        operator.explain,
    )
    signature.origin = operator, outputs, inputs, scalars, named
    if any(view.dtype.kind == "f" for view in outputs):
        gradients = operator.grad or undefined(operator.name)
        signature.context = Context(operator.name, gradients, named, scalars, inputs, outputs, operator.updates)
    if len(_signatures) >= MOST_SIGNATURES:
        _signatures.clear()
    _signatures[key] = (signature, run)
    return signature, run


def apply(
    operator: Operator,
    inputs: tuple[Any, ...],
    device: int,
    *,
    scalars: tuple[np.dtype[Any], ...] = (),
    values: tuple[Any, ...] = (),
    outputs: tuple[Any, ...] | None = None,
    attributes: tuple[tuple[str, Any], ...] = (),
) -> Any:
    """Records an operator on arrays; returns its result, or a tuple of them.

    `values` are per-call scalars of the dtypes `scalars`. `outputs`: arrays to write into, instead of fresh ones.
    `attributes` are (name, hashable value) pairs that belong to the signature. `device` is the executor's index.
    """
    layouts = tuple(array._layout for array in inputs)
    targets = None if outputs is None else tuple(array._layout for array in outputs)
    known = signature_for(operator, layouts, scalars, targets, attributes)
    return submit(known, inputs, device, outputs, scalars, values)


def submit(
    known: Known,
    inputs: tuple[Any, ...],
    device: int,
    outputs: tuple[Any, ...] | None = None,
    scalars: tuple[np.dtype[Any], ...] = (),
    values: tuple[Any, ...] = (),
) -> Any:
    """Records a signature (of `signature_for`) on arrays of its layouts; returns its result, or a tuple of them."""
    signature, run = known
    if run is not None:
        return native.record(signature, inputs, b"", outputs, device, partial(run, values))
    packed = b"".join(map(pack_scalar, values, scalars)) if values else b""
    return native.record(signature, inputs, packed, outputs, device, None)


class Memory:
    """Signatures of one operator that were recorded before, found again in native code by the operands' layouts.

    `again(tag, x, ...)` records at once and returns the result, or None where nothing is known: then the operator's
    own function works it out and calls `remember`. A tag says what else the signature depends on.
    """

    __slots__ = ("signatures",)

    def __init__(self) -> None:
        self.signatures: dict[tuple[Any, ...], Any] = {}

    def again(self, tag: Any, *inputs: Any) -> Any:
        """The result of recording what is known under the tag and the inputs' layouts; None where nothing is."""
        return native.again(self.signatures, tag, None, *inputs)

    def remember(self, known: Known, tag: Any, *layouts: Any) -> None:
        """Keeps a signature that needs neither scalars nor the Python lane."""
        signature, run = known
        if run is None:
            if len(self.signatures) >= MOST_SIGNATURES:
                self.signatures.clear()
            self.signatures[(tag, *layouts)] = signature


def common_device(name: str, arrays: Sequence[Any]) -> Any:
    """The device that all operands share. Raises DeviceError, naming them, where they do not."""
    first = arrays[0].device
    for array in arrays[1:]:
        if array.device is not first:
            places = ", ".join(f"{a.dtype}{a.shape} on {a.device}" for a in arrays)
            raise DeviceError(
                f"{name}: operands on different devices ({places}); move them together with x.to_device({str(first)!r})"
            )
    return first
