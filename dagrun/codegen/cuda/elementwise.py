"""Elementwise kernels: a thread for each element, or for each few."""

from __future__ import annotations

import math

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CUDA_TYPE, CudaEmitter, entry_name
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
from dagrun.codegen.values import Value


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
    values = {index: Value(e, f"x{index}", dtype) for index, dtype in inputs}
    given = {index: Value(e, f"s{index}", dtype) for index, dtype in scalars}
    (result,) = lower_all(e, (tree,), values, given)
    lines = [
        '#include "dagrun.cuh"',
        f"DAGRUN_KERNEL({name}, {THREADS}) {{",
        "  using namespace dagrun;",
        f"  Elements<{operands}> walk(call);",
        *(f"  const {CUDA_TYPE[dtype]} s{i} = scalar<{CUDA_TYPE[dtype]}>(call, {i});" for i, dtype in scalars),
        "  for (i64 i = first_thread(); i < walk.total; i += all_threads()) {",
        "    walk.move(i);",
        *(f"    const {CUDA_TYPE[dtype]} x{i} = load<{CUDA_TYPE[dtype]}>(walk.at[{i + 1}]);" for i, dtype in inputs),
        *filter(None, [e.text(result)]),
        f"    store<{CUDA_TYPE[tree.dtype]}>(walk.at[0], {result.name});",
        "  }",
        "}",
    ]

    def launch(params: bytes) -> Launch:
        words = words_of(params)
        n, outer = words[:2]
        return grid(n * math.prod(words[2 + operands + d * (1 + operands)] for d in range(outer)))

    return CudaKernel(name, "\n".join(lines) + "\n", launch)
