"""Fixtures shared by all tests: an engine that is back to its defaults, and the kinds of device."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import configure, native
from dagrun.errors import OperationError
from tests.cuda.emulated import use_emulator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: tests of Ctrl-C would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)

# DAGRUN_TEST_CUDA: "1" takes every test that has a device to cuda:0 too, "emulated" to the emulator's.
CUDA = os.environ.get("DAGRUN_TEST_CUDA", "")
DEVICES = ["cpu:0", "sim:0"] + (["cuda:0"] if CUDA else [])
if CUDA == "emulated":
    use_emulator()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that is here."""
    return str(request.param)


@pytest.fixture(params=[name for name in DEVICES if not name.startswith("cuda")])
def host_device(request: pytest.FixtureRequest) -> str:
    """Each kind of device whose tasks and memory are the CPU's."""
    return str(request.param)


@pytest.fixture(autouse=True)
def hang_or_long(request: pytest.FixtureRequest) -> None:
    """A test with a limit of its own is not ended by that of faulthandler, which is the same for all."""
    if request.node.get_closest_marker("timeout"):
        faulthandler.cancel_dump_traceback_later()


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


class Gate:
    """`late(x)` is x, but only once the gate is open; it has the Python lane until then."""

    def __init__(self) -> None:
        self._started, self._open = threading.Event(), threading.Event()

        @dr.custom_op
        def late(x: np.ndarray) -> np.ndarray:
            self._started.set()
            assert self._open.wait(60)
            return x

        self.late = late

    def reached(self) -> None:
        """Returns once the lane runs `late`: from then on no wait of this thread can run it in the lane's place."""
        assert self._started.wait(60)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Holds an operation back until the test lets it go."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """No test leaves work in flight or failures that nobody looked at."""
    yield
    native.pause(False)
    try:
        dr.wait()
    except OperationError as error:
        pytest.fail(f"a failure was left behind: {error}")
