"""Reductions: blocks of threads for each result, with the CPU's tree; see kernels/cuda/reduction.cuh."""

from __future__ import annotations

import math

from dagrun.codegen.cuda.emitter import CudaEmitter, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.reduction import (
    ARGUMENT_OPS,
    BLOCK,
    REDUCTION_OPS,
    ROW_BLOCK,
    ReductionOp,
)
from dagrun.codegen.values import ITEMSIZE, Value, is_float

_BOUND = 512  # threads of a block that kernels are compiled for
MOST_THREADS = _BOUND
_LEVELS = 56
_MANY = 1024  # results from which on more blocks of threads are better than larger ones
_FEW = 256  # blocks of threads below which the elements of a result are shared out among several
_PARTS = 512  # about how many there are then; a power of two, at most MOST_THREADS
_SHORT = 1 << 16  # threads below which they are spread over as many blocks as can be
_ARGUMENT_THREADS = _BOUND  # of argmax and argmin
_ARGUMENT_EACH = 8  # elements that a thread compares at least, where a result is made in parts


def kernel(op: str, in_dtype: str, compute: str, out_dtype: str, template: str = "reduce") -> int:
    """Address of a reduction, or of one of the two launches in parts; see codegen/reduction.py."""
    name = entry_name("reduction", f"{template} {op} {in_dtype} {compute} {out_dtype}")
    if known(name) is None:
        types = {"In": in_dtype, "Compute": compute, "Out": out_dtype}
        if op in ARGUMENT_OPS:
            template = {"reduce": "reduce_argument", "reduce_parts": "argument_parts"}.get(
                template, "combine_arguments"
            )
        register((_argument if op in ARGUMENT_OPS else _reduction)(name, op, types, template))
    return known(name) or 0


def _lanes(compute: str) -> int:
    """A float has as many lanes as on the CPU; how integers are combined does not matter."""
    return 128 // ITEMSIZE[compute] if is_float(compute) else 32


def _width(neighbours: int) -> int:
    """How many neighbouring results a block of threads makes together."""
    return min(32, 1 << (neighbours - 1).bit_length())


def split(params: bytes, compute: str) -> tuple[int, int]:
    """Into how many parts the blocks of a result are cut, and how many each has: by the params block of a reduction."""
    variant, kept, outer, n, _, m, _, _, *rest = words_of(params)
    if n <= 0:
        return 1, 0
    width = _width(m) if variant else _lanes(compute)
    tiles = math.prod(rest[3 * d] for d in range(kept)) * (-(-m // width) if variant else 1)
    blocks = -(-n // (ROW_BLOCK if variant else BLOCK)) * math.prod(rest[3 * kept + 2 * d] for d in range(outer))
    segment = MOST_THREADS // width  # the groups of threads of a block
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
        blocks = -(-n // (ROW_BLOCK if variant else BLOCK)) * runs
        if template == "reduce" and blocks == 1:
            threads = results * (m if variant else 1 if n < lanes else lanes)
            return grid(threads, 32 if threads < _SHORT else THREADS)
        width = _width(m) if variant else lanes
        results = -(-m // width) * results if variant else results
        if template == "reduce_parts":
            parts, blocks = split(params[:-8], compute)
            results *= parts
        elif template == "combine_parts":
            threads = 32
            while threads < -(-blocks // rest[-1]):
                threads *= 2
            return Launch(grid(m * math.prod(rest[3 * d] for d in range(kept)), 1).blocks, threads, threads * item)
        most = (256 if results >= _MANY else MOST_THREADS) // width
        groups = max(1, 32 // width)
        while groups < min(most, blocks):
            groups *= 2
        shared = (width if variant else 1) * (groups + _LEVELS) * item
        return Launch(grid(results, 1).blocks, groups * width, shared)

    source = template_kernel(name, "reduction.cuh", template, types, functions, _BOUND)
    return CudaKernel(name, source, launch)


def _prepare(rule: ReductionOp, types: dict[str, str]) -> str:
    return function("prepare", [types["In"]], lambda x: rule.prepare(x, types["Compute"]))


def _together(params: bytes, item: int) -> tuple[int, int, int]:
    """Of argmax and argmin: results, tiles of neighbouring ones that are made together, and how many these have."""
    _, kept, _, _, stride, _, _, _, *rest = words_of(params)
    results = math.prod(rest[3 * d] for d in range(kept))
    if not kept or rest[2] != item or stride == item or not results:
        return results, results, 1
    width = _width(rest[0])
    return results, results // rest[0] * -(-rest[0] // width), width


def split_argument(params: bytes, item: int) -> tuple[int, int]:
    """`split` for argmax and argmin of elements of `item` bytes; the length of a part is a number of elements."""
    count = words_of(params)[7]
    _, tiles, width = _together(params, item)
    if not 0 < tiles < _FEW:
        return 1, count
    parts = max(1, min(_PARTS // tiles, count * width // (_ARGUMENT_THREADS * _ARGUMENT_EACH)))
    segment = -(-count // parts)
    return -(-count // segment), segment


def _argument(name: str, op: str, types: dict[str, str], template: str) -> CudaKernel:
    value_op, better = ARGUMENT_OPS[op]
    compute = types["Compute"]
    functions = [
        _prepare(REDUCTION_OPS[value_op], types),
        function("better", [compute, compute], better),
        function("is_nan", [compute], lambda x: x.is_nan() if is_float(compute) else x.differs(x)),
    ]

    def launch(params: bytes) -> Launch:
        count, segment = words_of(params)[7], words_of(params)[-1]
        results, jobs, width = _together(params, ITEMSIZE[types["In"]])
        needed = count * width
        if template == "argument_parts":
            jobs, needed = jobs * -(-count // segment), segment * width
        elif template == "combine_arguments":
            jobs, needed = results, -(-count // segment)
        threads = 32
        while threads < min(_ARGUMENT_THREADS, needed):
            threads *= 2
        return Launch(grid(jobs, 1).blocks, threads, threads * (8 + ITEMSIZE[compute]))

    source = template_kernel(name, "reduction.cuh", template, types, functions, _BOUND)
    return CudaKernel(name, source, launch)
