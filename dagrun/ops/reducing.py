"""How reductions become tasks: native bodies, cut along the axes that stay."""

from __future__ import annotations

from typing import Any

from dagrun.record import Body


def reduction_bodies(
    kernel: str, output: Any, source: Any, axes: tuple[int, ...], keepdims: bool
) -> tuple[Body, ...] | None:
    return None


def cumulative_bodies(kernel: str, output: Any, source: Any, axis: int) -> tuple[Body, ...] | None:
    return None
