"""Update kernels: several outputs of an element at once, several sets of arrays in a launch; see codegen/updates.py."""

from __future__ import annotations

from collections.abc import Sequence

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
from dagrun.codegen.expression import Expression, Scalar, numbered, topological
from dagrun.codegen.values import ITEMSIZE, Value


def kernel(trees: Sequence[Expression], dtypes: Sequence[str], shared: Sequence[str], scalars: int) -> int:
    """Address of the kernel; see codegen/updates.py."""
    if len(dtypes) + len(shared) > MOST_OPERANDS or scalars > MOST_SCALARS:
        raise Unsupported(f"a CUDA kernel takes {MOST_OPERANDS} operands and {MOST_SCALARS} scalars")
    rows, results = numbered(*trees)
    head = f"{' '.join(dtypes)}; {' '.join(shared)}; {scalars}; {' '.join(map(str, results))}"
    name = entry_name("update", "; ".join((head, *(text for text, _, _ in rows))))
    return known(name) or register(_update(name, trees, dtypes, shared, scalars))


def _update(
    name: str, trees: Sequence[Expression], dtypes: Sequence[str], shared: Sequence[str], scalars: int
) -> CudaKernel:
    e = CudaEmitter()
    e.deeper()
    e.deeper()
    inputs = {k: Value(e, f"x{k}", dtype) for k, dtype in enumerate(dtypes)}
    given = {node.index: node.dtype for node in topological(*trees) if isinstance(node, Scalar)}
    values = {index: Value(e, f"s{index}", dtype) for index, dtype in given.items()}
    results = lower_all(e, trees, inputs, values)

    def place(k: int) -> str:
        return f"data[{k}] + i * {ITEMSIZE[dtypes[k]]}"

    lines = [
        '#include "dagrun.cuh"',
        *element_struct(
            name, dtypes, f", SHARED = {len(shared)}",
            {f"s{index}": (dtype, _given(index, dtype, scalars)) for index, dtype in given.items()},
            "compute(char* const* data, i64 i)", lambda k: f"load({place(k)}", lambda k: f"store({place(k)}",
            {f"x{k}": k for k in range(len(dtypes))}, e.text(*results), [result.name for result in results],
        ),
        f"DAGRUN_KERNEL({name}, {THREADS}) {{ dagrun::update<dagrun::{name}_of>(call); }}",
    ]  # fmt: skip

    def launch(params: bytes) -> Launch:
        return grid(-(-max(words_of(params)[1:], default=0) // most_at_once(dtypes)))

    return CudaKernel(name, "\n".join(lines) + "\n", launch)


def _given(index: int, dtype: str, scalars: int) -> str:
    """A per-call value, or the only element of a shared operand."""
    kind = CUDA_TYPE[dtype]
    return f"load<{kind}>(call.data[{index - scalars}])" if index >= scalars else f"scalar<{kind}>(call, {index})"
