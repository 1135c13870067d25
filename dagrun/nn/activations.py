"""Activations as modules; the functions, with their sources, stand in `functional/activations.py`."""

from __future__ import annotations

from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import functional as F
from dagrun.nn.init import constant_
from dagrun.nn.linear import blank
from dagrun.nn.module import Module


class _Activation(Module):
    """A function of the input and of the module's options, whose names and defaults `options` gives."""

    function = staticmethod(ops.positive)
    options: dict[str, Any] = {}  # noqa: RUF012  (read only)

    def __init__(self, *values: Any, inplace: bool = False, **named: Any) -> None:
        super().__init__()
        names = list(self.options)
        if len(values) > len(names) or set(named) - set(names[len(values) :]):
            raise TypeError(
                f"{type(self).__name__}: got {values} and {named}, expected {', '.join(names) or 'nothing'}"
            )
        self._chosen = {**self.options, **dict(zip(names, values, strict=False)), **named}
        for name, value in self._chosen.items():
            self.__dict__[name] = value

    def forward(self, input: Array) -> Array:
        return type(self).function(input, **{name: self.__dict__[name] for name in self._chosen})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._chosen)


def _activation(name: str, function: Any, **options: Any) -> Any:
    text = (function.__doc__ or "").strip().splitlines()[0]
    members = {"function": staticmethod(function), "options": options, "__doc__": text, "__module__": __name__}
    return type(name, (_Activation,), members)


ReLU = _activation("ReLU", F.relu)
ReLU6 = _activation("ReLU6", F.relu6)
LeakyReLU = _activation("LeakyReLU", F.leaky_relu, negative_slope=0.01)
ELU = _activation("ELU", F.elu, alpha=1.0)
CELU = _activation("CELU", F.celu, alpha=1.0)
SELU = _activation("SELU", F.selu)
GELU = _activation("GELU", F.gelu, approximate="none")
SiLU = _activation("SiLU", F.silu)
Mish = _activation("Mish", F.mish)
Sigmoid = _activation("Sigmoid", F.sigmoid)
LogSigmoid = _activation("LogSigmoid", F.logsigmoid)
Tanh = _activation("Tanh", F.tanh)
Tanhshrink = _activation("Tanhshrink", F.tanhshrink)
Softplus = _activation("Softplus", F.softplus, beta=1.0, threshold=20.0)
Softsign = _activation("Softsign", F.softsign)
Hardtanh = _activation("Hardtanh", F.hardtanh, min_val=-1.0, max_val=1.0)
Hardsigmoid = _activation("Hardsigmoid", F.hardsigmoid)
Hardswish = _activation("Hardswish", F.hardswish)
Threshold = _activation("Threshold", F.threshold, threshold=0.0, value=0.0)
GLU = _activation("GLU", F.glu, dim=-1)
Softmin = _activation("Softmin", F.softmin, dim=-1)


class PReLU(Module):
    """x where positive, else weight * x, with one learned slope or one for each channel (He et al. 2015)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = constant_(blank((num_parameters,), device, dtype), init)

    def forward(self, input: Array) -> Array:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class _AlongAxis(Module):
    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongAxis):
    """exp(x) over its sum along an axis."""

    def forward(self, input: Array) -> Array:
        return F.softmax(input, self.dim)


class LogSoftmax(_AlongAxis):
    """The logarithm of the softmax along an axis."""

    def forward(self, input: Array) -> Array:
        return F.log_softmax(input, self.dim)


__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmin",
    "Softplus",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]  # fmt: skip
