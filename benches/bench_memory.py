"""Bounded run-ahead: the peak memory of programs that record faster than their work is done.

Each program runs in a process of its own; its growth is the peak of the resident set after the start, over what was
resident then. By default the sizes are cut so that the file takes about a minute; `pytest benches -m long` has
them in full.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BOUND, SLACK = 256 << 20, 64 << 20  # max_inflight_bytes as it comes, and what the process may take beside it

START = """
import time
import numpy as np
import dagrun as dr
from dagrun.core import configure

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10

@dr.custom_op(infer=lambda spec: ((), "float32"))
def consume(y):
    time.sleep(0.002)
    return y[0]

x = dr.zeros(SIZE, dtype="float32")
for _ in range(3):
    consume(x + 1).wait()
configure(**OPTIONS)
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # the peak begins here
before = status("VmRSS")
begin = time.perf_counter()
"""
END = """
print(status("VmHWM") - before, time.perf_counter() - begin)
"""
CONSUMER = """
total = x[0] * 0
for _ in range(COUNT):
    y = x + 1
    total = total + consume(y)
assert total.item() == COUNT
"""
CHAIN = """
y = x
for _ in range(COUNT):
    y = y + 1
assert y.numpy()[0] == min(COUNT, 1 << 24)
"""

MEGA = 1_000_000
LONG = [pytest.mark.long, pytest.mark.timeout(3600)]
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")


def growth(bench: Any, program: str, size: int, count: int, **options: int) -> int:
    """Bytes that a program grew by."""
    source = "\n".join([f"SIZE, COUNT, OPTIONS = {size}, {count}, {options}", START, program, END])
    command = [sys.executable, "-c", source]
    done = bench.benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False), rounds=1
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0])


CASES = [
    pytest.param(CONSUMER, "slow consumer of y = x + 1 (4 MB)", MEGA, 5000, id="consumer"),
    pytest.param(CHAIN, "chain of y = y + 1 (4 KB)", 1000, MEGA, id="chain of small"),
    pytest.param(CHAIN, "chain of y = y + 1 (4 MB)", MEGA, 10_000, id="chain of large"),
    pytest.param(CONSUMER, "slow consumer of y = x + 1 (4 MB)", MEGA, 100_000, id="all", marks=LONG),
    pytest.param(CHAIN, "chain of y = y + 1 (4 MB)", MEGA, MEGA, id="all of chain", marks=LONG),
]


@pytest.mark.parametrize(("program", "title", "size", "count"), CASES)
def test_peak(bench: Any, program: str, title: str, size: int, count: int) -> None:
    grown = growth(bench, program, size, count)
    bench.limit(f"{title} {count} times: growth", round(grown / 2**20), "MiB", at_most=(BOUND + SLACK) / 2**20)


def test_peak_without_bound(bench: Any) -> None:
    """The same program passes the limit with the bound off: so the bound is what holds it."""
    count = 600
    grown = growth(bench, CONSUMER, MEGA, count, max_inflight_bytes=0, max_inflight_tasks=0)
    title = f"the bound is off: slow consumer of y = x + 1 (4 MB) {count} times: growth"
    bench.limit(title, round(grown / 2**20), "MiB", at_least=(BOUND + SLACK) / 2**20)
