"""Modules whose parameters have shapes but no memory: what is counted or compared by name needs no values."""

from __future__ import annotations

from typing import Any

import pytest

import dagrun as dr
from dagrun import ops
from dagrun.nn import init


@pytest.fixture
def shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters made in this test are one number each, repeated by strides, and initialisers do nothing."""
    number = dr.zeros((), "float32")

    def zeros(shape: Any, dtype: Any = None, *, device: Any = None, requires_grad: bool = False) -> dr.Array:
        if not requires_grad:
            return dr.zeros(shape, dtype, device=device)
        repeated = dr.broadcast_to(number, shape).detach()
        repeated.requires_grad = True
        return repeated

    monkeypatch.setattr(ops, "zeros", zeros)
    monkeypatch.setattr(init, "_drawn", lambda *arguments: number)
    monkeypatch.setattr(init, "_write", lambda tensor, value: tensor)
    monkeypatch.setattr(init, "_erfinv", lambda x: x)
