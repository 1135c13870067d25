'''Generated CPU kernels: scalar expressions, reductions, movement, random numbers and products as native code.

Every function below returns the address (an int, valid for the life of the process) of a body

    int32_t body(char **data, const int64_t *params, const uint64_t *scalars, int64_t *error)

`data[i]` points to element 0 of operand i's view, outputs first, then inputs. `params` is the bytes object that the
`..._params` function of the family builds; it depends on shapes and strides only, so it can be kept per signature.
`scalars` has one 64-bit slot per value given at each call, with its bits in the low bytes. A body returns 0, or a
positive code with details in `error[0..3]`; it takes no lock, allocates nothing and never calls Python.

Dtypes are NumPy dtypes or their names: bool, int8..int64, uint8..uint64, float16, float32, float64. Strides are in bytes.
`Unsupported` is raised when there is no kernel, when it is asked for, never when it runs: fall back then.
The bits of a result depend on the values, shapes, strides and dtypes of the operands only.

elementwise.py
    elementwise(op, input_dtypes, compute_dtype, output_dtype, scalar_mask=()) -> address
        op: a key of SCALAR_OPS, or "where" (condition, yes, no), or "cast". scalar_mask[i]: input i is a per-call scalar
        (next slot, bits of input_dtypes[i]) and has no entry in `data`. data: output, array inputs.
        Code 2 (NEGATIVE_POWER): integer power with a negative exponent, error[0] = the exponent.
    elementwise_kernel(tree, output_dtype=None) -> address          of a whole expression.py tree
    elementwise_params(shape, strides, itemsizes) -> bytes
        shape: of the output; strides, itemsizes: one entry per operand, output first, strides 0 where broadcast. An
        input may be exactly the output; any other overlap of an input with the output is forbidden.

    >>> from dagrun.codegen.elementwise import elementwise, elementwise_params
    >>> address = elementwise("add", ["float32", "float32"], "float32", "float32", [False, True])
    >>> params = elementwise_params((4, 3), [(12, 4), (4, 16)], [4, 4])
'''
