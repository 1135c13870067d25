"""Normalisation against NumPy and torch; gradients by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn.gradient_checks import check_gradients, check_serial, placed_as, with_gradients

import dagrun as dr
from dagrun import nn
from dagrun.core import tracing
from dagrun.nn import functional as F

SHAPES = [(4, 6, 5, 3), (16, 4), (3, 4, 33), (2, 8, 40, 41), (9, 70)]
TOLERANCES = (("float64", 1e-11), ("float32", 1e-4), ("float16", 2e-2))


def standard(x: np.ndarray, axes: Any, eps: float = 1e-5) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def operands(shape: Any, own: Any, dtype: str = "float64") -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = rng.standard_normal(shape) * 2 + 3, rng.random(own) + 0.5, rng.standard_normal(own)
    return [a.astype(dtype) for a in made]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape: Any, device: str) -> None:
    c = shape[1]
    axes = tuple(i for i in range(len(shape)) if i != 1)
    wide = (c, *(1,) * (len(shape) - 2))
    for dtype, tolerance in TOLERANCES:
        x, w, b = operands(shape, c, dtype)
        exact = x.astype("float64")
        expected = standard(exact, axes) * w.reshape(wide) + b.reshape(wide)
        for place in (dr.asarray, placed_as):
            on = [place(a, device=device) for a in (x, w, b)]
            mean, var = dr.zeros(c, dtype=dtype, device=device), dr.ones(c, dtype=dtype, device=device)
            y = F.batch_norm(on[0], mean, var, *on[1:], training=True, momentum=0.25)
            assert y.dtype == dtype
            np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)
            wanted = 0.25 * exact.mean(axes), 0.75 + 0.25 * exact.var(axes, ddof=1)
            np.testing.assert_allclose(mean.numpy(), wanted[0], rtol=tolerance)
            np.testing.assert_allclose(var.numpy(), wanted[1], rtol=tolerance)
            y = F.batch_norm(on[0], mean, var, *on[1:])
            known = (exact - wanted[0].reshape(wide)) / np.sqrt(wanted[1].reshape(wide) + 1e-5)
            known = known * w.reshape(wide) + b.reshape(wide)
            np.testing.assert_allclose(y.numpy(), known, rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_gradients_of_batch_norm(shape: Any, device: str) -> None:
    x, w, b = operands(shape, shape[1])
    check_gradients(lambda *xs: F.batch_norm(xs[0], None, None, *xs[1:], training=True), x, w, b, device=device)
    check_gradients(lambda a: F.batch_norm(a, None, None, training=True) ** 2, x, device=device)
    check_gradients(lambda a, c: F.batch_norm(a, None, None, bias=c, training=True) ** 2, x, b, device=device)
    mean, var = dr.asarray(b, device=device), dr.asarray(w, device=device)
    check_gradients(lambda *xs: F.batch_norm(xs[0], mean, var, *xs[1:]), x, w, b, device=device)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_columns_in_vectors_have_the_bits_of_single_ones(dtype: str, device: str) -> None:
    x, w, b = operands((9, 70), 70, dtype)
    g = np.random.default_rng(1).standard_normal(x.shape).astype(dtype)

    def results(place: Any) -> list[bytes]:
        own = [place(x, device=device), dr.asarray(w, device=device), dr.asarray(b, device=device)]
        for a in own:
            a.requires_grad = True
        y = F.batch_norm(own[0], None, None, *own[1:], training=True)
        y.backward(place(g, device=device))
        return [made.numpy().tobytes() for made in (y, *(a.grad for a in own))]

    assert results(dr.asarray) == results(placed_as)


def test_running_averages_carry_no_gradient() -> None:
    x, w, b = (dr.asarray(a, requires_grad=True) for a in operands((4, 3, 5), 3))
    mean, var = dr.zeros(3), dr.ones(3)
    F.batch_norm(x, mean, var, w, b, training=True).sum().backward()
    assert not mean.requires_grad and not var.requires_grad and mean.numpy().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_and_group_norm(shape: Any, device: str) -> None:
    for dtype, tolerance in TOLERANCES:
        last = shape[-2:] if len(shape) == 4 else shape[-1:]
        x, w, b = operands(shape, last, dtype)
        exact = x.astype("float64")
        expected = standard(exact, tuple(range(-len(last), 0))) * w + b
        for place in (dr.asarray, placed_as):
            y = F.layer_norm(place(x, device=device), last, *(place(a, device=device) for a in (w, b)))
            assert y.dtype == dtype
            np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=2 * tolerance)
        x, w, b = operands(shape, shape[1], dtype)
        wide = (shape[1], *(1,) * (len(shape) - 2))
        expected = standard(exact.reshape(shape[0], 2, -1), -1).reshape(shape) * w.reshape(wide) + b.reshape(wide)
        for place in (dr.asarray, placed_as):
            y = F.group_norm(place(x, device=device), 2, *(place(a, device=device) for a in (w, b)))
            np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=2 * tolerance)
        if len(shape) > 2:
            expected = standard(exact, tuple(range(2, len(shape))))
            np.testing.assert_allclose(F.instance_norm(x).numpy(), expected, rtol=tolerance, atol=2 * tolerance)


def test_gradients_of_layer_and_group_norm(device: str) -> None:
    x, w, b = operands((3, 4, 5), (4, 5))
    check_gradients(lambda *xs: F.layer_norm(xs[0], (4, 5), *xs[1:]), x, w, b, device=device)
    check_gradients(lambda a, c: F.layer_norm(a, (4, 5), bias=c) ** 2, x, b, device=device)
    for shape in ((1, 4, 5), (3, 4), (3, 4, 5)):
        x, w, b = operands(shape, 4)
        check_gradients(lambda *xs: F.group_norm(xs[0], 2, *xs[1:]), x, w, b, device=device)
    check_gradients(lambda a: F.instance_norm(a) ** 2, x, device=device)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_local_response_norm(size: int, device: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 4)) * 3
    squares = np.pad(x**2, ((0, 0), (size // 2, (size - 1) // 2), (0, 0), (0, 0)))
    sums = np.stack([squares[:, c : c + size].sum(1) for c in range(5)], 1)
    y = F.local_response_norm(dr.asarray(x, device=device), size, 0.3, 0.75, 2.0)
    np.testing.assert_allclose(y.numpy(), x / (2 + 0.3 / size * sums) ** 0.75, rtol=1e-12)
    check_gradients(lambda a: F.local_response_norm(a, size, 0.3, 0.75, 2.0), x, device=device)


def test_a_large_mean_does_not_spoil_the_variance() -> None:
    x = np.random.default_rng(0).standard_normal((64, 2, 16, 16)) + 1000
    y = F.batch_norm(x.astype("float32"), None, None, training=True).numpy()
    np.testing.assert_allclose(y, standard(x.astype("float32").astype("float64"), (0, 2, 3)), atol=1e-3)


def test_large_work_is_cut_into_tasks_of_the_same_bits() -> None:
    x, w, b = operands((16, 32, 32, 32), 32, "float32")

    def run(*xs: Any) -> Any:
        y = F.batch_norm(xs[0], None, None, *xs[1:], training=True)
        return F.layer_norm(F.group_norm(F.group_norm(y, 4), 4, *xs[1:]), 32, *xs[1:])

    with tracing() as records:
        with_gradients(run, x, w, b)
        dr.wait()
    for name in (
        "normalize", "normalize_affine", "normalize_gradient", "normalize_rows", "normalize_rows_gradient",
    ):  # fmt: skip
        own = [r for r in records if r.name == name]
        assert len(own) > 1 and {r.lane for r in own} == {"compute"}, name
    check_serial(lambda: with_gradients(run, x, w, b))


def test_the_groups_of_one_image_are_cut_with_their_weights(host_device: str) -> None:
    x, w, b = operands((1, 16, 192, 192), 16, "float32")
    with tracing() as records:
        image, *weights = (dr.asarray(a, device=host_device) for a in (x, w, b))
        y = F.group_norm(image, 8, *weights)
        dr.wait()
    assert sum(r.name == "normalize_rows" for r in records) > 1
    expected = standard(x.astype("float64").reshape(8, -1), -1).reshape(x.shape) * w[:, None, None] + b[:, None, None]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_empty_and_errors() -> None:
    empty = dr.zeros((0, 3, 4), requires_grad=True)
    for y in (
        F.batch_norm(empty, dr.zeros(3), dr.ones(3), training=True), F.layer_norm(empty, 4), F.group_norm(empty, 3),
        F.local_response_norm(empty, 2),
    ):  # fmt: skip
        assert y.shape == (0, 3, 4)
    x = dr.ones((2, 3, 4))
    with pytest.raises(ValueError, match="has one value for a channel"):
        F.batch_norm(dr.ones((1, 3)), None, None, training=True)
    with pytest.raises(ValueError, match="no running_mean or running_var"):
        F.batch_norm(x, None, None)
    with pytest.raises(ValueError, match=r"weight of shape \(4,\), expected \(3,\)"):
        F.batch_norm(x, None, None, dr.ones(4), training=True)
    with pytest.raises(ValueError, match="does not end in normalized_shape"):
        F.layer_norm(x, 3)
    with pytest.raises(ValueError, match="3 channels in 2 groups"):
        F.group_norm(x, 2)
    with pytest.raises(TypeError, match="int64, expected a floating dtype"):
        F.layer_norm(dr.ones((2, 3), dtype="int64"), 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_torch(shape: Any) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional
    x, w, b = operands(shape, shape[1])
    for mine, other in (
        (lambda *xs: F.batch_norm(xs[0], None, None, *xs[1:], training=True),
         lambda *xs: theirs.batch_norm(xs[0], None, None, *xs[1:], training=True)),
        (lambda *xs: F.group_norm(xs[0], 2, *xs[1:]), lambda *xs: theirs.group_norm(xs[0], 2, *xs[1:])),
    ):  # fmt: skip
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
        y = other(*leaves)
        (y * y).sum().backward()
        for a, t in zip(with_gradients(mine, x, w, b), [y, *(leaf.grad for leaf in leaves)], strict=True):
            np.testing.assert_allclose(a.numpy(), t.detach().numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3)], ids=repr)
def test_gradients_of_an_empty_batch_are_zero(layer):
    layer(dr.zeros((0, 3), dtype="float32")).sum().backward()
    assert [parameter.grad.tolist() for parameter in layer.parameters()] == [[0, 0, 0], [0, 0, 0]]
