"""Typed values of the function under construction, with Python operators.

A `Value` knows its dtype ("float32", "int64", "bool", "pointer", ...) and its lanes (1 = scalar), so `a * b + 1.0`
reads as arithmetic and picks the right instruction. No instruction ever carries a fast-math flag.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagrun.codegen.emitter import Emitter

LLVM_TYPE = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64",
    "float16": "half", "float32": "float", "float64": "double", "pointer": "ptr",
}  # fmt: skip
ITEMSIZE = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8, "pointer": 8,
}  # fmt: skip
DTYPES = tuple(name for name in ITEMSIZE if name != "pointer")


def is_float(dtype: str) -> bool:
    return dtype.startswith("float")


def is_signed(dtype: str) -> bool:
    return dtype.startswith("int")


def is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def bits_of(dtype: str) -> int:
    return 1 if dtype == "bool" else 8 * ITEMSIZE[dtype]


def round_constant(value: float, dtype: str) -> float:
    """`value` rounded to a float dtype (to infinity when too large)."""
    try:
        return struct.unpack({"float16": "e", "float32": "f", "float64": "d"}[dtype], _pack(value, dtype))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def _pack(value: float, dtype: str) -> bytes:
    return struct.pack({"float16": "e", "float32": "f", "float64": "d"}[dtype], value)


def constant_text(value: float | int | bool, dtype: str) -> str:
    """The IR text of a constant."""
    if is_float(dtype):
        rounded = round_constant(float(value), dtype)
        if dtype == "float16":
            return f"0xH{struct.unpack('H', _pack(rounded, 'float16'))[0]:04X}"
        return f"0x{struct.unpack('Q', struct.pack('d', rounded))[0]:016X}"
    if dtype == "bool":
        return "true" if value else "false"
    width = bits_of(dtype)
    pattern = int(value) & ((1 << width) - 1)
    return str(pattern - (1 << width) if pattern >> (width - 1) else pattern)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One SSA value (or constant) of the function under construction."""

    emitter: Emitter
    name: str
    dtype: str
    lanes: int = 1

    @property
    def type(self) -> str:
        scalar = LLVM_TYPE[self.dtype]
        return scalar if self.lanes == 1 else f"<{self.lanes} x {scalar}>"

    def like(self, other: Value | float | int | bool) -> Value:
        """`other` as a value of this dtype: Python numbers become constants."""
        if isinstance(other, Value):
            if other.dtype != self.dtype or other.lanes != self.lanes:
                raise TypeError(f"{other.dtype}x{other.lanes} used with {self.dtype}x{self.lanes}")
            return other
        return self.emitter.constant(other, self.dtype, self.lanes)

    def _binary(self, other: Value | float | int, float_op: str, signed_op: str, unsigned_op: str) -> Value:
        right = self.like(other)
        op = float_op if is_float(self.dtype) else signed_op if is_signed(self.dtype) else unsigned_op
        return self.emitter.binary(op, self, right)

    def _compare(self, other: Value | float | int, float_op: str, signed_op: str, unsigned_op: str) -> Value:
        right = self.like(other)
        if is_float(self.dtype):
            op = f"fcmp {float_op}"
        else:
            op = f"icmp {signed_op if is_signed(self.dtype) else unsigned_op}"
        return self.emitter.compare(op, self, right)

    def __add__(self, other: Value | float | int) -> Value:
        return self._binary(other, "fadd", "add", "add")

    def __sub__(self, other: Value | float | int) -> Value:
        return self._binary(other, "fsub", "sub", "sub")

    def __mul__(self, other: Value | float | int) -> Value:
        return self._binary(other, "fmul", "mul", "mul")

    def __truediv__(self, other: Value | float | int) -> Value:
        """Division of the machine: truncating for integers, undefined for a zero divisor."""
        return self._binary(other, "fdiv", "sdiv", "udiv")

    def __mod__(self, other: Value | int) -> Value:
        """Remainder of the machine (sign of the dividend); integers only."""
        return self._binary(other, "frem", "srem", "urem")

    def __radd__(self, other: float | int) -> Value:
        return self.like(other) + self

    def __rsub__(self, other: float | int) -> Value:
        return self.like(other) - self

    def __rmul__(self, other: float | int) -> Value:
        return self.like(other) * self

    def __rtruediv__(self, other: float | int) -> Value:
        return self.like(other) / self

    def __neg__(self) -> Value:
        if is_float(self.dtype):
            return self.emitter.negate(self)
        return self.like(0) - self

    def __and__(self, other: Value | int) -> Value:
        return self._binary(other, "", "and", "and")

    def __or__(self, other: Value | int) -> Value:
        return self._binary(other, "", "or", "or")

    def __xor__(self, other: Value | int) -> Value:
        return self._binary(other, "", "xor", "xor")

    def __invert__(self) -> Value:
        return self ^ self.like(-1 if self.dtype != "bool" else True)

    def __lshift__(self, other: Value | int) -> Value:
        return self._binary(other, "", "shl", "shl")

    def __rshift__(self, other: Value | int) -> Value:
        return self._binary(other, "", "ashr", "lshr")

    def __lt__(self, other: Value | float | int) -> Value:
        return self._compare(other, "olt", "slt", "ult")

    def __le__(self, other: Value | float | int) -> Value:
        return self._compare(other, "ole", "sle", "ule")

    def __gt__(self, other: Value | float | int) -> Value:
        return self._compare(other, "ogt", "sgt", "ugt")

    def __ge__(self, other: Value | float | int) -> Value:
        return self._compare(other, "oge", "sge", "uge")

    def equals(self, other: Value | float | int) -> Value:
        return self._compare(other, "oeq", "eq", "eq")

    def differs(self, other: Value | float | int) -> Value:
        return self._compare(other, "une", "ne", "ne")

    def is_nan(self) -> Value:
        return self.emitter.compare("fcmp uno", self, self)

    def bitcast(self, dtype: str) -> Value:
        """The same bits read as another dtype of the same width."""
        return self.emitter.convert_instruction("bitcast", self, dtype)

    def to(self, dtype: str) -> Value:
        """The numeric conversion that NumPy's `astype` makes."""
        return self.emitter.convert(self, dtype)


@dataclass(frozen=True, slots=True)
class Slot:
    """A mutable local variable; the optimiser turns it into registers."""

    emitter: Emitter
    address: str
    dtype: str
    lanes: int

    def get(self) -> Value:
        return self.emitter.read(self)

    def set(self, value: Value | float | int | bool) -> None:
        self.emitter.assign(self, Value(self.emitter, "", self.dtype, self.lanes).like(value))
