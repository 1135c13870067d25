"""Elementwise kernels: one scalar expression over any number of strided operands.

Operands (`data`): the output, then the array inputs in order. Scalars: one slot per scalar input, in order.
Params, int64 words, K = number of operands:

    0 n          length of the inner dimension; 0 = nothing to do
    1 outer      number of outer dimensions
    2 ..         inner stride of each operand (K words)
    2 + K ..     per outer dimension, innermost first: size, then the stride of each operand (1 + K words)

There is one compute loop, over contiguous memory: vectors, then the elements left over, from one lowering. An operand
whose inner stride is not its itemsize is gathered into (the output: scattered from) a small local block first; a
broadcast one is filled once per row. So the bits do not depend on the layout. An input may be exactly the output (same
address and strides); any other overlap of an input with the output is the caller's to avoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagrun.codegen import layout, scalars
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name, host
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.expression import (
    Call,
    Cast,
    Constant,
    Expression,
    Input,
    Scalar,
    Select,
    call,
    cast,
    linear_form,
    numbered,
    topological,
)  # fmt: skip
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import DTYPES, ITEMSIZE, Slot, Value

BLOCK = 256  # elements of an operand staged at a time when it is not contiguous
_LINE = 64  # bytes of a cache line
_SHORT = 16  # an inner dimension below this is exchanged with a much longer one


def elementwise(
    op: str,
    input_dtypes: Sequence[object],
    compute_dtype: object,
    output_dtype: object,
    scalar_mask: Sequence[bool] = (),
) -> int:
    """Address of the kernel of one named operation.

    `op` is a key of `SCALAR_OPS`, or "where" (condition, yes, no) or "cast". Each input is converted to `compute_dtype`
    (the condition of "where" to bool), the result to `output_dtype`. Dtypes are names or NumPy dtypes. `scalar_mask[i]`
    says that input i is the per-call scalar of the next slot, with the bits of `input_dtypes[i]`. Raises Unsupported.

        >>> elementwise("add", ["float32", "int8"], "float32", "float32", [False, True]) != 0
        True
    """
    tree = expression_of(op, input_dtypes, compute_dtype, output_dtype, scalar_mask)
    return elementwise_kernel(tree, output_dtype)


def expression_of(
    op: str,
    input_dtypes: Sequence[object],
    compute_dtype: object,
    output_dtype: object,
    scalar_mask: Sequence[bool] = (),
) -> Expression:
    """The tree that `elementwise` compiles; the numbering of inputs and scalars is that of operands and slots."""
    leaves: list[Expression] = []
    mask = tuple(scalar_mask) or (False,) * len(input_dtypes)
    for dtype, is_scalar in zip(input_dtypes, mask, strict=True):
        kind = Scalar if is_scalar else Input
        leaves.append(kind(sum(isinstance(leaf, kind) for leaf in leaves), str(dtype)))
    compute, output = str(compute_dtype), str(output_dtype)
    check_dtypes(*input_dtypes, compute, output)
    if op == "where":
        condition, yes, no = leaves
        return cast(Select(cast(condition, "bool"), cast(yes, compute), cast(no, compute)), output)
    arguments = [cast(leaf, compute) for leaf in leaves]
    if op == "cast":
        (argument,) = arguments
        return cast(argument, output)
    return cast(call(op, *arguments), output)


def elementwise_kernel(tree: Expression, output_dtype: object = None) -> int:
    """Address of the kernel of a whole tree; its inputs must be numbered 0..k-1 and its scalars 0..s-1."""
    if output_dtype is not None:
        tree = cast(tree, str(output_dtype))
    if isinstance(tree, Input) and tree.dtype != "bool":
        tree = Input(tree.index, f"uint{8 * ITEMSIZE[tree.dtype]}")  # a copy moves bits, whatever they mean
    if target() == "cuda":
        return cuda_kernel("elementwise", tree)
    form = linear_form(tree)
    if any("float16" in row for row in form) and not host().has_f16c:
        raise Unsupported("float16 kernels need a CPU with half-precision conversion (F16C)")
    key = "elementwise; " + "; ".join(form)
    return compile_kernel(key, lambda: elementwise_ir(tree, entry_name(key)))


def elementwise_params(shape: Sequence[int], strides: Sequence[Sequence[int]], itemsizes: Sequence[int]) -> bytes:
    """The params block for operands (output first) of one broadcast shape; strides in bytes, 0 where broadcast."""
    if 0 in shape:
        return layout.pack((0, 0, *itemsizes))
    dims = layout.dimensions(shape, strides)
    dims.sort(key=lambda dim: abs(dim[1][0]))
    dims = layout.merged(dims)
    if target() == "cuda":
        pass  # neighbouring threads take neighbouring elements, in rows of any length
    elif len(dims) > 1 and dims[0][0] < _SHORT:
        longest = max(range(len(dims)), key=lambda i: dims[i][0])
        if dims[longest][0] >= 8 * dims[0][0]:
            dims.insert(0, dims.pop(longest))
    elif len(dims) > 1:
        dims = _tiled(dims)
    if not dims:
        return layout.pack((1, 0, *itemsizes))
    (n, inner), *outer = dims
    return layout.pack((n, len(outer), *inner, *layout.outer_words(outer)))


def _tiled(dims: list[layout.Dimension]) -> list[layout.Dimension]:
    """The dimensions, the inner one cut short where an operand walked across its cache lines would evict them all.

    That happens when the lines of a row fall into few cache sets (strides near a power of two) or are too many.
    """
    (n, inner), *outer = dims
    for position, (size, strides) in enumerate(outer):
        for here, there in zip(inner, strides, strict=True):
            across = there != 0 and abs(there) < _LINE <= abs(here)
            if across and n >= 64 and (here % 1024 == 0 or n * _LINE > 1 << 18):
                short, tall = _divisor(n, 8), _divisor(size, 64)
                if short > 3 < tall:
                    del outer[position]
                    around = [(n // short, tuple(short * step for step in inner)),
                              (size // tall, tuple(tall * step for step in strides))]  # fmt: skip
                    return [(short, inner), (tall, strides), *(dim for dim in around if dim[0] > 1), *outer]
    return dims


def _divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is not above `most`."""
    return max(d for d in range(1, most + 1) if size % d == 0)


