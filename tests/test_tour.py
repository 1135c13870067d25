"""A tour: short programs and their answers, as a new user would write them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import lane_limit


def test_the_diamond() -> None:
    r"""
    ones -> A --> C --> D
             \--> B --/
    """

    def diamond() -> dr.Array:
        A = dr.ones((2, 2)) * 2
        C = A + 2
        B = A + 1
        return B * C

    graph = dr.graph(diamond)
    np.testing.assert_array_equal(diamond().numpy(), np.full((2, 2), 12.0))
    edges = graph.to_networkx().edges
    first = min(min(edges))
    assert sorted((a - first, b - first) for a, b in edges) == [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]


def test_independent_work_runs_at_the_same_time() -> None:
    """B and C of the diamond meet: each begins before the other ends, which on one lane they never do."""
    A = dr.ones((1500, 1500), dtype="float32")
    with dr.profile() as profile:
        for _ in range(5):
            B, C = A @ A, A @ A.T
            (B * C).wait()
    if dr.engine_stats()["workers"] != 1:
        products = [r for r in profile.records if r.name == "matmul"]
        pairs = zip(products[::2], products[1::2], strict=True)
        assert any(b.begin_ns < c.end_ns and c.begin_ns < b.end_ns for b, c in pairs)


def test_one_lane_runs_one_task_at_a_time() -> None:
    A = dr.ones((1000, 1000), device="cpu:7")
    lane_limit("cpu:7", "compute", 1)
    with dr.profile() as profile:
        results = [A + k for k in range(6)]
        for result in results:
            result.wait()
    spans = sorted((r.begin_ns, r.end_ns) for r in profile.records)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))


def test_slices_are_views_and_disjoint_ones_are_independent() -> None:
    x = dr.zeros((4, 6))
    left, right = x[:, :3], x[:, 3:]
    with dr.profile() as profile:
        left += 1
        right += 2
    first, second = profile.records
    assert first.sequence not in [sequence for sequence, _ in second.predecessors]
    np.testing.assert_array_equal(x.numpy(), [[1, 1, 1, 2, 2, 2]] * 4)


def test_two_devices_and_a_sum() -> None:
    a, b = dr.ones(5, device="cpu:0") * 3, dr.ones(5, device="cpu:1") * 4
    total_a, total_b = dr.parallel.all_reduce([a, b])
    assert (total_a.device, total_b.device) == (dr.device("cpu:0"), dr.device("cpu:1"))
    assert total_a.tolist() == total_b.tolist() == [7.0] * 5
    with pytest.raises(dr.DeviceError, match="different devices"):
        a + b


def test_lifetimes_are_the_engines_affair(device: str) -> None:
    """Handles go at once; what was recorded still computes with the right memory."""
    x = dr.asarray(np.arange(1000.0), device=device)
    for _ in range(200):
        x = (x + 1) * 1.0 - 0.5
    np.testing.assert_array_equal(x.numpy(), np.arange(1000.0) + 100)


def test_numpy_views_keep_their_values(host_device: str) -> None:
    x = dr.ones(4, device=host_device)
    seen = x.numpy(copy=False)
    x += 1
    x *= 3
    assert seen.tolist() == [1.0] * 4 and x.tolist() == [6.0] * 4
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 5


def test_lent_memory_is_not_written() -> None:
    source = np.arange(3.0)
    with pytest.raises(ValueError, match="can be written"):
        dr.asarray(source, copy=False)
    source.flags.writeable = False
    x = dr.asarray(source, copy=False)
    x += 10
    assert source.tolist() == [0, 1, 2] and x.tolist() == [10, 11, 12]


def test_arrays_are_copied_when_they_come_in() -> None:
    source = np.zeros(3)
    x = dr.asarray(source)
    y = x + 1
    source[:] = 99
    assert y.tolist() == [1, 1, 1] and x.tolist() == [0, 0, 0]


def test_stories_say_what_waits_for_what() -> None:
    import threading

    gate = threading.Event()

    @dr.custom_op
    def slow(x: np.ndarray) -> np.ndarray:
        gate.wait(60)
        return x

    z = slow(dr.ones(10)) + 1
    story = z.task.story()
    gate.set()
    z.wait()
    lines = story.splitlines()
    assert lines[0].startswith("add: pending, recorded at ") and __file__ in lines[0]
    assert lines[1].strip().startswith("slow: ")
    assert z.task.state == "done"
