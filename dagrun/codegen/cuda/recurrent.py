"""One step of a recurrent layer but for its products: a thread for each element of a state."""

from __future__ import annotations

from dagrun.codegen.cuda.emitter import CUDA_TYPE, CudaEmitter, entry_name
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.recurrent import STEPS
from dagrun.codegen.values import ITEMSIZE, Value


def kernel(step: str, dtype: str) -> int:
    """Address of the kernel of a step; see codegen/recurrent.py."""
    name = entry_name(step, dtype)
    return known(name) or register(_step(name, step, dtype))


def _step(name: str, step: str, dtype: str) -> CudaKernel:
    rule, kind = STEPS[step], CUDA_TYPE[dtype]
    counts = (*rule.results, *rule.inputs)
    e = CudaEmitter()
    e.deeper()
    gates = [
        [Value(e, f"x{k}_{gate}", dtype) for gate in range(count)]
        for k, count in enumerate(counts)
        if k >= len(rule.results)
    ]
    results = rule.compute(*gates)
    lines = [
        '#include "dagrun.cuh"',
        f"DAGRUN_KERNEL({name}, {THREADS}) {{",
        "  using namespace dagrun;",
        "  const i64 columns = call.params[0], gate = call.params[2];",
        "  for (i64 i = first_thread(); i < columns * call.params[1]; i += all_threads()) {",
        "    i64 row, column;",
        "    divide(i, columns, row, column);",
        *(
            f"    char* at{k} = call.data[{k}] + (row * call.params[{3 + k}] + column * {ITEMSIZE[dtype]});"
            for k in range(len(counts))
        ),
        *(
            f"    const {kind} x{k}_{gate} = load<{kind}>(at{k} + {gate} * gate);"
            for k, count in enumerate(counts)
            if k >= len(rule.results)
            for gate in range(count)
        ),
        e.text(*(value for values in results for value in values)),
        *(
            f"    store<{kind}>(at{k} + {gate} * gate, {value.name});"
            for k, values in enumerate(results)
            for gate, value in enumerate(values)
        ),
        "  }",
        "}",
    ]

    def launch(params: bytes) -> Launch:
        columns, rows = words_of(params)[:2]
        return grid(columns * rows)

    return CudaKernel(name, "\n".join(lines) + "\n", launch)
