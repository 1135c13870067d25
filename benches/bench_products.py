"""Products that do not depend on each other, on two lanes: against one after the other, and against two threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import dagrun as dr
from dagrun.core import configure

N, LENGTH = 1024, 10


def make(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first factor of a chain and the one that is multiplied on; the products keep their size."""
    rng = np.random.default_rng(seed)
    first, factor = rng.standard_normal((2, N, N), dtype=np.float32)
    return first, factor / np.float32(N**0.5)


def test_two_chains_of_products(bench: Any) -> None:
    chains = [make(0), make(1)]
    arrays = [(dr.asarray(first), dr.asarray(factor)) for first, factor in chains]
    results: dict[str, list[np.ndarray[Any, Any]]] = {"threads": [np.empty(0)] * 2}

    def recorded() -> None:
        (p, right), (q, left) = arrays
        for _ in range(LENGTH):
            p, q = p @ right, q @ left
        dr.wait()
        results["dagrun"] = [p.numpy(copy=False), q.numpy(copy=False)]

    def two_lanes() -> float:
        configure(serial=False)
        dr.wait()
        return bench.clock(recorded)

    def serial() -> float:
        configure(serial=True)
        return bench.clock(recorded)

    def chain(k: int, buffers: list[np.ndarray[Any, Any]]) -> None:
        value, factor = chains[k]
        for i in range(LENGTH):
            np.matmul(value, factor, out=buffers[i % 2])
            value = buffers[i % 2]
        results["threads"][k] = value

    memory = [[np.zeros((N, N), np.float32) for _ in range(2)] for _ in range(2)]

    def by_hand() -> float:
        with threadpool_limits(1, user_api="blas"):
            return bench.clock(bench.in_threads, chain, list(enumerate(memory)))

    def numpy_two_blas_threads() -> float:
        with threadpool_limits(2, user_api="blas"):
            return bench.clock(lambda: [chain(k, memory[k]) for k in range(2)])

    peers = {
        "serial engine": serial,
        "two NumPy threads, one BLAS thread each": by_hand,
        "NumPy, one chain after the other, two BLAS threads": numpy_two_blas_threads,
    }
    bench.run(two_lanes, peers, rounds=11, blas=True)
    by_hand()
    for mine, hand in zip(results["dagrun"], results["threads"], strict=True):  # a cut changes the last bits
        np.testing.assert_allclose(mine, hand, rtol=1e-3, atol=1e-3)
    title = f"two chains of {LENGTH} products {N} x {N} float32"
    bench.against(title, "serial engine", at_least=1.95)
    bench.against(title, "two NumPy threads, one BLAS thread each", at_least=0.98)
    bench.against(title, "NumPy, one chain after the other, two BLAS threads")
