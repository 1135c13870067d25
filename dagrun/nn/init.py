"""Initialisers: each writes into an array in place, without recording gradients, and returns it.

Names and arguments are PyTorch's. Random ones draw from `generator`, or from `dr.random`'s default one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dagrun import ops
from dagrun.array import Array, asarray
from dagrun.autodiff import no_grad
from dagrun.ops import random
from dagrun.ops.random import Generator


def _write(tensor: Array, value: Any) -> Array:
    with no_grad():
        tensor[...] = value
    return tensor


def _drawn(tensor: Array, kind: str, generator: Generator | None) -> Array:
    """Uniform in [0, 1) or standard normal, like the array."""
    dtype = tensor.dtype if tensor.dtype.itemsize >= 4 else np.dtype(np.float32)
    source = random if generator is None else generator
    draw = source.random if kind == "uniform" else source.normal
    return draw(size=tensor.shape, dtype=dtype, device=tensor.device)


def constant_(tensor: Array, val: float) -> Array:
    """Every element `val`."""
    return _write(tensor, val)


def zeros_(tensor: Array) -> Array:
    """Every element 0."""
    return _write(tensor, 0)


def ones_(tensor: Array) -> Array:
    """Every element 1."""
    return _write(tensor, 1)


def eye_(tensor: Array) -> Array:
    """The identity matrix (ones on the diagonal of a matrix of any two lengths)."""
    rows, columns = _matrix(tensor, "eye_")
    return _write(tensor, ops.eye(rows, columns, dtype=tensor.dtype, device=tensor.device))


def uniform_(tensor: Array, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Array:
    """Uniform in [a, b).

    >>> import dagrun as dr
    >>> x = dr.nn.init.uniform_(dr.zeros(1000), -2, -1)
    >>> bool(((x >= -2) & (x < -1)).all())
    True
    """
    return _write(tensor, _drawn(tensor, "uniform", generator) * (b - a) + a)


def normal_(tensor: Array, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Array:
    """Normal with this mean and standard deviation."""
    return _write(tensor, _drawn(tensor, "normal", generator) * std + mean)


def trunc_normal_(
    tensor: Array, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
    generator: Generator | None = None,
) -> Array:  # fmt: skip
    """Normal, limited to [a, b]: the inverse of the distribution function at uniform numbers.

    The inverse error function is the approximation of Giles (2012, "Approximating the erfinv function").
    """
    low, high = (math.erf((bound - mean) / (std * math.sqrt(2))) for bound in (a, b))
    u = _drawn(tensor, "uniform", generator) * (high - low) + low
    limit = 1 - 1e-7  # beyond, float32 rounds to 1, whose inverse is infinite
    x = _erfinv(ops.clip(u, -limit, limit)) * (std * math.sqrt(2)) + mean
    return _write(tensor, ops.clip(x, a, b))


# Giles (2012), table 5: highest power first.
_CENTRE = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
           -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
_TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
         0.00943887047, 1.00167406, 2.83297682)  # fmt: skip


def _erfinv(x: Array) -> Array:
    w = -ops.log((1 - x) * (1 + x))

    def polynomial(coefficients: tuple[float, ...], at: Array) -> Array:
        value = at * 0 + coefficients[0]
        for coefficient in coefficients[1:]:
            value = value * at + coefficient
        return value

    tail = polynomial(_TAIL, ops.sqrt(ops.maximum(w, 5.0)) - 3.0)
    return ops.where(w < 5.0, polynomial(_CENTRE, w - 2.5), tail) * x


# ---- fans


def _matrix(tensor: Array, name: str) -> tuple[int, int]:
    if tensor.ndim != 2:
        raise ValueError(f"{name} of an array of shape {tensor.shape}: expected a matrix")
    return tensor.shape[0], tensor.shape[1]


def fans(tensor: Array) -> tuple[int, int]:
    """How many inputs feed one output of a weight, and how many outputs one input: axes (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(
            f"the fans of a weight of shape {tensor.shape}: expected at least two axes, (out, in, *kernel)"
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity; `param`: the slope of leaky_relu.

    >>> calculate_gain("relu") == 2 ** 0.5
    True
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4, "sigmoid": 1.0, "linear": 1.0,
             "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "conv_transpose2d": 1.0}  # fmt: skip
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity {nonlinearity!r}, expected leaky_relu or one of {', '.join(gains)}")
    return gains[nonlinearity]


def xavier_uniform_(tensor: Array, gain: float = 1.0, generator: Generator | None = None) -> Array:
    """Uniform with variance gain**2 * 2 / (fan_in + fan_out) (Glorot and Bengio 2010, equation 16)."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Array, gain: float = 1.0, generator: Generator | None = None) -> Array:
    """Normal with variance gain**2 * 2 / (fan_in + fan_out) (Glorot and Bengio 2010, equation 12)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def _kaiming_std(tensor: Array, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode {mode!r}, expected 'fan_in' or 'fan_out'")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Array, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Array:  # fmt: skip
    """Uniform with variance gain**2 / fan (He et al. 2015, equations 10 and 14); `a`: slope of leaky_relu."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Array, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Array:  # fmt: skip
    """Normal with variance gain**2 / fan (He et al. 2015, equations 10 and 14); `a`: slope of leaky_relu."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def lecun_uniform_(tensor: Array, generator: Generator | None = None) -> Array:
    """Uniform with variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    bound = math.sqrt(3 / fans(tensor)[0])
    return uniform_(tensor, -bound, bound, generator)


def lecun_normal_(tensor: Array, generator: Generator | None = None) -> Array:
    """Normal with variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    return normal_(tensor, 0.0, 1 / math.sqrt(fans(tensor)[0]), generator)


def orthogonal_(tensor: Array, gain: float = 1.0, generator: Generator | None = None) -> Array:
    """Rows or columns (the fewer) orthonormal, times gain (Saxe et al. 2014). The factorisation runs in NumPy: waits.

    >>> import dagrun as dr
    >>> q = dr.nn.init.orthogonal_(dr.zeros((2, 3)))
    >>> bool(dr.allclose(q @ q.T, dr.eye(2)))
    True
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ of an array of shape {tensor.shape}: expected at least two axes")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    drawn = _drawn(tensor, "normal", generator).numpy().reshape(rows, columns)
    q, r = np.linalg.qr(drawn.T if rows < columns else drawn)
    q = q * np.sign(np.diag(r))  # makes it uniform over all orthogonal matrices (Mezzadri 2007)
    q = (q.T if rows < columns else q) * gain
    return _write(tensor, asarray(q.reshape(tensor.shape), device=tensor.device))
