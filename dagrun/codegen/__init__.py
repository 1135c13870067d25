"""Generated CPU kernels: scalar expressions, reductions, movement, random numbers and products as native code.

Every function below that returns an address (an int, valid for the life of the process) returns that of a body

    int32_t body(char **data, const int64_t *params, const uint64_t *scalars, int64_t *error)

`data[i]` points to element 0 of operand i's view, outputs first, then inputs. `params` is the bytes object that the
`..._params` function of the family builds; it depends on shapes and strides only, so it can be kept per signature, and
works for any sub-view. `scalars` has one 64-bit slot per value given at each call, its bits in the low bytes. A body
returns 0, or a positive code with details in `error[0..3]`; it takes no lock, allocates nothing and never calls Python.

Dtypes are NumPy dtypes or their names: bool, int8..int64, uint8..uint64, float16, float32, float64. Strides are in
bytes and may be negative or 0 (broadcast inputs). `Unsupported` is raised where there is no kernel, when it is asked
for, never when it runs: fall back then. The bits of a result depend on the values, shapes, strides and dtypes of the
operands only. Keep the addresses: a look-up costs 10 to 20 us.

compiler.py     Unsupported; compile_kernel(key, build) -> address; assembly(ir_text)
    Objects are kept in $DAGRUN_CACHE_DIR/kernels or ~/.cache/dagrun/kernels.

elementwise.py
    elementwise(op, input_dtypes, compute_dtype, output_dtype, scalar_mask=()) -> address
        op: a key of scalars.SCALAR_OPS, or "where" (condition, yes, no), or "cast". Inputs are converted to
        compute_dtype, the result (bool for a predicate) to output_dtype. scalar_mask[i]: input i is a per-call scalar
        (next slot, bits of input_dtypes[i]) and has no entry in `data`. data: output, array inputs. A fill is "cast"
        with one scalar input. Code 2 (scalars.NEGATIVE_POWER): integer to a negative power, error[0] = the exponent.
    elementwise_kernel(tree, output_dtype=None) -> address            of a whole tree of expression.py
    elementwise_params(shape, strides, itemsizes) -> bytes
        shape: of the output; strides, itemsizes: one entry per operand, output first, strides 0 where broadcast. An
        input may be exactly the output; any other overlap of an input with the output is forbidden.

expression.py   Input(index, dtype), Scalar(index, dtype), Constant(value, dtype), Call(name, args, dtype),
                Cast(dtype, x), Select(condition, yes, no); call(name, *args), cast(x, dtype) fill in dtypes;
                elementwise.expression_of(op, input_dtypes, compute_dtype, output_dtype, scalar_mask) -> tree

symbols.py      Symbol(node), Symbols: expressions written with Python operators and NumPy's functions

updates.py
    update_kernel(trees, dtypes, shared, scalars) -> address          several outputs; many sets of arrays in one call
    update_params(sizes) -> bytes
        trees: a new value for each of the first operands of a set, in its dtype. Operands are contiguous. data: shared
        operands (one element each, Scalar(scalars + i) in the trees), then set by set its operands.

reduction.py
    reduction_kernel(op, in_dtype, compute_dtype, out_dtype) -> address
        op: sum mean sum_of_squares prod max min any all count_nonzero argmax argmin. compute_dtype is not float16 or
        bool: float32 for float16 input; uint8 for any and all, and for max, min, argmax, argmin of bool; a float for
        mean; out_dtype int64 for argmax and argmin. data: output, input. Refuse empty max, min, argmax, argmin before.
    reduction_params(shape, strides, axes, in_itemsize, out_itemsize, keep_order=False) -> bytes
        of the input; axes: non-negative ints; the output is C-contiguous over the kept axes (keepdims is the same
        memory). keep_order=True for argmax and argmin (positions are in C order of the reduced axes).

transposition.py    on GPUs: copies whose operands are contiguous along different dimensions

cumulative.py
    cumulative_kernel(op, in_dtype, out_dtype) -> address             op: cumsum cumprod cummax cummin
    cumulative_params(shape, out_strides, in_strides, axis, out_itemsize, in_itemsize) -> bytes

movement.py     code 1 (OUT_OF_RANGE): error = index, length of its axis, position, name of the axis; nothing written
    take_kernel(dtype, *index_dtypes) -> address        data: dense (output), indexed, index arrays
    put_kernel(dtype, *index_dtypes) -> address         data: indexed (output), dense, index arrays; last write wins
    add_kernel(dtype, *index_dtypes) -> address         data: indexed (output), dense, index arrays; in order
    sorted_kernels(which, dtype, *index_dtypes), ordering_kernel(which): on GPUs, of a put or add that sorts first
    indexed_params(shape, dense_strides, indexed_strides, index_axes, indices, first=0) -> bytes
        shape: of the dense operand, which has an element for each position of the index arrays; indices: Index(...).

philox.py
    philox_kernel(kind, dtype) -> address               kind: uint32 uint64 uniform normal bounded
        scalars: key, stream, and for bounded: low, extent (0 = 2^64). data: output, contiguous.
    philox_params(count, first=0) -> bytes              elements first.. of the stream; first a multiple of 4

gemm.py
    find_blas() -> Blas | None
    gemm_kernel(dtype) -> address | None                float32 or float64; data: C, A, B
    gemm_params(shape, k, c_strides, a_strides, b_strides, itemsize) -> bytes | None
        shape: of C, (..., m, n); strides of A and B with C's batch dimensions. None: copy the operands first.

plain_gemm.py
    plain_gemm_kernel(dtype) -> address                 bool, integers, float16; data: C, A, B
    plain_gemm_params(shape, k, c_strides, a_strides, b_strides, itemsize) -> bytes            any strides

target.py
    with lowering_for("cuda"): the functions above give addresses of CUDA kernels (see cuda/__init__.py) instead: keys
    into the table of cuda/registry.py. Params are the same but for pooling's, which are made under the target too.

    >>> from dagrun.codegen.elementwise import elementwise, elementwise_params
    >>> address = elementwise("add", ["float32", "float32"], "float32", "float32", [False, True])
    >>> params = elementwise_params((4, 3), [(12, 4), (4, 16)], [4, 4])
"""
