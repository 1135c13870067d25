"""Matrix products: calls of the CBLAS that NumPy ships, by pointer, one BLAS thread to a call.

OpenBLAS gives other bits with two threads than with one, so every call first makes sure of one. Operands (`data`): the
product, left, right. Params, int64 words:

    0..2    m, n, k
    3..5    leading dimensions of the product, left and right, in elements
    6, 7    111 or 112: left, right taken as they lie, or transposed (CBLAS_TRANSPOSE)
    8       number of products in the batch
    9 ..    for each: byte offsets of the product, left and right
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from threadpoolctl import ThreadpoolController

from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.layout import pack

_PLAIN, _TRANSPOSED, _ROW_MAJOR = 111, 112, 101
_GEMM = {"float32": ("sgemm", "float"), "float64": ("dgemm", "double")}


@dataclass(frozen=True, slots=True)
class Blas:
    """What was found of NumPy's BLAS."""

    path: str
    integer: str  # "i32" or "i64": the type of its sizes
    symbols: dict[str, str]  # our name -> its name


@cache
def find_blas() -> Blas | None:
    """The OpenBLAS that NumPy has loaded; None where there is none whose threads can be set."""
    np.ones((2, 2)) @ np.ones((2, 2))  # loads it
    for info in ThreadpoolController().info():
        if info.get("internal_api") != "openblas":
            continue
        library = ctypes.CDLL(info["filepath"])
        for prefix, suffix in itertools.product(("scipy_", ""), ("64_", "")):
            names = {kind: f"{prefix}cblas_{kind}{suffix}" for kind in ("sgemm", "dgemm")}
            names["get_threads"] = f"{prefix}openblas_get_num_threads{suffix}"
            names["set_threads"] = f"{prefix}openblas_set_num_threads{suffix}"
            if all(hasattr(library, name) for name in names.values()):
                for ours, name in names.items():
                    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                    llvm.add_symbol(f"dagrun_blas_{ours}", address)
                return Blas(info["filepath"], "i64" if suffix else "i32", names)
    return None


def gemm(dtype: object) -> int:
    """Address of the body that multiplies batches of matrices of float32 or float64. Raises Unsupported."""
    name = str(dtype)
    if name not in _GEMM:
        raise Unsupported(f"no BLAS product of {name}")
    blas = find_blas()
    if blas is None:
        raise Unsupported("NumPy's BLAS is not an OpenBLAS that can be called by pointer")
    host()
    key = f"gemm; {name}; {blas.integer}"
    return compile_kernel(key, lambda: _ir(entry_name(key), *_GEMM[name], blas.integer))


def gemm_params(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[int, int]],
    itemsize: int,
    batch: Sequence[int] = (),
    batch_strides: Sequence[Sequence[int]] = ((), (), ()),
) -> bytes | None:
    """The params block for product (m, n), left (m, k), right (k, n) with these byte strides; None where BLAS cannot.

    `batch` is the shape of the leading axes, `batch_strides` the byte strides of each operand along them. The product
    must have unit stride along its rows; left and right along either of their axes.
    """
    (m, n), (_, k), _ = shapes
    order = [_order(shape, stride, itemsize) for shape, stride in zip(shapes, strides, strict=True)]
    if any(found is None for found in order) or order[0][1] != _PLAIN:  # type: ignore[index]
        return None
    leading = [found[0] for found in order if found is not None]
    transposed = [found[1] for found in order[1:] if found is not None]
    offsets = [
        sum(i * step for i, step in zip(position, operand, strict=True))
        for position in itertools.product(*map(range, batch))
        for operand in batch_strides
    ]
    return pack((m, n, k, *leading, *transposed, len(offsets) // 3, *offsets))


def _order(shape: tuple[int, int], strides: tuple[int, int], itemsize: int) -> tuple[int, int] | None:
    """Leading dimension in elements, and whether the matrix lies transposed; None where BLAS cannot read it."""
    (rows, columns), (down, across) = shape, strides
    for length, width, step, unit, order in ((rows, columns, down, across, _PLAIN), (columns, rows, across, down, _TRANSPOSED)):
        if (unit == itemsize or width <= 1) and (length <= 1 or (step % itemsize == 0 and step >= max(1, width) * itemsize)):
            return (max(1, width) if length <= 1 else step // itemsize), order
    return None


def _ir(entry: str, kind: str, scalar: str, integer: str) -> str:
    words = ("m", "n", "k", "ldc", "lda", "ldb", "ta", "tb", "batch")
    lines = [
        f"declare void @dagrun_blas_{kind}(i32, i32, i32, {integer}, {integer}, {integer}, {scalar}, ptr, {integer}, ptr, "
        f"{integer}, {scalar}, ptr, {integer})",
        "declare i32 @dagrun_blas_get_threads()",
        "declare void @dagrun_blas_set_threads(i32)",
        f"define i32 @{entry}(ptr %data, ptr %params, ptr %scalars, ptr %error) {{",
    ]
    for number, word in enumerate(words):
        lines += [f"%p.{word} = getelementptr i64, ptr %params, i64 {number}", f"%{word} = load i64, ptr %p.{word}"]
        wanted = "i32" if word in ("ta", "tb") else integer
        if word != "batch":
            lines.append(f"%{word}.n = {'trunc i64' if wanted == 'i32' else 'add i64'} %{word}{' to i32' if wanted == 'i32' else ', 0'}")
    for number, operand in enumerate("cab"):
        lines += [f"%d.{operand} = getelementptr ptr, ptr %data, i64 {number}", f"%base.{operand} = load ptr, ptr %d.{operand}"]
    lines += [
        "%threads = call i32 @dagrun_blas_get_threads()",
        "%many = icmp ne i32 %threads, 1",
        "br i1 %many, label %limit, label %begin",
        "limit:",
        "call void @dagrun_blas_set_threads(i32 1)",
        "br label %begin",
        "begin:",
        "%empty.m = icmp eq i64 %m, 0",
        "%empty.n = icmp eq i64 %n, 0",
        "%empty.b = icmp eq i64 %batch, 0",
        "%empty.mn = or i1 %empty.m, %empty.n",
        "%nothing = or i1 %empty.mn, %empty.b",
        "br i1 %nothing, label %done, label %loop",
        "loop:",
        "%i = phi i64 [ 0, %begin ], [ %next, %loop ]",
        "%three = mul i64 %i, 3",
    ]
    for number, operand in enumerate("cab"):
        lines += [
            f"%w.{operand} = add i64 %three, {9 + number}",
            f"%o.{operand} = getelementptr i64, ptr %params, i64 %w.{operand}",
            f"%offset.{operand} = load i64, ptr %o.{operand}",
            f"%{operand} = getelementptr i8, ptr %base.{operand}, i64 %offset.{operand}",
        ]
    lines += [
        f"call void @dagrun_blas_{kind}(i32 {_ROW_MAJOR}, i32 %ta.n, i32 %tb.n, {integer} %m.n, {integer} %n.n, {integer} %k.n, "
        f"{scalar} 1.0, ptr %a, {integer} %lda.n, ptr %b, {integer} %ldb.n, {scalar} 0.0, ptr %c, {integer} %ldc.n)",
        "%next = add i64 %i, 1",
        "%more = icmp ult i64 %next, %batch",
        "br i1 %more, label %loop, label %done",
        "done:",
        "ret i32 0",
        "}",
    ]
    return "\n".join(lines)
