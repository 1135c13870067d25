"""Every differentiable function of dagrun with operands to try it on, and which functions have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import dagrun as dr
from dagrun.ops.scattering import add_along_axis, scatter_add


@dataclass(frozen=True)
class Case:
    """A function of arrays, and its operands' shapes and the interval that their elements come from."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    interval: tuple[float, float] = (-2.0, 2.0)
    any_shape: bool = field(default=False, kw_only=True)  # also without axes, and without elements

    def operands(self, dtype: str = "f8") -> list[np.ndarray]:
        """Elements at least 0.02 apart from each other: ties and kinks lie between them."""
        low, high = self.interval
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        rng = np.random.default_rng(sum(sizes))
        values = rng.permutation(np.linspace(low + 0.007, high, sum(sizes) + 2)[1:-1])
        parts = np.split(values, np.cumsum(sizes)[:-1])
        return [part.reshape(shape).astype(dtype) for part, shape in zip(parts, self.shapes, strict=True)]


def _unary(*names: str, interval: tuple[float, float] = (-2.0, 2.0)) -> list[Case]:
    return [Case(name, getattr(dr, name), interval=interval, any_shape=True) for name in names]


def _binary(*names: str, interval: tuple[float, float] = (-2.0, 2.0)) -> list[Case]:
    cases = []
    for name in names:
        function = getattr(dr, name)
        cases += [
            Case(name, function, ((3, 4), (3, 4)), interval, any_shape=True),
            Case(name, function, ((3, 1), (2, 1, 4)), interval),
            Case(name, lambda x, f=function: f(x, 1.3), ((3, 4),), interval, any_shape=True),
            Case(name, lambda x, f=function: f(1.3, x), ((3, 4),), interval, any_shape=True),
        ]
    return cases


def _reductions(*names: str, interval: tuple[float, float] = (-2.0, 2.0)) -> list[Case]:
    cases = []
    for name in names:
        function = getattr(dr, name)
        cases += [
            Case(name, function, interval=interval),
            Case(name, lambda x, f=function: f(x, axis=1), ((3, 4, 2),), interval),
            Case(name, lambda x, f=function: f(x, axis=(0, -1), keepdims=True), ((3, 4, 2),), interval),
            Case(name, lambda x, f=function: f(x, axis=()), ((3, 2),), interval) if name in ("sum", "prod") else None,
            Case(name, function, ((),), interval) if name not in ("std",) else None,
        ]
    return [case for case in cases if case is not None]


def _assigned(key: Any) -> Callable[..., Any]:
    def function(x: Any, value: Any) -> Any:
        y = x * 1.5
        y[key] = value * value
        return y * x

    return function


def _put_along(x: Any, values: Any) -> Any:
    y = x * 1.5
    dr.put_along_axis(y, ALONG, values * values, 1)
    return y * x


def regular(x: Any) -> Any:
    """Matrices far from singular."""
    return x + 5 * dr.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def symmetric(x: Any) -> Any:
    """Positive definite matrices, none of whose eigenvalues are equal."""
    return x @ x.mT + dr.diag(dr.arange(1.0, x.shape[-1] + 1, device=x.device).astype(x.dtype))


INDEX = [2, 0, 2, -1]
ALONG = np.random.default_rng(3).integers(0, 4, (3, 5))
MASK = np.random.default_rng(4).random((3, 4)) > 0.5

_ABOVE_ONE, _WITHIN_ONE, _POSITIVE = (1.1, 3.0), (-0.9, 0.9), (0.2, 3.0)

