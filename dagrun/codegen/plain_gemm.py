"""Matrix products of dtypes that BLAS does not take: integers (they wrap), booleans (and, or) and float16.

Operands (`data`): C, A, B. Each element of C is one sum in the order of the inner dimension, in a register: float16
in float32, rounded once at its end as NumPy does. Where rows of B and C are contiguous, four rows of C are computed at
once by vectors of 64 bytes, column block by column block, so that a block of B stays in the cache.

Params, int64 words: 0, 1, 2 sizes m, n, k; 3 to 8 strides of C, A, B (row, column); 9 1 if columns of B and C are
contiguous; 10 number of batch dimensions, 11.. those: size, strides of C, A, B, innermost first.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.elementwise import check_dtypes
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Slot, Value, is_integer

ROWS = 4  # of C that a block of vectors computes


def plain_gemm_kernel(dtype: object) -> int:
    """Address of C = A @ B for operands of one dtype: bool, an integer or float16."""
    check_dtypes(dtype)
    name = str(dtype)
    if not is_integer(name) and name not in ("bool", "float16"):
        raise Unsupported(f"no plain product of {name}: BLAS takes it")
    if target() == "cuda":
        return cuda_kernel("plain_gemm", name)
    if name == "float16" and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = f"plain gemm; {name}"
    return compile_kernel(key, lambda: _gemm_ir(name, entry_name(key)))


def plain_gemm_params(
    shape: Sequence[int], k: int, c_strides: Sequence[int], a_strides: Sequence[int], b_strides: Sequence[int],
    itemsize: int,
) -> bytes:  # fmt: skip
    """The params block; `shape` is that of C, (..., m, n), strides of A and B have C's batch dimensions."""
    if 0 in shape:
        return layout.pack((0,) * 11)
    every = (c_strides, a_strides, b_strides)
    batch = layout.merged(layout.dimensions(shape[:-2], [strides[:-2] for strides in every]))
    pairs = [stride for strides in every for stride in strides[-2:]]
    contiguous = c_strides[-1] == b_strides[-1] == itemsize
    return layout.pack((*shape[-2:], k, *pairs, int(contiguous), len(batch), *layout.outer_words(batch)))


class _Product:
    """What the loops share: strides, the operands' addresses, and how elements are loaded, added up and stored."""

    def __init__(self, e: Emitter, dtype: str) -> None:
        self.e, self.dtype = e, dtype
        self.sum = {"bool": "uint8", "float16": "float32"}.get(dtype, dtype)
        self.m, self.n, self.k, *strides = (e.load_at("%params", word) for word in range(9))
        self.c_row, self.c_column, self.a_row, self.a_column, self.b_row, self.b_column = strides
        self.c, self.a, self.b = (e.slot("pointer", e.load_at("%data", i, "pointer")) for i in range(3))

    def load(self, pointer: Value, lanes: int = 1) -> Value:
        return self.e.load(pointer, self.dtype, lanes).to(self.sum)

    def add(self, total: Slot, a: Value, b: Value) -> None:
        total.set(total.get() | (a & b) if self.dtype == "bool" else total.get() + a * b)

    def block(self, row: Value, column: Value, rows: int, lanes: int) -> None:
        """The elements of C in `rows` rows from `row`, `lanes` columns from `column`."""
        e = self.e
        totals = [e.slot(self.sum, e.constant(0, self.sum, lanes), lanes) for _ in range(rows)]
        lines = [e.offset(self.a.get(), (row + r) * self.a_row) for r in range(rows)]
        top = e.offset(self.b.get(), column * self.b_column)
        with e.loop(self.k) as inner:
            right = self.load(e.offset(top, inner * self.b_row), lanes)
            for total, line in zip(totals, lines, strict=True):
                left = self.load(e.offset(line, inner * self.a_column))
                self.add(total, left if lanes == 1 else e.splat(left, lanes), right)
        for r, total in enumerate(totals):
            there = e.offset(e.offset(self.c.get(), (row + r) * self.c_row), column * self.c_column)
            e.store(there, total.get().to(self.dtype))

    def columns(self, column: Value, lanes: int) -> None:
        """All rows of C, `lanes` columns from `column`."""
        with self.e.vector_loop(self.m, ROWS) as row:
            self.block(row, column, ROWS, lanes)
        with self.e.left_over(self.m, ROWS) as row:
            self.block(row, column, 1, lanes)


def _gemm_ir(dtype: str, name: str) -> str:
    e = Emitter()
    product = _Product(e, dtype)
    with e.when(product.m.equals(0)):
        e.give_back(0)
    lanes = 64 // ITEMSIZE[product.sum]
    contiguous, batch = e.load_at("%params", 9).equals(1), e.load_at("%params", 10)
    with layout.rows(e, batch, 11, [product.c, product.a, product.b]):
        with e.when(contiguous):
            with e.vector_loop(product.n, lanes) as column:
                product.columns(column, lanes)
            with e.left_over(product.n, lanes) as column:
                product.columns(column, 1)
        with e.when(~contiguous), e.loop(product.n) as column:
            product.columns(column, 1)
    e.finish()
    return e.module(name)
