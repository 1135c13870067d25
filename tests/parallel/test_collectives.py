"""Collectives besides the ring, and the exchange of gradients in buckets."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import tracing
from dagrun.parallel import all_gather, broadcast, exchange, ordered_all_reduce, reduce_scatter
from dagrun.parallel.buckets import buckets
from dagrun.parallel.ring import CHUNK_BYTES


def spread(arrays: list[np.ndarray], kind: str = "cpu") -> list[dr.Array]:
    return [dr.asarray(array, device=f"{kind}:{i}") for i, array in enumerate(arrays)]


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_broadcast_and_all_gather(kind: str) -> None:
    x = dr.asarray([1.0, 2.0], device=f"{kind}:0")
    copies = broadcast(x, [f"{kind}:0", f"{kind}:1"])
    assert copies[0] is x and [c.tolist() for c in copies] == [[1, 2]] * 2
    rows = [np.full((i, 2), i) for i in range(3)]
    for k, whole in enumerate(all_gather(spread(rows, kind))):
        assert whole.device is dr.device(f"{kind}:{k}")
        np.testing.assert_array_equal(whole.numpy(), np.concatenate(rows))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (7, 3), (4, 0), (3 * CHUNK_BYTES // 8 + 1,)])
def test_reduce_scatter(n: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 9, shape).astype("float64") for _ in range(n)]
    parts = reduce_scatter(spread(arrays))
    assert max(len(p) for p in parts) - min(len(p) for p in parts) <= 1
    np.testing.assert_array_equal(np.concatenate([p.numpy() for p in parts]), sum(arrays))


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_ordered_sums_have_the_same_bits_wherever_the_arrays_lie(kind: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((37, 11)).astype("float32") for _ in range(4)]
    expected = ((arrays[0] + arrays[1]) + arrays[2]) + arrays[3]
    for places in ([0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3], [3, 1, 1, 0]):
        sources = [dr.asarray(a, device=f"{kind}:{k}") for a, k in zip(arrays, places, strict=True)]
        for total in ordered_all_reduce(sources):
            assert total.numpy().tobytes() == expected.tobytes()
    totals = ordered_all_reduce(sources[:1], [f"{kind}:5", f"{kind}:6"])
    assert [t.device for t in totals] == [dr.device(f"{kind}:5"), dr.device(f"{kind}:6")]
    assert totals[1].numpy().tobytes() == arrays[0].tobytes()


def test_what_does_not_fit_is_refused() -> None:
    a = dr.ones(3)
    with pytest.raises(ValueError, match="at least one array"):
        all_gather([])
    with pytest.raises(ValueError, match="without axes cannot be cut"):
        reduce_scatter([dr.ones(())])
    with pytest.raises(dr.DeviceError, match="one array on each device"):
        reduce_scatter([a, a])
    with pytest.raises(dr.DeviceError, match="expected devices that differ"):
        ordered_all_reduce([a], ["cpu:0", "cpu:0"])
    with pytest.raises(ValueError, match="at least one source"):
        exchange([])
    with pytest.raises(ValueError, match=r"sources with \[1, 2\] gradients"):
        exchange([[a], [a, a]])


def test_buckets_hold_neighbours_of_one_dtype() -> None:
    small, large, half = dr.ones(4), dr.ones(99), dr.ones(4, "float16")
    assert buckets([small, small, large, small, small], 64) == [[0, 1], [2], [3, 4]]
    assert buckets([small, half, half, small], 1000) == [[0], [1, 2], [3]]
    assert buckets([large, large], 1) == [[0], [1]]
    assert buckets([], 1) == []


@pytest.mark.parametrize("bucket_bytes", [1, 100, 1 << 20])
def test_exchange_gives_every_source_the_totals(bucket_bytes: int) -> None:
    rng = np.random.default_rng(1)
    shapes = [(3, 4), (4,), (), (0, 2), (50,), (2,)]
    given = [[rng.integers(-9, 9, s).astype("float32") for s in shapes] for _ in range(3)]
    sources = [[dr.asarray(g, device=f"cpu:{k}") for g in own] for k, own in enumerate(given)]
    totals = exchange(sources, bucket_bytes=bucket_bytes)
    for k, own in enumerate(totals):
        for i, total in enumerate(own):
            assert total.device is dr.device(f"cpu:{k}") and total.shape == shapes[i]
            np.testing.assert_array_equal(total.numpy(), sum(g[i] for g in given))


def test_the_gradients_of_the_first_layers_go_first() -> None:
    """Recorded last, because backward computes them last, but with the highest priority."""
    seen: list[tuple[tuple[int, ...], int]] = []

    def reduce(arrays: list[dr.Array], *, priority: int = 0) -> list[dr.Array]:
        seen.append((arrays[0].shape, priority))
        return dr.parallel.all_reduce(arrays, priority=priority)

    own = [dr.ones(n) for n in (10, 20, 30)]
    exchange([own, [g.to_device("cpu:1") for g in own]], reduce=reduce, bucket_bytes=1)
    assert seen == [((30,), 1), ((20,), 2), ((10,), 3)]
    with tracing() as records:
        exchange([own, [g.to_device("cpu:1") for g in own]], bucket_bytes=1)
    assert {r.lane for r in records if r.name.startswith("all_reduce")} == {"communication"}
