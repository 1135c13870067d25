"""Initialisers: bounds and moments from the papers' equations."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dagrun as dr
from dagrun.nn import init

SHAPE = (64, 32, 3, 3)
FAN_IN, FAN_OUT = 32 * 9, 64 * 9


@pytest.mark.parametrize(
    ("fill", "variance", "uniform"),
    [
        (lambda x: init.xavier_uniform_(x, 2.0), 4 * 2 / (FAN_IN + FAN_OUT), True),
        (lambda x: init.xavier_normal_(x), 2 / (FAN_IN + FAN_OUT), False),
        (lambda x: init.kaiming_uniform_(x, a=math.sqrt(5)), 2 / (1 + 5) / FAN_IN, True),
        (lambda x: init.kaiming_normal_(x, mode="fan_out", nonlinearity="relu"), 2 / FAN_OUT, False),
        (lambda x: init.lecun_uniform_(x), 1 / FAN_IN, True),
        (lambda x: init.lecun_normal_(x), 1 / FAN_IN, False),
        (lambda x: init.normal_(x, 0.0, 3.0), 9.0, False),
    ],
)
def test_variances(fill, variance, uniform):
    dr.random.seed(1)
    x = dr.zeros(SHAPE, dtype="float32", requires_grad=True)
    assert fill(x) is x and x.requires_grad and x.is_leaf
    values = x.numpy()
    assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)
    assert values.var() == pytest.approx(variance, rel=0.05)
    largest = np.abs(values).max()
    if uniform:
        assert 0.99 * math.sqrt(3 * variance) < largest <= math.sqrt(3 * variance) * (1 + 1e-6)
    else:
        assert largest > 3.5 * math.sqrt(variance)


def test_truncated_normal_follows_its_distribution():
    generator = dr.random.Generator(3)
    x = init.trunc_normal_(dr.zeros(200_000), 1.0, 2.0, -1.0, 4.0, generator).numpy()
    assert x.min() >= -1 and x.max() <= 4
    low, high = (0.5 * (1 + math.erf((b - 1) / (2 * math.sqrt(2)))) for b in (-1, 4))
    for at in (-0.5, 0.0, 1.0, 2.5, 3.5):
        expected = (0.5 * (1 + math.erf((at - 1) / (2 * math.sqrt(2)))) - low) / (high - low)
        assert (x < at).mean() == pytest.approx(expected, abs=0.005)


def test_inverse_error_function():
    x = np.array([-0.9999, -0.99, -0.5, -1e-3, 0.0, 1e-6, 0.3, 0.9, 0.999])
    back = [math.erf(v) for v in init._erfinv(dr.asarray(x)).numpy()]
    np.testing.assert_allclose(back, x, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 2)])
def test_orthogonal(shape):
    x = init.orthogonal_(dr.zeros(shape), gain=2.0).numpy().reshape(shape[0], -1)
    product = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_plain_ones_and_errors():
    x = dr.zeros((2, 3))
    assert init.ones_(x).tolist() == [[1.0] * 3] * 2
    assert init.constant_(x, 7).tolist() == [[7.0] * 3] * 2
    assert init.eye_(x).tolist() == [[1.0, 0, 0], [0, 1.0, 0]]
    assert not init.zeros_(x).any()
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("leaky_relu", 1.0) == 1.0
    with pytest.raises(ValueError, match="nonlinearity 'what'"):
        init.calculate_gain("what")
    with pytest.raises(ValueError, match="mode 'fan'"):
        init.kaiming_normal_(x, mode="fan")
    with pytest.raises(ValueError, match="at least two axes"):
        init.xavier_normal_(dr.zeros(3))
    with pytest.raises(ValueError, match="expected a matrix"):
        init.eye_(dr.zeros(3))


def test_a_generator_decides():
    a, b = (init.normal_(dr.zeros(5), generator=dr.random.Generator(9)) for _ in range(2))
    assert a.tolist() == b.tolist()
