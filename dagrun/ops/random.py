"""Random numbers that depend on the generator, its seed and program order alone (Philox4x32-10, Salmon et al. 2011).

Each operation takes the generator's next stream when it is recorded; element i of its result is a function of the seed,
the stream and i. So values do not depend on lanes, devices or timing, and several threads may draw from generators of
their own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dagrun.array import Array, asarray
from dagrun.codegen.philox import philox_kernel, philox_params
from dagrun.core import device_index
from dagrun.devices import Device, current_device
from dagrun.devices import device as find_device
from dagrun.ops.cutting import cut
from dagrun.ops.distributions import Distributions, Size, not_negative, shape_of, spread
from dagrun.ops.indexing import take
from dagrun.ops.sorting import argsort, searchsorted
from dagrun.record import OVERWRITE, WRITE, Body, Operand, Operator, apply, layout

_U64 = np.dtype(np.uint64)


def _infer(inputs: Sequence[Any], scalars: Sequence[Any], *, kind: str, shape: tuple[int, ...], dtype: Any) -> Any:
    return ((shape, dtype),)


def _no_numpy(xp: Any, *operands: Any, **attributes: Any) -> Any:
    raise NotImplementedError("random numbers have native bodies only")


def _lower(
    outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence[Any], *, kind: str, shape: Any, dtype: Any
) -> tuple[Body, ...]:
    (output,) = outputs
    address = philox_kernel(kind, dtype)
    bodies = []
    blocks = -(-output.size // 4)
    for low, high in cut(blocks, 8 * output.nbytes) if output.size else [(0, 0)]:
        first, last = 4 * low, min(4 * high, output.size)
        part = None if (first, last) == (0, output.size) else layout(dtype, (last - first,))
        operand = Operand(0, WRITE | OVERWRITE, first * dtype.itemsize, part)
        bodies.append(
            Body(address, philox_params(last - first, first), (operand,), 4 * (last - first) * dtype.itemsize)
        )
    return tuple(bodies)


RANDOM = Operator("random", _infer, _no_numpy, _lower)


class _Draws(threading.local):
    """What the calling thread writes down of its draws, or draws again."""

    def __init__(self) -> None:
        self.logs: list[list[tuple[int, int]]] = []
        self.replayed: Iterator[tuple[int, int]] | None = None


_draws = _Draws()


@contextmanager
def log_draws(log: list[tuple[int, int]]) -> Iterator[None]:
    """Appends seed and stream of every operation that draws in the block, from whatever generator."""
    if _draws.replayed is not None:  # a recomputation inside another: what is drawn again is written down again
        own = _draws.replayed

        def passed_on() -> Iterator[tuple[int, int]]:
            for drawn in own:
                log.append(drawn)
                yield drawn

        _draws.replayed = passed_on()
        try:
            yield
        finally:
            _draws.replayed = own
        return
    _draws.logs.append(log)
    try:
        yield
    finally:
        _draws.logs.pop()


@contextmanager
def replay(log: Sequence[tuple[int, int]]) -> Iterator[None]:
    """In the block, operations draw what was written down, in that order; generators stay where they are."""
    was, _draws.replayed = _draws.replayed, iter(log)
    try:
        yield
    finally:
        _draws.replayed = was


class Generator(Distributions):
    """A source of random numbers: a seed, and a count of the operations that drew from it.

    >>> import dagrun as dr
    >>> a, b = dr.random.Generator(7), dr.random.Generator(7)
    >>> bool((a.normal(size=3) == b.normal(size=3)).all())
    True
    """

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self.seed(seed)

    def seed(self, seed: int | None = None) -> None:
        """Starts anew from a seed (an integer below 2**64); from the system's entropy where it is None."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed: {seed!r} is no seed, expected an integer from 0 to 2**64 - 1")
        with self._lock:
            self._key, self._stream = int(seed), 0

    def __reduce__(self) -> Any:
        return _restored, self.state()

    def state(self) -> tuple[int, int]:
        """Seed and number of operations that drew so far; `set_state` goes back there."""
        return self._key, self._stream

    def set_state(self, state: tuple[int, int]) -> None:
        """Goes back to what `state` gave."""
        with self._lock:
            self._key, self._stream = int(state[0]), int(state[1])

    def _next_stream(self) -> tuple[int, int]:
        """Seed and stream of the next operation: from a replay that is under way in this thread, else counted on."""
        replayed = _draws.replayed
        if replayed is not None:
            try:
                return next(replayed)
            except StopIteration:
                raise RuntimeError("a recomputation draws more random numbers than the first run did") from None
        with self._lock:
            drawn = self._key, self._stream
            self._stream += 1
        for log in _draws.logs:
            log.append(drawn)
        return drawn

    def _draw(
        self, kind: str, size: Size, dtype: Any, device: str | Device | None, extra: tuple[int, ...] = ()
    ) -> Array:
        where = current_device() if device is None else find_device(device)
        shape = shape_of(size)
        stream = self._next_stream()
        values = (*stream, *extra)
        return apply(
            RANDOM,
            (),
            device_index(where),
            scalars=(_U64,) * len(values),
            values=values,
            attributes=(("kind", kind), ("shape", shape), ("dtype", np.dtype(dtype))),
        )

    def random(self, size: Size = None, dtype: Any = np.float64, *, device: str | Device | None = None) -> Array:
        """Uniform in [0, 1); float64 or float32."""
        return self._draw("uniform", size, _floating(dtype), device)

    def uniform(
        self,
        low: Any = 0.0,
        high: Any = 1.0,
        size: Size = None,
        dtype: Any = np.float64,
        *,
        device: str | Device | None = None,
    ) -> Array:
        """Uniform in [low, high); float64 or float32. Bounds may be arrays: they broadcast, and say the size."""
        (low, high), size, device = spread((low, high), size, device)
        return (self.random(size, dtype, device=device) * (high - low) + low).astype(dtype, copy=False)

    def normal(
        self,
        loc: Any = 0.0,
        scale: Any = 1.0,
        size: Size = None,
        dtype: Any = np.float64,
        *,
        device: str | Device | None = None,
    ) -> Array:
        """Normal with mean `loc` and standard deviation `scale`; float64 or float32 (Box and Muller 1958).

        Both may be arrays: they broadcast, and say the size.
        """
        (loc, scale), size, device = spread((loc, not_negative(scale, "normal", "scale")), size, device)
        drawn = self._draw("normal", size, _floating(dtype), device)
        if isinstance(scale, float) and (loc, scale) == (0, 1):
            return drawn
        return (drawn * scale + loc).astype(dtype, copy=False)

    def integers(
        self,
        low: int,
        high: int | None = None,
        size: Size = None,
        dtype: Any = np.int64,
        endpoint: bool = False,
        *,
        device: str | Device | None = None,
    ) -> Array:
        """Integers from `low` (0 if only one bound is given) below `high`, each as likely to within 2**-64.

        With `endpoint` also `high` itself.
        """
        if high is None:
            low, high = 0, low
        if np.ndim(low) or np.ndim(high):
            raise NotImplementedError("integers: bounds that are arrays are not supported, expected two integers")
        low, high = int(low), int(high) + bool(endpoint)
        final = np.dtype(dtype)
        if final.kind not in "iu":
            raise TypeError(f"integers: dtype {final}, expected an integer dtype")
        limits = np.iinfo(final)
        if not limits.min <= low < high <= int(limits.max) + 1:
            raise ValueError(
                f"integers: bounds {low} and {high}, expected {limits.min} <= low < high <= {int(limits.max) + 1}"
            )
        return self._draw("bounded", size, final, device, (low % (1 << 64), (high - low) % (1 << 64)))

    def permutation(self, n: Any, *, device: str | Device | None = None) -> Array:
        """The numbers 0 to n - 1 in random order, or an array's rows in random order."""
        if np.ndim(n) and not isinstance(n, Array):
            n = asarray(n, device=device)
        count = n.shape[0] if isinstance(n, Array) else int(n)
        where = n.device if isinstance(n, Array) else device
        order = argsort(self._draw("uint64", count, np.uint64, where))
        return take(n, order, axis=0) if isinstance(n, Array) else order

    def choice(self, a: Any, size: Size = None, replace: bool = True, p: Any = None, axis: int = 0) -> Array:
        """Elements of an array along an axis (or of 0 to a - 1), drawn with or without putting them back.

        `p`: their probabilities, which are read at once and must add up to 1; all the same unless given.
        """
        if isinstance(a, (list, tuple, np.ndarray)):
            a = asarray(a)
        count = a.shape[axis] if isinstance(a, Array) else int(a)
        where = a.device if isinstance(a, Array) else None
        wanted = 1 if size is None else int(np.prod(size))
        if wanted and count <= 0:
            raise ValueError(f"choice: {wanted} of {count} elements, expected at least one to choose from")
        if not replace and wanted > count:
            raise ValueError(f"choice: {wanted} of {count} elements cannot be drawn without putting them back")
        if p is not None:
            index = self._choice_by(p, count, wanted, replace, where)
        elif replace:
            index = self.integers(0, max(count, 1), wanted, device=where)
        else:
            index = self.permutation(count, device=where)[:wanted]
        index = index.reshape(() if size is None else size)
        return take(a, index, axis=axis) if isinstance(a, Array) else index

    def _choice_by(self, p: Any, count: int, wanted: int, replace: bool, device: Any) -> Array:
        """Indices drawn by their probabilities; without putting back by the largest of log p and Gumbel noise."""
        shares = p.numpy() if isinstance(p, Array) else np.asarray(p, np.float64)
        if shares.shape != (count,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-8:
            raise ValueError(f"choice: p of shape {shares.shape} and sum {shares.sum()}, expected {count} "
                             "probabilities that add up to 1")  # fmt: skip
        if replace:
            ends = np.cumsum(shares)
            return searchsorted(asarray(ends / ends[-1], device=device), self.random(wanted, device=device), "right")
        if np.count_nonzero(shares) < wanted:
            raise ValueError(f"choice: {wanted} elements of {np.count_nonzero(shares)} with a probability above 0")
        with np.errstate(divide="ignore"):
            logarithms = asarray(np.log(shares), device=device)
        return argsort(logarithms + self.gumbel(size=count, device=device), descending=True)[:wanted]

    def shuffle(self, x: Array, axis: int = 0) -> None:
        """Puts the parts of an array along an axis into random order, in place."""
        x[...] = take(x, self.permutation(x.shape[axis], device=x.device), axis=axis)


def _restored(*state: int) -> Generator:
    generator = Generator(state[0])
    generator.set_state((state[0], state[1]))
    return generator


def _floating(dtype: Any) -> np.dtype[Any]:
    final = np.dtype(dtype)
    if final not in (np.float32, np.float64):
        raise TypeError(f"random numbers of dtype {final}: expected float32 or float64")
    return final


_default = Generator(0)

seed = _default.seed
random = _default.random
uniform = _default.uniform
normal = _default.normal
integers = _default.integers
randint = _default.integers
permutation = _default.permutation
choice = _default.choice
random_sample = ranf = sample = _default.random
standard_normal = _default.standard_normal
lognormal = _default.lognormal
standard_exponential = _default.standard_exponential
exponential = _default.exponential
laplace = _default.laplace
gumbel = _default.gumbel
logistic = _default.logistic
rayleigh = _default.rayleigh
weibull = _default.weibull
pareto = _default.pareto
power = _default.power
standard_cauchy = _default.standard_cauchy
gamma = _default.gamma
standard_gamma = _default.standard_gamma
beta = _default.beta
chisquare = _default.chisquare
standard_t = _default.standard_t
triangular = _default.triangular
vonmises = _default.vonmises
poisson = _default.poisson
binomial = _default.binomial
negative_binomial = _default.negative_binomial
geometric = _default.geometric
multinomial = _default.multinomial
multivariate_normal = _default.multivariate_normal
dirichlet = _default.dirichlet
shuffle = _default.shuffle


def rand(*shape: int, dtype: Any = np.float64, device: str | Device | None = None) -> Array:
    """Uniform in [0, 1), of this shape."""
    return _default.random(shape, dtype, device=device)


def randn(*shape: int, dtype: Any = np.float64, device: str | Device | None = None) -> Array:
    """Standard normal, of this shape."""
    return _default.normal(size=shape, dtype=dtype, device=device)


def default_rng(seed: int | None = None) -> Generator:
    """A generator of its own, as `numpy.random.default_rng`."""
    return Generator(seed)


def get_state() -> tuple[int, int]:
    """The state of the default generator."""
    return _default.state()


def set_state(state: tuple[int, int]) -> None:
    """Sets the state of the default generator."""
    _default.set_state(state)


__all__ = [
    "Generator", "beta", "binomial", "chisquare", "choice", "default_rng", "dirichlet", "exponential", "gamma",
    "geometric", "get_state", "gumbel", "integers", "laplace", "logistic", "lognormal", "multinomial",
    "multivariate_normal",
    "negative_binomial", "normal", "pareto", "permutation", "poisson", "power", "rand", "randint", "randn", "random",
    "random_sample", "ranf", "rayleigh", "sample", "seed", "set_state", "shuffle", "standard_cauchy",
    "standard_exponential", "standard_gamma", "standard_normal", "standard_t", "triangular", "uniform", "vonmises",
    "weibull",
]  # fmt: skip
