"""What gradients cost where arrays are small: to record an operation on a tracked array, and to walk back a chain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import dagrun as dr

COUNT, SIZE = 1000, 16


def record_only(x: Any, w: Any) -> None:
    for _ in range(COUNT):
        x + w


def chain(x: Any) -> Any:
    y = x
    for _ in range(COUNT):
        y = y * 1.0001
    return y


def backward(x: Any, start: Any, wait: Callable[[], object]) -> float:
    """The seconds of a backward step over a chain, until its gradient is there."""
    y = chain(x)
    wait()
    begin = time.perf_counter()
    y.backward(start)
    wait()
    seconds = time.perf_counter() - begin
    x.grad = None
    return seconds


def test_record_a_tracked_add(bench: Any) -> None:
    x, w = dr.ones(SIZE, requires_grad=True), dr.ones(SIZE, requires_grad=True)
    plain, other = dr.ones(SIZE), dr.ones(SIZE)

    def timed(a: dr.Array, b: dr.Array) -> float:
        seconds = bench.clock(record_only, a, b)
        dr.wait()
        return float(seconds)

    peers: dict[str, Any] = {"dagrun without gradients": lambda: timed(plain, other)}
    if torch := bench.torch():
        a, b = (torch.ones(SIZE, dtype=torch.float64, requires_grad=True) for _ in range(2))
        peers["torch"] = lambda: bench.clock(record_only, a, b)
    bench.run(lambda: timed(x, w), peers, rounds=31, per=COUNT)
    bench.limit("record a tracked add", bench.median(), "us", at_most=2e-6)
    for peer in peers:
        bench.against("record a tracked add", peer, "us")


def test_backward_of_a_chain(bench: Any) -> None:
    x, start = dr.ones(SIZE, requires_grad=True), dr.ones(SIZE)
    peers: dict[str, Any] = {"forward alone": lambda: bench.clock(lambda: (chain(x), dr.wait()))}
    if torch := bench.torch():
        a = torch.ones(SIZE, dtype=torch.float64, requires_grad=True)
        peers["torch"] = lambda: backward(a, torch.ones(SIZE, dtype=torch.float64), lambda: None)
    bench.run(lambda: backward(x, start, dr.wait), peers, rounds=31, per=COUNT)
    for peer in peers:
        bench.against(f"backward of a chain of {COUNT}, for each operation", peer, "us")
    np.testing.assert_allclose(dr.gradients(chain(x), [x], [start])[0].numpy(), 1.0001**COUNT)
