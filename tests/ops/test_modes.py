"""Promise 1 for every user function: the asynchronous engine gives the bits of the serial one."""

from __future__ import annotations

import inspect

import numpy as np
from ops.arrays import placed, sample

import dagrun as dr
from dagrun.core import configure

ONE = (sample("float32", (24, 36), special=False),)
TWO = (*ONE, sample("float32", (24, 36), 1, special=False))
WHOLE = (sample("int32", (24, 36)), np.abs(sample("int32", (24, 36), 1)) % 7)
SQUARE = (sample("float64", (96, 96)), sample("float64", (96, 96), 1))
ARGUMENTS = {
    **dict.fromkeys(["bitwise_not", "bitwise_count"], WHOLE[:1]),
    **dict.fromkeys(["gcd", "lcm"], WHOLE),
    "ldexp": (ONE[0], WHOLE[1]),
    **dict.fromkeys(["hsplit", "vsplit"], (ONE[0], 2)),
    "dsplit": (ONE[0].reshape(24, 6, 6), 2),
    **dict.fromkeys(["column_stack", "dstack"], (list(TWO),)),
    **dict.fromkeys(["diag_indices", "identity", "tri", "tril_indices", "triu_indices"], (7,)),
    **dict.fromkeys(["partition", "argpartition", "delete", "rollaxis"], (ONE[0], 1)),
    **dict.fromkeys(["isin", "intersect1d", "union1d", "setdiff1d", "setxor1d"], WHOLE),
    "append": (ONE[0], 3.0),
    "insert": (ONE[0], 2, 1.0),
    "resize": (ONE[0], (5, 7)),
    "lexsort": (TWO,),
    "indices": ((3, 4),),
    "ix_": ([0, 1], [2]),
    "unravel_index": (WHOLE[1], (3, 4)),
    **dict.fromkeys(["vander", "bincount"], (WHOLE[1][0],)),
    "digitize": (ONE[0], [-1.0, 0.0, 1.0]),
    **dict.fromkeys(["convolve", "correlate"], (ONE[0][0], TWO[1][0])),
    "interp": (ONE[0], [-1.0, 0.0, 2.0], [3.0, 5.0, 4.0]),
    "select": ([ONE[0] > 0], [ONE[0]]),
    "compress": (ONE[0][0] > 0, ONE[0], 1),
    "extract": (ONE[0] > 0, ONE[0]),
    **dict.fromkeys(
        [
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
            "bitwise_left_shift",
            "bitwise_right_shift",
            "left_shift",
            "right_shift",
        ],
        WHOLE,
    ),
    **dict.fromkeys(["bitwise_invert", "invert"], WHOLE[:1]),
    **dict.fromkeys(["dot", "inner", "matmul", "tensordot", "vdot", "vecdot"], SQUARE),
    **dict.fromkeys(["arange", "eye", "ones", "zeros"], (7,)),
    **dict.fromkeys(["full", "geomspace", "linspace", "logspace"], (2, 3)),
    **dict.fromkeys(["concat", "concatenate", "hstack", "vstack", "stack"], (list(TWO),)),
    **dict.fromkeys(["split", "array_split"], (ONE[0], 2)),
    **dict.fromkeys(["repeat", "roll", "tile"], (ONE[0], 3)),
    "broadcast_to": (ONE[0], (2, 24, 36)),
    "expand_dims": (ONE[0], 1),
    "full_like": (ONE[0], 3),
    **dict.fromkeys(["cumulative_prod", "cumulative_sum"], (ONE[0], 1)),
    "quantile": (ONE[0], 0.3),
    "cross": (ONE[0][:, :3], TWO[1][:, :3]),
    "kron": (ONE[0][:2], TWO[1][0]),
    "percentile": (ONE[0], 30),
    "moveaxis": (ONE[0], 0, 1),
    "swapaxes": (ONE[0], 0, 1),
    "permute_dims": (ONE[0], (1, 0)),
    "reshape": (ONE[0], (36, 24)),
    "searchsorted": (np.sort(ONE[0][0]), ONE[0]),
    "take": (ONE[0], [3, 1, 2], 1),
    "take_along_axis": (ONE[0], np.argsort(ONE[0])),
    "where": (ONE[0] > 0, *TWO),
    "astype": (ONE[0], "float16"),
    "to_device": (ONE[0], "cpu:1"),
    "clip": (ONE[0], -1, 1),
    "index_add": (ONE[0], [3, 1, 3], TWO[1][:3]),
    "topk": (ONE[0], 5),
    "einsum": ("ij,jk->ki", *SQUARE),
    "pad": (ONE[0], (2, 3)),
    "diff": (ONE[0],),
    "outer": (SQUARE[0][0], SQUARE[1][0]),
}
NOT_OPERATIONS = {
    "can_cast", "custom_op", "e", "empty", "empty_like", "finfo", "from_dlpack", "iinfo", "inf", "isdtype", "linalg",
    "nan", "newaxis", "pi", "put_along_axis", "random", "result_type",
    "__array_namespace_info__", "array_equiv", "broadcast_shapes", "dtype", "euler_gamma", "fill_diagonal",
    "issubdtype",
    "ndim", "promote_types", "shape", "size",
}  # fmt: skip


def everything(device: str) -> dict[str, list[bytes]]:
    """The bytes of what every user function gives; two of each, so that operations stand in each other's way."""
    results: dict[str, list[dr.Array]] = {}
    for name in dr.ops.__all__:
        function = getattr(dr, name)
        if name in NOT_OPERATIONS or isinstance(function, type):
            continue
        given = ARGUMENTS.get(name)
        if given is None:
            kinds = [p.kind for p in inspect.signature(function).parameters.values()]
            given = TWO if kinds.count(inspect.Parameter.POSITIONAL_ONLY) >= 2 else ONE
        made = function(*[on(part, device) for part in given])
        parts = made if isinstance(made, list | tuple) else [made]
        results[name] = [part if isinstance(part, dr.Array) else dr.asarray(part) for part in parts]
        results[name + " twice"] = [part.astype("float32") * 2 for part in results[name]]
    return {name: [part.numpy().tobytes() for part in parts] for name, parts in results.items()}


def on(value: object, device: str) -> object:
    if isinstance(value, list) and isinstance(value[0], np.ndarray):
        return [placed(part, device) for part in value]
    return placed(value, device) if isinstance(value, np.ndarray) else value


def test_every_function_gives_the_bits_of_the_serial_engine(device: str) -> None:
    before = configure(shuffle_seed=7, inline_bytes=0)
    try:
        asynchronous = everything(device)
        with dr.engine("serial"):
            serial = everything(device)
    finally:
        configure(**before)
    assert list(serial) == list(asynchronous) and len(serial) > 300
    assert [name for name in serial if serial[name] != asynchronous[name]] == []
