"""Batched matrix products C[b] = A[b] @ B[b] through the CBLAS that NumPy ships, called by pointer.

OpenBLAS is process-wide in its number of threads, and its results differ in bits between one thread and more; so a body
sets it to one before it multiplies whenever it finds another number.

Operands (`data`): C, A, B. Params, int64 words: 0 number of batch dimensions, 1 m, 2 n, 3 k, 4, 5 transposition of A
and B (CBLAS: 111 no, 112 yes), 6, 7, 8 leading dimensions of A, B, C in elements, 9.. the batch dimensions: size,
stride of C, A and B, innermost first. m = -1: nothing to do. One row or one column is a product with a vector (GEMV),
for which GEMM would take eight times as long.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy  # noqa: F401  (loads the BLAS that is looked for)
import threadpoolctl

from dagrun.codegen import layout
from dagrun.codegen.compiler import compile_kernel, entry_name
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, LLVM_TYPE, Value

_ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # CBLAS's names
_ROUTINES = ("sgemm", "dgemm", "sgemv", "dgemv")
_LETTER = {"float32": "s", "float64": "d"}
_LIMIT = 1 << 31  # sizes and leading dimensions stay below it, so that 32-bit interfaces serve too


@dataclass(frozen=True, slots=True)
class Blas:
    """The CBLAS in use: addresses, and the width of its integers."""

    path: str
    routines: dict[str, int]
    get_threads: int
    set_threads: int
    index_bits: int
    description: str


@functools.cache
def find_blas() -> Blas | None:
    """The OpenBLAS loaded with NumPy, or None when there is none that can be called (as with MKL builds)."""
    for pool in threadpoolctl.threadpool_info():
        if pool.get("user_api") == "blas" and pool.get("internal_api") == "openblas":
            library = ctypes.CDLL(pool["filepath"])
            for prefix in ("scipy_", ""):
                for suffix, bits in (("64_", 64), ("_64", 64), ("", 32)):
                    routines = {name: _address(library, f"{prefix}cblas_{name}{suffix}") for name in _ROUTINES}
                    get_threads = _address(library, f"{prefix}openblas_get_num_threads{suffix}")
                    set_threads = _address(library, f"{prefix}openblas_set_num_threads{suffix}")
                    if all(routines.values()) and get_threads and set_threads:
                        about = f"OpenBLAS {pool.get('version')} {pool.get('architecture')}"
                        return Blas(pool["filepath"], routines, get_threads, set_threads, bits, about)
    return None


def _address(library: ctypes.CDLL, name: str) -> int:
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except AttributeError:
        return 0


def gemm_kernel(dtype: object) -> int | None:
    """Address of the product kernel for float32 or float64; None for another dtype or without a BLAS."""
    if target() == "cuda":
        return cuda_kernel("gemm", str(dtype))
    blas = find_blas()
    name = str(dtype)
    if blas is None or name not in ("float32", "float64"):
        return None
    link_blas(blas)
    key = f"gemm; {name} {blas.index_bits}"
    return compile_kernel(key, lambda: _gemm_ir(name, blas.index_bits, entry_name(key)))


def link_blas(blas: Blas) -> None:
    """Lets kernels that are loaded from now on call this BLAS."""
    for name, address in (
        *blas.routines.items(),
        ("get_threads", blas.get_threads),
        ("set_threads", blas.set_threads),
    ):
        llvm.add_symbol(f"dagrun_blas_{name}", address)


def declare_gemm(e: Emitter, dtype: str, index_bits: int) -> None:
    """Declares what `call_gemm` calls, and sets BLAS to one thread."""
    kind, index = LLVM_TYPE[dtype], f"i{index_bits}"
    e.declare("declare i32 @dagrun_blas_get_threads() nounwind")
    e.declare("declare void @dagrun_blas_set_threads(i32) nounwind")
    e.declare(
        f"declare void @dagrun_blas_{_LETTER[dtype]}gemm(i32, i32, i32, {index}, {index}, {index}, {kind}, ptr, "
        f"{index}, ptr, {index}, {kind}, ptr, {index}) nounwind"
    )
    threads = e.emit("call i32 @dagrun_blas_get_threads()", "int32")
    with e.when(threads.differs(1)):
        e.statement("call void @dagrun_blas_set_threads(i32 1)")


def call_gemm(
    e: Emitter, dtype: str, flags: Sequence[Value], sizes: Sequence[Value], pointers: Sequence[Value],
    leading: Sequence[Value], beta: Value,
) -> None:  # fmt: skip
    """C = A @ B + beta C. `flags`: transposition of A, B (int32); `sizes`: m, n, k; A, B, C with leading dimensions."""
    kind, index = LLVM_TYPE[dtype], sizes[0].type
    (a, b, c), (lda, ldb, ldc) = pointers, leading
    arguments = [
        f"i32 {_ROW_MAJOR}", *(f"i32 {flag.name}" for flag in flags), *(f"{index} {size.name}" for size in sizes),
        f"{kind} {e.constant(1.0, dtype).name}", f"ptr {a.name}", f"{index} {lda.name}", f"ptr {b.name}",
        f"{index} {ldb.name}", f"{kind} {beta.name}", f"ptr {c.name}", f"{index} {ldc.name}",
    ]  # fmt: skip
    e.statement(f"call void @dagrun_blas_{_LETTER[dtype]}gemm({', '.join(arguments)})")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A matrix as it lies in memory: its flag, the sizes that it stands for, the leading dimension."""

    pointer: Value
    flag: Value
    rows: Value
    columns: Value
    leading: Value


