"""Recorded work while the main thread is busy in Python, and elementwise chains side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import configure, native

ELEMENTS = 20_000


def record_chain(x: dr.Array, length: int) -> dr.Array:
    """Records a chain of adds while the lanes are held, so that recording is not part of what is measured."""
    native.pause(True)
    y = x
    for _ in range(length):
        y = y + 1.0
    return y


def spin_until(goal: int) -> None:
    """Lets the lanes go and keeps the main thread in Python until so many tasks are finished in all."""
    native.pause(False)
    while dr.engine_stats()["finished"] < goal:
        for _ in range(500):
            pass


@pytest.mark.parametrize(("length", "share", "rounds"), [(20_000, 0.9, 15), (1000, 0.8, 101)])
def test_chain_of_adds_while_python_spins(bench: Any, length: int, share: float, rounds: int) -> None:
    configure(max_inflight_bytes=0)  # the whole chain is recorded ahead: its results are freed as it runs
    x = dr.asarray(np.zeros(ELEMENTS))

    def alone() -> float:
        y = record_chain(x, length)
        return bench.clock(y.wait)  # lets the lanes go; the main thread sleeps

    def spinning() -> float:
        y = record_chain(x, length)
        goal = dr.engine_stats()["recorded"]
        seconds = bench.clock(spin_until, goal)
        assert y.numpy()[0] == length
        return float(seconds)

    peer = "the same while the main thread sleeps"
    bench.run(spinning, {peer: alone}, rounds=rounds, per=length)
    title = f"chain of {length} adds on {ELEMENTS} float64 while the main thread spins in Python, per add"
    bench.against(title, peer, "us", at_least=share)


def test_two_elementwise_chains(bench: Any) -> None:
    size, length = 4_000_000, 20
    sources = [np.random.default_rng(seed).random(size, dtype=np.float32) for seed in range(2)]
    arrays = [dr.asarray(source) for source in sources]
    results: list[Any] = [None, None]

    def recorded() -> None:
        p, q = arrays
        for i in range(length):
            p, q = (p * 1.01, q * 1.01) if i % 2 else (p + 0.5, q + 0.5)
        p.wait()
        q.wait()
        recorded.result = (p, q)  # type: ignore[attr-defined]

    def chain(k: int) -> None:
        x = sources[k]
        for i in range(length):
            x = x * 1.01 if i % 2 else x + 0.5
        results[k] = x

    def in_place(k: int) -> None:
        x = sources[k] + 0.5
        for i in range(1, length):
            if i % 2:
                x *= 1.01
            else:
                x += 0.5

    peers = {
        "two NumPy threads, fresh outputs": lambda: bench.in_threads(chain, [(0,), (1,)]),
        "two NumPy threads, in place": lambda: bench.in_threads(in_place, [(0,), (1,)]),
        "NumPy, one chain after the other": lambda: [chain(0), chain(1)],
    }
    bench.run(recorded, peers, rounds=11)
    for mine, hand in zip(recorded.result, results, strict=True):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(mine.numpy(copy=False), hand)
    title = f"two chains of {length} elementwise operations on 4 M float32"
    bench.against(title, "two NumPy threads, fresh outputs", at_least=1.0)
    bench.against(title, "two NumPy threads, in place")
    bench.against(title, "NumPy, one chain after the other")
