"""Dropout: which elements go, what the rest becomes, and that the choice depends on seed and program order alone."""

from __future__ import annotations

import numpy as np
import pytest
from nn.gradient_checks import check_gradients, check_serial, placed_as

import dagrun as dr
from dagrun.nn import functional as F


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_elements_are_kept_or_dropped(dtype: str, device: str) -> None:
    x = np.random.default_rng(0).standard_normal((200, 300)).astype(dtype) + 5
    for place in (dr.asarray, placed_as):
        y = F.dropout(place(x, device=device), 0.3).numpy()
        assert y.dtype == dtype
        kept = y != 0
        assert abs(kept.mean() - 0.7) < 0.01
        np.testing.assert_allclose(y[kept], (x / 0.7)[kept], rtol=2e-3 if dtype == "float16" else 1e-6)


def test_whole_channels(device: str) -> None:
    y = F.dropout2d(dr.ones((40, 50, 3, 4), device=device), 0.5).numpy()
    flat = y.reshape(2000, -1)
    assert (flat == flat[:, :1]).all() and set(np.unique(flat)) == {0.0, 2.0}
    assert abs(flat[:, 0].mean() - 1) < 0.1
    assert F.dropout1d(dr.ones((3, 4)), 0.5).shape == (3, 4)


def test_edges() -> None:
    x = dr.ones(100, requires_grad=True)
    assert F.dropout(x, 0.5, training=False) is x and F.dropout(x, 0.0) is x
    y = F.dropout(x * np.inf, 1.0)
    assert not y.numpy().any()
    y = F.dropout(x, 1.0)
    y.sum().backward()
    assert not x.grad.numpy().any()
    assert F.dropout(dr.ones((0, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match=r"p is 1.5, expected a probability"):
        F.dropout(x, 1.5)
    with pytest.raises(TypeError, match="int64"):
        F.dropout(dr.ones(3, dtype="int64"))
    with pytest.raises(ValueError, match="expected 4 axes"):
        F.dropout2d(x)


def test_choice_follows_the_generator(device: str) -> None:
    x = dr.ones(1000, device=device)
    a, b = (F.dropout(x, generator=dr.random.Generator(7)).numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)
    dr.random.seed(3)
    c, d = F.dropout(x).numpy(), F.dropout(x).numpy()
    assert (c != d).any()
    dr.random.seed(3)
    np.testing.assert_array_equal(F.dropout(x).numpy(), c)

    def run() -> list[dr.Array]:
        dr.random.seed(5)
        return [F.dropout(dr.ones((300, 4000), device=device)) for _ in range(2)]

    check_serial(run)


def test_gradients_and_recomputation(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 6))

    def run(a: dr.Array) -> dr.Array:
        return F.dropout(a**2, 0.4, generator=dr.random.Generator(1)) ** 2

    check_gradients(run, x, device=device)

    def gradient(through: object) -> np.ndarray:
        dr.random.seed(9)
        leaf = dr.asarray(x, device=device, requires_grad=True)
        f = lambda a: (F.dropout(a, 0.5) ** 2).sum()  # noqa: E731
        (dr.checkpoint(f, leaf) if through else f(leaf)).backward()
        return leaf.grad.numpy()

    np.testing.assert_array_equal(gradient(True), gradient(False))
