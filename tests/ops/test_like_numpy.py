"""Calls written as NumPy users write them, on dagrun and on NumPy: the same values, dtypes, shapes and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ops.arrays import placed

import dagrun as dr

DTYPES = ["bool", "int8", "int64", "uint64", "float16", "float32", "float64"]
Call = Callable[..., Any]  # of a namespace (numpy or dagrun) and two arrays with two axes

CALLS: dict[str, Call] = {
    # keywords by NumPy's names
    "transpose(axes=)": lambda xp, x, y: xp.transpose(x, axes=(1, 0)),
    "swapaxes(axis1=)": lambda xp, x, y: xp.swapaxes(x, axis1=0, axis2=1),
    "moveaxis(source=)": lambda xp, x, y: xp.moveaxis(x, source=0, destination=-1),
    "repeat(repeats=)": lambda xp, x, y: xp.repeat(x, repeats=2, axis=1),
    "tile(reps=)": lambda xp, x, y: xp.tile(x, reps=(2, 1, 2)),
    "roll(shift=)": lambda xp, x, y: xp.roll(x, shift=2, axis=0),
    "split(indices)": lambda xp, x, y: xp.split(x, indices_or_sections=[1, 2], axis=1),
    "take(indices=)": lambda xp, x, y: xp.take(x, indices=[0, 2], axis=1),
    "take_along_axis": lambda xp, x, y: xp.take_along_axis(x, indices=xp.argsort(x, axis=1), axis=1),
    "clip(a_min=)": lambda xp, x, y: xp.clip(x, a_min=0, a_max=1),
    "clip(min=)": lambda xp, x, y: xp.clip(x, min=0),
    "arange": lambda xp, x, y: xp.arange(start=1, stop=7, step=2, dtype=x.dtype),
    "arange(places)": lambda xp, x, y: xp.arange(1, 7, 2, "float32"),
    "linspace": lambda xp, x, y: xp.linspace(start=0, stop=1, num=5, endpoint=False),
    "linspace(arrays)": lambda xp, x, y: xp.linspace(x[0], x[1], 4, axis=1),
    "logspace": lambda xp, x, y: xp.logspace(0, 3, 4, base=2),
    "geomspace": lambda xp, x, y: xp.geomspace(1, 81, num=5),
    "eye": lambda xp, x, y: xp.eye(N=3, M=4, k=1, dtype=x.dtype),
    "full_like(shape=)": lambda xp, x, y: xp.full_like(x, fill_value=1, shape=(2, 2)),
    "zeros_like(shape=)": lambda xp, x, y: xp.zeros_like(x, shape=3),
    "reshape(order)": lambda xp, x, y: [xp.reshape(z, (2, 10), order=o) for z in (x, x.T, y) for o in "CFA"],
    "reshape(shape=)": lambda xp, x, y: xp.reshape(x, shape=(-1, 2), order="F"),
    "ravel(order)": lambda xp, x, y: [xp.ravel(y, order=o) for o in "CFAK"],
    "flatten(order)": lambda xp, x, y: [x.flatten("F"), x.ravel("F"), x.reshape(2, 10, order="F")],
    "reshape(wrong order)": lambda xp, x, y: xp.reshape(x, 20, order="Q"),
    # reductions
    "var(ddof)": lambda xp, x, y: xp.var(x, axis=0, ddof=1, keepdims=True),
    "std(correction)": lambda xp, x, y: xp.std(x, axis=1, correction=1),
    "std(where)": lambda xp, x, y: xp.std(x, where=x > y),
    "var(where, axis)": lambda xp, x, y: xp.var(x, axis=0, where=x >= y, ddof=1),
    "var(mean)": lambda xp, x, y: xp.var(x, axis=1, mean=xp.mean(x, axis=1, keepdims=True)),
    "sum(places)": lambda xp, x, y: xp.sum(x, 0, "float64", None, True),
    "max(places)": lambda xp, x, y: xp.max(x, 1, None, True),
    "cumulative_sum": lambda xp, x, y: xp.cumulative_sum(x, axis=1, include_initial=True),
    "cumulative_prod": lambda xp, x, y: xp.cumulative_prod(x, axis=0, include_initial=True),
    "cumulative_sum(no axis)": lambda xp, x, y: xp.cumulative_sum(x),
    "average": lambda xp, x, y: xp.average(x, axis=0),
    "average(weights)": lambda xp, x, y: xp.average(x, axis=1, weights=[1.0, 2.0, 3.0, 4.0, 0.5]),
    "average(returned)": lambda xp, x, y: xp.average(x, weights=y * y + 1, returned=True),
    "average(small)": lambda xp, x, y: xp.average(
        xp.full(3, 2).astype(x.dtype), weights=xp.full(3, 99).astype(x.dtype)
    ),
    "average(misfit)": lambda xp, x, y: xp.average(x, axis=0, weights=[1.0, 2.0]),
    "ptp": lambda xp, x, y: xp.ptp(x, axis=1),
    "median": lambda xp, x, y: xp.median(x, 1, None, False, True),
    "quantile": lambda xp, x, y: xp.quantile(x, 0.3),
    "quantile(q=)": lambda xp, x, y: [xp.quantile(x, q=0.5, axis=0), xp.percentile(x, q=25)],
    "take(wrap)": lambda xp, x, y: xp.take(x, [-7, 3, 12], axis=1, mode="wrap"),
    "take(clip)": lambda xp, x, y: xp.take(x, xp.asarray([[-7, 3], [12, 0]]), mode="clip"),
    "take(wrong mode)": lambda xp, x, y: xp.take(x, [0], mode="nearest"),
    "tobytes": lambda xp, x, y: list(x.tobytes("F") + y.tobytes()),
    "quantile(several)": lambda xp, x, y: xp.quantile(x, [0.0, 0.25, 0.9, 1.0], axis=1),
    "quantile(out of range)": lambda xp, x, y: xp.quantile(x, 1.5),
    "percentile": lambda xp, x, y: xp.percentile(x, [10, 50], axis=0, keepdims=True),
    **{
        f"quantile({m})": lambda xp, x, y, m=m: xp.quantile(x, [0.1, 0.4, 0.77], axis=1, method=m)
        for m in ("lower", "higher", "midpoint", "nearest", "hazen", "weibull", "median_unbiased", "normal_unbiased")
    },
    "cov": lambda xp, x, y: xp.cov(x),
    "cov(y)": lambda xp, x, y: xp.cov(x[0], y[1], bias=True),
    "cov(columns of one)": lambda xp, x, y: xp.cov(x[:1], rowvar=False),
    "cov(columns)": lambda xp, x, y: xp.cov(x, rowvar=False, ddof=0),
    "corrcoef": lambda xp, x, y: xp.corrcoef(x, y),
    # elements
    **{
        name: lambda xp, x, y, name=name: getattr(xp, name)(x)
        for name in (
            "cbrt",
            "fabs",
            "spacing",
            "bitwise_count",
            "conj",
            "degrees",
            "radians",
            "fix",
            "modf",
            "sinc",
            "real",
            "imag",
            "around",
            "amax",
            "amin",
            "nan_to_num",
            "bitwise_not",
        )
    },
    **{
        name: lambda xp, x, y, name=name: getattr(xp, name)(x, y)
        for name in (
            "float_power",
            "gcd",
            "lcm",
            "ldexp",
            "logaddexp2",
            "mod",
            "nextafter",
            "true_divide",
            "intersect1d",
            "setdiff1d",
            "setxor1d",
            "union1d",
            "isin",
            "array_equiv",
        )
    },
    **{
        f"{name}(special)": lambda xp, x, y, name=name: getattr(xp, name)(
            xp.asarray([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan], dtype=xp.result_type(x.dtype, "float16"))
        )
        for name in ("modf", "sinc", "fix", "isposinf", "isneginf", "nan_to_num", "cbrt", "spacing")
    },
    "nan_to_num(values)": lambda xp, x, y: xp.nan_to_num(xp.log(x), nan=1.0, posinf=2.0, neginf=-3.0),
    # without NaN: roots of what is negative
    **{
        f"nan{name}": lambda xp, x, y, name=name: getattr(xp, f"nan{name}")(xp.sqrt(x), axis=1)
        for name in ("sum", "prod", "max", "min", "mean", "var", "std", "median", "cumsum", "cumprod")
    },
    **{
        f"nan{name}(all)": lambda xp, x, y, name=name: getattr(xp, f"nan{name}")(xp.sqrt(x), keepdims=True)
        for name in ("sum", "prod", "max", "min", "mean", "var", "std", "median", "argmax", "argmin")
    },
    "nanargmax(none)": lambda xp, x, y: xp.nanargmax(x * np.nan, axis=0),
    "nanstd(ddof)": lambda xp, x, y: xp.nanstd(xp.sqrt(x), axis=0, ddof=2),
    "nanmedian(some)": lambda xp, x, y: xp.nanmedian(xp.where(x > 0, x * 1.0, np.nan), axis=(0, 1)),
    # order
    "rot90": lambda xp, x, y: [xp.rot90(x, k) for k in range(-1, 5)],
    "rot90(axes)": lambda xp, x, y: xp.rot90(xp.stack([x, x]), axes=(2, 0)),
    "fliplr": lambda xp, x, y: xp.fliplr(x),
    "fliplr(vector)": lambda xp, x, y: xp.fliplr(x[0]),
    "flipud": lambda xp, x, y: xp.flipud(x),
    "rollaxis": lambda xp, x, y: xp.rollaxis(xp.stack([x, x]), 2, 0),
    "rollaxis(start)": lambda xp, x, y: xp.rollaxis(xp.stack([x, x]), 0, 3),
    "atleast_3d": lambda xp, x, y: [xp.atleast_3d(x), xp.atleast_3d(x[0]), xp.atleast_3d(x[0, 0])],
    "column_stack": lambda xp, x, y: xp.column_stack([x[:, 0], x, y]),
    "dstack": lambda xp, x, y: xp.dstack([x, y]),
    "hsplit": lambda xp, x, y: xp.hsplit(x, [1, 3]),
    "hsplit(vector)": lambda xp, x, y: xp.hsplit(x[0], 5),
    "vsplit": lambda xp, x, y: xp.vsplit(x, 2),
    "vsplit(vector)": lambda xp, x, y: xp.vsplit(x[0], 2),
    "dsplit": lambda xp, x, y: xp.dsplit(xp.stack([x, x], -1), 2),
    "append": lambda xp, x, y: xp.append(x, y, axis=1),
    "append(flat)": lambda xp, x, y: xp.append(x, 7),
    "delete": lambda xp, x, y: xp.delete(x, 1, axis=1),
    "delete(several)": lambda xp, x, y: xp.delete(x, [0, -1, 0], axis=0),
    "delete(slice)": lambda xp, x, y: xp.delete(x, slice(None, None, 2)),
    "delete(mask)": lambda xp, x, y: xp.delete(x[0], [True, False, True, False, False]),
    "delete(out of range)": lambda xp, x, y: xp.delete(x, 9, axis=0),
    "insert": lambda xp, x, y: xp.insert(x, 2, 1, axis=1),
    "insert(row)": lambda xp, x, y: xp.insert(x, 1, y[0], axis=0),
    "insert(column)": lambda xp, x, y: xp.insert(x, -1, [1, 0, 1, 0], axis=1),
    "insert(several)": lambda xp, x, y: xp.insert(x, [0, 3, 3], y[:, :3], axis=1),
    "insert(flat)": lambda xp, x, y: xp.insert(x, [1, 1, 5], [3, 2, 1]),
    "resize": lambda xp, x, y: xp.resize(x, (3, 9)),
    "partition": lambda xp, x, y: xp.sort(xp.partition(x, 2, axis=1), axis=1),
    "partition(out of range)": lambda xp, x, y: xp.partition(x, 9, axis=1),
    "argpartition": lambda xp, x, y: xp.take_along_axis(x, xp.argpartition(x, 2, axis=1), 1)[:, 2],
    "lexsort": lambda xp, x, y: xp.lexsort((x[0], y[0])),
    "lexsort(axis)": lambda xp, x, y: xp.lexsort([x, y], axis=0),
    # sets and counts
    "unique(axis)": lambda xp, x, y: xp.unique(x > 0, return_index=True, return_counts=True, axis=0),
    "unique_all": lambda xp, x, y: xp.unique_all(x),
    "unique_counts": lambda xp, x, y: xp.unique_counts(xp.sqrt(x)),
    "unique_inverse": lambda xp, x, y: xp.unique_inverse(x),
    "isin(invert)": lambda xp, x, y: xp.isin(x, [1, 2.5], invert=True),
    "isin(nothing)": lambda xp, x, y: xp.isin(x, []),
    "intersect1d(indices)": lambda xp, x, y: xp.intersect1d(x, y, return_indices=True),
    "bincount": lambda xp, x, y: xp.bincount(xp.asarray([3, 0, 3]), minlength=6),
    "bincount(weights)": lambda xp, x, y: xp.bincount(xp.asarray([3, 0, 3]), x[0, :3]),
    "bincount(negative)": lambda xp, x, y: xp.bincount(xp.asarray([3, -1])),
    "histogram": lambda xp, x, y: xp.histogram(x, 5, range=(-1, 3)),
    "histogram(density)": lambda xp, x, y: xp.histogram(x, xp.asarray([-3.0, 0.0, 1.0, 4.0]), density=True),
    "digitize": lambda xp, x, y: xp.digitize(x, [-1, 0, 1, 2]),
    "digitize(right)": lambda xp, x, y: xp.digitize(x, xp.asarray([2, 1, 0, 0]), right=True),
    "digitize(disorder)": lambda xp, x, y: xp.digitize(x, [2, 1, 3]),
    "searchsorted(number)": lambda xp, x, y: xp.searchsorted(xp.sort(x[0]), 1, side="right"),
    # selection
    "flatnonzero": lambda xp, x, y: xp.flatnonzero(x),
    "select": lambda xp, x, y: xp.select([x > 1, x > y], [x, y * 2], 3),
    "select(numbers)": lambda xp, x, y: xp.select([x, y], [x, y]),
    "compress": lambda xp, x, y: xp.compress([True, False, True], x, axis=0),
    "extract": lambda xp, x, y: xp.extract(x > y, x),
    "fill_diagonal": lambda xp, x, y: (lambda z: (xp.fill_diagonal(z, 1), z)[1])(x * 1),
    "fill_diagonal(wrap)": lambda xp, x, y: (lambda z: (xp.fill_diagonal(z, x[0, :2], wrap=True), z)[1])(
        xp.zeros((7, 2), dtype=x.dtype)
    ),
    # grids
    "identity": lambda xp, x, y: xp.identity(3, dtype=x.dtype),
    "tri": lambda xp, x, y: xp.tri(3, 4, k=1, dtype=x.dtype),
    "vander": lambda xp, x, y: xp.vander(x[0], 4),
    "vander(increasing)": lambda xp, x, y: xp.vander(x[0], increasing=True),
    "diagflat": lambda xp, x, y: xp.diagflat(x[:, :2], k=-1),
    "tril_indices": lambda xp, x, y: xp.tril_indices(3, k=1, m=4),
    "triu_indices": lambda xp, x, y: xp.triu_indices(4, 1),
    "diag_indices": lambda xp, x, y: xp.diag_indices(3, 3),
    "indices": lambda xp, x, y: xp.indices((2, 3)),
    "indices(sparse)": lambda xp, x, y: xp.indices((2, 3, 2), sparse=True),
    "ix_": lambda xp, x, y: x[xp.ix_([0, 2], [True, False, True, False, True])],
    "unravel_index": lambda xp, x, y: xp.unravel_index(xp.asarray([[0, 7], [23, 9]]), (2, 3, 4)),
    "unravel_index(out of range)": lambda xp, x, y: xp.unravel_index(xp.asarray([24]), (2, 3, 4)),
    "meshgrid(sparse)": lambda xp, x, y: xp.meshgrid(x[0], y[0], sparse=True),
    # samples
    "diff(ends)": lambda xp, x, y: xp.diff(x, prepend=1, append=y[:, :2]),
    "diff(n)": lambda xp, x, y: xp.diff(x, n=2, axis=0),
    "ediff1d": lambda xp, x, y: xp.ediff1d(x, to_begin=[1, 0], to_end=1),
    "gradient": lambda xp, x, y: xp.gradient(x),
    "gradient(spacing)": lambda xp, x, y: xp.gradient(x, 0.5, axis=1, edge_order=2),
    "gradient(places)": lambda xp, x, y: xp.gradient(x, [0.0, 1.0, 4.0, 5.0], [0.0, 1.0, 2.5, 3.0, 7.0], edge_order=2),
    "gradient(short)": lambda xp, x, y: xp.gradient(x[:1]),
    "trapezoid": lambda xp, x, y: xp.trapezoid(x, dx=0.5, axis=0),
    "trapezoid(places)": lambda xp, x, y: xp.trapezoid(x, x=[0.0, 1.0, 1.5, 4.0, 5.0]),
    "interp": lambda xp, x, y: xp.interp(x, [-1.0, 0.0, 2.0], [5.0, 7.0, -1.0]),
    "interp(ends)": lambda xp, x, y: xp.interp(x[0], [-1.0, 0.0, 1.0], [5.0, 7.0, 0.0], left=-9, right=9),
    "interp(period)": lambda xp, x, y: xp.interp(x[0], [0.5, 2.0, 1.0], [5.0, 7.0, 0.0], period=3),
    **{
        f"{name}({mode})": lambda xp, x, y, name=name, mode=mode: [
            getattr(xp, name)(x[0, :m], y[0, :n], mode) for m, n in ((5, 2), (5, 3), (2, 5), (4, 5), (4, 4), (1, 1))
        ]
        for name in ("convolve", "correlate")
        for mode in ("full", "same", "valid")
    },
    "convolve(infinite)": lambda xp, x, y: [
        getattr(xp, name)(a, b, m)
        for name in ("convolve", "correlate")
        for a, b in ((x[0] + 1.0, xp.asarray([np.inf, 1.0, np.nan])), (xp.asarray([-np.inf, 2.0]), y[:, 0] + 1.0))
        for m in ("full", "same", "valid")
    ],
    "convolve(nothing)": lambda xp, x, y: xp.convolve(x[0, :0], y[0]),
    # products
    "cross": lambda xp, x, y: xp.cross(x[:, :3], y[:, 1:4]),
    "cross(axis)": lambda xp, x, y: xp.cross(x[:3], y[1:4], axis=0),
    "kron": lambda xp, x, y: xp.kron(x, y[0]),
    "vdot": lambda xp, x, y: xp.vdot(x, y),
    "einsum(optimize=)": lambda xp, x, y: xp.einsum("ij,kj->ik", x, y, optimize=True),
    "einsum(out=)": lambda xp, x, y: xp.einsum("ij->i", x, out=xp.empty(4, dtype=x.dtype)),
    "multi_dot": lambda xp, x, y: xp.linalg.multi_dot([x[0], y.T, x, y[1]]),
    # linear algebra
    "inv": lambda xp, x, y: xp.linalg.inv(square(xp, x)),
    "inv(not square)": lambda xp, x, y: xp.linalg.inv(x),
    "inv(singular)": lambda xp, x, y: xp.linalg.inv(xp.zeros((2, 2), x.dtype)),
    "inv(vector)": lambda xp, x, y: xp.linalg.inv(x[0]),
    "solve(vector)": lambda xp, x, y: xp.linalg.solve(square(xp, x), y[:, 0]),
    "solve(stack)": lambda xp, x, y: xp.linalg.solve(xp.stack([square(xp, x), square(xp, y)]), y),
    "solve(misfit)": lambda xp, x, y: xp.linalg.solve(square(xp, x), x[:2]),
    "det": lambda xp, x, y: xp.linalg.det(xp.stack([square(xp, x), square(xp, y)])),
    "slogdet": lambda xp, x, y: xp.linalg.slogdet(-square(xp, x) if x.dtype.kind == "f" else square(xp, x)),
    "pinv(array)": lambda xp, x, y: xp.linalg.pinv(xp.stack([x, x + x]), rtol=xp.asarray([0.01, 0.3])),
    "pinv": lambda xp, x, y: xp.linalg.pinv(x, rcond=1e-3),
    "matrix_rank": lambda xp, x, y: xp.linalg.matrix_rank(xp.stack([xp.ones((3, 3), x.dtype), square(xp, x)[:3, :3]])),
    "matrix_rank(vector)": lambda xp, x, y: xp.linalg.matrix_rank(x[0]),
    **{f"matrix_power({n})": lambda xp, x, y, n=n: xp.linalg.matrix_power(square(xp, x), n) for n in (-2, 0, 1, 3)},
    "lstsq": lambda xp, x, y: xp.linalg.lstsq(x.T, x[0] + 1),
    "cholesky": lambda xp, x, y: xp.linalg.cholesky(square(xp, x) @ square(xp, x).T),
    "cholesky(upper)": lambda xp, x, y: xp.linalg.cholesky(square(xp, x) @ square(xp, x).T, upper=True),
    "cholesky(not positive)": lambda xp, x, y: xp.linalg.cholesky(xp.asarray([[1.0, 2.0], [2.0, 1.0]])),
    "qr": lambda xp, x, y: xp.linalg.qr(x),
    "qr(complete)": lambda xp, x, y: xp.linalg.qr(x.T, mode="complete"),
    "qr(r)": lambda xp, x, y: xp.linalg.qr(x, "r"),
    "svd": lambda xp, x, y: xp.linalg.svd(x)[1],
    "svd(product)": lambda xp, x, y: (lambda u, s, vh: (u * s) @ vh)(*xp.linalg.svd(x, full_matrices=False)),
    "svd(values)": lambda xp, x, y: xp.linalg.svd(x, compute_uv=False),
    "svdvals": lambda xp, x, y: xp.linalg.svdvals(x),
    "eigh": lambda xp, x, y: xp.linalg.eigh(square(xp, x), UPLO="U").eigenvalues,
    "eigvalsh": lambda xp, x, y: xp.linalg.eigvalsh(square(xp, x)),
    "cond": lambda xp, x, y: xp.linalg.cond(square(xp, x)),
    "cond(zeros)": lambda xp, x, y: [xp.linalg.cond(square(xp, x) * 0, p) for p in (None, 2, -2)],
    "cond(1)": lambda xp, x, y: xp.linalg.cond(square(xp, x), 1),
    "norm": lambda xp, x, y: xp.linalg.norm(x),
    "norm(keepdims)": lambda xp, x, y: xp.linalg.norm(x, keepdims=True),
    "norm(three axes)": lambda xp, x, y: xp.linalg.norm(xp.stack([x, x]), 2),
    **{
        f"norm({o}, axis)": lambda xp, x, y, o=o: xp.linalg.norm(x, o, axis=1, keepdims=True)
        for o in (None, 0, 1, 2, 3, -1, np.inf, -np.inf, "fro")
    },
    **{
        f"norm({o})": lambda xp, x, y, o=o: xp.linalg.norm(x, ord=o)
        for o in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf, 3, 0)
    },
    "norm(nothing)": lambda xp, x, y: [xp.linalg.norm(x[:0], o, axis=a) for o in (None, np.inf, 1) for a in (None, 0)],
    "norm(axes)": lambda xp, x, y: xp.linalg.norm(xp.stack([x, x + x]), 1, axis=(2, 0), keepdims=True),
    "matrix_norm": lambda xp, x, y: xp.linalg.matrix_norm(xp.stack([x, x + x])),
    "vector_norm": lambda xp, x, y: xp.linalg.vector_norm(x, axis=0, ord=3),
    "linalg.trace": lambda xp, x, y: xp.linalg.trace(xp.stack([x, x]), offset=1),
    "linalg.diagonal": lambda xp, x, y: xp.linalg.diagonal(xp.stack([x, x]), offset=-1),
}


def square(xp: Any, x: Any) -> Any:
    """A matrix far from singular, from the first of an array's rows and columns."""
    return x[:4, :4] + 9 * xp.eye(4, dtype=x.dtype)


