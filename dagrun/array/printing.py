"""How arrays print: as NumPy's do, with the device where it is not the default one."""

from __future__ import annotations

from typing import Any

import numpy as np


def format_array(values: np.ndarray[Any, Any], device: str, form: str) -> str:
    """The text of an array: `form` is "repr" or "str".

    >>> format_array(np.ones(2), "cpu:1", "repr")
    "array([1., 1.], device='cpu:1')"
    """
    if form == "str":
        return str(values)
    text = repr(values)
    return text if device == "cpu:0" else f"{text[:-1]}, device='{device}')"
