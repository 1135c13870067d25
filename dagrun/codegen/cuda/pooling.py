"""Pooling and its adjoints; see kernels/cuda/pooling.cuh."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CudaEmitter, computes, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.values import Value, bits_of, is_float, is_signed

_OPERANDS = {"max": 3, "mean": 2, "spread": 2, "pick": 3, "put": 3}
_HEAD = 11  # words
_SLOTS = 4  # as in pooling.cuh
Table = Sequence[tuple[int, int, int]]


def kernel(kind: str, dtype: str) -> int:
    """Address of the kernel `kind`; see codegen/pooling.py."""
    name = entry_name(f"pool_{kind}", dtype)
    return known(name) or register(_pooling(name, kind, dtype))


def params(
    size: tuple[int, int], tables: tuple[Table, Table], dilations: tuple[int, int], strides: tuple[int, int],
    dims: Sequence[layout.Dimension],
) -> bytes:  # fmt: skip
    """The params block: what the CPU's says, with windows in runs, as a call has no room for a table."""
    if math.prod(size) >= 1 << 31:
        raise Unsupported(f"a CUDA kernel pools planes of less than 2**31 elements, not {size}")
    found = [_runs(table) for table in tables]
    head = (len(dims), *map(len, tables), *size, *strides, *dilations, *map(len, found))
    block = layout.pack((*head, *(word for runs in found for run in runs for word in run), *layout.outer_words(dims)))
    words_of(block)  # Unsupported where there are too many
    return block


def _runs(table: Table) -> list[tuple[int, int, int, int, int]]:
    """Windows of one size at even steps: number of the first, first element, step, elements, factor."""
    runs: list[tuple[int, int, int, int, int]] = []
    for number, (first, elements, factor) in enumerate(table):
        if runs:
            begin, start, step, *same = runs[-1]
            if number - begin == 1 and same == [elements, factor]:
                runs[-1] = (begin, start, first - start, elements, factor)
                continue
            if same == [elements, factor] and first == start + (number - begin) * step:
                continue
        runs.append((number, first, 0, elements, factor))
    return runs


def _lowest(dtype: str) -> float | int:
    if is_float(dtype):
        return -math.inf
    return -(1 << (bits_of(dtype) - 1)) if is_signed(dtype) else 0


def _greater(x: Value, best: Value) -> Value:
    return (x > best) | x.is_nan() if is_float(x.dtype) else x > best


def _add(a: Value, b: Value) -> Value:
    wide = computes(a.dtype)
    return a | b if a.dtype == "bool" else (a.to(wide) + b.to(wide)).to(a.dtype)


def _pooling(name: str, kind: str, dtype: str) -> CudaKernel:
    functions = [
        function("lowest", [], lambda: CudaEmitter().constant(_lowest(dtype), dtype)),
        function("zero", [], lambda: CudaEmitter().constant(0, dtype)),
        function("greater", [dtype, dtype], _greater),
        function("add", [dtype, dtype], _add),
    ]

    def launch(params: bytes) -> Launch:
        dims, out_rows, out_columns, rows, columns, _, _, _, _, *counts = words_of(params)[:_HEAD]
        outer = words_of(params)[_HEAD + 5 * sum(counts) :]
        planes = math.prod(outer[d * (1 + _OPERANDS[kind])] for d in range(dims)) if out_rows * out_columns else 0
        if kind == "put":
            threads = 32
            while threads < min(THREADS, out_rows * out_columns):
                threads *= 2
            return Launch(grid(planes, 1).blocks, threads, 4 * _SLOTS * threads)
        return grid(planes * (rows * columns if kind == "spread" else out_rows * out_columns))

    types = {"Dtype": dtype, "Wide": computes(dtype)}
    return CudaKernel(name, template_kernel(name, "pooling.cuh", f"pool_{kind}", types, functions, THREADS), launch)
