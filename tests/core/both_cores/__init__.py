"""Scenarios that every core must pass, each in a process of its own: `python -m both_cores native|python SCENARIO`.

A scenario asserts what must hold and returns what must be equal on all cores.
"""

import inspect

from . import calls, edges, failures, memory, running
from .lab import native_file

SCENARIOS = {
    name: function
    for module in (edges, running, failures, memory, calls)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and list(inspect.signature(function).parameters) == ["lab"]
}

__all__ = ["SCENARIOS", "native_file"]
