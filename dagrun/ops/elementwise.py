"""Elementwise operators: one scalar function each, with NumPy's promotion and broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, is_weak
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.elementwise import elementwise, elementwise_params
from dagrun.codegen.target import target as lowering_target
from dagrun.codegen.transposition import transposition_kernel, transposition_params
from dagrun.core import device_index, native
from dagrun.devices import Device
from dagrun.ops.cutting import cut, outermost
from dagrun.ops.promotion import Kind, Resolve, check_fits, scalar_dtype
from dagrun.record import (
    DONATE,
    OVERWRITE,
    READ,
    WRITE,
    Body,
    Gradients,
    Known,
    Memory,
    Operand,
    Operator,
    common_device,
    layout,
    scalar_kind,
    signature_for,
    submit,
)

DONATED_BYTES = 1 << 16  # of operations that move less, finding out whether an input is free costs more than it gains
MOST_PLANS = 1 << 14  # of one sort; the least recently used go first

Plan = tuple[Known, tuple[np.dtype[Any], ...]]  # a signature, and the dtypes of its per-call scalars


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise:
    """What an elementwise operator is made of.

    `resolve(kinds, out)` gives the dtype to compute in and that of the result (NumPy's loop), from the operands' dtypes
    or weak Python types and, in place, the dtype of the target. `compares`: integers out of range are smaller or larger
    than every element, not an error.
    """

    operator: Operator
    resolve: Resolve
    compares: bool = False
    memory: Memory = field(default_factory=Memory)  # of calls with arrays only and no target


# ---- the operator record, from a scalar function


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, mask: tuple[bool, ...], compute: Any, result: Any) -> Any:
    return ((np.broadcast_shapes(*(view.shape for view in inputs)), result),)


def fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of a shape broadcasts to a target shape."""
    return len(shape) <= len(target) and all(
        own in (1, length) for own, length in zip(shape[::-1], target[::-1], strict=False)
    )


def broadcast_strides(view: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """The byte strides with which a view is read as an array of a broadcast shape."""
    lead = len(shape) - view.ndim
    own = (
        0 if length == 1 and target != 1 else stride
        for length, stride, target in zip(view.shape, view.strides, shape[lead:], strict=True)
    )
    return (0,) * lead + tuple(own)


def elementwise_bodies(address: int, output: Any, inputs: Sequence[Any]) -> tuple[Body, ...]:
    """The tasks of an elementwise kernel: one, or pieces along the outermost axis for large operands."""
    views = (output, *inputs)
    shape = output.shape
    strides = [broadcast_strides(view, shape) for view in views]
    itemsizes = [view.dtype.itemsize for view in views]
    moved = sum(min(view.nbytes, output.size * size) for view, size in zip(views, itemsizes, strict=True))
    modes = [WRITE | OVERWRITE]
    for view in inputs:
        same = view.shape == shape and view.contiguous and output.contiguous and view.nbytes == output.nbytes
        modes.append(READ | DONATE if same and moved >= DONATED_BYTES else READ)
    axis = outermost(shape)
    bodies = []
    for start, stop in cut(shape[axis], moved) if axis >= 0 and output.size else [(0, 0)]:
        part = shape if axis < 0 or not output.size else (*shape[:axis], stop - start, *shape[axis + 1 :])
        whole = part == shape
        operands = tuple(
            Operand(
                k,
                modes[k],
                0 if whole else start * strides[k][axis],
                None if whole else layout(view.dtype, part, strides[k]),
            )
            for k, view in enumerate(views)
        )
        share = moved * (stop - start) // shape[axis] if axis >= 0 and shape[axis] else moved
        bodies.append(Body(address, elementwise_params(part, strides, itemsizes), operands, share))
    return tuple(bodies)


def _transposed_bodies(output: Any, source: Any) -> tuple[Body, ...] | None:
    """The task of a copy on a GPU where its operands are contiguous along different axes; None for other copies."""
    if lowering_target() != "cuda" or output.dtype != source.dtype:
        return None
    strides = broadcast_strides(source, output.shape)
    params = transposition_params(output.shape, output.strides, strides, output.dtype.itemsize)
    if params is None:
        return None
    operands = Operand(0, WRITE | OVERWRITE), Operand(1, READ)
    return (Body(transposition_kernel(output.dtype), params, operands, 2 * output.nbytes),)


def _lower(kernel: str) -> Callable[..., Any]:
    def lower(
        outputs: Sequence[Any],
        inputs: Sequence[Any],
        scalars: Sequence[Any],
        *,
        mask: tuple[bool, ...],
        compute: Any,
        result: Any,
    ) -> tuple[Body, ...]:
        views, values = iter(inputs), iter(scalars)
        dtypes = [next(values) if is_scalar else next(views).dtype for is_scalar in mask]
        if compute is None:
            raise Unsupported(f"{kernel}: a NumPy loop of mixed types")
        if kernel == "cast" and inputs and (transposed := _transposed_bodies(outputs[0], inputs[0])):
            return transposed
        address = elementwise(kernel, dtypes, compute, outputs[0].dtype, mask)
        return elementwise_bodies(address, outputs[0], inputs)

    return lower


def _in_order(mask: tuple[bool, ...], operands: Sequence[Any]) -> list[Any]:
    """Operands as the user wrote them, from arrays first and scalars last."""
    arrays, scalars = iter(operands[: mask.count(False)]), iter(operands[mask.count(False) :])
    return [next(scalars) if is_scalar else next(arrays) for is_scalar in mask]


def _explain_power(code: int, details: tuple[int, ...]) -> tuple[type[Exception], str]:
    return ValueError, f"integers to negative integer powers are not allowed (exponent {details[0]}); use a float"


def make(
    name: str,
    function: Callable[..., Any],
    resolve: Resolve,
    kernel: str = "",
    *,
    compares: bool = False,
    grad: tuple[Callable[..., Any] | None, ...] | Gradients | None = None,
) -> Elementwise:
    """An elementwise operator from its NumPy function and the name of its scalar function in `codegen`.

    `grad`: a rule for each operand (see `record.Gradients`); what it returns is summed to the operand's shape.
    """

    def compute(xp: Any, *operands: Any, mask: tuple[bool, ...], compute: Any, result: Any) -> Any:
        ordered = _in_order(mask, operands)
        if compute is not None:
            ordered = [xp.asarray(operand).astype(compute) for operand in ordered]
        return function(*ordered)

    explain = _explain_power if name == "power" else None
    gradients = Gradients(*grad) if isinstance(grad, tuple) else grad
    return Elementwise(Operator(name, _infer, compute, _lower(kernel or name), explain, gradients), resolve, compares)


# ---- plans: everything that follows from layouts and types, kept


def _key(operand: Any) -> Any:
    """What a plan knows an operand by: the layout of an array, the type of a scalar."""
    return operand._layout if type(operand) is Array else type(operand)


def _kind(key: Any) -> Kind:
    if key is int or key is float:
        return key
    return np.dtype(key) if isinstance(key, type) else key.dtype


def check_writable(target: Any) -> None:
    """ValueError where elements of a target (an array or layout) share memory: it was broadcast."""
    if 0 in target.strides and any(s == 0 and n > 1 for s, n in zip(target.strides, target.shape, strict=True)):
        raise ValueError(f"cannot write into an array of shape {target.shape} that was broadcast: use x.copy() instead")


@lru_cache(MOST_PLANS)
def plan(op: Elementwise, target: Any, *operands: Any) -> Plan:
    """The signature of an operator on operands: layouts of arrays, types of scalars; `target`: the layout of `out`."""
    name = op.operator.name
    arrays = tuple(operand for operand in operands if not isinstance(operand, type))
    kinds = tuple(_kind(operand) for operand in operands)
    if target is not None:
        check_writable(target)
        shape = np.broadcast_shapes(*(view.shape for view in arrays))
        if not fits(shape, target.shape):
            raise ValueError(f"{name}: a result of shape {shape} does not fit into an array of shape {target.shape}")
    compute, result = op.resolve(kinds, None if target is None else target.dtype)
    mask = tuple(isinstance(operand, type) for operand in operands)
    scalars = tuple(scalar_dtype(kind, compute) for kind, is_scalar in zip(kinds, mask, strict=True) if is_scalar)
    attributes = (("mask", mask), ("compute", compute), ("result", result))
    outputs = None if target is None else (target,)
    return signature_for(op.operator, arrays, scalars, outputs, attributes), scalars


# ---- recording


def place(operands: Sequence[Any], name: str, where: Device | None = None) -> tuple[list[Any], Device]:
    """Operands as arrays and scalars, at least one array, and the device they share: the rest is copied to it."""
    arrays = [operand for operand in operands if type(operand) is Array]
    if not arrays:
        return place([asarray(operands[0], device=where), *operands[1:]], name)
    where = common_device(name, arrays) if len(arrays) > 1 else arrays[0].device
    if len(arrays) == len(operands):
        return arrays, where
    placed: list[Any] = []
    for operand in operands:
        if type(operand) is Array or is_weak(operand) or isinstance(operand, np.generic):
            placed.append(operand)
        elif isinstance(operand, (int, float)):  # a subclass, such as IntEnum
            placed.append(int(operand) if isinstance(operand, int) else float(operand))
        else:
            placed.append(asarray(operand, device=where))
    return placed, where


def overlaps_elsewhere(array: Array, target: Array) -> bool:
    """Whether writing `target` element by element could change elements of `array` before they are read."""
    if array._buffer != target._buffer or (array._offset == target._offset and array._layout is target._layout):
        return False
    if array._offset == target._offset and array.strides == target.strides and array.shape == target.shape:
        return False
    a_lo, a_hi, *_ = array._layout.region
    t_lo, t_hi, *_ = target._layout.region
    return bool(array._offset + a_lo < target._offset + t_hi and target._offset + t_lo < array._offset + a_hi)


def _with_kept_copies(op: Elementwise, operands: list[Any], out: Array) -> list[Any]:
    """The operands, copied where a gradient will read what writing the result to `out` would destroy."""
    rules = op.operator.grad
    if rules is None:
        return operands
    wanted = sum(1 << k for k, x in enumerate(operands) if type(x) is Array and x._tracked)
    kept = rules.program(wanted, len(operands)).reads
    return [
        copied(x) if k in kept and type(x) is Array and x._buffer == out._buffer else x for k, x in enumerate(operands)
    ]


def record(op: Elementwise, *operands: Any, out: Array | None = None) -> Array:
    """Records an elementwise operator; with `out` the result is written there, cast by NumPy's same_kind rule."""
    name = op.operator.name
    if out is not None and type(out) is not Array:
        raise TypeError(f"{name}: out is a {type(out).__name__}, expected a dagrun array")
    placed, where = place(operands, name, None if out is None else out.device)
    if out is not None:
        if out.device is not where:
            common_device(name, [out, *(x for x in placed if type(x) is Array)])
        if native.gradients() and any(type(x) is Array and x._tracked for x in placed):
            placed = _with_kept_copies(op, placed, out)
        placed = [copied(x) if type(x) is Array and overlaps_elsewhere(x, out) else x for x in placed]
    known, scalars = plan(op, None if out is None else out._layout, *map(_key, placed))
    values: tuple[Any, ...] = ()
    if scalars:
        values = tuple(x for x in placed if type(x) is not Array)
        try:
            for value, dtype in zip(values, scalars, strict=True):
                check_fits(value, dtype)
        except OverflowError:
            if not op.compares:
                raise
            far = [x if type(x) is Array else inf if x > 0 else -inf for x in placed]
            return record(op, *far, out=out)
    arrays = tuple(x for x in placed if type(x) is Array)
    return submit(known, arrays, device_index(where), None if out is None else (out,), scalars, values)


def record_unary(op: Elementwise, x: Any, out: Array | None = None) -> Array:
    """`record` of one operand, on the short way where it is an array."""
    if out is not None:
        return record(op, x, out=out)
    result = native.again(op.memory.signatures, None, None, x)
    if result is None:
        result = record(op, x)
        if type(x) is Array:
            op.memory.remember(plan(op, None, x._layout)[0], None, x._layout)
    return result


# ---- copies and casts


def _resolve_cast(kinds: tuple[Kind, ...], out: np.dtype[Any] | None) -> tuple[np.dtype[Any], np.dtype[Any]]:
    source = np.dtype(kinds[0])
    return source, out if out is not None else source


_PASSED = Gradients(lambda g: g)
CAST = make("cast", lambda x: x, _resolve_cast, "cast", grad=_PASSED)
COPY = make("copy", lambda x: x, _resolve_cast, "cast", grad=_PASSED)
FILL = make("fill", lambda x: x, _resolve_cast, "cast", grad=Gradients())


@lru_cache(MOST_PLANS)
def fill_plan(op: Elementwise, target: Any, kind: type) -> Plan:
    """The signature that sets every element of a layout to a scalar of a type, cast in any way."""
    check_writable(target)
    if issubclass(kind, np.generic):
        handed = np.dtype(kind)
    else:
        handed = np.dtype(np.float64) if kind is float and target.dtype.kind in "iu" else target.dtype
    attributes = (("mask", (True,)), ("compute", handed), ("result", target.dtype))
    return signature_for(op.operator, (), (handed,), (target,), attributes), (handed,)


@lru_cache(MOST_PLANS)
def _assignment(target: Any, source: Any) -> Known:
    check_writable(target)
    attributes = (("mask", (False,)), ("compute", source.dtype), ("result", target.dtype))
    return signature_for(COPY.operator, (source,), (), (target,), attributes)


def cast_into(source: Any, target: Array, op: Elementwise = COPY) -> None:
    """Records `target[...] = source` with a cast of any kind; source is an array that broadcasts, or a scalar."""
    if native.again(COPY.memory.signatures, "into", target, source) is not None:
        return
    where = device_index(target.device)
    if type(source) is Array:
        if source.device is not target.device:
            common_device("assignment", (source, target))
        if overlaps_elsewhere(source, target):
            source = copied(source)
        known = _assignment(target._layout, source._layout)
        submit(known, (source,), where, (target,))
        COPY.memory.remember(known, "into", target._layout, source._layout)
        return
    known, scalars = fill_plan(op, target._layout, _key(source))
    check_fits(source, target.dtype)
    submit(known, (), where, (target,), scalars, (source,))


def written(result: Array, out: Any, name: str) -> Array:
    """The result, or where the user gave an array for it, that array with the result cast into it (same_kind)."""
    if out is None:
        return result
    if type(out) is not Array:
        raise TypeError(f"{name}: out is a {type(out).__name__}, expected a dagrun array")
    if out.shape != result.shape:
        raise ValueError(f"{name}: out has shape {out.shape}, expected {result.shape}, the shape of the result")
    if not np.can_cast(result.dtype, out.dtype, "same_kind"):
        raise TypeError(f"{name}: a result of {result.dtype} cannot be cast to {out.dtype} by the same_kind rule")
    cast_into(result, out)
    return out


def copied(x: Array) -> Array:
    """A contiguous copy on the same device."""
    return record_unary(COPY, x)


# ---- the number slots: what runs when the native cache does not know the operands' layouts yet


_SLOTS: dict[int, Elementwise] = {}
_OTHER_SLOTS: dict[int, Callable[..., Any]] = {}
FIRST_FREE = 32  # numbers from here on belong to functions of two operands that are no number slots


def slow_binary(number: int, left: Any, right: Any, in_place: bool) -> Any:
    """Records the operator of a number and teaches the native cache its signature; NotImplemented for other types."""
    for operand in (left, right):
        if not isinstance(operand, (Array, np.generic, np.ndarray, list, tuple, int, float)):
            return NotImplemented
    if number in _OTHER_SLOTS:
        return _OTHER_SLOTS[number](left, right, in_place)
    op = _SLOTS[number]
    target = left if in_place else None
    result = record(op, left, right, out=target)
    _teach(number, op, left, right, target)
    return result


def _teach(number: int, op: Elementwise, left: Any, right: Any, target: Array | None) -> None:
    operands = (left, right)
    types = {type(operand) for operand in operands}
    if Array not in types or not types <= _TAUGHT:
        return
    (signature, run), scalars = plan(op, None if target is None else target._layout, *map(_key, operands))
    if run is None and not (scalars and scalar_kind(scalars[0])[0] == "-"):
        native.install_binary(number, left, right, target is not None, signature)


def serve_slot(number: int, op: Elementwise | Callable[..., Any]) -> None:
    """Says which operator a number slot of the array type records."""
    if isinstance(op, Elementwise):
        _SLOTS[number] = op
    else:
        _OTHER_SLOTS[number] = op


_NUMPY_SCALARS = tuple(np.dtype(code).type for code in "fdbhilqBHILQ")
_TAUGHT = {Array, int, float, bool, *_NUMPY_SCALARS}
native.set_hooks(binary_slow=slow_binary, scalar_types=tuple(dict.fromkeys(_NUMPY_SCALARS)))

__all__ = [
    "CAST",
    "COPY",
    "FILL",
    "FIRST_FREE",
    "MOST_PLANS",
    "Elementwise",
    "Plan",
    "broadcast_strides",
    "cast_into",
    "check_writable",
    "copied",
    "elementwise_bodies",
    "fill_plan",
    "fits",
    "make",
    "overlaps_elsewhere",
    "place",
    "plan",
    "record",
    "record_unary",
    "serve_slot",
    "written",
]
