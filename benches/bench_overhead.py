"""What one small operation costs: to record, until done in a chain, and waited for one by one.

Two ways of running are measured. By default a ready operation that moves at most `inline_bytes` runs where it is
recorded ("inline"); with inline_bytes=0 every operation becomes a task that a lane runs ("through a lane").
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import configure, native

COUNT, SIZE = 1000, 16
WAYS = {"inline": "inline, the default", "lane": "through a lane"}
LIMITS = {"until done": 0.6e-6, "waiting after every one": 1.5e-6}


def installed(name: str) -> Any:
    """A peer, or None where it is not installed or does not load with this NumPy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except (ImportError, AttributeError):
            return None


def starting_values() -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Each peer that is here: name, an array of ones, and how to wait for a result."""
    yield "NumPy", np.ones(SIZE), lambda y: y
    if torch := installed("torch"):
        yield "torch", torch.ones(SIZE, dtype=torch.float64), lambda y: y
    if mxnet := installed("mxnet"):
        yield "mxnet", mxnet.nd.ones(SIZE, dtype="float64"), lambda y: y.wait_to_read()


def record_only(a: Any, b: Any) -> None:
    for _ in range(COUNT):
        a + b


def chain(x: Any, wait: Callable[[Any], Any]) -> None:
    y = x
    for _ in range(COUNT):
        y = y + 1.0
    wait(y)


def chain_waiting(x: Any, wait: Callable[[Any], Any]) -> None:
    y = x
    for _ in range(COUNT):
        y = y + 1.0
        wait(y)


def chain_waiting_method(x: dr.Array) -> None:
    y = x
    for _ in range(COUNT):
        y = y + 1.0
        y.wait()


def test_record(bench: Any) -> None:
    """User's line, autodiff hook and bounds on; the lanes are held, so that nothing runs meanwhile."""
    configure(inline_bytes=0)
    a, b = dr.ones(SIZE), dr.ones(SIZE)

    def held() -> float:
        dr.wait()
        native.pause(True)
        return bench.clock(record_only, a, b)

    peers = {name: lambda x=x: bench.clock(record_only, x, x) for name, x, _ in starting_values()}
    bench.run(held, peers, rounds=51, warmup=5, per=COUNT)
    bench.limit(f"record a + b, {SIZE} float64, lanes held", bench.median(), "us", at_most=0.4e-6)
    for name in peers:
        bench.against(f"record a + b, {SIZE} float64, lanes held (the peer computes it)", name, "us")


def test_record_and_run_inline(bench: Any) -> None:
    a, b = dr.ones(SIZE), dr.ones(SIZE)
    a.wait()
    b.wait()
    peers = {name: lambda x=x: bench.clock(record_only, x, x) for name, x, _ in starting_values()}
    bench.run(lambda: bench.clock(record_only, a, b), peers, rounds=51, warmup=5, per=COUNT)
    bench.limit(f"record and run a + b inline, the default, {SIZE} float64", bench.median(), "us", at_most=0.4e-6)
    for name in peers:
        bench.against(f"record and run a + b inline, the default, {SIZE} float64", name, "us")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", LIMITS)
def test_chain(bench: Any, what: str, way: str) -> None:
    if way == "lane":
        configure(inline_bytes=0)
    x = dr.ones(SIZE)
    x.wait()
    follow = chain if what == "until done" else chain_waiting
    ours = (lambda: chain(x, dr.Array.wait)) if what == "until done" else (lambda: chain_waiting_method(x))
    peers = {name: lambda x=x, wait=wait: follow(x, wait) for name, x, wait in starting_values()}
    bench.run(ours, peers, rounds=51, warmup=5, per=COUNT)
    title = f"chain of {COUNT} adds on {SIZE} float64, {what}, per add ({WAYS[way]})"
    bench.limit(title, bench.median(), "us", at_most=LIMITS[what])
    for name in peers:
        needed = {"at_least": 1.0} if name == "NumPy" and what == "until done" else {}
        bench.against(title, name, "us", **needed)
