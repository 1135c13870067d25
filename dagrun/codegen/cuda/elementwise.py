"""Elementwise kernels: a thread for each element, or for each few."""

from __future__ import annotations

import math

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CUDA_TYPE, CudaEmitter, element_struct, entry_name, most_at_once
from dagrun.codegen.cuda.registry import (
    MOST_OPERANDS,
    MOST_SCALARS,
    THREADS,
    CudaKernel,
    Launch,
    grid,
    known,
    register,
    words_of,
)
from dagrun.codegen.elementwise import lower_all
from dagrun.codegen.expression import Expression, Input, Scalar, linear_form, topological
from dagrun.codegen.values import ITEMSIZE, Value


def kernel(tree: Expression) -> int:
    """Address of the kernel of a tree whose inputs are numbered 0..k-1 and whose scalars are numbered 0..s-1."""
    name = entry_name("elementwise", "; ".join(linear_form(tree)))
    return known(name) or register(_elementwise(tree, name))


def _elementwise(tree: Expression, name: str) -> CudaKernel:
    leaves = [node for node in topological(tree) if isinstance(node, Input | Scalar)]
    inputs = sorted({leaf.index: leaf.dtype for leaf in leaves if isinstance(leaf, Input)}.items())
    scalars = sorted({leaf.index: leaf.dtype for leaf in leaves if isinstance(leaf, Scalar)}.items())
    if len(inputs) + 1 > MOST_OPERANDS or any(index >= MOST_SCALARS for index, _ in scalars):
        raise Unsupported(f"a CUDA kernel takes {MOST_OPERANDS} operands and {MOST_SCALARS} scalars")
    operands = len(inputs) + 1

    e = CudaEmitter()
    e.deeper()
    e.deeper()
    values = {index: Value(e, f"x{index}", dtype) for index, dtype in inputs}
    given = {index: Value(e, f"s{index}", dtype) for index, dtype in scalars}
    (result,) = lower_all(e, (tree,), values, given)
    dtypes = [tree.dtype, *(dtype for _, dtype in inputs)]
    width = most_at_once(dtypes)
    lines = [
        '#include "dagrun.cuh"',
        *element_struct(
            name, dtypes, "", {f"s{i}": (dtype, f"scalar<{CUDA_TYPE[dtype]}>(call, {i})") for i, dtype in scalars},
            f"compute(const Elements<{name}_of, V>& walk)", lambda k: f"walk.get({k}", lambda k: f"walk.put({k}",
            {f"x{i}": i + 1 for i, _ in inputs}, e.text(result), [result.name],
        ),
        f"DAGRUN_KERNEL({name}, {THREADS}) {{ dagrun::elementwise<dagrun::{name}_of>(call); }}",
    ]  # fmt: skip

    def launch(params: bytes) -> Launch:
        words = words_of(params)
        n, outer, *steps = words[: 2 + operands]
        total = n * math.prod(words[2 + operands + d * (1 + operands)] for d in range(outer))
        side_by_side = all(step in (0, ITEMSIZE[dtype]) for step, dtype in zip(steps, dtypes, strict=True))
        return grid(-(-total // width) if side_by_side and (outer == 0 or n % width == 0) else total)

    return CudaKernel(name, "\n".join(lines) + "\n", launch)
