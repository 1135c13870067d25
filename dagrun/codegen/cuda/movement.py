"""take, put and sums at indices; see kernels/cuda/movement.cuh."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dagrun.codegen import scalars
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CUDA_TYPE, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import MOST_OPERANDS, THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.values import is_signed

_TEMPLATES = {"take": "take", "put": "put", "add": "add_at"}
_SHARED_BYTES = 8 * (2 * THREADS + THREADS // 32)
_OWNERS = 1024  # blocks of threads that share out the places of an indexed operand
_MOST_RANGES, _RANGE = 1024, 256  # as in movement.cuh


def kernel(which: str, dtype: str, *index_dtypes: str) -> int:
    """Address of "take", "put" or "add"; see codegen/movement.py."""
    name = entry_name("movement", f"{which} {dtype} {' '.join(index_dtypes)}")
    return known(name) or register(_movement(name, which, dtype, index_dtypes))


def _movement(name: str, which: str, dtype: str, index_dtypes: Sequence[str]) -> CudaKernel:
    number = len(index_dtypes)
    if number + 2 > MOST_OPERANDS:
        raise Unsupported(f"a CUDA kernel takes {MOST_OPERANDS} operands")
    functions = [
        f"  static constexpr DAGRUN_METHOD int count() {{ return {number}; }}",
        _chosen("i64", "index", ", const Call& call, i64 offset", [
            f"i64(load<{CUDA_TYPE[index]}>(call.data[{2 + k}] + offset))" for k, index in enumerate(index_dtypes)
        ]),
        _chosen("bool", "is_signed", "", ["true" if is_signed(index) else "false" for index in index_dtypes]),
    ]  # fmt: skip
    if which == "add":
        functions.append(function("add", [dtype, dtype], lambda a, b: scalars.apply("add", [a, b])))

    def launch(params: bytes) -> Launch:
        words = words_of(params)
        before, outer, further, length, _, _, inner, _ = words[:8]
        if inner == 0:
            return Launch(1, THREADS, _SHARED_BYTES)
        at = 8 + number + 2 + 4 * number
        frees = math.prod(words[at + 3 * d] for d in range(before))
        at += 3 * before
        positions = inner * math.prod(words[at + (number + 3) * d] for d in range(outer))
        slowest = at + (number + 3) * (outer - 1)
        slices, step = (words[slowest], words[slowest + 1 + number]) if outer else (inner, words[8 + number])
        at += (number + 3) * outer
        afters = length * math.prod(words[at + 3 * d] for d in range(further))
        if which == "take":
            return grid(positions * frees * afters if afters else positions)
        ranges, length = _ranges(positions, slices, step)
        return Launch(ranges * max(1, min(_OWNERS // ranges, length // 4)), THREADS, _SHARED_BYTES)

    source = template_kernel(name, "movement.cuh", _TEMPLATES[which], {"Dense": dtype}, functions)
    return CudaKernel(name, source, launch)


def _ranges(positions: int, slices: int, step: int) -> tuple[int, int]:
    """How many ranges of positions are independent of each other, and their length: `ranges_of` of movement.cuh."""
    if step == 0 or positions == 0:
        return 1, positions
    each = -(-slices // max(1, min(_MOST_RANGES, positions // _RANGE)))
    return -(-slices // each), each * (positions // slices)


def _chosen(kind: str, name: str, more: str, values: Sequence[str]) -> str:
    """A static method of k that returns values[k]."""
    cases = "".join(f"k == {k} ? {value} : " for k, value in enumerate(values[:-1]))
    return f"  static DAGRUN_METHOD {kind} {name}(int k{more}) {{ return {cases}{values[-1]}; }}"
