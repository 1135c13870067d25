"""What one launch on a CUDA device costs the host: to record it, to launch it, until the engine knows that it is done.

On a GPU (`make bench-gpu`), and with a null driver, which takes every call and runs nothing: dagrun's own share.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dagrun as dr
from dagrun.backends import cuda
from dagrun.backends.cuda.graphs import capture
from dagrun.core import native
from dagrun.errors import DeviceError
from tests.cuda.emulated import COMPILER, use_emulator

COUNT, SIZE = 1000, 16
# Most microseconds for each task: a driver's launch takes two to three, which hides what stays below it.
LIMITS = {"null driver": {"record": 0.5e-6, "run": 2e-6}, "GPU": {"record": 0.5e-6, "run": 5e-6}}


@pytest.fixture(params=["null driver", pytest.param("GPU", marks=pytest.mark.gpu)])
def driver(request: pytest.FixtureRequest) -> Iterator[str]:
    """What takes the launches of cuda:0."""
    if request.param == "null driver":
        if COMPILER is None:
            pytest.skip("the null driver is built with a C++ compiler, and there is none")
        platform = use_emulator()
        dr.ones(SIZE, device="cuda:0").wait()
        platform.null(True)
        try:
            yield request.param
            dr.wait()
        finally:
            platform.null(False)
        return
    try:
        cuda.gpu_count()
    except DeviceError as error:
        pytest.skip(str(error))
    yield request.param


def chain(x: Any) -> None:
    for _ in range(COUNT):
        x = x + 1.0


def apart(x: Any) -> None:
    for _ in range(COUNT):
        x + 1.0


def finished(program: Callable[[Any], None], x: Any) -> None:
    program(x)
    native.wait_all()


def launched(bench: Any, program: Callable[[Any], None], x: Any) -> float:
    """The seconds from the first launch to the end of all, where everything was recorded before."""
    native.pause(True)
    program(x)
    return float(bench.clock(native.wait_all))


def cupy_peer(driver: str, program: Callable[[Any], None]) -> dict[str, Callable[[], None]]:
    """The same program in CuPy, where it and a GPU are."""
    if driver != "GPU" or importlib.util.find_spec("cupy") is None:
        return {}
    cupy: Any = importlib.import_module("cupy")
    x = cupy.ones(SIZE)

    def run() -> None:
        program(x)
        cupy.cuda.get_current_stream().synchronize()

    return {"CuPy": run}


def test_record(bench: Any, driver: str) -> None:
    x = dr.ones(SIZE, device="cuda:0")

    def held() -> float:
        native.wait_all()
        native.pause(True)
        return float(bench.clock(apart, x))

    bench.run(held, {}, rounds=31, warmup=5, per=COUNT)
    bench.limit(f"record x + 1 on a GPU, lanes held ({driver})", bench.median(), "us", LIMITS[driver]["record"])


@pytest.mark.parametrize("program", [chain, apart], ids=["chain", "apart"])
def test_launch(bench: Any, driver: str, program: Callable[[Any], None]) -> None:
    x = dr.ones(SIZE, device="cuda:0")
    bench.run(lambda: launched(bench, program, x), {}, rounds=31, warmup=5, per=COUNT)
    title = f"launch and conclude {program.__name__} of {COUNT} adds, recorded before, per add ({driver})"
    bench.limit(title, bench.median(), "us", LIMITS[driver]["run"])


@pytest.mark.parametrize("program", [chain, apart], ids=["chain", "apart"])
def test_record_and_launch(bench: Any, driver: str, program: Callable[[Any], None]) -> None:
    x = dr.ones(SIZE, device="cuda:0")
    bench.run(lambda: finished(program, x), cupy_peer(driver, program), rounds=31, warmup=5, per=COUNT)
    title = f"record, launch and conclude {program.__name__} of {COUNT} adds, per add ({driver})"
    bench.limit(title, bench.median(), "us", LIMITS[driver]["run"])
    if "CuPy" in bench.seconds:
        bench.against(title, "CuPy", "us")


@pytest.mark.gpu  # a null driver captures nothing
@pytest.mark.parametrize("driver", ["GPU"], indirect=True)
def test_replay(bench: Any, driver: str) -> None:
    x = dr.ones(SIZE, device="cuda:0")
    with capture("cuda:0") as graph:
        chain(x)

    def replay() -> None:
        graph.replay()
        native.wait_all()

    bench.run(replay, {"launched one by one": lambda: finished(chain, x)}, rounds=31, warmup=5, per=COUNT)
    bench.against(f"replay of a graph of a chain of {COUNT} adds, per add ({driver})", "launched one by one", "us")
