"""Elementwise operators: one scalar function each, with NumPy's promotion and broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dagrun.array import Array, asarray, is_weak
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.elementwise import elementwise, elementwise_params
from dagrun.codegen.expression import Expression
from dagrun.core import device_index, native
from dagrun.devices import Device
from dagrun.ops.cutting import cut, outermost
from dagrun.record import OVERWRITE, READ, WRITE, Body, Operand, Operator, apply, layout, scalar_kind, signature_for
from dagrun.record.apply import common_device

Weak = type[bool] | type[int] | type[float]
Kind = np.dtype[Any] | Weak  # what promotion knows of an operand


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise:
    """What an elementwise operator is made of.

    `resolve(kinds, out)` gives the dtype to compute in and that of the result (NumPy's loop), from the operands' dtypes
    or weak Python types and, in place, the dtype of the target. `kernel` names the scalar function of `codegen`.
    """

    operator: Operator
    resolve: Callable[[tuple[Kind, ...], np.dtype[Any] | None], tuple[np.dtype[Any], np.dtype[Any]]]


# ---- the operator record, from a scalar function


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, mask: tuple[bool, ...], compute: Any, result: Any) -> Any:
    return ((np.broadcast_shapes(*(view.shape for view in inputs)), result),)


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
    axis = outermost(shape)
    bodies = []
    for start, stop in cut(shape[axis], moved) if axis >= 0 and output.size else [(0, 0)]:
        part = shape if axis < 0 or not output.size else (*shape[:axis], stop - start, *shape[axis + 1 :])
        whole = part == shape
        operands = tuple(
            Operand(
                k,
                WRITE | OVERWRITE if k == 0 else READ,
                0 if whole else start * strides[k][axis],
                None if whole else layout(view.dtype, part, strides[k]),
            )
            for k, view in enumerate(views)
        )
        share = moved * (stop - start) // shape[axis] if axis >= 0 and shape[axis] else moved
        bodies.append(Body(address, elementwise_params(part, strides, itemsizes), operands, share))
    return tuple(bodies)


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
    name: str, function: Callable[..., Any], resolve: Callable[..., Any], kernel: str = "", grad: Any = None
) -> Elementwise:
    """An elementwise operator from its NumPy function and the name of its scalar function in `codegen`."""

    def compute(xp: Any, *operands: Any, mask: tuple[bool, ...], compute: Any, result: Any) -> Any:
        ordered = _in_order(mask, operands)
        if compute is not None:
            ordered = [xp.asarray(operand).astype(compute) for operand in ordered]
        return function(*ordered)

    explain = _explain_power if kernel == "power" else None
    return Elementwise(Operator(name, _infer, compute, _lower(kernel or name), explain, grad), resolve)


def by_ufunc(ufunc: np.ufunc) -> Callable[..., tuple[np.dtype[Any] | None, np.dtype[Any]]]:
    """Promotion as the NumPy function does it; the compute dtype is None where its loop mixes types."""

    @cache
    def resolve(kinds: tuple[Kind, ...], out: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, np.dtype[Any]]:
        *loop, result = ufunc.resolve_dtypes((*kinds, out), casting="same_kind")  # type: ignore[arg-type]
        if result.kind not in "biuf" or result.itemsize > 8 or any(dtype.itemsize > 8 for dtype in loop):
            raise TypeError(f"{ufunc.__name__} of {kinds} would be {result}, which is not supported")
        return (loop[0] if all(dtype == loop[0] for dtype in loop) else None), result

    return resolve


# ---- recording


def kind_of(operand: Any) -> Kind:
    return type(operand) if is_weak(operand) else operand.dtype


def place(operands: Sequence[Any], name: str) -> tuple[list[Any], Device]:
    """Operands as arrays and scalars, and the device they share: NumPy arrays and lists are copied to it."""
    arrays = [operand for operand in operands if isinstance(operand, Array)]
    if arrays:
        where = common_device(name, arrays) if len(arrays) > 1 else arrays[0].device
        return [
            operand if isinstance(operand, (Array, np.generic)) or is_weak(operand) else asarray(operand, device=where)
            for operand in operands
        ], where
    placed: list[Any] = [asarray(operands[0]), *operands[1:]]
    return place(placed, name)


def overlaps_elsewhere(array: Array, target: Array) -> bool:
    """Whether writing `target` element by element could change elements of `array` before they are read."""
    if array._buffer != target._buffer or (
        array._offset == target._offset and array.strides == target.strides and array.shape == target.shape
    ):
        return False
    a_lo, a_hi, *_ = array._layout.region
    t_lo, t_hi, *_ = target._layout.region
    return bool(array._offset + a_lo < target._offset + t_hi and target._offset + t_lo < array._offset + a_hi)


def record(op: Elementwise, *operands: Any, out: Array | None = None) -> Array:
    """Records an elementwise operator; with `out` the result is written there, cast as NumPy's same_kind rule allows."""
    placed, where = place(operands, op.operator.name)
    kinds = tuple(kind_of(operand) for operand in placed)
    if out is not None:
        common_device(op.operator.name, [out, *(operand for operand in placed if isinstance(operand, Array))])
        shape = np.broadcast_shapes(*(operand.shape for operand in placed if isinstance(operand, Array)))
        if np.broadcast_shapes(shape, out.shape) != out.shape:
            raise ValueError(
                f"{op.operator.name}: a result of shape {shape} does not fit into an array of shape {out.shape}"
            )
        placed = [copied(x) if isinstance(x, Array) and overlaps_elsewhere(x, out) else x for x in placed]
    compute, result = op.resolve(kinds, None if out is None else out.dtype)
    values, arrays, attributes, scalars = _call(op, placed, kinds, compute, result)
    return apply(  # type: ignore[no-any-return]
        op.operator,
        arrays,
        device_index(where),
        scalars=scalars,
        values=values,
        outputs=None if out is None else (out,),
        attributes=attributes,
    )


def _call(
    op: Elementwise, placed: Sequence[Any], kinds: Sequence[Kind], compute: Any, result: Any
) -> tuple[tuple[Any, ...], tuple[Any, ...], Any, Any]:
    """Values of the scalars, arrays, attributes and dtypes of the scalars, as `apply` takes them."""
    mask = tuple(not isinstance(operand, Array) for operand in placed)
    arrays = tuple(operand for operand in placed if isinstance(operand, Array))
    scalars: list[np.dtype[Any]] = []
    values: list[Any] = []
    for operand, kind in zip(placed, kinds, strict=True):
        if isinstance(operand, Array):
            continue
        dtype = kind if isinstance(kind, np.dtype) else (compute if compute is not None else np.dtype(kind))
        scalars.append(dtype)
        values.append(checked_scalar(operand, dtype))
    attributes = (("mask", mask), ("compute", compute), ("result", result))
    return tuple(values), arrays, attributes, tuple(scalars)


def checked_scalar(value: Any, dtype: np.dtype[Any]) -> Any:
    """A Python scalar that fits its dtype. OverflowError, as NumPy's, where an integer does not."""
    if dtype.kind in "iu" and isinstance(value, int):
        limits = np.iinfo(dtype)
        if not limits.min <= value <= limits.max:
            raise OverflowError(
                f"Python integer {value} out of bounds for {dtype}: expected {limits.min} to {limits.max}"
            )
    return value


# ---- copies and casts


def _resolve_cast(kinds: tuple[Kind, ...], out: np.dtype[Any] | None) -> tuple[np.dtype[Any], np.dtype[Any]]:
    (kind,) = kinds
    source = kind if isinstance(kind, np.dtype) else np.dtype(kind)
    return source, out if out is not None else source


CAST = make("cast", lambda x: x, _resolve_cast, "cast")
COPY = make("copy", lambda x: x, _resolve_cast, "cast")
FILL = make("fill", lambda x: x, _resolve_cast, "cast")


def cast_into(source: Any, target: Array, op: Elementwise = COPY) -> None:
    """Records `target[...] = source` with a cast of any kind; source is an array that broadcasts, or a scalar."""
    if isinstance(source, Array):
        if overlaps_elsewhere(source, target):
            source = copied(source)
        kind: Any = source.dtype
        arrays, scalars, values, mask = (source,), (), (), (False,)
        common_device(op.operator.name, [source, target])
    else:
        kind = source.dtype if isinstance(source, np.generic) else np.dtype(type(source))
        if kind.kind == "i" and not isinstance(source, np.generic):
            checked_scalar(source, target.dtype)
            kind = target.dtype if target.dtype.kind in "iu" else kind
        arrays, scalars, values, mask = (), (kind,), (source,), (True,)  # type: ignore[assignment]
    attributes = (("mask", mask), ("compute", kind), ("result", target.dtype))
    apply(
        op.operator,
        arrays,
        device_index(target.device),
        scalars=scalars,
        values=values,
        outputs=(target,),
        attributes=attributes,
    )


def copied(x: Array) -> Array:
    """A contiguous copy on the same device."""
    return record(COPY, x)


# ---- the number slots: what runs when the native cache does not know the operands' layouts yet


_SLOTS: dict[int, Elementwise] = {}
_OTHER_SLOTS: dict[int, Callable[..., Any]] = {}


def slow_binary(number: int, left: Any, right: Any, in_place: bool) -> Any:
    """Records the operator of a number slot and teaches the native cache its signature."""
    other = right if isinstance(left, Array) else left
    if not isinstance(other, (Array, np.generic, np.ndarray, list, tuple)) and not is_weak(other):
        return NotImplemented
    if number in _OTHER_SLOTS:
        return _OTHER_SLOTS[number](left, right, in_place)
    op = _SLOTS[number]
    target = left if in_place else None
    result = record(op, left, right, out=target)
    _teach(number, op, left, right, target)
    return result


def _teach(number: int, op: Elementwise, left: Any, right: Any, target: Array | None) -> None:
    if not all(isinstance(operand, Array) or is_weak(operand) for operand in (left, right)):
        return
    kinds = (kind_of(left), kind_of(right))
    compute, result = op.resolve(kinds, None if target is None else target.dtype)
    _, arrays, attributes, scalars = _call(op, (left, right), kinds, compute, result)
    if any(scalar_kind(dtype)[0] == "-" for dtype in scalars):
        return
    outputs = None if target is None else (target._layout,)
    signature, run = signature_for(op.operator, tuple(array._layout for array in arrays), scalars, outputs, attributes)
    if run is None:
        native.install_binary(number, left, right, target is not None, signature)


def serve_slot(number: int, op: Elementwise | Callable[..., Any]) -> None:
    """Says which operator a number slot of the array type records."""
    if isinstance(op, Elementwise):
        _SLOTS[number] = op
    else:
        _OTHER_SLOTS[number] = op


native.set_hooks(binary_slow=slow_binary)
__all__ = ["Elementwise", "Expression", "by_ufunc", "cast_into", "copied", "make", "record", "serve_slot"]
