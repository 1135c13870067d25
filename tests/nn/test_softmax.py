"""softmax, log-softmax, cross-entropy and nll against NumPy and torch; gradients by finite differences."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from nn.gradient_checks import check_gradients, check_serial, placed_as, with_gradients

import dagrun as dr
from dagrun.core import tracing
from dagrun.nn import functional as F

SHAPES = [((5, 10), 1), ((64, 37), -1), ((3, 40, 17), 1), ((3, 40, 17), 0), ((40, 3, 2), 0), ((7,), 0), ((0, 3), 1)]


def reference(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


@pytest.mark.parametrize("shape, axis", SHAPES, ids=str)
def test_softmax(shape: Any, axis: int, device: str) -> None:
    values = np.random.default_rng(0).standard_normal(shape) * 5
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-5), ("float16", 1e-2)):
        x = values.astype(dtype)
        expected = reference(x.astype("float64"), axis)
        for place in (dr.asarray, placed_as):
            y, z = F.log_softmax(place(x, device=device), axis), F.softmax(place(x, device=device), axis)
            assert y.dtype == z.dtype == dtype
            np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(z.numpy(), np.exp(expected), rtol=3 * tolerance, atol=1e-7)


@pytest.mark.parametrize("shape, axis", SHAPES[:6], ids=str)
def test_gradients_of_softmax(shape: Any, axis: int, device: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    check_gradients(lambda a: F.softmax(a, axis) ** 2, x, device=device)
    check_gradients(lambda a: F.log_softmax(a, axis) ** 2, x, device=device)


def test_repeated_elements(device: str) -> None:
    """Views that read one element many times, as the gradient of a sum is."""
    values = np.random.default_rng(0).standard_normal((40, 50))
    for view in (values[:1], values[:, :1], values[:1, :1]):
        x = dr.broadcast_to(dr.asarray(view, device=device), values.shape)
        for axis in (0, 1):
            expected = reference(np.broadcast_to(view, values.shape), axis)
            np.testing.assert_allclose(F.log_softmax(x, axis).numpy(), expected, rtol=1e-12)
        t = dr.zeros(40, dtype="int64", device=device)
        each = F.cross_entropy(x, t, reduction="none").numpy()
        np.testing.assert_allclose(each, -reference(np.broadcast_to(view, values.shape), 1)[:, 0], rtol=1e-12)
    leaf = dr.asarray(values, device=device, requires_grad=True)
    F.softmax(leaf, 1).sum().backward()
    np.testing.assert_allclose(leaf.grad.numpy(), 0, atol=1e-15)


def test_extremes_of_softmax() -> None:
    x = np.array([[1e30, 0, -1e30, 1e30], [-np.inf, 0, 0, -np.inf]], "float32")
    np.testing.assert_array_equal(F.softmax(x).numpy(), [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])
    assert np.isnan(F.softmax(np.array([1, np.nan, 2.0])).numpy()).all()
    assert F.softmax(dr.asarray(3.0)).item() == 1.0 and F.log_softmax(dr.asarray(3.0), 0).item() == 0.0
    half = F.softmax(np.full((1, 3000), 8, "float16"))
    np.testing.assert_allclose(half.numpy(), 1 / 3000, rtol=1e-3)


def losses(x: Any, t: Any, w: Any, ignored: int, smoothing: float, reduction: str) -> np.ndarray:
    """The definition, class by class."""
    log_p = reference(x, 1)
    classes = x.shape[1]
    w = np.ones(classes) if w is None else w
    found, weights = np.zeros(t.shape), np.zeros(t.shape)
    for place in np.ndindex(*t.shape):
        if t[place] == ignored:
            continue
        line = log_p[(place[0], slice(None), *place[1:])]
        found[place] = -(1 - smoothing) * w[t[place]] * line[t[place]] - smoothing / classes * (w * line).sum()
        weights[place] = w[t[place]]
    return {"none": found, "sum": found.sum(), "mean": found.sum() / weights.sum()}[reduction]


CLASSES = [(9, 10), (5, 37), (3, 4, 9, 5), (2, 5, 40), (2, 3, 1, 1)]
OPTIONS = list(product((None, 1), (-100, 1), (0.0, 0.2), ("none", "mean", "sum")))


def operands(shape: Any, weighted: Any, ignored: int, dtype: str = "int64") -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    t = rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(dtype)
    t.flat[0], t.flat[-1] = 1, 0
    return rng.standard_normal(shape) * 3, t, None if weighted is None else rng.random(shape[1]) + 0.5


@pytest.mark.parametrize("shape", CLASSES, ids=str)
def test_cross_entropy(shape: Any, device: str) -> None:
    for weighted, ignored, smoothing, reduction in OPTIONS:
        for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5), ("float16", 2e-2)):
            x, t, w = operands(shape, weighted, ignored, "int32" if dtype == "float32" else "int64")
            x = x.astype(dtype)
            expected = losses(x.astype("float64"), t, w, ignored, smoothing, reduction)
            for place in (dr.asarray, placed_as):
                on = [a if a is None else place(a, device=device) for a in (x, t, w)]
                y = F.cross_entropy(*on, ignored, reduction, smoothing)
                assert y.dtype == dtype
                np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)
                if not smoothing:
                    z = F.nll_loss(F.log_softmax(on[0], 1), *on[1:], ignored, reduction)
                    np.testing.assert_allclose(z.numpy(), expected, rtol=2 * tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", CLASSES, ids=str)
def test_gradients_of_losses(shape: Any, device: str) -> None:
    for weighted, ignored, smoothing, reduction in OPTIONS:
        x, t, w = operands(shape, weighted, ignored)
        t = dr.asarray(t, device=device)
        w = None if w is None else dr.asarray(w, device=device)
        check_gradients(
            lambda a, o=(t, w, ignored, reduction, smoothing): F.cross_entropy(a, *o) ** 2, x, device=device
        )
        if not smoothing:
            check_gradients(lambda a, o=(t, w, ignored, reduction): F.nll_loss(a, *o) ** 2, x, device=device)


def test_probabilities_as_targets(device: str) -> None:
    rng = np.random.default_rng(0)
    x, q, w = rng.standard_normal((6, 5, 3)), rng.random((6, 5, 3)), rng.random(5)
    each = -(w[:, None] * (0.9 * q + 0.02) * reference(x, 1)).sum(1)
    on = [dr.asarray(a, device=device) for a in (x, q, w)]
    for reduction, expected in (("none", each), ("sum", each.sum()), ("mean", each.mean())):
        y = F.cross_entropy(*on, reduction=reduction, label_smoothing=0.1)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    check_gradients(lambda a, b: F.cross_entropy(a, b), x, q, device=device)


def test_a_class_out_of_range_fails_at_the_wait(device: str) -> None:
    for target, wrong in (([0, 3], 3), ([-1, 0], -1)):
        with pytest.raises(dr.OperationError, match=f"class {wrong} is out of range, expected 0 to 2") as found:
            F.cross_entropy(dr.ones((2, 3), device=device), target).item()
        assert "recorded at" in str(found.value) and "test_softmax.py" in str(found.value)
        with pytest.raises(IndexError):
            F.nll_loss(dr.ones((2, 3), device=device), target).item()


def test_one_line_and_errors() -> None:
    y = F.cross_entropy(dr.asarray([0.0, 0.0, 0.0]), 1)
    assert y.shape == () and abs(y.item() - np.log(3)) < 1e-12
    x = dr.ones((2, 3))
    with pytest.raises(ValueError, match=r"input of shape \(2, 3\) and target int64\(3,\)"):
        F.cross_entropy(x, [0, 1, 2])
    with pytest.raises(ValueError, match="reduction is 'max'"):
        F.cross_entropy(x, [0, 1], reduction="max")
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        F.cross_entropy(x, [0, 1], label_smoothing=2)
    with pytest.raises(ValueError, match=r"weight of shape \(2,\), expected \(3,\)"):
        F.cross_entropy(x, [0, 1], dr.ones(2))
    with pytest.raises(TypeError, match="int64, expected a floating dtype"):
        F.softmax(dr.asarray([1, 2]))
    assert F.softmax(dr.asarray([1, 1]), dtype="float32").tolist() == [0.5, 0.5]
    assert F.cross_entropy(dr.zeros((0, 3)), dr.zeros(0, dtype="int64"), reduction="sum").item() == 0


def test_large_work_is_cut_into_tasks_of_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((512, 4000), dtype=np.float32), dr.asarray(rng.integers(0, 4000, 512))
    with tracing() as records:
        made = with_gradients(lambda a: F.cross_entropy(a, t) + F.softmax(a).sum(), x)
        dr.wait()
    for name in ("cross_entropy", "cross_entropy_gradient", "softmax", "softmax_gradient"):
        own = [r for r in records if r.name == name]
        assert len(own) > 1 and {r.lane for r in own} == {"compute"}, name
    assert made[0].dtype == np.float32
    check_serial(lambda: with_gradients(lambda a: F.cross_entropy(a, t) + F.softmax(a).sum(), x))


@pytest.mark.parametrize("shape", CLASSES, ids=str)
def test_against_torch(shape: Any) -> None:
    torch = pytest.importorskip("torch")
    for weighted, ignored, smoothing, reduction in OPTIONS:
        x, t, w = operands(shape, weighted, ignored)
        theirs = torch.tensor(x, requires_grad=True)
        given = None if w is None else torch.tensor(w)
        y = torch.nn.functional.cross_entropy(
            theirs, torch.tensor(t), given, ignore_index=ignored, reduction=reduction, label_smoothing=smoothing
        )
        (y * y).sum().backward()
        mine = with_gradients(lambda a, o=(t, w, ignored, reduction, smoothing): F.cross_entropy(a, *o), x)
        np.testing.assert_allclose(mine[0].numpy(), y.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(mine[1].numpy(), theirs.grad.numpy(), rtol=1e-10, atol=1e-14)
