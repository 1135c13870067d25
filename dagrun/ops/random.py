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
from dagrun.ops.cumulative import cumsum
from dagrun.ops.cutting import cut
from dagrun.ops.indexing import take
from dagrun.ops.mathematics import log
from dagrun.ops.sorting import argsort, searchsorted
from dagrun.record import OVERWRITE, WRITE, Body, Operand, Operator, apply, layout

_U64 = np.dtype(np.uint64)
Size = int | Sequence[int] | None


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


class Generator:
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
        for kept in _draws.logs:
            kept.append(drawn)
        return drawn

    def _draw(
        self, kind: str, size: Size, dtype: Any, device: str | Device | None, extra: tuple[int, ...] = ()
    ) -> Array:
        where = current_device() if device is None else find_device(device)
        shape = () if size is None else (int(size),) if isinstance(size, (int, np.integer)) else tuple(map(int, size))
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
        low: float | Array = 0.0,
        high: float | Array = 1.0,
        size: Size = None,
        dtype: Any = np.float64,
        *,
        device: str | Device | None = None,
    ) -> Array:
        """Uniform in [low, high); float64 or float32. Bounds that are arrays broadcast to the size, or give it."""
        size, device = _size_for((low, high), size, device)
        drawn, low, high = self.random(size, dtype, device=device), _parameter(low), _parameter(high)
        return drawn * (high - low) + low

    def normal(
        self,
        loc: float | Array = 0.0,
        scale: float | Array = 1.0,
        size: Size = None,
        dtype: Any = np.float64,
        *,
        device: str | Device | None = None,
    ) -> Array:
        """Normal with mean `loc` and standard deviation `scale`; float64 or float32 (Box and Muller 1958).

        Means and deviations that are arrays broadcast to the size, or give it; gradients reach them.
        """
        loc, scale = _parameter(loc), _parameter(scale)
        if type(scale) is float and scale < 0:
            raise ValueError(f"normal: scale is {scale}, expected no negative standard deviation")
        size, device = _size_for((loc, scale), size, device)
        drawn = self._draw("normal", size, _floating(dtype), device)
        if type(loc) is type(scale) is float and (loc, scale) == (0, 1):
            return drawn
        return drawn * scale + loc

    def integers(
        self,
        low: int,
        high: int | None = None,
        size: Size = None,
        dtype: Any = np.int64,
        *,
        device: str | Device | None = None,
    ) -> Array:
        """Integers from `low` (0 if only one bound is given) below `high`, each as likely to within 2**-64."""
        if high is None:
            low, high = 0, low
        final = np.dtype(dtype)
        if final.kind not in "iu":
            raise TypeError(f"integers: dtype {final}, expected an integer dtype")
        limits = np.iinfo(final)
        if not limits.min <= low < high <= int(limits.max) + 1:
            raise ValueError(
                f"integers: bounds {low} and {high}, expected {limits.min} <= low < high <= {int(limits.max) + 1}"
            )
        return self._draw("bounded", size, final, device, (low % (1 << 64), (high - low) % (1 << 64)))

    def permutation(self, n: int | Array, *, device: str | Device | None = None) -> Array:
        """The numbers 0 to n - 1 in random order, or an array's rows in random order."""
        count = n.shape[0] if isinstance(n, Array) else int(n)
        where = n.device if isinstance(n, Array) else device
        order = argsort(self._draw("uint64", count, np.uint64, where))
        return take(n, order, axis=0) if isinstance(n, Array) else order

    def choice(self, a: int | Array, size: Size = None, *, replace: bool = True, p: Any = None) -> Array:
        """Elements of an array (or of 0 to a - 1), drawn with or without putting them back.

        `p`: how likely each is, as numbers in proportion; all are alike without it. They are not waited for, so what is
        negative or not finite among them is not found. Without putting back, the next is drawn each time in proportion
        among those that are left (Efraimidis and Spirakis 2006), and the likely ones tend to come first.

            >>> import dagrun as dr
            >>> dr.random.choice(3, 5, p=[0, 1, 0])
            array([1, 1, 1, 1, 1])
        """
        count = a.shape[0] if isinstance(a, Array) else int(a)
        where = a.device if isinstance(a, Array) else p.device if isinstance(p, Array) else None
        weights = None if p is None else asarray(p, np.float64, device=where)
        if weights is not None and weights.shape != (count,):
            raise ValueError(f"choice: p has shape {weights.shape}, expected ({count},), a number for each element")
        wanted = 1 if size is None else int(np.prod(size))
        if not replace and wanted > count:
            raise ValueError(f"choice: {wanted} of {count} elements cannot be drawn without putting them back")
        if replace and weights is None:
            index = self.integers(0, count, size, device=where)
        elif replace:
            ends = cumsum(weights)
            index = searchsorted(ends, self.random(size, device=where) * ends[-1], side="right")
        elif weights is None:
            index = self.permutation(count, device=where)[:wanted].reshape(() if size is None else size)
        else:
            order = argsort(log(1 - self.random(count, device=where)) / weights, descending=True)
            index = order[:wanted].reshape(() if size is None else size)
        return take(a, index, axis=0) if isinstance(a, Array) else index


def _restored(*state: int) -> Generator:
    generator = Generator(state[0])
    generator.set_state((state[0], state[1]))
    return generator


def _parameter(value: Any) -> Any:
    """A number or an array that draws are scaled by or moved to."""
    return value if isinstance(value, Array) else asarray(value) if np.ndim(value) else float(value)


def _size_for(parameters: Sequence[Any], size: Size, device: Any) -> tuple[Size, Any]:
    """Size and device of draws for parameters that may be arrays: theirs, where none is given."""
    shape = np.broadcast_shapes(*map(np.shape, parameters)) if size is None else size
    first = next((x.device for x in parameters if isinstance(x, Array)), None)
    return shape, first if device is None else device


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


def rand(*shape: int, dtype: Any = np.float64, device: str | Device | None = None) -> Array:
    """Uniform in [0, 1), of this shape."""
    return _default.random(shape, dtype, device=device)


def randn(*shape: int, dtype: Any = np.float64, device: str | Device | None = None) -> Array:
    """Standard normal, of this shape."""
    return _default.normal(size=shape, dtype=dtype, device=device)


def default_rng(seed: int | None = None) -> Generator:
    """A generator of its own, as `numpy.random.default_rng`."""
    return Generator(seed)


def shuffle(x: Array) -> None:
    """Puts the rows of an array into random order, in place."""
    x[...] = _default.permutation(x)


def get_state() -> tuple[int, int]:
    """The state of the default generator."""
    return _default.state()


def set_state(state: tuple[int, int]) -> None:
    """Sets the state of the default generator."""
    _default.set_state(state)


__all__ = [
    "Generator", "choice", "default_rng", "get_state", "integers", "normal", "permutation", "rand", "randint", "randn",
    "random", "seed", "set_state", "shuffle", "uniform",
]  # fmt: skip