def elementwise_ir(tree: Expression, name: str) -> str:
    """The IR text of the kernel."""
    e = Emitter()
    inputs = sorted({node.index: node.dtype for node in topological(tree) if isinstance(node, Input)}.items())
    if [index for index, _ in inputs] != list(range(len(inputs))):
        raise ValueError(f"inputs must be numbered 0..k-1 without gaps, got {[index for index, _ in inputs]}")
    dtypes = [tree.dtype, *(dtype for _, dtype in inputs)]
    scalar_values = _load_scalars(e, tree)
    n, outer = e.load_at("%params", 0), e.load_at("%params", 1)
    with e.when(n <= 0):
        e.give_back(0)
    strides = [e.load_at("%params", 2 + k) for k in range(len(dtypes))]
    pointers = [e.slot("pointer", e.load_at("%data", k, "pointer")) for k in range(len(dtypes))]
    with layout.rows(e, outer, 2 + len(dtypes), pointers):
        _row(e, tree, n, dtypes, strides, pointers, scalar_values)
    e.finish()
    return e.module(name)


def _load_scalars(e: Emitter, tree: Expression) -> dict[int, Value]:
    found = {node.index: node.dtype for node in topological(tree) if isinstance(node, Scalar)}
    slots = e.argument("%scalars", "pointer")
    return {index: e.load(e.offset(slots, 8 * index), dtype) for index, dtype in found.items()}


def _row(
    e: Emitter, tree: Expression, n: Value, dtypes: list[str], strides: list[Value], pointers: list[Slot],
    scalar_values: dict[int, Value],
) -> None:  # fmt: skip
    """One run of the inner dimension: in one piece when every operand is contiguous, else block by block."""
    trial = Trial.of(tree)
    contiguous = [stride.equals(ITEMSIZE[dtype]) for stride, dtype in zip(strides, dtypes, strict=True)]
    if trial.hard:  # the second pass reads the inputs again: the first must not overwrite one that is the output
        contiguous[0] = e.constant(False, "bool")
    whole = contiguous[0]
    for flag in contiguous[1:]:
        whole = whole & flag
    staged = [e.buffer(BLOCK * ITEMSIZE[dtype]) for dtype in dtypes]
    blocks = e.select(whole, 1, (n + (BLOCK - 1)) >> e.constant(BLOCK.bit_length() - 1, "int64"))
    with e.loop(blocks) as block:
        start = block * BLOCK
        rest = n - start
        length = e.select(whole | (rest < BLOCK), rest, BLOCK)
        places = []
        for k, (stride, dtype) in enumerate(zip(strides, dtypes, strict=True)):
            source = e.offset(pointers[k].get(), start * stride)
            places.append(e.select(contiguous[k], source, staged[k]))
            if k > 0:
                with e.when(~contiguous[k] & (block.equals(0) | stride.differs(0))):
                    move_strided(e, staged[k], e.constant(ITEMSIZE[dtype], "int64"), source, stride, length, dtype)
        _run(e, tree, trial, length, dtypes, places, scalar_values)
        with e.when(~contiguous[0]):
            target = e.offset(pointers[0].get(), start * strides[0])
            move_strided(e, target, strides[0], staged[0], e.constant(ITEMSIZE[dtypes[0]], "int64"), length, dtypes[0])


