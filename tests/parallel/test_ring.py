"""The ring all-reduce: any number of devices, sizes that do not divide, nothing at all, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import tracing
from dagrun.parallel.ring import CHUNK_BYTES
from tests.conftest import Gate


def spread(arrays: list[np.ndarray], kind: str) -> list[dr.Array]:
    return [dr.asarray(array, device=f"{kind}:{i}") for i, array in enumerate(arrays)]


@pytest.mark.parametrize("kind", ["cpu", "sim"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (13, 7), (3, 0, 2), ()])
def test_every_device_gets_the_sum(kind: str, n: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(n)
    arrays = [rng.integers(-99, 99, shape).astype("float64") for _ in range(n)]
    totals = dr.parallel.all_reduce(spread(arrays, kind))
    for i, total in enumerate(totals):
        assert total.device is dr.device(f"{kind}:{i}")
        assert total.shape == shape
        np.testing.assert_array_equal(total.numpy(), sum(arrays))


@pytest.mark.parametrize("n", [2, 3])
def test_large_arrays_of_floats_give_the_same_bits_everywhere(n: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(3 * CHUNK_BYTES // 4 * n + 5).astype("float32") for _ in range(n)]
    totals = dr.parallel.all_reduce(spread(arrays, "cpu"))
    first = totals[0].numpy()
    assert all(total.numpy().tobytes() == first.tobytes() for total in totals)
    np.testing.assert_allclose(first, np.sum(np.array(arrays, "float64"), axis=0), rtol=1e-5, atol=1e-6)
    with dr.engine("serial"):
        serial = dr.parallel.all_reduce(spread(arrays, "cpu"))[0].numpy()
    assert serial.tobytes() == first.tobytes()


def test_mixed_kinds_of_devices() -> None:
    a, b = dr.ones(100, device="cpu:0"), dr.ones(100, device="sim:0") * 2
    assert [total.numpy().sum() for total in dr.parallel.all_reduce([a, b])] == [300, 300]


def test_the_inputs_are_not_changed_and_views_will_do() -> None:
    x = [dr.asarray(np.arange(24.0).reshape(4, 6), device=f"cpu:{i}") for i in range(2)]
    totals = dr.parallel.all_reduce([x[0][:, ::2], x[1].T[::2].T])
    np.testing.assert_array_equal(totals[1].numpy(), 2 * np.arange(24.0).reshape(4, 6)[:, ::2])
    np.testing.assert_array_equal(x[0].numpy(), np.arange(24.0).reshape(4, 6))


def test_it_is_a_ring_of_ordinary_tasks() -> None:
    """2 (n - 1) steps for each of the n segments, in lanes of their own; chunks do not wait for whole segments."""
    n, chunks = 3, 4
    arrays = [np.ones(n * chunks * CHUNK_BYTES // 8) for _ in range(n)]
    sources = spread(arrays, "cpu")
    with tracing() as records:
        dr.parallel.all_reduce(sources)
    assert {record.lane for record in records} == {"communication"}
    assert [r.name for r in records] == ["all_reduce.reduce"] * ((n - 1) * n * chunks) + ["all_reduce.gather"] * (
        (n - 1) * n * chunks
    )
    assert max(len(record.predecessors) for record in records) <= 3  # not one for each chunk


def test_one_slow_device_holds_up_only_what_needs_it(gate: Gate) -> None:
    a, b = dr.ones(1000, device="cpu:0"), gate.late(dr.ones(1000, device="cpu:1"))
    totals = dr.parallel.all_reduce([a, b])
    gate.reached()
    other = (a * 3).numpy()
    gate.open()
    assert other.sum() == 3000 and totals[0].numpy().sum() == 2000


def test_what_does_not_fit_is_refused() -> None:
    a = dr.ones(3, device="cpu:0")
    with pytest.raises(ValueError, match="at least one array"):
        dr.parallel.all_reduce([])
    with pytest.raises(ValueError, match=r"one shape and dtype, got float64\(3,\), float64\(4,\)"):
        dr.parallel.all_reduce([a, dr.ones(4, device="cpu:1")])
    with pytest.raises(dr.DeviceError, match="one array on each device, got cpu:0, cpu:0"):
        dr.parallel.all_reduce([a, a])
    with pytest.raises(TypeError, match="dagrun arrays, got a ndarray"):
        dr.parallel.all_reduce([np.ones(3)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="bool"):
        dr.parallel.all_reduce([a > 0, dr.ones(3, device="cpu:1") > 0])


def test_a_failure_reaches_every_device_and_nothing_hangs() -> None:
    @dr.custom_op
    def broken(x: np.ndarray) -> np.ndarray:
        raise ArithmeticError("no gradient")

    totals = dr.parallel.all_reduce([dr.ones(10, device="cpu:0"), broken(dr.ones(10, device="cpu:1"))])
    for total in totals:
        with pytest.raises(ArithmeticError, match="no gradient"):
            total.wait()
