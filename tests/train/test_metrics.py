"""Metrics against plain NumPy, and scikit-learn where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr
from dagrun.train import Mean, accuracy, confusion_matrix, f1, perplexity, top_k_accuracy


def sample(seed: int, rows: int = 40, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 6, (rows, classes)) / 4, rng.integers(0, classes, rows)  # with equal scores


@pytest.mark.parametrize("seed", range(5))
def test_against_numpy(seed: int) -> None:
    scores, targets = sample(seed)
    said = scores.argmax(1)
    assert accuracy(scores, targets).item() == np.mean(said == targets)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in range(1, 6):
        assert top_k_accuracy(scores, targets, k).item() == np.mean([t in row[:k] for t, row in zip(targets, order)])
    matrix = np.zeros((5, 5), int)
    np.add.at(matrix, (targets, said), 1)
    np.testing.assert_array_equal(confusion_matrix(scores, targets).numpy(), matrix)
    loss = np.abs(scores).mean()
    assert perplexity(loss).item() == pytest.approx(np.exp(loss))


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, targets = sample(seed, rows=8, classes=6)  # some classes do not occur
    said, labels = scores.argmax(1), range(6)
    for average in ("macro", "micro", "none"):
        theirs = metrics.f1_score(
            targets, said, labels=labels, average=None if average == "none" else average, zero_division=0
        )
        np.testing.assert_allclose(f1(scores, targets, average).numpy(), theirs, atol=1e-12)
    np.testing.assert_array_equal(
        confusion_matrix(scores, targets).numpy(), metrics.confusion_matrix(targets, said, labels=labels)
    )
    assert accuracy(scores, targets).item() == pytest.approx(metrics.accuracy_score(targets, said))


def test_on_devices_without_waiting(device: str) -> None:
    scores, targets = sample(0)
    x, t = dr.asarray(scores, device=device), dr.asarray(targets, device=device)
    assert accuracy(x, t).device is dr.device(device)
    assert f1(x, t).item() == f1(scores, targets).item()


def test_the_mean_is_weighted_and_exact() -> None:
    mean = Mean()
    assert np.isnan(mean.value())
    mean.add(dr.asarray(0.1, "float32"), 3)
    for _ in range(1000):
        mean.add(dr.asarray([1e-4], "float32"), 1)
    small, first = float(np.float32(1e-4)), float(np.float32(0.1))
    assert mean.value() == pytest.approx((first * 3 + small * 1000) / 1003, rel=1e-12)  # summed in float64
    again = Mean()
    again.load_state_dict(mean.state_dict())
    again.add(2.0), mean.add(2.0)
    assert again.value() == mean.value()


def test_what_does_not_fit_is_refused() -> None:
    scores, targets = sample(0)
    with pytest.raises(ValueError, match=r"accuracy: scores of shape \(40, 5\) and targets of shape \(39,\)"):
        accuracy(scores, targets[1:])
    with pytest.raises(ValueError, match="k is 6, expected 1 to 5 classes"):
        top_k_accuracy(scores, targets, 6)
    with pytest.raises(ValueError, match="average is 'all'"):
        f1(scores, targets, "all")