CASES: list[Case] = [
    *_unary(
        "negative", "positive", "absolute", "abs", "square", "exp", "exp2", "expm1", "sin", "cos", "arctan", "atan",
        "sinh", "cosh",
        "tanh", "arcsinh", "asinh", "deg2rad", "rad2deg", "sigmoid", "relu", "softplus", "silu", "gelu", "gelu_tanh",
        "ndtr", "erf", "sign", "floor", "ceil", "trunc", "rint", "round", "copy",
    ),
    *_unary("conj", "conjugate", "degrees", "radians", "fix", "around", "cbrt", "fabs", "sinc", "real", "spacing",
        "nansum", "nanprod", "nanmean", "nan_to_num"),
    Case("modf", lambda x: dr.modf(x)[0] ** 2), Case("nanmax", dr.nanmax), Case("nanmin", dr.nanmin),
    Case("nancumsum", dr.nancumsum), Case("nancumprod", dr.nancumprod),
    Case("nanvar", lambda x: dr.nanvar(x, 1)), Case("nanstd", lambda x: dr.nanstd(x, ddof=1)),
    Case("nanmedian", lambda x: dr.nanmedian(x, 0)), Case("nanmedian", lambda x: dr.nanmedian(x, 1, keepdims=True)),
    Case("amax", dr.amax), Case("amin", dr.amin),
    *_unary("sqrt", "reciprocal", "log", "log2", "log10", "log1p", interval=_POSITIVE),
    *_unary("tan", "arcsin", "asin", "arccos", "acos", "arctanh", "atanh", interval=_WITHIN_ONE),
    *_unary("arccosh", "acosh", interval=_ABOVE_ONE),
    *_binary(
        "add", "subtract", "multiply", "maximum", "minimum", "fmax", "fmin", "arctan2", "atan2", "hypot", "logaddexp",
        "copysign", "heaviside", "logaddexp2",
    ),
    *_binary("divide", "floor_divide", "true_divide", "remainder", "mod", "fmod", "power", "pow", "float_power",
             interval=_POSITIVE),
    Case("divmod", lambda x, y: dr.add(*dr.divmod(x, y)), ((3, 4), (3, 4)), _POSITIVE),
    Case("power", lambda x: x**3),
    Case("power", lambda x: x**0.5, interval=_POSITIVE),
    Case("power", lambda x: 2.0**x),
    *_reductions("sum", "prod", "mean", "max", "min", "var", "std", "median"),
    Case("var", lambda x: dr.var(x, 0, correction=1)),
    Case("sum_of_squares", lambda x: dr.var(x, 1)),
    *[
        Case(name, lambda x, name=name, axis=axis: getattr(dr, name)(x, axis=axis))
        for name in ("cumsum", "cumulative_sum", "cumprod", "cumulative_prod")
        for axis in (None, 0, 1)
        if axis is not None or name in ("cumsum", "cumprod")
    ],
    Case("cumulative_sum", lambda x: dr.cumulative_sum(x, 1, include_initial=True)),
    Case("cumulative_prod", lambda x: dr.cumulative_prod(x, 0, include_initial=True)),
    Case("var", lambda x: dr.var(x, 1, where=MASK)), Case("std", lambda x: dr.std(x, where=MASK)),
    Case("average", lambda x, w: dr.average(x, 1, w), ((3, 4), (4,)), _POSITIVE),
    Case("ptp", lambda x: dr.ptp(x, 1)), Case("quantile", lambda x: dr.quantile(x, [0.3, 0.9], 1)),
    Case("percentile", lambda x: dr.percentile(x, 40)), Case("cov", dr.cov), Case("corrcoef", dr.corrcoef),
    Case("rot90", dr.rot90), Case("fliplr", dr.fliplr), Case("flipud", dr.flipud),
    Case("rollaxis", lambda x: dr.rollaxis(x, 1)),
    Case("atleast_3d", dr.atleast_3d), Case("column_stack", lambda x, y: dr.column_stack([x, y]), ((3, 4), (3,))),
    Case("dstack", lambda x, y: dr.dstack([x, y]), ((3, 4), (3, 4))), Case("hsplit", lambda x: dr.hsplit(x, 2)[1]),
    Case("vsplit", lambda x: dr.vsplit(x, 3)[1]), Case("dsplit", lambda x: dr.dsplit(x, 2)[0], ((2, 3, 4),)),
    Case("append", lambda x, y: dr.append(x, y, 0), ((3, 4), (1, 4))),
    Case("delete", lambda x: dr.delete(x, [0, 2], 1)),
    Case("insert", lambda x, y: dr.insert(x, [1, 1, 3], y, 1), ((3, 4), (3, 3))),
    Case("resize", lambda x: dr.resize(x, 20)),
    Case("partition", lambda x: dr.partition(x, 2)), Case("diagflat", dr.diagflat, ((2, 2),)),
    Case("vander", lambda x: dr.vander(x, 4), ((3,),), _POSITIVE),
    Case("select", lambda x, y: dr.select([x > 0], [x * y], x), ((3, 4), (3, 4))),
    Case("compress", lambda x: dr.compress(MASK[0], x, 1)), Case("extract", lambda x: dr.extract(MASK, x)),
    Case("ediff1d", dr.ediff1d), Case("trapezoid", lambda y, x: dr.trapezoid(y, x), ((3, 4), (4,))),
    Case("gradient", lambda x: dr.multiply(*dr.gradient(x)), ((3, 4),)),
    Case("gradient", lambda x: dr.gradient(x, [0.0, 1.0, 3.0, 4.0], axis=1, edge_order=2)),
    Case("interp", lambda x, y: dr.interp(x, [-2.0, 0.0, 2.0], y), ((3, 4), (3,))),
    Case("convolve", lambda x, y: dr.convolve(x, y, "same"), ((5,), (3,))),
    Case("correlate", dr.correlate, ((5,), (3,))),
    Case("where", lambda x, y: dr.where(dr.asarray(MASK, device=x.device), x, y), ((3, 4), (4,))),
    Case("where", lambda x: dr.where(x > 0, x * x, 1.0), any_shape=True),
    Case("clip", lambda x: dr.clip(x, -0.7, 0.8), any_shape=True),
    Case("clip", lambda x, low, high: dr.clip(x, low, high + 1), ((3, 4), (4,), (3, 1))),
    Case("clip", lambda x: dr.clip(x, max=0.1)),
    Case("matmul", dr.matmul, ((3, 4), (4, 2))),
    Case("matmul", dr.matmul, ((4,), (4, 2))),
    Case("matmul", dr.matmul, ((3, 4), (4,))),
    Case("matmul", dr.matmul, ((4,), (4,))),
    Case("matmul", dr.matmul, ((2, 1, 3, 4), (3, 4, 2))),
    Case("matmul", lambda x: x @ x.T),
    Case("dot", dr.dot, ((3, 4), (4, 2))),
    Case("inner", dr.inner, ((3, 4), (2, 4))),
    Case("outer", dr.outer, ((3,), (4,))),
    Case("tensordot", lambda x, y: dr.tensordot(x, y, 1), ((2, 3, 4), (4, 2))),
    Case("vecdot", dr.vecdot, ((3, 4), (3, 4))),
    Case("cross", dr.cross, ((2, 3), (2, 3))), Case("kron", dr.kron, ((2, 3), (3, 2))),
    Case("vdot", dr.vdot, ((3,), (3,))),
    Case("inv", lambda x: dr.linalg.inv(regular(x)), ((2, 3, 3),)),
    Case("solve", lambda x, y: dr.linalg.solve(regular(x), y), ((3, 3), (3,))),
    Case("solve", lambda x, y: dr.linalg.solve(regular(x), y), ((2, 3, 3), (3, 2))),
    Case("det", lambda x: dr.linalg.det(regular(x)), ((2, 3, 3),)),
    Case("slogdet", lambda x: dr.linalg.slogdet(regular(x)).logabsdet, ((2, 3, 3),)),
    Case("pinv", dr.linalg.pinv, ((4, 2),)), Case("pinv", dr.linalg.pinv, ((2, 4),)),
    Case("cholesky", lambda x: dr.linalg.cholesky(symmetric(x)), ((2, 3, 3),)),
    Case("cholesky", lambda x: dr.linalg.cholesky(symmetric(x), upper=True), ((3, 3),)),
    Case("qr", lambda x: dr.concat(dr.linalg.qr(x)), ((4, 2),)), Case("qr", lambda x: dr.linalg.qr(x)[1], ((3, 3),)),
    Case("svd", lambda x: dr.multiply(*dr.linalg.svd(x, False)[:2]), ((4, 2),)),
    Case("svd", lambda x: dr.linalg.svdvals(x) * dr.linalg.svd(x, False)[2].T, ((2, 3),)),
    Case("svdvals", dr.linalg.svdvals),
    Case("eigh", lambda x: dr.multiply(*dr.linalg.eigh(symmetric(x))), ((3, 3),)),
    Case("norm", dr.linalg.norm), Case("norm", lambda x: dr.linalg.norm(x, 3, axis=1)),
    Case("norm", lambda x: dr.linalg.norm(x, "nuc")), Case("norm", lambda x: dr.linalg.norm(x, 1)),
    Case("multi_dot", lambda x, y: dr.linalg.multi_dot([x, y, x]), ((2, 3), (3, 2))),
    Case("matrix_power", lambda x: dr.linalg.matrix_power(x, 3), ((2, 2),)),
    Case("einsum", lambda x, y: dr.einsum("ij,jk->ik", x, y), ((3, 4), (4, 2))),
    Case("einsum", lambda x, y, z: dr.einsum("bij,b,jk->bki", x, y, z), ((2, 3, 4), (2,), (4, 2))),
    Case("einsum", lambda x, y: dr.einsum("iji,...j->...i", x, y), ((3, 2, 3), (4, 2))),
    Case("einsum", lambda x, y: dr.einsum("ij,jk->k", x, y), ((2, 1), (3, 4))),
    Case("logsumexp", dr.logsumexp, any_shape=True),
    Case("logsumexp", lambda x: dr.logsumexp(x, (0, -1), keepdims=True), ((3, 4, 2),)),
    Case("pad", lambda x: dr.pad(x * x, ((1, 0), (0, 2)), constant_values=3)),
    Case("pad", lambda x: dr.pad(x, (1, 5), "reflect") ** 2), Case("pad", lambda x: dr.pad(x * x, 2, "edge")),
    Case("put_along_axis", lambda x, v: _put_along(x, v), ((3, 4), (3, 5))),
    Case("reshape", lambda x: x.reshape(2, -1) * 2),
    Case("reshape", lambda x: x.T.reshape(-1)),
    Case("ravel", dr.ravel), Case("flatten", dr.flatten),
    Case("transpose", dr.transpose, ((2, 3, 4),)),
    Case("transpose", lambda x: dr.transpose(x, (1, 2, 0)), ((2, 3, 4),)),
    Case("permute_dims", lambda x: dr.permute_dims(x, (2, 0, -2)), ((2, 3, 4),)),
    Case("matrix_transpose", dr.matrix_transpose), Case("swapaxes", lambda x: dr.swapaxes(x, 0, 1)),
    Case("moveaxis", lambda x: dr.moveaxis(x, 0, -1), ((2, 3, 4),)),
    Case("flip", dr.flip), Case("flip", lambda x: dr.flip(x, 1)),
    Case("expand_dims", lambda x: dr.expand_dims(x, (0, 2)), any_shape=False),
    Case("squeeze", dr.squeeze, ((3, 1, 2),)),
    Case("broadcast_to", lambda x: dr.broadcast_to(x, (2, 3, 4)), ((3, 1),)),
    Case("broadcast_arrays", lambda x, y: dr.multiply(*dr.broadcast_arrays(x, y)), ((3, 1), (4,))),
    Case("diagonal", lambda x: dr.diagonal(x, 1)), Case("diag", dr.diag, ((3,),)), Case("diag", dr.diag),
    Case("trace", dr.trace), Case("tril", dr.tril), Case("triu", lambda x: dr.triu(x, 1)),
    Case("diff", dr.diff), Case("meshgrid", lambda x, y: dr.multiply(*dr.meshgrid(x, y)), ((3,), (2,))),
    Case("atleast_1d", dr.atleast_1d, ((),)), Case("atleast_2d", dr.atleast_2d, ((3,),)),
    Case("concatenate", lambda x, y: dr.concatenate([x, y, x], 1), ((3, 4), (3, 2))),
    Case("concat", lambda x, y: dr.concat([x, y], None), ((3, 4), (2,))),
    Case("stack", lambda x, y: dr.stack([x, y], 1), ((3, 4), (3, 4))),
    Case("vstack", lambda x, y: dr.vstack([x, y]), ((3, 4), (4,))),
    Case("hstack", lambda x, y: dr.hstack([x, y]), ((3, 4), (3, 2))),
    Case("split", lambda x: dr.multiply(*dr.split(x, 2, 1))),
    Case("array_split", lambda x: dr.array_split(x, 3, 1)[1]),
    Case("unstack", lambda x: dr.multiply(*dr.unstack(x)), ((2, 3),)),
    Case("tile", lambda x: dr.tile(x, (2, 3))), Case("repeat", lambda x: dr.repeat(x, 2, 1)),
    Case("repeat", lambda x: dr.repeat(x, [1, 0, 2], 0)), Case("roll", lambda x: dr.roll(x, 1, 1)),
    Case("roll", lambda x: dr.roll(x, 5)),
    Case("astype", lambda x: dr.astype(x, "f8") * 2),
    Case("to_device", lambda x: dr.to_device(x, "cpu:3") * 2),
    Case("index_add", lambda x, v: dr.index_add(x, [2, 0, 2], v), ((3, 4), (3, 4))),
    Case("index_add", lambda x, v: dr.index_add(x, INDEX, v, axis=1), ((3, 4), (3, 1))),
    Case("take", lambda x: dr.take(x, INDEX, axis=1)), Case("take", lambda x: dr.take(x, [[0, 3], [3, 11]])),
    Case("take", lambda x: x[INDEX]), Case("take", lambda x: x[[0, 2], [1, 1]]),
    Case("take", lambda x: x[None, [0, 2], :, None]), Case("take", lambda x: x[MASK]),
    Case("take", lambda x: x[1:, INDEX][::-1]),
    Case("take_along_axis", lambda x: dr.take_along_axis(x, ALONG, 1)),
    Case("take_along_axis", lambda x: dr.take_along_axis(x, ALONG[:1], 1)),
    Case("take_along_axis", lambda x: dr.take_along_axis(x, ALONG, 1), ((1, 4),)),
    Case("scatter_add", lambda x: scatter_add(x, (dr.asarray([2, 0, 2]).to_device(x.device),), (4, 4), (0,), 0)),
    Case("add_along_axis", lambda x: add_along_axis(x, dr.asarray(ALONG).to_device(x.device), (3, 4), 1), ((3, 5),)),
    Case("sort", dr.sort),
    Case("sort", lambda x: dr.sort(x, 0, descending=True)), Case("sort", lambda x: dr.sort(x, None)),
    Case("topk", lambda x: dr.topk(x, 2)[0]), Case("unique", dr.unique), Case("unique_values", dr.unique_values),
    Case("setitem", _assigned(INDEX), ((3, 4), (4, 4))), Case("setitem", _assigned(INDEX), ((3, 4), (4,))),
    Case("setitem", _assigned(([0, 2, 0], [1, 1, 1])), ((3, 4), (3,))),
    Case("setitem", _assigned((slice(1, 3), [0, 0, 1])), ((3, 4), (2, 3))),
    Case("setitem", _assigned(([1, 1, 0], slice(1, 3))), ((3, 4), ())),
    Case("setitem", _assigned(MASK), ((3, 4), (int(MASK.sum()),))), Case("setitem", _assigned(MASK), ((3, 4), ())),
    Case("setitem", _assigned((slice(None), 1)), ((3, 4), (3,))), Case("setitem", _assigned(...), ((3, 4), (4,))),
    Case("all_reduce", lambda x, y: _reduced(x, y), ((3, 4), (3, 4))),
]  # fmt: skip


