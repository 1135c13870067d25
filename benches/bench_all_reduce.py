"""The ring all-reduce of 102 MB (a ResNet-50's gradients) between two CPU devices of one process."""

from __future__ import annotations

from typing import Any

import numpy as np

import dagrun as dr

SIZE = 25_500_000  # float32: 102 MB


def test_all_reduce_of_102_mb(bench: Any) -> None:
    a, b = (np.random.default_rng(seed).random(SIZE, dtype=np.float32) for seed in range(2))
    c, d = np.zeros_like(a), np.zeros_like(b)
    arrays = [dr.asarray(a, device="cpu:0"), dr.asarray(b, device="cpu:1")]

    def ours() -> float:
        def call() -> None:
            ours.sums = dr.parallel.all_reduce(arrays)  # type: ignore[attr-defined]
            dr.wait()

        return float(bench.clock(call))

    def numpy_one_thread() -> None:
        np.add(a, b, out=c)
        np.copyto(d, c)

    def half(start: int, stop: int) -> None:
        part = slice(start, stop)
        np.add(a[part], b[part], out=c[part])
        np.copyto(d[part], c[part])

    def in_chunks(start: int, stop: int, step: int = 1 << 15) -> None:
        for low in range(start, stop, step):
            half(low, min(low + step, stop))

    halves = [(0, SIZE // 2), (SIZE // 2, SIZE)]
    peers = {
        "np.add(a, b, out=c); np.copyto(d, c), one thread": numpy_one_thread,
        "the same, half in each of two threads": lambda: bench.in_threads(half, halves),
        "the same, two threads, in pieces of 128 KiB": lambda: bench.in_threads(in_chunks, halves),
    }
    bench.run(ours, peers, rounds=31)
    for total in ours.sums:  # type: ignore[attr-defined]
        np.testing.assert_array_equal(total.numpy(copy=False), c)
    for number, peer in enumerate(peers):
        bench.against("all_reduce of 102 MB between cpu:0 and cpu:1", peer, at_most=None if number else 1.2)
