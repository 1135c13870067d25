"""Gradients: the reverse walk over recorded operations, and the functions built on it.

`record.tape` writes down, while a program runs, where each array came from; `backward` walks that back. The rules stand
with the operators, in `dagrun.ops`, and use array operations only: so gradients are recorded, scheduled and
differentiated like anything else. See `docs/autodiff.md`.
"""

from dagrun.autodiff import arrays as arrays
from dagrun.autodiff import writes as writes
from dagrun.autodiff.backward import backward
from dagrun.autodiff.functions import (
    checkpoint,
    custom_gradient,
    grad,
    gradients,
    hessian,
    jacobian,
    jvp,
    value_and_grad,
    vjp,
)
from dagrun.autodiff.modes import detect_anomaly, enable_grad, is_grad_enabled, no_grad

__all__ = [
    "backward",
    "checkpoint",
    "custom_gradient",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradients",
    "hessian",
    "is_grad_enabled",
    "jacobian",
    "jvp",
    "no_grad",
    "value_and_grad",
    "vjp",
]