def _run(
    e: Emitter, tree: Expression, trial: Trial, n: Value, dtypes: list[str], places: list[Value],
    scalar_values: dict[int, Value],
) -> None:  # fmt: skip
    """The compute loops over `n` contiguous elements: whole vectors, then the rest one by one."""

    def element(i: Value, lanes: int = 1) -> None:
        loaded = [e.load(e.element(p, i, dtype), dtype, lanes) for p, dtype in zip(places, dtypes, strict=True)]
        e.store(e.element(places[0], i, dtypes[0]), lower(e, tree, loaded[1:], scalar_values, lanes))

    lanes = trial.lanes
    if lanes > 1:
        hard = e.slot("bool", False)
        e.hard_cases = []
        with e.vector_loop(n, lanes) as i:
            element(i, lanes)
            for case in e.hard_cases:
                hard.set(hard.get() | e.any_lane(case))
        e.hard_cases = None
        if trial.hard:
            with e.when(hard.get()), e.loop(n & -lanes) as i:
                element(i)
    with e.left_over(n, lanes) if lanes > 1 else e.loop(n) as i:
        element(i)


@dataclass(frozen=True, slots=True)
class Trial:
    """What lowering trees once, for nothing, tells about them."""

    lanes: int  # elements computed at a time
    hard: bool  # some operation needs a slow path for some values (see `Emitter.fallback`)

    @staticmethod
    def of(*trees: Expression) -> Trial:
        e = Emitter()
        e.hard_cases = []
        leaves = [node for node in topological(*trees) if isinstance(node, Input | Scalar)]
        inputs = {leaf.index: e.argument("%x", leaf.dtype) for leaf in leaves if isinstance(leaf, Input)}
        values = {leaf.index: e.argument("%s", leaf.dtype) for leaf in leaves if isinstance(leaf, Scalar)}
        lower_all(e, trees, inputs, values)
        if e.scalar_only:
            return Trial(1, bool(e.hard_cases))
        widest = max([e.widest, *(ITEMSIZE[node.dtype] for node in (*trees, *leaves))])
        # Short trees gain from several vectors at a time; long ones would run out of registers.
        return Trial((128 if e.instructions <= 16 else 64) // widest, bool(e.hard_cases))


def move_strided(
    e: Emitter, target: Value, target_stride: Value, source: Value, source_stride: Value, n: Value, dtype: str
) -> None:
    """Copy `n` items between two places that do not overlap; a function of its own, shared by all operands."""
    size = ITEMSIZE[dtype]
    name = f"move{size}"
    item = f"i{8 * size}"
    e.define(
        f"define internal void @{name}(ptr noalias %to, i64 %to_stride, ptr noalias readonly %from, i64 %from_stride, "
        "i64 %n) noinline nounwind {\n"
        "  br label %loop\n"
        "loop:\n"
        "  %i = phi i64 [ 0, %0 ], [ %next, %loop ]\n"
        "  %p = phi ptr [ %from, %0 ], [ %p1, %loop ]\n"
        "  %q = phi ptr [ %to, %0 ], [ %q1, %loop ]\n"
        f"  %x = load {item}, ptr %p, align {size}\n"
        f"  store {item} %x, ptr %q, align {size}\n"
        "  %p1 = getelementptr i8, ptr %p, i64 %from_stride\n"
        "  %q1 = getelementptr i8, ptr %q, i64 %to_stride\n"
        "  %next = add nuw nsw i64 %i, 1\n"
        "  %over = icmp eq i64 %next, %n\n"
        "  br i1 %over, label %done, label %loop\n"
        "done:\n"
        "  ret void\n"
        "}"
    )
    e.statement(
        f"call void @{name}(ptr {target.name}, i64 {target_stride.name}, ptr {source.name}, "
        f"i64 {source_stride.name}, i64 {n.name})"
    )


def lower(
    e: Emitter, tree: Expression, inputs: Sequence[Value], scalar_values: dict[int, Value], lanes: int = 1
) -> Value:
    """Emit the tree for `lanes` elements whose inputs are loaded; equal nodes are computed once."""
    return lower_all(e, (tree,), dict(enumerate(inputs)), scalar_values, lanes)[0]


def lower_all(
    e: Emitter, trees: Sequence[Expression], inputs: dict[int, Value], scalar_values: dict[int, Value], lanes: int = 1
) -> list[Value]:
    """Emit several trees; what they share is computed once."""
    values: list[Value] = []
    rows, results = numbered(*trees)
    for _, node, operands in rows:
        args = [values[number] for number in operands]
        match node:
            case Input(index=index):
                value = inputs[index]
            case Scalar(index=index):
                value = scalar_values[index] if lanes == 1 else e.splat(scalar_values[index], lanes)
            case Constant():
                value = e.constant(node.value, node.dtype, lanes)
            case Call():
                value = scalars.apply(node.name, args)
                if value.dtype != node.dtype:
                    raise TypeError(f"{node.name} gives {value.dtype}, not {node.dtype}")
            case Cast():
                value = args[0].to(node.dtype)
            case Select():
                value = e.select(*args)
        values.append(value)
    return [values[number] for number in results]


def check_dtypes(*names: object) -> None:
    """Raise Unsupported for a dtype no kernel handles."""
    for name in names:
        if str(name) not in DTYPES:
            raise Unsupported(f"no kernels for dtype {name}; supported: {', '.join(DTYPES)}")
