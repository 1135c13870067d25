"""Reductions: blocks of threads for each result, with the CPU's tree; see kernels/cuda/reduction.cuh."""

from __future__ import annotations

import math

from dagrun.codegen.cuda.emitter import CudaEmitter, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.reduction import (
    ARGUMENT_OPS,
    BLOCK,
    REDUCTION_OPS,
    ROW_BLOCK,
    ReductionOp,
)
from dagrun.codegen.values import ITEMSIZE, Value, is_float

MOST_THREADS = 1024
_ARGUMENT_THREADS = 512  # of argmax and argmin
_LEVELS = 56
_MANY = 1024  # results from which on more blocks of threads are better than larger ones
_FEW = 128  # blocks of threads below which the elements of a result are shared out among several
_PARTS = 512  # about how many there are then; a power of two, at most 1024


def kernel(op: str, in_dtype: str, compute: str, out_dtype: str, template: str = "reduce") -> int:
    """Address of a reduction, or of its half "reduce_parts" or "combine_parts"; see codegen/reduction.py."""
    name = entry_name("reduction", f"{template} {op} {in_dtype} {compute} {out_dtype}")
    if known(name) is None:
        types = {"In": in_dtype, "Compute": compute, "Out": out_dtype}
        register(_argument(name, op, types) if op in ARGUMENT_OPS else _reduction(name, op, types, template))
    return known(name) or 0


def _lanes(compute: str) -> int:
    """A float has as many lanes as on the CPU; how integers are combined does not matter."""
    return 128 // ITEMSIZE[compute] if is_float(compute) else 32


def split(params: bytes, compute: str) -> tuple[int, int]:
    """Into how many parts the blocks of a result are cut, and how many each has: by the params block of a reduction."""
    variant, kept, outer, n, _, m, _, _, *rest = words_of(params)
    if n <= 0:
        return 1, 0
    tiles = math.prod(rest[3 * d] for d in range(kept)) * (-(-m // 32) if variant else 1)
    blocks = -(-n // (ROW_BLOCK if variant else BLOCK)) * math.prod(rest[3 * kept + 2 * d] for d in range(outer))
    segment = MOST_THREADS // (32 if variant else _lanes(compute))  # the groups of threads of a block
    if tiles >= _FEW or blocks < 4 * segment:
        return 1, blocks
    while segment * max(1, _PARTS // tiles) < blocks:
        segment *= 2
    return -(-blocks // segment), segment


def _reduction(name: str, op: str, types: dict[str, str], template: str) -> CudaKernel:
    rule, compute = REDUCTION_OPS[op], types["Compute"]
    lanes = _lanes(compute)

    def finish(result: Value, count: Value) -> Value:
        if rule.empty is not None:
            result = result.emitter.select(count.equals(0), rule.empty, result)
        return rule.finish(result, count).to(types["Out"])

    functions = [
        _prepare(rule, types),
        function("combine", [compute, compute], rule.combine),
        function("identity", [], lambda: CudaEmitter().constant(rule.identity(compute), compute)),
        function("finish", [compute, "int64"], finish),
        f"  static constexpr DAGRUN_METHOD int lanes() {{ return {lanes}; }}",
    ]
    item = ITEMSIZE[compute]

    def launch(params: bytes) -> Launch:
        variant, kept, outer, n, _, m, _, _, *rest = words_of(params)
        if n < 0:
            return Launch(1, 32)
        results = math.prod(rest[3 * d] for d in range(kept))
        runs = math.prod(rest[3 * kept + 2 * d] for d in range(outer))
        width = 32 if variant else lanes
        results = -(-m // 32) * results if variant else results
        blocks = -(-n // (ROW_BLOCK if variant else BLOCK)) * runs
        if template == "reduce_parts":
            parts, blocks = split(params[:-8], compute)
            results *= parts
        elif template == "combine_parts":
            threads = 32
            while threads < -(-blocks // rest[-1]):
                threads *= 2
            return Launch(grid(m * math.prod(rest[3 * d] for d in range(kept)), 1).blocks, threads, threads * item)
        most = (256 if results >= _MANY else MOST_THREADS) // width
        groups = 32 // width
        while groups < min(most, blocks):
            groups *= 2
        shared = (32 * (groups + _LEVELS) if variant else groups + _LEVELS) * item
        return Launch(grid(results, 1).blocks, groups * width, shared)

    most = _PARTS if template == "combine_parts" else MOST_THREADS
    source = template_kernel(name, "reduction.cuh", template, types, functions, most)
    return CudaKernel(name, source, launch)


def _prepare(rule: ReductionOp, types: dict[str, str]) -> str:
    return function("prepare", [types["In"]], lambda x: rule.prepare(x, types["Compute"]))


def _argument(name: str, op: str, types: dict[str, str]) -> CudaKernel:
    value_op, better = ARGUMENT_OPS[op]
    compute = types["Compute"]
    functions = [
        _prepare(REDUCTION_OPS[value_op], types),
        function("better", [compute, compute], better),
        function("is_nan", [compute], lambda x: x.is_nan() if is_float(compute) else x.differs(x)),
    ]

    def launch(params: bytes) -> Launch:
        _, kept, _, n, _, _, _, count, *rest = words_of(params)
        if n < 0:
            return Launch(1, 32)
        threads = 32
        while threads < min(_ARGUMENT_THREADS, count):
            threads *= 2
        results = math.prod(rest[3 * d] for d in range(kept))
        return Launch(grid(results, 1).blocks, threads, threads * (8 + ITEMSIZE[compute]))

    source = template_kernel(name, "reduction.cuh", "reduce_argument", types, functions, _ARGUMENT_THREADS)
    return CudaKernel(name, source, launch)
