"""An emitter that writes CUDA C++: the scalar functions of the CPU's kernels, one element at a time.

Values are C++ expressions, each in a constant of its own, so no order of evaluation is left open. Integers wrap as they
do in LLVM IR; the compiler flag -fmad=false keeps products and sums apart.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dagrun.codegen.cuda.registry import THREADS
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.values import ITEMSIZE, Slot, Value, bits_of, is_float, is_signed, round_constant

CUDA_TYPE = {
    "bool": "bool", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "float16": "f16", "float32": "f32", "float64": "f64",
}  # fmt: skip
_WRAPPING = {"add": "+", "sub": "-", "mul": "*", "shl": "<<"}
_PLAIN = {
    "fadd": "+", "fsub": "-", "fmul": "*", "fdiv": "/", "sdiv": "/", "udiv": "/", "srem": "%", "urem": "%",
    "and": "&", "or": "|", "xor": "^", "ashr": ">>", "lshr": ">>",
}  # fmt: skip
_MADE = re.compile(r" *const \w+ (v\d+) = ")
_NAMES = re.compile(r"\b(?:v|slot)\d+\b")
_COMPARISON = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def unsigned(dtype: str) -> str:
    return "u" + dtype if is_signed(dtype) else dtype


def cuda_constant(value: float | int | bool, dtype: str) -> str:
    """The C++ text of a constant."""
    if is_float(dtype):
        return _float_constant(round_constant(float(value), dtype), dtype)
    if dtype == "bool":
        return "true" if value else "false"
    width = bits_of(dtype)
    pattern = int(value) & ((1 << width) - 1)
    if is_signed(dtype) and pattern >> (width - 1):  # there are no negative literals: -(magnitude - 1) - 1
        return f"{CUDA_TYPE[dtype]}(-{(1 << width) - pattern - 1}ll - 1)"
    return f"{CUDA_TYPE[dtype]}({pattern}{'ull' if width == 64 else 'u'})"


def _float_constant(value: float, dtype: str) -> str:
    if dtype == "float16":
        return f"to_half({_float_constant(value, 'float32')})"
    suffix = "f" if dtype == "float32" else ""
    if math.isnan(value):
        return "bits_of<f32>(0x7fc00000u)" if suffix else "bits_of<f64>(0x7ff8000000000000ull)"
    if math.isinf(value):
        infinity = "bits_of<f32>(0x7f800000u)" if suffix else "bits_of<f64>(0x7ff0000000000000ull)"
        return f"(-{infinity})" if value < 0 else infinity
    mantissa, exponent = value.hex().split("p")
    text = f"{mantissa.rstrip('0').rstrip('.')}p{exponent}{suffix}" if value else f"{value}{suffix}"
    return f"({text})" if text.startswith("-") else text


class CudaEmitter(Emitter):
    """Writes statements; everything that is not about vectors, memory or the arguments of a CPU body works as there."""

    def __init__(self) -> None:
        super().__init__()
        self._indent = 1

    def text(self, *results: Value) -> str:
        """The statements that the results need, and those that do something."""
        used = {result.name for result in results}
        kept = []
        for line in reversed(self._lines):
            made = _MADE.match(line)
            if made is None or made[1] in used:
                used.update(_NAMES.findall(line))
                kept.append(line)
        return "\n".join([*(slot for slot in self._allocas if _NAMES.findall(slot)[0] in used), *reversed(kept)])

    def deeper(self) -> None:
        """Indent what follows once more."""
        self._indent += 1

    def statement(self, text: str) -> None:
        self._lines.append("  " * self._indent + text)

    def emit(self, text: str, dtype: str, lanes: int = 1) -> Value:
        assert lanes == 1, "CUDA code has one element per thread"
        name = self.fresh()
        self.statement(f"const {CUDA_TYPE[dtype]} {name} = {text};")
        return Value(self, name, dtype)

    # -- values -------------------------------------------------------------------------------------------------------

    def constant(self, value: float | int | bool, dtype: str, lanes: int = 1) -> Value:
        return Value(self, cuda_constant(value, dtype), dtype)

    def select(self, condition: Value, yes: Value | float | int, no: Value | float | int) -> Value:
        if not isinstance(yes, Value):
            assert isinstance(no, Value), "one branch of select must be a value"
            yes = no.like(yes)
        no = yes.like(no)
        return self.emit(f"{condition.name} ? {yes.name} : {no.name}", yes.dtype)

    def binary(self, op: str, a: Value, b: Value) -> Value:
        kind = CUDA_TYPE[a.dtype]
        if op in _WRAPPING:
            wide = "u64" if ITEMSIZE[a.dtype] == 8 else "u32"
            return self.emit(f"{kind}({wide}({a.name}) {_WRAPPING[op]} {wide}({b.name}))", a.dtype)
        if op == "lshr" and is_signed(a.dtype):
            bare = CUDA_TYPE[unsigned(a.dtype)]
            return self.emit(f"{kind}({bare}({a.name}) >> {b.name})", a.dtype)
        text = f"{a.name} {_PLAIN[op]} {b.name}"
        return self.emit(text if is_float(a.dtype) else f"{kind}({text})", a.dtype)

    def quotient(self, a: Value, b: Value) -> Value:
        return a / b

    def compare(self, op: str, a: Value, b: Value) -> Value:
        left, right = (f"to_float({v.name})" if v.dtype == "float16" else v.name for v in (a, b))
        if op == "fcmp uno":
            return self.emit(f"{left} != {left}", "bool")
        if op == "icmp ult" and b.name == cuda_constant(0, b.dtype):
            return self.constant(False, "bool")  # compilers warn of such a comparison
        return self.emit(f"{left} {_COMPARISON[op[-2:]]} {right}", "bool")

    def negate(self, value: Value) -> Value:
        if value.dtype == "float16":
            return self.emit(f"f16{{u16({value.name}.bits ^ 0x8000)}}", "float16")
        return self.emit(f"-{value.name}", value.dtype)

    def intrinsic(self, name: str, *args: Value) -> Value:
        if args[0].dtype == "float16":
            assert name == "fabs", "only the sign of a float16 is worked on directly"
            return self.emit(f"f16{{u16({args[0].name}.bits & 0x7fff)}}", "float16")
        return self.libm(name, *args)

    def libm(self, name: str, *args: Value) -> Value:
        suffix = "f" if args[0].dtype == "float32" else ""
        return self.emit(f"{name}{suffix}({', '.join(arg.name for arg in args)})", args[0].dtype)

    # -- conversions --------------------------------------------------------------------------------------------------

    def convert_instruction(self, op: str, value: Value, dtype: str) -> Value:
        kind = CUDA_TYPE[dtype]
        if op == "bitcast":
            return self.emit(f"bits_of<{kind}>({value.name})", dtype)
        if value.dtype == "float16":  # widened; exactly
            return self.emit(f"{kind}(to_float({value.name}))", dtype)
        if dtype == "float16":
            return self.emit(f"to_half(f32({value.name}))", dtype)
        return self.emit(f"{kind}({value.name})", dtype)

    def same_bits(self, value: Value, dtype: str) -> Value:
        return self.convert_instruction("", value, dtype)

    # -- memory and control -------------------------------------------------------------------------------------------

    def slot(self, dtype: str, initial: Value | float | int | bool | None = None, lanes: int = 1) -> Slot:
        name = self.fresh("slot")
        self._allocas.append(f"  {CUDA_TYPE[dtype]} {name};")
        slot = Slot(self, name, dtype, 1)
        if initial is not None:
            slot.set(initial)
        return slot

    def read(self, slot: Slot) -> Value:
        return self.emit(slot.address, slot.dtype)

    def assign(self, slot: Slot, value: Value) -> None:
        self.statement(f"{slot.address} = {value.name};")

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self._block(f"if ({condition.name})"):
            yield

    @contextmanager
    def repeat_while(self) -> Iterator[list[Value]]:
        condition: list[Value] = []
        with self._block("for (;;)"):
            yield condition
            self.statement(f"if (!{condition[0].name}) break;")

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        self.statement(head + " {")
        self._indent += 1
        yield
        self._indent -= 1
        self.statement("}")

    def fail(self, code: int, *details: Value) -> None:
        """Report a status code; the thread goes on with a value that nobody will see."""
        self.statement(f"fail({', '.join(['call.error', str(code), *(detail.name for detail in details)])});")


def function(name: str, arguments: Sequence[str], body: Callable[..., Value]) -> str:
    """A scalar computation as a static method: `body` gets a value for each of these dtypes.

    >>> print(function("twice", ["float32"], lambda x: x + x))
      static DAGRUN_METHOD f32 twice(f32 x0) {
        const f32 v1 = x0 + x0;
        return v1;
      }
    """
    e = CudaEmitter()
    e.deeper()
    value = body(*(Value(e, f"x{k}", dtype) for k, dtype in enumerate(arguments)))
    head = ", ".join(f"{CUDA_TYPE[dtype]} x{k}" for k, dtype in enumerate(arguments))
    lines = [f"  static DAGRUN_METHOD {CUDA_TYPE[value.dtype]} {name}({head}) {{", *filter(None, [e.text(value)])]
    return "\n".join([*lines, f"    return {value.name};", "  }"])


def template_kernel(
    name: str,
    header: str,
    template: str,
    types: dict[str, str],
    functions: Sequence[str] = (),
    threads: int = THREADS,
) -> str:
    """The source of a kernel that is `template` of a header, of a struct with these types (dtypes) and functions.

    `threads`: the most that a block has.
    """
    aliases = [f"  using {alias} = {CUDA_TYPE[dtype]};" for alias, dtype in types.items()]
    return "\n".join(
        [
            f'#include "{header}"',
            "namespace dagrun {",
            f"struct {name}_of {{",
            *aliases,
            *functions,
            "};",
            "}  // namespace dagrun",
            f"DAGRUN_KERNEL({name}, {threads}) {{ dagrun::{template}<dagrun::{name}_of>(call); }}",
            "",
        ]
    )


def most_at_once(dtypes: Sequence[str]) -> int:
    """How many elements a thread takes at a time: the widest access has 16 bytes."""
    return min(8, 16 // max(ITEMSIZE[dtype] for dtype in dtypes))


def element_struct(
    name: str, dtypes: Sequence[str], constants: str, scalars: dict[str, tuple[str, str]], compute: str,
    get: Callable[[int], str], put: Callable[[int], str], inputs: dict[str, int], body: str, results: Sequence[str],
) -> list[str]:  # fmt: skip
    """What `elementwise` and `update` of dagrun.cuh take: a struct with `WIDTH` and a method for V elements.

    `scalars`: name, dtype and value of what belongs to the call; `compute`: the head of the method; `get(k)` and
    `put(k)` begin the calls that read and write operand k; `inputs`: the names of elements and their operands; `body`
    computes `results`, the elements of the first operands.
    """
    kinds = [CUDA_TYPE[dtype] for dtype in dtypes]
    return [
        "namespace dagrun {",
        f"struct {name}_of {{",
        f"  static constexpr int OPERANDS = {len(dtypes)}, WIDTH = {most_at_once(dtypes)}{constants};",
        "  static constexpr DAGRUN_METHOD int size(int operand) {",
        f"    constexpr int sizes[] = {{{', '.join(str(ITEMSIZE[dtype]) for dtype in dtypes)}}};",
        "    return sizes[operand];",
        "  }",
        "  const Call& call;",
        *(f"  const {CUDA_TYPE[dtype]} {scalar};" for scalar, (dtype, _) in scalars.items()),
        f"  DAGRUN_METHOD explicit {name}_of(const Call& call_)",
        "      : "
        + ", ".join(["call(call_)", *(f"{scalar}({value})" for scalar, (_, value) in scalars.items())])
        + " {}",
        "  template <int V>",
        f"  DAGRUN_METHOD void {compute} const {{",
        *(f"    {kinds[k]} {element}s[V];" for element, k in inputs.items()),
        *(f"    {kinds[k]} results{k}[V];" for k in range(len(results))),
        *(f"    {get(k)}, {element}s);" for element, k in inputs.items()),
        "#pragma unroll",
        "    for (int j = 0; j < V; j++) {",
        *(f"      const {kinds[k]} {element} = {element}s[j];" for element, k in inputs.items()),
        *filter(None, [body]),
        *(f"      results{k}[j] = {result};" for k, result in enumerate(results)),
        "    }",
        *(f"    {put(k)}, results{k});" for k in range(len(results))),
        "  }",
        "};",
        "}  // namespace dagrun",
    ]


def entry_name(family: str, key: str) -> str:
    """The name of the kernel with this key, a cheap text that says everything its source depends on."""
    return f"dagrun_{family}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def computes(dtype: str) -> str:
    """The dtype in which values of a dtype are computed."""
    return "float32" if dtype == "float16" else dtype
