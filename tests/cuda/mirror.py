"""Takes the calls that tests of the CPU's kernels make, to make them of CUDA kernels too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.cuda.harness import Case, copies


class _Address(int):
    """The address of a CPU kernel, and how it was asked for."""

    make: Callable[[], int]


def recorded(
    module: ModuleType, kernels: Sequence[str], monkeypatch: pytest.MonkeyPatch, *, but: Sequence[str] = (),
    caller: str = "call",
) -> list[Case]:  # fmt: skip
    """A case for each call that the tests of `module` (all `but` some) make; `kernels`: the names of its functions."""
    cases: list[Case] = []
    name = ""
    run = getattr(module, caller)

    def remember(make: Callable[..., int]) -> Callable[..., _Address]:
        def wrapper(*arguments: Any) -> _Address:
            address = _Address(make(*arguments))
            address.make = lambda: make(*arguments)
            return address

        return wrapper

    def record(
        address: _Address, arrays: Sequence[np.ndarray], params: bytes, scalars: Sequence[np.generic] = ()
    ) -> Any:
        cases.append(Case(f"{name}, call {len(cases)}", address.make, copies(arrays), params, scalars))
        return run(address, arrays, params, scalars)

    monkeypatch.setattr(module, caller, record)
    for function in kernels:
        monkeypatch.setattr(module, function, remember(getattr(module, function)))
    for table in [value for value in vars(module).values() if isinstance(value, dict)]:
        for key, value in table.items():
            if getattr(value, "__name__", "") in kernels:
                monkeypatch.setitem(table, key, getattr(module, value.__name__))
    for test, function in vars(module).items():
        if test.startswith("test_") and test not in but:
            for arguments in _parametrizations(function):
                name = f"{test}{list(arguments.values())}"
                function(**arguments)
    return cases


def _parametrizations(function: Any) -> Iterator[dict[str, Any]]:
    """Every combination of arguments that pytest would call a test with."""
    choices = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0] if isinstance(mark.args[0], tuple) else (mark.args[0],)
            rows = [row if len(names) > 1 else (row,) for row in mark.args[1]]
            choices.append([dict(zip(names, row, strict=True)) for row in rows])
    for chosen in itertools.product(*choices):
        yield {name: value for row in chosen for name, value in row.items()}
