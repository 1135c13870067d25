"""The one place where a task is made: an operator and its operands become a signature, and the signature a task.

Life of one call, `c = a + b`: the number slot of `a` finds the signature of "add" on the two layouts in a native cache
and records at once. Only the first call on new layouts comes here: `apply` infers the result's layout, lowers the
operator to a native body (or wraps its `compute` for the Python lane) and keeps the signature.
"""

from dagrun.record.apply import (
    Known,
    Memory,
    apply,
    common_device,
    layout,
    pack_scalar,
    scalar_kind,
    signature_for,
    submit,
)
from dagrun.record.gradients import ZERO, Gradients, undefined
from dagrun.record.lowering import crossing_bodies
from dagrun.record.operator import DONATE, OVERWRITE, READ, WRITE, Body, Operand, Operator
from dagrun.record.tape import SELECTED, composed

__all__ = [
    "DONATE",
    "OVERWRITE",
    "READ",
    "SELECTED",
    "WRITE",
    "ZERO",
    "Body",
    "Gradients",
    "Known",
    "Memory",
    "Operand",
    "Operator",
    "apply",
    "common_device",
    "composed",
    "crossing_bodies",
    "layout",
    "pack_scalar",
    "scalar_kind",
    "signature_for",
    "submit",
    "undefined",
]