def _reduced(x: Any, y: Any) -> Any:
    first, second = dr.parallel.all_reduce([x.to_device("cpu:1"), y.to_device("cpu:2")])
    return first * first + dr.sin(second.to_device("cpu:1"))


# Names of dagrun that are no differentiable functions: results are no floats of the operands, or there are none.
WITHOUT = {
    "all", "allclose", "any", "arange", "argmax", "argmin", "argsort", "argwhere", "array_equal", "bitwise_and",
    "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "can_cast",
    "count_nonzero", "empty", "empty_like", "equal", "eye", "finfo", "from_dlpack", "full_like", "greater",
    "greater_equal", "iinfo", "invert", "isclose", "isdtype", "isfinite", "isinf", "isnan", "left_shift", "less",
    "less_equal", "linspace", "logical_and", "logical_not", "logical_or", "logical_xor", "nonzero", "not_equal", "ones",
    "ones_like", "result_type", "right_shift", "searchsorted", "signbit", "zeros", "zeros_like", "custom_op", "array",
    "full", "logspace", "geomspace", "gcd", "lcm", "bitwise_count", "bitwise_not", "imag", "isposinf", "isneginf",
    "identity",
    "tri", "tril_indices", "triu_indices", "diag_indices", "indices", "ix_", "unravel_index", "fill_diagonal",
    "argpartition",
    "lexsort", "unique_all", "unique_counts", "unique_inverse", "isin", "intersect1d", "union1d", "setdiff1d",
    "setxor1d",
    "bincount", "histogram", "digitize", "flatnonzero", "nanargmax", "nanargmin", "ndim", "shape", "size",
    "array_equiv",
    "__array_namespace_info__", "promote_types", "broadcast_shapes", "issubdtype", "nextafter", "ldexp",
}  # fmt: skip

# Modules whose operators are swept with the layers, optimizers and rules that they are made for: tests/nn, tests/optim.
ELSEWHERE = {
    f"dagrun.ops.{name}"
    for name in ("convolution", "dropout", "formulas", "normalization", "pooling", "recurrent", "softmax", "updates")
}

# Operators that need no sweep here.
NOT_SWEPT = {
    "argsort", "searchsorted", "all", "any", "count_nonzero", "argmax", "argmin", "random",
    "random_by_numpy",  # no floats of the operands
    "fill", "cast", "all_reduce.reduce", "all_reduce.gather", "ctc.step",  # scalars; `test_casts`; parts of others
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "signbit", "isnan", "isinf", "isfinite",
    "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "invert",
    "left_shift", "right_shift", "bitwise_count", "gcd", "lcm", "ldexp", "nextafter",
}  # fmt: skip
