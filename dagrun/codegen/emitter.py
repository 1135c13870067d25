"""Writes one LLVM IR function as text: values, memory, loops, branches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagrun.codegen.values import ITEMSIZE, LLVM_TYPE, Slot, Value, bits_of, constant_text, is_float, is_signed

_PURE = "nounwind willreturn memory(none)"


class Emitter:
    """Collects the text of one kernel body (signature of `compiler.BODY_PARAMETERS`) and what it refers to."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._allocas: list[str] = []
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, None] = {}
        self._count = 0
        self.hard_cases: list[Value] | None = None  # a list: collect them instead of branching; see `fallback`
        self.scalar_only = False  # set by code that has no vector form
        self.instructions = 0  # emitted so far
        self.widest = 1  # largest itemsize of a value emitted so far

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
        self.instructions += 1
        self.widest = max(self.widest, ITEMSIZE[dtype])
        return Value(self, name, dtype, lanes)

    def argument(self, name: str, dtype: str) -> Value:
        """An argument of the function or any other name already defined."""
        return Value(self, name, dtype)

    def define(self, function: str) -> None:
        """Add a helper function to the module, once."""
        self._globals[function] = None

    def declare(self, declaration: str) -> None:
        """Declare an external function."""
        self._declarations[declaration] = declaration

    def module(self, name: str) -> str:
        """The finished module: the body under the symbol `name`, then what it refers to."""
        return "\n".join(
            [
                *self._globals,
                *self._declarations.values(),
                f"define i32 @{name}(ptr noalias readonly %data, ptr noalias readonly %params, "
                'ptr noalias readonly %scalars, ptr noalias %error) nounwind "no-builtins" {',
                "entry:",
                *self._allocas,
                *self._lines,
                "}",
            ]
        )

    # -- values -------------------------------------------------------------------------------------------------------

    def constant(self, value: float | int | bool, dtype: str, lanes: int = 1) -> Value:
        text = constant_text(value, dtype)
        if lanes > 1:
            text = f"splat ({LLVM_TYPE[dtype]} {text})"
        return Value(self, text, dtype, lanes)

    def splat(self, value: Value, lanes: int) -> Value:
        """A vector with `value` in every lane."""
        kind = f"<{lanes} x {value.type}>"
        one = self.emit(f"insertelement {kind} poison, {value.type} {value.name}, i64 0", value.dtype, lanes)
        return self.emit(
            f"shufflevector {kind} {one.name}, {kind} poison, <{lanes} x i32> zeroinitializer", value.dtype, lanes
        )

    def halves(self, vector: Value) -> tuple[Value, Value]:
        """The lower and the upper half of the lanes."""
        half = vector.lanes // 2
        parts = []
        for start in (0, half):
            mask = ", ".join(f"i32 {lane}" for lane in range(start, start + half))
            text = f"shufflevector {vector.type} {vector.name}, {vector.type} poison, <{half} x i32> <{mask}>"
            parts.append(self.emit(text, vector.dtype, half) if half > 1 else self._lane(vector, start))
        return parts[0], parts[1]

    def _lane(self, vector: Value, lane: int) -> Value:
        return self.emit(f"extractelement {vector.type} {vector.name}, i64 {lane}", vector.dtype)

    def interleave(self, a: Value, b: Value) -> Value:
        """a0, b0, a1, b1, ... as one vector."""
        mask = ", ".join(f"i32 {lane}, i32 {a.lanes + lane}" for lane in range(a.lanes))
        text = f"shufflevector {a.type} {a.name}, {b.type} {b.name}, <{2 * a.lanes} x i32> <{mask}>"
        return self.emit(text, a.dtype, 2 * a.lanes)

    def even(self, vector: Value) -> Value:
        """Lanes 0, 2, 4, ... of a vector."""
        half = vector.lanes // 2
        mask = ", ".join(f"i32 {2 * lane}" for lane in range(half))
        text = f"shufflevector {vector.type} {vector.name}, {vector.type} poison, <{half} x i32> <{mask}>"
        return self.emit(text, vector.dtype, half)

    def lane_numbers(self, lanes: int, dtype: str) -> Value:
        """The vector 0, 1, 2, ..."""
        kind = LLVM_TYPE[dtype]
        return Value(self, "<" + ", ".join(f"{kind} {lane}" for lane in range(lanes)) + ">", dtype, lanes)

    def any_lane(self, vector: Value) -> Value:
        """Whether a bool vector holds true anywhere."""
        symbol = f"@llvm.vector.reduce.or.v{vector.lanes}i1"
        self._declarations[symbol] = f"declare i1 {symbol}({vector.type}) {_PURE}"
        return self.emit(f"call i1 {symbol}({vector.type} {vector.name})", "bool")

    def select(self, condition: Value, yes: Value | float | int, no: Value | float | int) -> Value:
        if not isinstance(yes, Value):
            assert isinstance(no, Value), "one branch of select must be a value"
            yes = no.like(yes)
        no = yes.like(no)
        text = f"select {condition.type} {condition.name}, {yes.type} {yes.name}, {no.type} {no.name}"
        return self.emit(text, yes.dtype, yes.lanes)

    def intrinsic(self, name: str, *args: Value) -> Value:
        """An LLVM intrinsic whose arguments and result have one type, such as sqrt, floor, fabs, copysign."""
        first = args[0]
        scalar = {"half": "f16", "float": "f32", "double": "f64"}.get(LLVM_TYPE[first.dtype], LLVM_TYPE[first.dtype])
        suffix = scalar if first.lanes == 1 else f"v{first.lanes}{scalar}"
        symbol = f"@llvm.{name}.{suffix}"
        return self._call(symbol, args, "")

    def libm(self, name: str, *args: Value) -> Value:
        """A call of the C library's function of this name (the `f` variant for float32), never folded or replaced."""
        assert args[0].lanes == 1 and args[0].dtype in ("float32", "float64")
        self.scalar_only = True
        return self._call(f"@{name}{'f' if args[0].dtype == 'float32' else ''}", args, "nobuiltin ")

    def _call(self, symbol: str, args: tuple[Value, ...], attributes: str) -> Value:
        result = args[0]
        types = ", ".join(arg.type for arg in args)
        self._declarations[symbol] = f"declare {result.type} {symbol}({types}) {_PURE}"
        text = ", ".join(f"{arg.type} {arg.name}" for arg in args)
        return self.emit(f"call {result.type} {symbol}({text}) {attributes}".rstrip(), result.dtype, result.lanes)

    def binary(self, op: str, a: Value, b: Value) -> Value:
        """An arithmetic or bitwise instruction on two values of one dtype."""
        return self.emit(f"{op} {a.type} {a.name}, {b.name}", a.dtype, a.lanes)

    def quotient(self, a: Value, b: Value) -> Value:
        """The truncated quotient of integers; `b` is not 0, nor -1 if that overflows.

        Processors divide vectors of floats, not of integers. Floats with longer mantissas give the same: a quotient
        a / b below an integer is 1 / (|a| + 1) of it away or more, where rounding does not reach.
        """
        if bits_of(a.dtype) > 32:
            return a / b
        wide = "float32" if bits_of(a.dtype) <= 16 else "float64"
        divided = self.convert(a, wide) / self.convert(b, wide)
        return self.convert_instruction("fptosi" if is_signed(a.dtype) else "fptoui", divided, a.dtype)

    def compare(self, op: str, a: Value, b: Value) -> Value:
        return self.emit(f"{op} {a.type} {a.name}, {b.name}", "bool", a.lanes)

    def negate(self, value: Value) -> Value:
        """A float with the other sign."""
        return self.emit(f"fneg {value.type} {value.name}", value.dtype, value.lanes)

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
            return self.same_bits(value, dtype)
        op = "trunc" if bits_of(source) > bits_of(dtype) else "sext" if is_signed(source) else "zext"
        return self.convert_instruction(op, value, dtype)

    def same_bits(self, value: Value, dtype: str) -> Value:
        """An integer as one of the same width."""
        return Value(self, value.name, dtype, value.lanes)

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
        kind = "i8" if dtype == "bool" else LLVM_TYPE[dtype]
        position = index.name if isinstance(index, Value) else str(index)
        return self.emit(f"getelementptr inbounds {kind}, ptr {pointer.name}, i64 {position}", "pointer")

    def load(self, pointer: Value, dtype: str, lanes: int = 1) -> Value:
        """Load from an address aligned to the item only; a bool is any nonzero byte."""
        stored = "uint8" if dtype == "bool" else dtype
        kind = Value(self, "", stored, lanes).type
        text = f"load {kind}, ptr {pointer.name}, align {ITEMSIZE[stored]}"
        value = self.emit(text, stored, lanes)
        return value.differs(0) if dtype == "bool" else value

    def store(self, pointer: Value, value: Value) -> None:
        if value.dtype == "bool":
            value = self.convert_instruction("zext", value, "uint8")
        size = ITEMSIZE[value.dtype]
        self.statement(f"store {value.type} {value.name}, ptr {pointer.name}, align {size}")

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

    def read(self, slot: Slot) -> Value:
        kind = Value(self, "", slot.dtype, slot.lanes).type
        return self.emit(f"load {kind}, ptr {slot.address}", slot.dtype, slot.lanes)

    def assign(self, slot: Slot, value: Value) -> None:
        self.statement(f"store {value.type} {value.name}, ptr {slot.address}")

    def buffer(self, nbytes: int) -> Value:
        """A local array of bytes, aligned for any vector."""
        name = "%" + self.fresh("buffer")
        self._allocas.append(f"  {name} = alloca [{nbytes} x i8], align 64")
        return Value(self, name, "pointer")

    def table(self, values: list[float] | list[int], dtype: str) -> Value:
        """A constant array."""
        name = "@" + self.fresh("table")
        kind = LLVM_TYPE[dtype]
        items = ", ".join(f"{kind} {constant_text(value, dtype)}" for value in values)
        self._globals[f"{name} = private unnamed_addr constant [{len(values)} x {kind}] [{items}], align 64"] = None
        return Value(self, name, "pointer")

    # -- control ------------------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, count: Value | int) -> Iterator[Value]:
        """Run the block `count` times with the index (int64, from 0) as value."""
        count = count if isinstance(count, Value) else self.constant(count, "int64")
        name = self.fresh("loop")
        self.statement(f"br label %{name}.before")
        self.label(f"{name}.before")
        some = count > 0
        self.statement(f"br i1 {some.name}, label %{name}, label %{name}.done")
        self.label(name)
        self.statement(f"%{name}.i = phi i64 [ 0, %{name}.before ], [ %{name}.next, %{name}.latch ]")
        yield Value(self, f"%{name}.i", "int64")
        self.statement(f"br label %{name}.latch")
        self.label(f"{name}.latch")
        self.statement(f"%{name}.next = add nuw nsw i64 %{name}.i, 1")
        self.statement(f"%{name}.over = icmp eq i64 %{name}.next, {count.name}")
        self.statement(f"br i1 %{name}.over, label %{name}.done, label %{name}")
        self.label(f"{name}.done")

    @contextmanager
    def vector_loop(self, count: Value, lanes: int) -> Iterator[Value]:
        """Run the block for each whole vector of `lanes` elements, with the index of its first element.

        `lanes` is a power of two. `left_over` is the loop over the rest.
        """
        shift = self.constant(lanes.bit_length() - 1, "int64")
        with self.loop(count >> shift) as i:
            yield i << shift

    @contextmanager
    def left_over(self, count: Value, lanes: int) -> Iterator[Value]:
        """Run the block for each element that `vector_loop` leaves, with its index."""
        done = count & -lanes
        with self.loop(count - done) as i:
            yield done + i

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

        Vectors cannot branch. While `hard_cases` is a list, the condition is put there and `fast`
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

    @contextmanager
    def loop_while(self, condition: Callable[[], Value]) -> Iterator[None]:
        """Run the block as long as `condition()`, evaluated before each run, holds."""
        name = self.fresh("while")
        self.statement(f"br label %{name}")
        self.label(name)
        self.statement(f"br i1 {condition().name}, label %{name}.body, label %{name}.done")
        self.label(f"{name}.body")
        yield
        self.statement(f"br label %{name}")
        self.label(f"{name}.done")

    def give_back(self, code: Value | int) -> None:
        """Return from the body with a status code; the code that follows is a new block."""
        text = code.name if isinstance(code, Value) else str(code)
        self.statement(f"ret i32 {text}")
        self.label(self.fresh("after"))

    def fail(self, code: int, *details: Value) -> None:
        """Give up with a status code and its details (int64)."""
        error = self.argument("%error", "pointer")
        for word, value in enumerate(details):
            self.store(self.element(error, word, "int64"), value)
        self.give_back(code)

    def finish(self, code: Value | int = 0) -> None:
        """The last statement of the body."""
        self.statement(f"ret i32 {code.name if isinstance(code, Value) else code}")
