"""The bare executor: random graphs of empty native tasks, from handing them over until all are done."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

import dagrun as dr
from dagrun.core import configure, native

Graph = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
MILLION = 1_000_000


def random_graph(count: int) -> Graph:
    """Two random predecessors for each task (the second task has one, the first none), as `push_batch` takes them."""
    degrees = np.minimum(np.arange(count), 2)
    first = np.zeros(count + 1, np.uint32)
    first[1:] = np.cumsum(degrees)
    owners = np.repeat(np.arange(count), degrees)
    return first, (np.random.default_rng(0).random(len(owners)) * owners).astype(np.uint32)


def run(graph: Graph) -> None:
    native.push_batch(*graph, 0, "empty")
    dr.wait()


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds / 1e6:.3g} M tasks/s"


def on_workers(bench: Any, workers: int, graph: Graph) -> float:
    if dr.engine_stats()["workers"] != workers:
        configure(workers=workers)
        run(random_graph(1000))
    return float(bench.clock(run, graph))


def test_rate(bench: Any) -> None:
    """A million tasks against a hundred thousand on two workers: the rate, and whether it holds as the graph grows."""
    small, large = random_graph(MILLION // 10), random_graph(MILLION)
    (dr.ones(1) + 1).wait()  # opens the device
    peer = "a tenth as many"
    bench.run(lambda: on_workers(bench, 2, large), {peer: lambda: on_workers(bench, 2, small)}, rounds=21)
    seconds, tenth = bench.median(), bench.median(peer)
    title = "random graph of 1 M empty tasks, two workers"
    ours, limit = rate(MILLION, seconds), 5e6
    bench.claim(title, ours, "limit 5 M tasks/s", MILLION / seconds / limit, at_least=1.0)
    title = "random graph of 100 k empty tasks, two workers"
    bench.claim(title, rate(MILLION // 10, tenth), "limit 5 M tasks/s", MILLION / 10 / tenth / limit, at_least=1.0)
    ratio = 10 * tenth / seconds
    bench.claim("rate at 1 M tasks against 100 k", ours, f"100 k: {rate(MILLION // 10, tenth)}", ratio, at_least=0.9)


def test_two_workers_against_one(bench: Any) -> None:
    graph = random_graph(MILLION // 10)
    (dr.ones(1) + 1).wait()
    bench.run(lambda: on_workers(bench, 2, graph), {"one worker": lambda: on_workers(bench, 1, graph)}, rounds=31)
    bench.against("random graph of 100 k empty tasks, two workers", "one worker", at_least=1.0)


def test_recorded_one_by_one(bench: Any) -> None:
    """The same number of tasks as operations of a Python program: in-place adds over 64 arrays."""
    configure(inline_bytes=0)
    arrays = [dr.zeros(16) for _ in range(64)]
    pairs = np.random.default_rng(0).integers(0, 64, (20_000, 2)).tolist()

    def record() -> None:
        for i, j in pairs:
            arrays[i] += arrays[j]
        dr.wait()

    def bare() -> None:
        for i, j in pairs:
            arrays[i], arrays[j] = arrays[i], arrays[j]

    hand = [np.zeros(16) for _ in range(64)]

    def in_numpy() -> None:
        for i, j in pairs:
            hand[i] += hand[j]

    bench.run(record, {"NumPy": in_numpy, "the bare Python loop": bare}, rounds=21, per=len(pairs))
    title = "in-place adds over 64 arrays of 16 float64, every one through a lane, per add"
    bench.against(title, "NumPy", "us")
    bench.against(title, "the bare Python loop", "us")


MEMORY = """
import sys
import numpy as np
import dagrun as dr
from dagrun.core import native

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) << 10

first, predecessors = np.load(sys.argv[1]), np.load(sys.argv[2])
(dr.ones(4096) + 1).wait()
native.push_batch(first[:3].copy(), predecessors[:1].copy(), 0, "empty")
dr.wait()
first.sum(), predecessors.sum()
native.pause(True)
before = resident()
native.push_batch(first, predecessors, 0, "empty")
print((resident() - before) / (len(first) - 1), dr.engine_stats()["task_bytes"])
dr.wait()
"""


def test_bytes_per_task(bench: Any, tmp_path: Any) -> None:
    """What a million pending tasks add to the process, with the lanes held; in a process of their own."""
    for name, values in zip(("first", "predecessors"), random_graph(MILLION), strict=True):
        np.save(tmp_path / name, values)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "first.npy"), str(tmp_path / "predecessors.npy")]
    printed = bench.benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout, rounds=1
    )
    grown, record = (float(word) for word in printed.split())
    bench.limit("bytes that one of 1 M pending tasks adds to the process", round(grown, 1), "bytes", at_most=120)
    bench.limit("bytes of one task's record", record, "bytes", at_most=120)