def operands(dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Small numbers, some of them equal; the first array is strided backwards, the second transposed."""
    rng = np.random.default_rng(seed)
    low = 0 if np.dtype(dtype).kind in "bu" else -3
    x, y = rng.integers(low, 4, (4, 10)), rng.integers(low, 4, (5, 4))
    if np.dtype(dtype).kind == "f":
        x, y = x + np.round(rng.random(x.shape), 2), y + np.round(rng.random(y.shape), 2)
    return x.astype(dtype)[:, ::-2], y.astype(dtype).T


def outcome(call: Call, xp: Any, x: Any, y: Any) -> Any:
    """What a call gives, or the type of what it raises."""
    try:
        with np.errstate(all="ignore"):
            found = call(xp, x, y)
            return (
                [part.wait() if isinstance(part, dr.Array) else part for part in found]
                if isinstance(found, (tuple, list))
                else [found.wait() if isinstance(found, dr.Array) else found]
            )
    except Exception as error:
        return type(error)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_like_numpy(name: str) -> None:
    for number, dtype in enumerate(DTYPES):
        x, y = operands(dtype, number)
        expected = outcome(CALLS[name], np, x, y)
        actual = outcome(CALLS[name], dr, placed(x), placed(y))
        context = f"{name} of {dtype}: {actual}, NumPy gives {expected}"
        if isinstance(expected, type):
            assert isinstance(actual, type) and issubclass(actual, expected), context
            continue
        assert not isinstance(actual, type) and len(actual) == len(expected), context
        for mine, theirs in zip(actual, expected, strict=True):
            assert not isinstance(mine, dr.Array) or mine.dtype == np.asarray(theirs).dtype, context
            values, theirs = np.asarray(mine), np.asarray(theirs)
            assert values.shape == theirs.shape, context
            if theirs.dtype.kind == "f":
                unit = 16 * np.finfo(theirs.dtype).eps
                size = np.abs(theirs[np.isfinite(theirs)]).max(initial=1.0)
                np.testing.assert_allclose(values, theirs, rtol=unit, atol=unit * size, err_msg=context)
            else:
                np.testing.assert_array_equal(values, theirs, err_msg=context)


def test_results_are_written_where_out_says() -> None:
    x = dr.asarray([[1.0, 2.0], [3.0, 5.0]])
    for name in ("sum", "prod", "max", "min", "mean", "var", "std", "median", "ptp", "cumsum", "cumprod"):
        for dtype in ("float32", "float64"):
            whole = getattr(np, name)(x.numpy(), axis=0)
            out = dr.empty(whole.shape, dtype)
            assert getattr(dr, name)(x, axis=0, out=out) is out
            np.testing.assert_allclose(out.numpy(), whole, rtol=1e-6)
    for name in ("all", "any", "argmax", "argmin"):
        out = dr.empty(2, getattr(np, name)(x.numpy(), 0).dtype)
        assert getattr(dr, name)(x, axis=0, out=out) is out
        np.testing.assert_array_equal(out.numpy(), getattr(np, name)(x.numpy(), 0))
    both = dr.empty((2, 4))
    assert dr.concatenate([x, x], 1, both) is both and both.numpy()[1].tolist() == [3, 5, 3, 5]
    assert dr.dot(x, x, out=dr.empty((2, 2))).tolist() == (x.numpy() @ x.numpy()).tolist()
    with pytest.raises(ValueError, match=r"out has shape \(3,\), expected \(2,\)"):
        dr.max(x, axis=0, out=dr.empty(3))
    with pytest.raises(TypeError, match="same_kind"):
        dr.mean(x, axis=0, out=dr.empty(2, "int64"))
    with pytest.raises(TypeError, match="out is a list"):
        dr.sum(x, axis=0, out=[0.0, 0.0])
    with pytest.raises(ValueError, match="given twice"):
        dr.clip(x, 0, a_min=1)
    with pytest.raises(ValueError, match="two names of one number"):
        dr.var(x, ddof=1, correction=2)
