"""How arrays print: as NumPy's do, with the device where it is not the default one."""

from __future__ import annotations

from typing import Any

import numpy as np


def format_array(values: np.ndarray[Any, Any], device: str, gradient: str = "") -> str:
    """What `repr` shows of an array: its values, its device unless it is "cpu:0", and where its gradient goes.

    >>> format_array(np.ones(2), "cpu:1", "requires_grad=True")
    "array([1., 1.], device='cpu:1', requires_grad=True)"
    """
    more = [text for text in ("" if device == "cpu:0" else f"device='{device}'", gradient) if text]
    return ", ".join([repr(values)[:-1], *more]) + ")"
