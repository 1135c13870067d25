"""Fixtures shared by all tests: an engine that is back to its defaults, and the kinds of device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dagrun as dr
from dagrun.core import configure, native
from dagrun.errors import OperationError

DEVICES = ["cpu:0", "sim:0"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that is here."""
    return str(request.param)


@pytest.fixture
def engine_options() -> Iterator[object]:
    """Calls to it configure the engine for one test; afterwards it is as before."""
    before: list[dict[str, object]] = []

    def set_options(**options: object) -> None:
        state = configure(**options)
        before.append(state)

    yield set_options
    for state in reversed(before):
        configure(**state)


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """No test leaves work in flight or failures that nobody looked at."""
    yield
    native.pause(False)
    try:
        dr.wait()
    except OperationError as error:
        pytest.fail(f"a failure was left behind: {error}")