def _call_gemv(e: Emitter, dtype: str, a: _Matrix, x: Value, x_step: Value, y: Value, y_step: Value) -> None:
    """y = A @ x."""
    kind, index = LLVM_TYPE[dtype], a.rows.type
    plain = a.flag.equals(PLAIN)
    stored = e.select(plain, a.rows, a.columns), e.select(plain, a.columns, a.rows)
    arguments = [
        f"i32 {_ROW_MAJOR}", f"i32 {a.flag.name}", *(f"{index} {size.name}" for size in stored),
        f"{kind} {e.constant(1.0, dtype).name}", f"ptr {a.pointer.name}", f"{index} {a.leading.name}",
        f"ptr {x.name}", f"{index} {x_step.name}", f"{kind} {e.constant(0.0, dtype).name}", f"ptr {y.name}",
        f"{index} {y_step.name}",
    ]  # fmt: skip
    e.statement(f"call void @dagrun_blas_{_LETTER[dtype]}gemv({', '.join(arguments)})")


def gemm_params(
    shape: Sequence[int],
    k: int,
    c_strides: Sequence[int],
    a_strides: Sequence[int],
    b_strides: Sequence[int],
    itemsize: int,
) -> bytes | None:
    """The params block, or None when BLAS cannot take an operand as it lies: copy it first.

    `shape` is that of C, (..., m, n); all strides have that many entries, in bytes: A's last two are those of m and k,
    B's those of k and n, batch strides 0 where broadcast. C must have contiguous rows.
    """
    *batch, m, n = shape
    if 0 in shape:
        return layout.pack((0, -1, *[0] * 7))
    a = _operand(m, k, a_strides[-2], a_strides[-1], itemsize)
    b = _operand(k, n, b_strides[-2], b_strides[-1], itemsize)
    c = _operand(m, n, c_strides[-2], c_strides[-1], itemsize)
    if a is None or b is None or c is None or c[0] != PLAIN or max(m, n, k, a[1], b[1], c[1]) >= _LIMIT:
        return None
    dims = layout.merged(layout.dimensions(batch, [strides[:-2] for strides in (c_strides, a_strides, b_strides)]))
    return layout.pack((len(dims), m, n, k, a[0], b[0], a[1], b[1], c[1], *layout.outer_words(dims)))


def _operand(rows: int, columns: int, row_stride: int, column_stride: int, itemsize: int) -> tuple[int, int] | None:
    """(transposition, leading dimension) of a matrix, or None when neither of its dimensions is contiguous."""
    if rows == 0 or columns == 0:
        return PLAIN, max(1, columns)
    for flag, outer, inner, outer_stride, inner_stride in (
        (PLAIN, rows, columns, row_stride, column_stride), (TRANSPOSED, columns, rows, column_stride, row_stride),
    ):  # fmt: skip
        if inner_stride == itemsize or inner == 1:
            if outer == 1:
                return flag, max(1, inner)
            if outer_stride % itemsize == 0 and outer_stride >= inner * itemsize:
                return flag, outer_stride // itemsize
    return None


def _gemm_ir(dtype: str, index_bits: int, name: str) -> str:
    e = Emitter()
    words = [e.load_at("%params", k) for k in range(9)]
    dims, m, n, k = words[:4]
    with e.when(m < 0):
        e.give_back(0)
    declare_gemm(e, dtype, index_bits)
    kind, index = LLVM_TYPE[dtype], f"i{index_bits}"
    e.declare(
        f"declare void @dagrun_blas_{_LETTER[dtype]}gemv(i32, i32, {index}, {index}, {kind}, ptr, {index}, ptr, "
        f"{index}, {kind}, ptr, {index}) nounwind"
    )
    c, a, b = (e.slot("pointer", e.load_at("%data", operand, "pointer")) for operand in range(3))
    integer = f"int{index_bits}"
    sizes = [word.to(integer) for word in (m, n, k, *words[6:9])]
    flags = [word.to("int32") for word in words[4:6]]

    def multiply() -> None:
        rows, columns, inner, *leading = sizes
        one = e.constant(1, integer)
        left, right, out = a.get(), b.get(), c.get()
        with e.when(n.equals(1)):
            matrix = _Matrix(left, flags[0], rows, inner, leading[0])
            step = e.select(flags[1].equals(PLAIN), leading[1], one)
            _call_gemv(e, dtype, matrix, right, step, out, leading[2])
        with e.when(n.differs(1) & m.equals(1)):
            turned = e.constant(PLAIN + TRANSPOSED, "int32") - flags[1]
            matrix = _Matrix(right, turned, columns, inner, leading[1])
            step = e.select(flags[0].equals(PLAIN), one, leading[0])
            _call_gemv(e, dtype, matrix, left, step, out, one)
        with e.when(n.differs(1) & m.differs(1)):
            call_gemm(e, dtype, flags, sizes[:3], [left, right, out], leading, e.constant(0.0, dtype))

    def clear() -> None:
        with e.loop(m) as row:
            start = e.offset(c.get(), row * words[8] * ITEMSIZE[dtype])
            with e.loop(n) as column:
                e.store(e.element(start, column, dtype), e.constant(0.0, dtype))

    with layout.rows(e, dims, 9, [c, a, b]):
        with e.when(k > 0):
            multiply()
        with e.when(k <= 0):
            clear()
    e.finish()
    return e.module(name)
