"""Embedding: rows by index, gradients that add up, padding, and lengths that are bounded."""

from __future__ import annotations

import numpy as np
import pytest
from nn.gradient_checks import check_gradients, check_serial, placed_as, with_gradients

import dagrun as dr
from dagrun import nn
from dagrun.nn import functional as F


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows(dtype: str, device: str) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((7, 3)).astype(dtype)
    for index in (
        rng.integers(0, 7, (4, 5)),
        np.array(2),
        np.zeros((0, 2), "int32"),
        rng.integers(0, 7, 9).astype("uint8"),
    ):
        for place in (dr.asarray, placed_as):
            y = F.embedding(
                place(index, device=device) if index.ndim else dr.asarray(index, device=device), place(w, device=device)
            )
            np.testing.assert_array_equal(y.numpy(), w[index])


def test_gradients(device: str) -> None:
    w = np.random.default_rng(0).standard_normal((5, 3))
    index = dr.asarray([[0, 2, 2], [4, 2, 0]], device=device)
    check_gradients(lambda a: F.embedding(index, a) ** 3, w, device=device)
    check_gradients(lambda a: F.embedding(index, a * 2) ** 2, w, device=device)
    leaf = dr.asarray(w, device=device, requires_grad=True)
    F.embedding(index, leaf, padding_idx=-3).sum().backward()
    np.testing.assert_array_equal(leaf.grad.numpy()[:, 0], [2, 0, 0, 0, 1])


def test_same_bits() -> None:
    rng = np.random.default_rng(0)
    w, index = rng.standard_normal((300, 256), dtype=np.float32), dr.asarray(rng.integers(0, 300, 5000))
    check_serial(lambda: with_gradients(lambda a: F.embedding(index, a), w))


def test_lengths_are_bounded(device: str) -> None:
    w = dr.asarray([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0]], device=device)
    y = F.embedding([0, 1], w, max_norm=1.0)
    np.testing.assert_allclose(y.numpy(), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(w.numpy()[2], [30, 40])
    np.testing.assert_allclose(w.numpy()[0], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_options_against_torch(p: float) -> None:
    torch = pytest.importorskip("torch")
    w = np.random.default_rng(0).standard_normal((5, 3))
    index = np.array([[0, 2, 2], [4, 2, 0]])
    options = {"padding_idx": 4, "max_norm": 1.2, "norm_type": p, "scale_grad_by_freq": True}
    ours = nn.Embedding.from_pretrained(w, freeze=False, **options)
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(w), freeze=False, **options)
    y, expected = ours(dr.asarray(index)), theirs(torch.tensor(index))
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(ours.weight.numpy(), theirs.weight.detach().numpy(), rtol=1e-6)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)
    check_gradients(lambda a: F.embedding(dr.asarray(index), a) ** 2, w)
    with pytest.raises(ValueError, match=r"a table of shape \(5, 3\), expected \(5, 4\)"):
        nn.Embedding(5, 4, _weight=w)


def test_errors(device: str) -> None:
    w = dr.ones((3, 2), device=device)
    for wrong in (3, -1, -3):  # negative indices do not count from the end
        for dtype in ("int64", "int8"):
            with pytest.raises(IndexError, match=rf"index {wrong} is out of bounds .* size 3 \(position 2 of"):
                F.embedding(dr.asarray([0, 2, wrong], dtype, device=device), w).numpy()
    table = dr.ones((3, 2), device=device)
    with pytest.raises(IndexError, match="index -1 is"):
        F.embedding([-1], table, max_norm=1.0).numpy()
    with pytest.raises(TypeError, match="float64, expected integers"):
        F.embedding([0.5], w)
    with pytest.raises(ValueError, match=r"weight of shape \(3,\)"):
        F.embedding([0], dr.ones(3, device=device))
    with pytest.raises(ValueError, match="padding_idx is 3"):
        F.embedding([0], w, padding_idx=3)
