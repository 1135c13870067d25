"""The exchange of gradients runs while backward computes: by the graph alone."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr
from dagrun import nn
from dagrun.core import tracing
from dagrun.parallel import Replicas


@pytest.mark.skipif(dr.engine_stats()["workers"] < 2, reason="two devices share one worker")
def test_half_of_the_bytes_have_moved_before_backward_ends() -> None:
    layers = [layer for _ in range(4) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    both = Replicas(nn.Sequential(*layers, nn.Linear(1024, 10)), ["cpu:0", "cpu:1"])
    x = dr.asarray(np.random.default_rng(0).standard_normal((256, 1024)), "float32")

    def early() -> float:
        with tracing() as records:
            both.step(lambda net, part: (net(part) ** 2).mean(), x)
            dr.wait()
        exchange = [r for r in records if r.name.startswith("all_reduce")]
        products = [r for r in records if r.name == "matmul"]
        assert products and exchange
        end = max(r.end_ns for r in products)  # nothing follows the products of backward
        moved = [(r.end_ns <= end, a.nbytes) for r in exchange for a in r.accesses if a.write]
        return sum(nbytes for before, nbytes in moved if before) / sum(nbytes for _, nbytes in moved)

    both.step(lambda net, part: (net(part) ** 2).mean(), x)
    dr.wait()
    assert max(early() for _ in range(3)) >= 0.5
