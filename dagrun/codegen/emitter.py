"""Writes one LLVM IR function as text: typed values with Python operators, loops, slots.

A `Value` knows its dtype ("float32", "int64", "bool", "pointer", ...) and its lanes (1 = scalar), so `a * b + 1.0`
reads as arithmetic and picks the right instruction. No instruction ever carries a fast-math flag.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LLVM_TYPE = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64",
    "float16": "half", "float32": "float", "float64": "double", "pointer": "ptr",
}  # fmt: skip
ITEMSIZE = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8, "pointer": 8,
}  # fmt: skip
DTYPES = tuple(name for name in ITEMSIZE if name != "pointer")
_PURE = "nounwind willreturn memory(none)"


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
        scalar = _LLVM_TYPE[self.dtype]
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
        return self.emitter.emit(f"{op} {self.type} {self.name}, {right.name}", self.dtype, self.lanes)

    def _compare(self, other: Value | float | int, float_op: str, signed_op: str, unsigned_op: str) -> Value:
        right = self.like(other)
        op = f"fcmp {float_op}" if is_float(self.dtype) else f"icmp {signed_op if is_signed(self.dtype) else unsigned_op}"
        return self.emitter.emit(f"{op} {self.type} {self.name}, {right.name}", "bool", self.lanes)

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
            return self.emitter.emit(f"fneg {self.type} {self.name}", self.dtype, self.lanes)
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
        return self.emitter.emit(f"fcmp uno {self.type} {self.name}, {self.name}", "bool", self.lanes)

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
        kind = Value(self.emitter, "", self.dtype, self.lanes).type
        return self.emitter.emit(f"load {kind}, ptr {self.address}", self.dtype, self.lanes)

    def set(self, value: Value | float | int | bool) -> None:
        stored = Value(self.emitter, "", self.dtype, self.lanes).like(value)
        self.emitter.statement(f"store {stored.type} {stored.name}, ptr {self.address}")


class Emitter:
    """Collects the text of one kernel body (signature of `compiler.BODY_PARAMETERS`) and what it refers to."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._allocas: list[str] = []
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, None] = {}
        self._defined: set[str] = set()
        self._metadata: list[str] = []
        self._count = 0
        self._access_group: str | None = None
        self.hard_cases: list[Value] | None = None  # a list: collect them instead of branching; see `fallback`

    # -- text ---------------------------------------------------------------------------------------------------------

    def fresh(self, stem: str = "v") -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def statement(self, text: str) -> None:
        self._lines.append("  " + text)

    def label(self, name: str) -> None:
        self._lines.append(f"{name}:")

    def emit(self, text: str, dtype: str, lanes: int = 1) -> Value:
        name = "%" + self.fresh()
        self._lines.append(f"  {name} = {text}")
        return Value(self, name, dtype, lanes)

    def argument(self, name: str, dtype: str) -> Value:
        """An argument of the function or any other name already defined."""
        return Value(self, name, dtype)

    def metadata(self, text: str) -> str:
        name = f"!{len(self._metadata)}"
        self._metadata.append(f"{name} = {text.replace('!self', name)}")
        return name

    def define(self, function: str, loop_properties: str = "") -> None:
        """Add a helper function to the module, once; `!loop` in its text is the metadata given beside it."""
        if function in self._defined:
            return
        self._defined.add(function)
        if loop_properties:
            function = function.replace("!llvm.loop !loop", "!llvm.loop " + self.metadata(loop_properties))
        self._globals[function] = None

    def module(self, name: str) -> str:
        """The finished module: the body under the symbol `name`, then what it refers to."""
        return "\n".join(
            [
                *self._globals,
                *self._declarations.values(),
                f"define i32 @{name}(ptr noalias readonly %data, ptr noalias readonly %params, "
                "ptr noalias readonly %scalars, ptr noalias %error) nounwind {",
                "entry:",
                *self._allocas,
                *self._lines,
                "}",
                *self._metadata,
            ]
        )

    # -- values -------------------------------------------------------------------------------------------------------

    def constant(self, value: float | int | bool, dtype: str, lanes: int = 1) -> Value:
        text = constant_text(value, dtype)
        if lanes > 1:
            text = f"splat ({_LLVM_TYPE[dtype]} {text})"
        return Value(self, text, dtype, lanes)

    def splat(self, value: Value, lanes: int) -> Value:
        """A vector with `value` in every lane."""
        kind = f"<{lanes} x {value.type}>"
        one = self.emit(f"insertelement {kind} poison, {value.type} {value.name}, i64 0", value.dtype, lanes)
        return self.emit(
            f"shufflevector {kind} {one.name}, {kind} poison, <{lanes} x i32> zeroinitializer", value.dtype, lanes
        )

    def select(self, condition: Value, yes: Value | float | int, no: Value | float | int) -> Value:
        if not isinstance(yes, Value):
            assert isinstance(no, Value), "one branch of select must be a value"
            yes = no.like(yes)
        no = yes.like(no)
        return self.emit(
            f"select {condition.type} {condition.name}, {yes.type} {yes.name}, {no.type} {no.name}", yes.dtype, yes.lanes
        )

    def intrinsic(self, name: str, *args: Value) -> Value:
        """An LLVM intrinsic whose arguments and result have one type, such as sqrt, floor, fabs, copysign."""
        first = args[0]
        scalar = {"half": "f16", "float": "f32", "double": "f64"}.get(_LLVM_TYPE[first.dtype], _LLVM_TYPE[first.dtype])
        suffix = scalar if first.lanes == 1 else f"v{first.lanes}{scalar}"
        symbol = f"@llvm.{name}.{suffix}"
        return self._call(symbol, args, "")

    def libm(self, name: str, *args: Value) -> Value:
        """A call of the C library's function of this name (the `f` variant for float32), never folded or replaced."""
        assert args[0].lanes == 1 and args[0].dtype in ("float32", "float64")
        return self._call(f"@{name}{'f' if args[0].dtype == 'float32' else ''}", args, "nobuiltin ")

    def _call(self, symbol: str, args: tuple[Value, ...], attributes: str) -> Value:
        result = args[0]
        types = ", ".join(arg.type for arg in args)
        self._declarations[symbol] = f"declare {result.type} {symbol}({types}) {_PURE}"
        text = ", ".join(f"{arg.type} {arg.name}" for arg in args)
        return self.emit(f"call {result.type} {symbol}({text}) {attributes}".rstrip(), result.dtype, result.lanes)

    # -- conversions --------------------------------------------------------------------------------------------------

    def convert_instruction(self, op: str, value: Value, dtype: str) -> Value:
        target = Value(self, "", dtype, value.lanes).type
        return self.emit(f"{op} {value.type} {value.name} to {target}", dtype, value.lanes)

    def convert(self, value: Value, dtype: str) -> Value:
        source = value.dtype
        if source == dtype:
            return value
        if dtype == "bool":
            return value.differs(0)
        if source == "bool":
            return self.convert_instruction("uitofp" if is_float(dtype) else "zext", value, dtype)
        if is_float(source):
            return self._float_to_float(value, dtype) if is_float(dtype) else self._float_to_integer(value, dtype)
        if is_float(dtype):
            if dtype == "float16":
                return self.convert(value, "float32").to("float16")
            return self.convert_instruction("sitofp" if is_signed(source) else "uitofp", value, dtype)
        if bits_of(source) == bits_of(dtype):
            return Value(self, value.name, dtype, value.lanes)
        op = "trunc" if bits_of(source) > bits_of(dtype) else "sext" if is_signed(source) else "zext"
        return self.convert_instruction(op, value, dtype)

    def _float_to_float(self, value: Value, dtype: str) -> Value:
        if bits_of(dtype) > bits_of(value.dtype):
            return self.convert_instruction("fpext", value, dtype)
        if value.dtype == "float64" and dtype == "float16":
            return self.convert_instruction("fptrunc", self._round_to_odd(value), dtype)
        return self.convert_instruction("fptrunc", value, dtype)

    def _round_to_odd(self, value: Value) -> Value:
        """float64 to float32 such that a second rounding, to float16, gives what one rounding would have given."""
        near = self.convert_instruction("fptrunc", value, "float32")
        back = self.convert_instruction("fpext", near, "float64")
        inexact = (back < value) | (back > value)
        beyond = self.intrinsic("fabs", back) > self.intrinsic("fabs", value)
        bits = near.bitcast("int32")
        toward_zero = self.select(beyond, bits - 1, bits)
        return self.select(inexact, toward_zero | 1, bits).bitcast("float32")

    def _float_to_integer(self, value: Value, dtype: str) -> Value:
        """Truncation as C does it on x86-64: out of range gives the lowest integer of the conversion's width."""
        if value.dtype == "float16":
            value = value.to("float32")
        if dtype == "uint64":
            high = value >= 2.0**63
            low_part = self._truncate(self.select(high, value - 2.0**63, value), "int64")
            return self.select(high, low_part ^ (-(2**63)), low_part).to("uint64")
        wide = "int64" if dtype in ("int64", "uint32") else "int32"
        return self._truncate(value, wide).to(dtype)

    def _truncate(self, value: Value, dtype: str) -> Value:
        limit = 2.0 ** (bits_of(dtype) - 1)
        if dtype == "int32" and value.dtype == "float64":
            fits = (value > -limit - 1.0) & (value < limit)
        else:
            fits = (value >= -limit) & (value < limit)
        safe = self.select(fits, value, 0.0)
        return self.select(fits, self.convert_instruction("fptosi", safe, dtype), -int(limit))

    # -- memory -------------------------------------------------------------------------------------------------------

    def offset(self, pointer: Value, nbytes: Value | int) -> Value:
        """`pointer` moved by a signed number of bytes."""
        amount = nbytes.name if isinstance(nbytes, Value) else str(nbytes)
        return self.emit(f"getelementptr i8, ptr {pointer.name}, i64 {amount}", "pointer")

    def element(self, pointer: Value, index: Value | int, dtype: str) -> Value:
        """The address of element `index` of a contiguous run of `dtype`."""
        kind = "i8" if dtype == "bool" else _LLVM_TYPE[dtype]
        position = index.name if isinstance(index, Value) else str(index)
        return self.emit(f"getelementptr inbounds {kind}, ptr {pointer.name}, i64 {position}", "pointer")

    def load(self, pointer: Value, dtype: str, lanes: int = 1) -> Value:
        """Load from an address aligned to the item only; a bool is any nonzero byte."""
        stored = "uint8" if dtype == "bool" else dtype
        kind = Value(self, "", stored, lanes).type
        text = f"load {kind}, ptr {pointer.name}, align {ITEMSIZE[stored]}{self._group()}"
        value = self.emit(text, stored, lanes)
        return value.differs(0) if dtype == "bool" else value

    def store(self, pointer: Value, value: Value) -> None:
        if value.dtype == "bool":
            value = self.convert_instruction("zext", value, "uint8")
        size = ITEMSIZE[value.dtype]
        self.statement(f"store {value.type} {value.name}, ptr {pointer.name}, align {size}{self._group()}")

    def _group(self) -> str:
        return f", !llvm.access.group {self._access_group}" if self._access_group else ""

    def load_at(self, base: str, index: int, dtype: str = "int64") -> Value:
        """Word `index` of one of the argument arrays: `%params`, `%data` (pointers), `%scalars`."""
        return self.load(self.element(Value(self, base, "pointer"), index, dtype), dtype)

    def slot(self, dtype: str, initial: Value | float | int | bool | None = None, lanes: int = 1) -> Slot:
        """A new local variable."""
        address = "%" + self.fresh("slot")
        kind = Value(self, "", dtype, lanes).type
        self._allocas.append(f"  {address} = alloca {kind}")
        slot = Slot(self, address, dtype, lanes)
        if initial is not None:
            slot.set(initial)
        return slot

    def buffer(self, nbytes: int) -> Value:
        """A local array of bytes, aligned for any vector."""
        name = "%" + self.fresh("buffer")
        self._allocas.append(f"  {name} = alloca [{nbytes} x i8], align 64")
        return Value(self, name, "pointer")

    def table(self, values: list[float] | list[int], dtype: str) -> Value:
        """A constant array."""
        name = "@" + self.fresh("table")
        kind = _LLVM_TYPE[dtype]
        items = ", ".join(f"{kind} {constant_text(value, dtype)}" for value in values)
        self._globals[f"{name} = private unnamed_addr constant [{len(values)} x {kind}] [{items}], align 64"] = None
        return Value(self, name, "pointer")

    # -- control ------------------------------------------------------------------------------------------------------

    @contextmanager
    def loop(
        self, count: Value | int, *, parallel: bool = False, vectorise: bool = True, unroll: bool = True
    ) -> Iterator[Value]:
        """Run the block `count` times with the index (int64, from 0) as value.

        `parallel` promises that no iteration touches what another one writes; one iteration may read and then write
        the same element, so operands that alias the output exactly stay correct. A loop inside it is not covered.
        """
        count = count if isinstance(count, Value) else self.constant(count, "int64")
        name = self.fresh("loop")
        self.statement(f"br label %{name}.before")
        self.label(f"{name}.before")
        some = count > 0
        self.statement(f"br i1 {some.name}, label %{name}, label %{name}.done")
        self.label(name)
        self.statement(f"%{name}.i = phi i64 [ 0, %{name}.before ], [ %{name}.next, %{name}.latch ]")
        outer_group = self._access_group
        properties = []
        if parallel:
            self._access_group = self.metadata("distinct !{}")
            properties.append(self.metadata(f'!{{!"llvm.loop.parallel_accesses", {self._access_group}}}'))
        else:
            self._access_group = None
        if not vectorise:
            properties.append(self.metadata('!{!"llvm.loop.vectorize.enable", i1 false}'))
        if not unroll:
            properties.append(self.metadata('!{!"llvm.loop.unroll.disable"}'))
        yield Value(self, f"%{name}.i", "int64")
        self._access_group = outer_group
        suffix = ""
        if properties:
            suffix = ", !llvm.loop " + self.metadata("distinct !{!self, " + ", ".join(properties) + "}")
        self.statement(f"br label %{name}.latch")
        self.label(f"{name}.latch")
        self.statement(f"%{name}.next = add nuw nsw i64 %{name}.i, 1")
        self.statement(f"%{name}.over = icmp eq i64 %{name}.next, {count.name}")
        self.statement(f"br i1 %{name}.over, label %{name}.done, label %{name}{suffix}")
        self.label(f"{name}.done")

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Run the block only where `condition` holds."""
        name = self.fresh("when")
        self.statement(f"br i1 {condition.name}, label %{name}, label %{name}.done")
        self.label(name)
        yield
        self.statement(f"br label %{name}.done")
        self.label(f"{name}.done")

    def fallback(self, hard: Value, fast: Value, slow: Callable[[], Value]) -> Value:
        """`fast`, but `slow()` where `hard` holds.

        A branch would keep a loop from vectorising. While `hard_cases` is a list, the condition is put there and `fast`
        stands for the result: the kernel then runs a second, branching loop over the elements where any condition held.
        """
        if self.hard_cases is not None:
            self.hard_cases.append(hard)
            return fast
        result = self.slot(fast.dtype, fast)
        with self.when(hard):
            result.set(slow())
        return result.get()

    @contextmanager
    def repeat_while(self) -> Iterator[list[Value]]:
        """Run the block again and again until the condition put into the yielded list is false (at least once)."""
        name = self.fresh("repeat")
        self.statement(f"br label %{name}")
        self.label(name)
        condition: list[Value] = []
        yield condition
        self.statement(f"br i1 {condition[0].name}, label %{name}, label %{name}.done")
        self.label(f"{name}.done")

    def give_back(self, code: Value | int) -> None:
        """Return from the body with a status code; the code that follows is a new block."""
        text = code.name if isinstance(code, Value) else str(code)
        self.statement(f"ret i32 {text}")
        self.label(self.fresh("after"))

    def finish(self, code: Value | int = 0) -> None:
        """The last statement of the body."""
        self.statement(f"ret i32 {code.name if isinstance(code, Value) else code}")
