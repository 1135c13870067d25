"""Update kernels: several arrays, element by element, read and written in one pass; many sets of them in one call.

A kernel has `trees`, one for each written operand of a set, in its dtype. `Input(k)` is operand k of the set (written
ones first), `Scalar(i)` the per-call value i or, from `scalars` on, the only element of shared operand i - `scalars`.

Operands (`data`): the shared ones, then set by set its operands, each contiguous.
Params, int64 words: the number of sets, then for each the number of its elements.

Every element is loaded before it is stored, so an operand may be exactly another one of its set.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.cuda.registry import MOST_OPERANDS
from dagrun.codegen.elementwise import Trial, check_dtypes, lower_all
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.expression import Expression, Scalar, numbered, topological
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import Value


def update_kernel(trees: Sequence[Expression], dtypes: Sequence[str], shared: Sequence[str], scalars: int) -> int:
    """Address of the kernel; `dtypes` of the operands of a set, `shared` those of the shared operands.

    >>> from dagrun.codegen.expression import Input, call
    >>> x, y = Input(0, "float32"), Input(1, "float32")
    >>> update_kernel([call("add", x, y), call("subtract", x, y)], ["float32"] * 2, [], 0) != 0
    True
    """
    check_dtypes(*dtypes, *shared)
    if target() == "cuda":
        return cuda_kernel("updates", trees, dtypes, shared, scalars)
    if "float16" in (*dtypes, *shared) and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    rows, results = numbered(*trees)
    head = f"update; {' '.join(dtypes)}; {' '.join(shared)}; {scalars}; {' '.join(map(str, results))}"
    key = "; ".join((head, *(text for text, _, _ in rows)))
    return compile_kernel(key, lambda: update_ir(trees, dtypes, shared, scalars, entry_name(key)))


def most_sets(operands: int, shared: int) -> int:
    """How many sets of so many operands a call takes."""
    return (MOST_OPERANDS - shared) // operands if target() == "cuda" else 1 << 30


def update_params(sizes: Sequence[int]) -> bytes:
    """The params block for sets of so many elements."""
    return layout.pack((len(sizes), *sizes))


def update_ir(
    trees: Sequence[Expression], dtypes: Sequence[str], shared: Sequence[str], scalars: int, name: str
) -> str:
    """The IR text of the kernel."""
    e = Emitter()
    values = _scalar_values(e, trees, shared, scalars)
    trial = Trial.of(*trees)
    lanes = 1 if trial.hard else trial.lanes  # what vectors leave undone cannot be done again: its inputs are gone
    data = e.argument("%data", "pointer")
    with e.loop(e.load_at("%params", 0)) as number:
        n = e.load(e.element(e.argument("%params", "pointer"), number + 1, "int64"), "int64")
        first = number * len(dtypes) + len(shared)
        places = [e.load(e.element(data, first + k, "pointer"), "pointer") for k in range(len(dtypes))]

        def element(i: Value, lanes: int = 1, places: Sequence[Value] = places) -> None:
            at = [e.element(place, i, dtype) for place, dtype in zip(places, dtypes, strict=True)]
            loaded = {k: e.load(at[k], dtype, lanes) for k, dtype in enumerate(dtypes)}
            for target, value in zip(at, lower_all(e, trees, loaded, values, lanes), strict=False):
                e.store(target, value)

        if lanes > 1:
            e.hard_cases = []
            with e.vector_loop(n, lanes) as i:
                element(i, lanes)
            e.hard_cases = None
        with e.left_over(n, lanes) if lanes > 1 else e.loop(n) as i:
            element(i)
    e.finish()
    return e.module(name)


def _scalar_values(e: Emitter, trees: Sequence[Expression], shared: Sequence[str], scalars: int) -> dict[int, Value]:
    """The values of the Scalar nodes, loaded once for a call."""
    slots = e.argument("%scalars", "pointer")
    values = {}
    for node in topological(*trees):
        if isinstance(node, Scalar) and node.index not in values:
            place = node.index - scalars
            at = e.load_at("%data", place, "pointer") if place >= 0 else e.offset(slots, 8 * node.index)
            values[node.index] = e.load(at, node.dtype)
    return values
