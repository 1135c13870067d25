"""Random numbers: a thread for each block of Philox; the numbers are those of codegen/philox.py."""

from __future__ import annotations

from dagrun.codegen.cuda.emitter import CUDA_TYPE, CudaEmitter, entry_name
from dagrun.codegen.cuda.registry import THREADS, CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.philox import elements_of_block, philox_words, split
from dagrun.codegen.values import ITEMSIZE, Value


def kernel(kind: str, dtype: str) -> int:
    """Address of the fill kernel of a kind; see codegen/philox.py."""
    name = entry_name("philox", f"{kind} {dtype}")
    return known(name) or register(_philox(name, kind, dtype))


def _philox(name: str, kind: str, dtype: str) -> CudaKernel:
    per_block = 4 if kind == "uint32" or dtype == "float32" else 2
    e = CudaEmitter()
    e.deeper()
    slots = [Value(e, f"s{k}", "uint64") for k in range(4 if kind == "bounded" else 2)]
    key, stream, *extra = slots
    block = Value(e, "block", "uint64")
    elements = elements_of_block(kind, dtype, philox_words((*split(block), *split(stream)), split(key)), extra)
    lines = [
        '#include "dagrun.cuh"',
        f"DAGRUN_KERNEL({name}, {THREADS}) {{",
        "  using namespace dagrun;",
        "  const i64 n = call.params[0], first = call.params[1];",
        f"  const bool aligned = u64(call.data[0]) % {per_block * ITEMSIZE[dtype]} == 0;",
        *(f"  const u64 s{k} = call.scalars[{k}];" for k in range(len(slots))),
        f"  for (i64 i = first_thread(); i * {per_block} < n; i += all_threads()) {{",
        f"    const u64 block = u64(first / {per_block} + i);",
        e.text(*elements),
        f"    char* place = call.data[0] + i * {per_block * ITEMSIZE[dtype]};",
        f"    const {CUDA_TYPE[dtype]} made[] = {{{', '.join(element.name for element in elements)}}};",
        f"    if (aligned && i * {per_block} + {per_block} <= n) {{",
        "      store(place, made);",
        "    } else {",
        "#pragma unroll",
        f"      for (int k = 0; k < {per_block}; k++) {{",
        f"        if (i * {per_block} + k < n) store(place + k * {ITEMSIZE[dtype]}, made[k]);",
        "      }",
        "    }",
        "  }",
        "}",
    ]

    def launch(params: bytes) -> Launch:
        return grid(-(-words_of(params)[0] // per_block))

    return CudaKernel(name, "\n".join(lines) + "\n", launch)
