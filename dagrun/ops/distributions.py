"""Random numbers of many distributions, as methods of `random.Generator`.

Those that are functions of uniform or normal numbers are recorded operations on them. The others are drawn by NumPy on
the Python lane, from a Philox generator of their own whose key and counter are the generator's seed and the operation's
stream: so they, too, depend on seed and program order alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrun.array import Array, asarray
from dagrun.core import device_index
from dagrun.devices import Device, current_device
from dagrun.devices import device as find_device
from dagrun.ops.linalg.factors import eigh
from dagrun.ops.linalg.products import matmul
from dagrun.ops.manipulation import matrix_transpose
from dagrun.ops.mathematics import exp, log, log1p, maximum, sqrt, tan
from dagrun.record import Operator, apply

_U64 = np.dtype(np.uint64)
Size = int | Sequence[int] | None
Place = str | Device | None


def shape_of(size: Size) -> tuple[int, ...]:
    """The shape that a size asks for."""
    return () if size is None else (int(size),) if isinstance(size, (int, np.integer)) else tuple(map(int, size))


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, shape: Any, dtype: Any, **drawn: Any) -> Any:
    return ((shape, dtype),)


def _draw(
    xp: Any, *operands: Any, name: str, arguments: tuple[Any, ...], size: tuple[int, ...], shape: Any, dtype: Any
) -> Any:
    """`arguments`: numbers, or None where the next operand stands; the last two operands are seed and stream."""
    *arrays, seed, stream = operands
    given = iter(arrays)
    source = np.random.Generator(np.random.Philox(key=int(seed), counter=[0, 0, 0, int(stream)]))
    return getattr(source, name)(*[next(given) if a is None else a for a in arguments], size=size)


DRAWN = Operator("random_by_numpy", _infer, _draw, takes="host")


class Distributions:
    """What generators share that have uniform and normal numbers and streams."""

    def random(self, size: Size = None, dtype: Any = np.float64, *, device: Place = None) -> Array:
        """Uniform in [0, 1)."""
        raise NotImplementedError

    def normal(
        self, loc: Any = 0.0, scale: Any = 1.0, size: Size = None, dtype: Any = np.float64, *, device: Place = None
    ) -> Array:
        """Normal."""
        raise NotImplementedError

    def _next_stream(self) -> tuple[int, int]:
        raise NotImplementedError

    # ---- functions of uniform and normal numbers

    def standard_normal(self, size: Size = None, dtype: Any = np.float64, *, device: Place = None) -> Array:
        """Normal with mean 0 and standard deviation 1."""
        return self.normal(0.0, 1.0, size, dtype, device=device)

    def lognormal(self, mean: Any = 0.0, sigma: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """The exponential of normal numbers."""
        return exp(self.normal(mean, sigma, size, device=device))

    def standard_exponential(self, size: Size = None, dtype: Any = np.float64, *, device: Place = None) -> Array:
        """Exponential with mean 1."""
        return -log1p(-self.random(size, dtype, device=device))

    def exponential(self, scale: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """Exponential with mean `scale`."""
        (scale,), size, device = spread((not_negative(scale, "exponential", "scale"),), size, device)
        return self.standard_exponential(size, device=device) * scale

    def laplace(self, loc: Any = 0.0, scale: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """The double exponential around `loc`: the difference of two exponential numbers."""
        (loc, scale), size, device = spread((loc, not_negative(scale, "laplace", "scale")), size, device)
        pair = self.standard_exponential((2, *shape_of(size)), device=device)
        return (pair[0] - pair[1]) * scale + loc

    def gumbel(self, loc: Any = 0.0, scale: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """Gumbel's extreme value distribution."""
        (loc, scale), size, device = spread((loc, not_negative(scale, "gumbel", "scale")), size, device)
        return loc - scale * log(-log(self._inside(size, device)))

    def logistic(self, loc: Any = 0.0, scale: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """The logistic distribution."""
        (loc, scale), size, device = spread((loc, not_negative(scale, "logistic", "scale")), size, device)
        u = self._inside(size, device)
        return loc + scale * (log(u) - log1p(-u))

    def rayleigh(self, scale: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """The length of two normal numbers of standard deviation `scale`."""
        (scale,), size, device = spread((not_negative(scale, "rayleigh", "scale"),), size, device)
        return sqrt(self.standard_exponential(size, device=device) * 2) * scale

    def weibull(self, a: Any, size: Size = None, *, device: Place = None) -> Array:
        """Weibull's distribution of shape `a`."""
        (a,), size, device = spread((_positive(a, "weibull", "a"),), size, device)
        return self.standard_exponential(size, device=device) ** (1 / a)

    def pareto(self, a: Any, size: Size = None, *, device: Place = None) -> Array:
        """Lomax's distribution, Pareto's of shape `a` shifted to begin at 0."""
        (a,), size, device = spread((_positive(a, "pareto", "a"),), size, device)
        return exp(self.standard_exponential(size, device=device) / a) - 1

    def power(self, a: Any, size: Size = None, *, device: Place = None) -> Array:
        """In [0, 1] with density a x**(a - 1)."""
        (a,), size, device = spread((_positive(a, "power", "a"),), size, device)
        return self.random(size, device=device) ** (1 / a)

    def standard_cauchy(self, size: Size = None, *, device: Place = None) -> Array:
        """Cauchy's distribution."""
        return tan((self._inside(size, device) - 0.5) * math.pi)

    def _inside(self, size: Size, device: Place) -> Array:
        """Uniform in (0, 1)."""
        return self.random(size, device=device) * (1 - 2.0**-52) + 2.0**-53

    def multivariate_normal(self, mean: Any, cov: Any, size: Size = None, *, device: Place = None) -> Array:
        """Normal vectors with a mean (d,) and a covariance matrix (d, d), of which negative eigenvalues count as 0.

        Shape (*size, d).
        """
        first = next((a.device for a in (mean, cov) if isinstance(a, Array)), device)
        centre, spread = asarray(mean, device=first), asarray(cov, device=first)
        if centre.ndim != 1 or spread.shape != centre.shape * 2:
            raise ValueError(
                f"multivariate_normal: a mean of shape {centre.shape} and a covariance of shape {spread.shape}, "
                "expected (d,) and (d, d)"
            )
        values, vectors = eigh(spread)
        drawn = self.normal(0.0, 1.0, (*shape_of(size), centre.size), device=centre.device)
        return matmul(drawn * sqrt(maximum(values, 0.0)), matrix_transpose(vectors)) + centre

    # ---- drawn by NumPy

    def _by_numpy(
        self, name: str, arguments: Sequence[Any], size: Size, device: Place, dtype: Any = np.float64, tail: Any = None
    ) -> Array:
        """Arguments are numbers, or arrays that broadcast to the size. `tail`: how long one draw is."""
        first = next((a.device for a in arguments if isinstance(a, Array)), None)
        where = find_device(device) if device is not None else first or current_device()
        flat = [a if isinstance(a, (int, float)) else None for a in arguments]
        arrays = tuple(
            a if isinstance(a, Array) else asarray(a, device=where)
            for a, number in zip(arguments, flat, strict=True)
            if number is None
        )
        shape = shape_of(size)
        if size is None and tail is None:
            shape = np.broadcast_shapes(*(a.shape for a in arrays))
        attributes: tuple[tuple[str, Any], ...] = (("name", name), ("arguments", tuple(flat)), ("size", shape))
        attributes += (("shape", shape if tail is None else (*shape, tail)), ("dtype", np.dtype(dtype)))
        values = self._next_stream()
        made: Array = apply(
            DRAWN, arrays, device_index(where), scalars=(_U64, _U64), values=values, attributes=attributes
        )
        return made

    def gamma(self, shape: Any, scale: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """The gamma distribution with mean shape * scale."""
        return self._by_numpy("gamma", (shape, scale), size, device)

    def standard_gamma(self, shape: Any, size: Size = None, *, device: Place = None) -> Array:
        """The gamma distribution of scale 1."""
        return self._by_numpy("standard_gamma", (shape,), size, device)

    def beta(self, a: Any, b: Any, size: Size = None, *, device: Place = None) -> Array:
        """The beta distribution."""
        return self._by_numpy("beta", (a, b), size, device)

    def chisquare(self, df: Any, size: Size = None, *, device: Place = None) -> Array:
        """The sum of `df` squared normal numbers."""
        return self._by_numpy("chisquare", (df,), size, device)

    def standard_t(self, df: Any, size: Size = None, *, device: Place = None) -> Array:
        """Student's t distribution."""
        return self._by_numpy("standard_t", (df,), size, device)

    def triangular(self, left: Any, mode: Any, right: Any, size: Size = None, *, device: Place = None) -> Array:
        """The triangular distribution over [left, right], with its peak at `mode`."""
        return self._by_numpy("triangular", (left, mode, right), size, device)

    def vonmises(self, mu: Any, kappa: Any, size: Size = None, *, device: Place = None) -> Array:
        """Angles around `mu`, the more concentrated the larger `kappa`."""
        return self._by_numpy("vonmises", (mu, kappa), size, device)

    def poisson(self, lam: Any = 1.0, size: Size = None, *, device: Place = None) -> Array:
        """How many events there are where `lam` are expected; int64."""
        return self._by_numpy("poisson", (lam,), size, device, np.int64)

    def binomial(self, n: Any, p: Any, size: Size = None, *, device: Place = None) -> Array:
        """How many of n trials succeed, each with probability p; int64.

        >>> import dagrun as dr
        >>> dr.random.default_rng(0).binomial(5, 1.0, 3)
        array([5, 5, 5])
        """
        return self._by_numpy("binomial", (n, p), size, device, np.int64)

    def negative_binomial(self, n: Any, p: Any, size: Size = None, *, device: Place = None) -> Array:
        """How many trials fail before the n-th success; int64."""
        return self._by_numpy("negative_binomial", (n, p), size, device, np.int64)

    def geometric(self, p: Any, size: Size = None, *, device: Place = None) -> Array:
        """The number of the first trial that succeeds; int64."""
        return self._by_numpy("geometric", (p,), size, device, np.int64)

    def multinomial(self, n: Any, pvals: Any, size: Size = None, *, device: Place = None) -> Array:
        """How many of n trials have each outcome, of probabilities `pvals`; int64, of shape (*size, outcomes)."""
        if not np.ndim(pvals):
            raise ValueError(f"multinomial: pvals is {pvals!r}, expected an array of probabilities")
        *lines, outcomes = np.shape(pvals)
        size = np.broadcast_shapes(np.shape(n), tuple(lines)) if size is None else size
        return self._by_numpy("multinomial", (n, pvals), size, device, np.int64, outcomes)

    def dirichlet(self, alpha: Any, size: Size = None, *, device: Place = None) -> Array:
        """Shares that add up to 1, of shape (*size, len(alpha))."""
        if np.ndim(alpha) != 1:
            raise ValueError(f"dirichlet: alpha of shape {np.shape(alpha)}, expected a vector")
        return self._by_numpy("dirichlet", (alpha,), size, device, np.float64, np.shape(alpha)[0])


def spread(parameters: Sequence[Any], size: Size, device: Place) -> tuple[list[Any], Size, Place]:
    """Parameters as numbers where all are, else as arrays; the size and the device that follow from them."""
    if not any(isinstance(a, Array) or np.ndim(a) for a in parameters):
        return [float(a) for a in parameters], size, device
    place = next((a.device for a in parameters if isinstance(a, Array)), device)
    arrays = [a if isinstance(a, Array) else asarray(a, device=place) for a in parameters]
    whole = np.broadcast_shapes(*(a.shape for a in arrays))
    if size is None:
        size = whole
    elif np.broadcast_shapes(shape_of(size), whole) != shape_of(size):
        raise ValueError(f"size is {size}, expected one that parameters of shape {whole} broadcast to")
    return arrays, size, arrays[0].device


def not_negative(value: Any, name: str, what: str) -> Any:
    """The value, which is refused where it is a number below 0; arrays are not read."""
    if not isinstance(value, Array) and not np.ndim(value) and float(value) < 0:
        raise ValueError(f"{name}: {what} is {value}, expected no negative number")
    return value


def _positive(value: Any, name: str, what: str) -> Any:
    if not isinstance(value, Array) and not np.ndim(value) and float(value) <= 0:
        raise ValueError(f"{name}: {what} is {value}, expected a positive number")
    return value
