"""Gradients in low precision: what travels, what is kept for the next step, and that networks still train."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from training import batch, loss, mlp

import dagrun as dr
from dagrun import optim
from dagrun.core import tracing
from dagrun.parallel import Replicas
from dagrun.parallel.compression import Quantized, half


def spread(arrays: list[np.ndarray]) -> list[dr.Array]:
    return [dr.asarray(array, device=f"cpu:{i}") for i, array in enumerate(arrays)]


@pytest.mark.parametrize("bits", [8, 2, 1])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (3, 11)])
def test_nothing_is_lost_for_good(bits: int, shape: tuple[int, ...]) -> None:
    """What the totals of all steps miss of the true sums is exactly what the sources kept."""
    rng = np.random.default_rng(0)
    reduce, got, true = Quantized(bits), np.zeros(shape), np.zeros(shape)
    for _ in range(20):
        arrays = [rng.standard_normal(shape) for _ in range(3)]
        totals = [t.numpy() for t in reduce(spread(arrays))]
        assert all(t.tobytes() == totals[0].tobytes() and t.shape == shape for t in totals)
        got, true = got + totals[0], true + sum(arrays)
    kept = sum(r.numpy() for r in reduce.state_dict()["residuals"].values()).reshape(shape)
    np.testing.assert_allclose(got + kept, true, atol=1e-9)
    assert np.abs(kept).max() < {8: 0.2, 2: 12, 1: 12}[bits]


@pytest.mark.parametrize(("bits", "most"), [(8, 1000 + 50), (2, 250 + 50), (1, 125 + 50)])
def test_few_bytes_travel(bits: int, most: int) -> None:
    arrays = spread([np.random.default_rng(i).standard_normal(1000).astype("float32") for i in range(2)])
    reduce = Quantized(bits)
    with tracing() as records:
        reduce(arrays)
    crossing = [a for r in records if r.name == "to_device" for a in r.accesses if a.write]
    assert len(crossing) >= 4 and sum(a.nbytes for a in crossing) <= 2 * most  # codes and scales, both ways


def test_codes_by_hand() -> None:
    x = np.array([1.0, -1.0, 0.25, -0.25, 3.0])
    assert Quantized(1)(spread([x]))[0].tolist() == pytest.approx([17 / 12, -0.625, 17 / 12, -0.625, 17 / 12])
    assert Quantized(2)(spread([x]))[0].tolist() == pytest.approx([1.1, -1.1, 0, 0, 1.1])
    assert Quantized(8)(spread([x]))[0].tolist() == pytest.approx([c * 3 / 127 for c in (42, -42, 11, -11, 127)])
    assert Quantized(8)(spread([0 * x]))[0].tolist() == [0] * 5
    assert half()(spread([x, x]))[1].tolist() == (2 * x).tolist()


REDUCES = {"half": half, **{str(b): partial(Quantized, b) for b in (8, 2, 1)}}


@pytest.mark.parametrize("kind", ["cpu", "sim"])
@pytest.mark.parametrize("name", REDUCES)
def test_networks_train_to_nearly_the_same_loss(name: str, kind: str) -> None:
    def run(**options: object) -> float:
        both = Replicas(mlp(f"{kind}:0"), [f"{kind}:0", f"{kind}:1"], **options)
        optimizers = [optim.SGD(net.parameters(), lr=0.1, momentum=0.5) for net in both.modules]
        x, _ = batch(32)
        y = dr.asarray(np.tanh(x.numpy() @ np.random.default_rng(5).standard_normal((4, 3))), "float32")
        for _ in range(60):
            value = both.step(loss, (x, y))
            for own in optimizers:
                own.step()
        first, second = (b"".join(p.numpy().tobytes() for p in net.state_dict().values()) for net in both.modules)
        assert first == second
        return value.item()

    plain = run()
    assert plain < 0.1
    assert run(reduce=REDUCES[name](), bucket_bytes=100) < 1.5 * plain + 0.02


def test_they_compose() -> None:
    """Low precision around another collective, and several buckets with residuals of their own."""
    arrays = [np.full(5, 0.1, "float32") for _ in range(2)]
    inner: list[object] = []

    def counted(sources: list[dr.Array], *, priority: int = 0) -> list[dr.Array]:
        inner.append(sources[0].dtype)
        return dr.parallel.ordered_all_reduce(sources, priority=priority)

    totals = half(counted)(spread(arrays), priority=3)
    assert inner == ["float16"] and totals[0].dtype == "float32"
    np.testing.assert_allclose(totals[1].numpy(), 0.2, rtol=1e-3)
    with pytest.raises(ValueError, match="half: Quantized sends 8 bits or fewer already"):
        half(Quantized(8))
    reduce = Quantized(1)
    for priority in (1, 2):
        reduce(spread(arrays), priority=priority)
    assert sorted(reduce.state_dict()["residuals"]) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Quantized: 4 bits, expected one of \[1, 2, 8\]; 16 bits are `half`"):
        Quantized(4)
    for reduce in (Quantized(8), half()):
        with pytest.raises(TypeError, match="arrays of int64, expected a floating dtype"):
            reduce(spread([np.arange(3)]))
    assert [t.shape for t in Quantized(1)(spread([np.zeros((0, 2))] * 2))] == [(0, 2)] * 2
