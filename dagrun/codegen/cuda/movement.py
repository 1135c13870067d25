"""take, put and sums at indices; see kernels/cuda/movement.cuh."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dagrun.codegen import scalars
from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CUDA_TYPE, entry_name, function, template_kernel
from dagrun.codegen.cuda.registry import MOST_OPERANDS, THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.movement import DIGIT_BITS
from dagrun.codegen.values import ITEMSIZE, is_signed

# template, and the operands before the index arrays
_TEMPLATES = {
    "take": ("take", 2), "put": ("put", 2), "add": ("add_at", 2), "items": ("place_items", 1),
    "put_sorted": ("put_sorted", 3), "add_sorted": ("add_sorted", 3),
}  # fmt: skip
_SHARED_BYTES = 8 * (2 * THREADS + THREADS // 32)
_OWNERS = 1024  # blocks of threads that share out the places of an indexed operand
_MOST_RANGES, _RANGE = 1024, 256  # as in movement.cuh
_EACH = 4  # as in movement.cuh
_FEW_TURNS = 32  # rounds of a block of threads, and positions that it serves, which cost less than sorting


def kernel(which: str, dtype: str, *index_dtypes: str) -> int:
    """Address of "take", "put", "add", "items", "put_sorted" or "add_sorted"; see codegen/movement.py."""
    name = entry_name("movement", f"{which} {dtype} {' '.join(index_dtypes)}")
    return known(name) or register(_movement(name, which, dtype, index_dtypes))


def digits(positions: int, elements: int, places: int, slices: int, indices: int) -> int:
    """By how many digits positions are sorted before `elements` of each are put or added; 0: in one launch, unsorted.

    `places`: of the indexed operand; `slices`: along the slowest dimensions of the positions that are its own, too.
    """
    if not elements or max(positions, places) >> 32 or indices + 3 > MOST_OPERANDS:
        return 0
    ranges, length = _ranges(positions, slices, 1)
    if length // THREADS + length // _owners(ranges, length) < _FEW_TURNS:
        return 0
    return max(1, -(-(places - 1).bit_length() // DIGIT_BITS))


def _movement(name: str, which: str, dtype: str, index_dtypes: Sequence[str]) -> CudaKernel:
    number = len(index_dtypes)
    template, first = _TEMPLATES[which]
    if number + first > MOST_OPERANDS:
        raise Unsupported(f"a CUDA kernel takes {MOST_OPERANDS} operands")
    functions = [
        f"  static constexpr DAGRUN_METHOD int count() {{ return {number}; }}",
        _chosen("i64", "index", ", const Call& call, i64 offset", [
            f"i64(load<{CUDA_TYPE[index]}>(call.data[{first + k}] + offset))" for k, index in enumerate(index_dtypes)
        ]),
        _chosen("bool", "is_signed", "", ["true" if is_signed(index) else "false" for index in index_dtypes]),
    ]  # fmt: skip
    if which.startswith("add"):
        functions.append(function("add", [dtype, dtype], lambda a, b: scalars.apply("add", [a, b])))

    def launch(params: bytes) -> Launch:
        words = words_of(params)
        before, outer, further, length, indexed_step, dense_step, inner, _ = words[:8]
        if inner == 0:
            return Launch(1, THREADS, _SHARED_BYTES)
        at = 8 + number + 2 + 4 * number
        frees = math.prod(words[at + 3 * d] for d in range(before))
        at += 3 * before
        positions = inner * math.prod(words[at + (number + 3) * d] for d in range(outer))
        slowest = at + (number + 3) * (outer - 1)
        slices, step = (words[slowest], words[slowest + 1 + number]) if outer else (inner, words[8 + number])
        at += (number + 3) * outer
        runs = math.prod(words[at + 3 * d] for d in range(further))
        if which == "take":
            group = _group(ITEMSIZE[dtype], length, indexed_step, dense_step)
            elements = runs * group if group > 1 else runs * length
            return grid(positions * frees * elements if elements else positions)
        elements = frees * runs * length
        if which == "items" or (which == "add_sorted" and elements == 1):
            return grid(positions)
        if which.endswith("sorted"):
            group = min(32, 1 << (elements - 1).bit_length())
            return grid(positions * group * -(-elements // (group * _EACH)))
        ranges, length = _ranges(positions, slices, step)
        return Launch(ranges * _owners(ranges, length), THREADS, _SHARED_BYTES)

    return CudaKernel(name, template_kernel(name, "movement.cuh", template, {"Dense": dtype}, functions), launch)


def _group(item: int, length: int, indexed_step: int, dense_step: int) -> int:
    """How many threads copy a run of elements: `group` of movement.cuh."""
    if indexed_step != item or dense_step != item or length * item < 32:
        return 1
    return min(32, 1 << (-(-length * item // 16) - 1).bit_length())


def _ranges(positions: int, slices: int, step: int) -> tuple[int, int]:
    """How many ranges of positions are independent of each other, and their length: `ranges_of` of movement.cuh."""
    if step == 0 or positions == 0:
        return 1, positions
    each = -(-slices // max(1, min(_MOST_RANGES, positions // _RANGE)))
    return -(-slices // each), each * (positions // slices)


def _owners(ranges: int, length: int) -> int:
    """How many blocks of threads share out the places of a range of positions."""
    return max(1, min(_OWNERS // ranges, length // 4))


def _chosen(kind: str, name: str, more: str, values: Sequence[str]) -> str:
    """A static method of k that returns values[k]."""
    cases = "".join(f"k == {k} ? {value} : " for k, value in enumerate(values[:-1]))
    return f"  static DAGRUN_METHOD {kind} {name}(int k{more}) {{ return {cases}{values[-1]}; }}"
