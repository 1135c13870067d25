"""The record of one operator: everything that is known about it, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dagrun.record.gradients import Gradients

# How a body uses an operand. OVERWRITE: the write does not depend on what was there. DONATE, of an input that fills its
# buffer: each of its bytes is read only to write the same byte of the first output, so that this may take its memory.
READ, WRITE, OVERWRITE, DONATE = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Operand:
    """How one body uses one operand: which (outputs first), from which byte of its view on, and which part of it."""

    index: int
    mode: int = READ
    offset: int = 0  # bytes from the view's first element
    layout: Any = None  # the part that is touched; None: all of the operand


@dataclass(frozen=True, slots=True)
class Body:
    """One task of an operation: a native function with its parameters, and what it touches."""

    address: int
    params: bytes
    operands: tuple[Operand, ...]
    cost: int  # bytes moved


Spec = tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype of a result


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """An operator of arrays.

    `infer(inputs, scalars, **attributes)` gives shape and dtype of each result from the inputs' layouts; it raises what
    NumPy would raise. `compute(xp, *operands, **attributes)` computes the results with NumPy (or CuPy): the second
    oracle, and the body where there is no native one. `lower(outputs, inputs, scalars, **attributes)` gives native
    bodies, or None. How it cuts the work depends on shapes and dtypes alone. `grad` says how gradients pass through it.
    """

    name: str
    infer: Callable[..., tuple[Spec, ...]]
    compute: Callable[..., Any]
    lower: Callable[..., tuple[Body, ...] | None] | None = None
    explain: Callable[[int, tuple[int, ...]], tuple[type[Exception], str]] | None = None
    grad: Gradients | None = None
    lane: str = "compute"
    priority: int = 0
    # What compute takes where the device is a GPU: "host", NumPy arrays alone; "device", CuPy's alone; "either".
    takes: Literal["host", "device", "either"] = "either"
    updates: bool = False  # writes into its first result, whose other elements keep their values

    def check_shape(self, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """Raises ValueError where `compute` made another shape than `infer` said."""
        if shape != expected:
            raise ValueError(f"{self.name} computed an array of shape {shape}, expected {expected}")
