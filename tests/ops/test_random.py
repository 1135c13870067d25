"""Distributions against NumPy's, the same values on every engine, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dagrun as dr

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "standard_normal": (), "lognormal": (0.3, 0.5), "standard_exponential": (), "exponential": (2.5,),
    "laplace": (1.0, 2.0), "gumbel": (-1.0, 0.5), "logistic": (0.5, 2.0), "rayleigh": (1.5,), "weibull": (2.2,),
    "pareto": (3.0,), "power": (2.5,), "standard_cauchy": (), "gamma": (2.0, 1.5), "standard_gamma": (0.7,),
    "beta": (2.0, 3.0), "chisquare": (3.0,), "standard_t": (5.0,), "triangular": (-1.0, 0.5, 2.0),
    "vonmises": (0.3, 2.0),
    "poisson": (3.5,), "binomial": (12, 0.3), "negative_binomial": (4, 0.4), "geometric": (0.3,),
    "uniform": (-1.0, 2.0), "normal": (1.0, 3.0), "integers": (-3, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_distributions_are_those_of_numpy(name: str, device: str) -> None:
    """The share of draws up to each of NumPy's quantiles is that of NumPy's draws, within three standard errors."""
    count = 20_000
    reference = getattr(np.random.default_rng(1), name)(*ARGUMENTS[name], size=10 * count)
    drawn = getattr(dr.random.default_rng(2), name)(*ARGUMENTS[name], size=count, device=device)
    assert drawn.shape == (count,) and drawn.dtype == reference.dtype and str(drawn.device) == device
    for edge in np.quantile(reference, [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98]):
        difference = (drawn.numpy() <= edge).mean() - (reference <= edge).mean()
        assert abs(difference) < 3 * 0.5 * (1 / count + 0.1 / count) ** 0.5, (name, edge)


def test_values_depend_on_the_seed_and_the_order_alone(device: str) -> None:
    def draw() -> list[bytes]:
        source = dr.random.Generator(7)
        names = [name for name in ARGUMENTS if name not in ("normal", "uniform", "integers")]
        made = [getattr(source, name)(*ARGUMENTS[name], size=(3, 5), device=device) for name in names]
        return [x.numpy().tobytes() for x in made]

    first = draw()
    assert draw() == first
    with dr.engine("serial"):
        assert draw() == first
    assert len(set(first)) == len(first)


def test_vectors_and_arrays_of_parameters() -> None:
    source = dr.random.default_rng(3)
    vectors = source.multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]], (100, 200))
    assert vectors.shape == (100, 200, 2)
    np.testing.assert_allclose(np.cov(vectors.numpy().reshape(-1, 2).T), [[2.0, 0.6], [0.6, 0.5]], atol=0.05)
    np.testing.assert_allclose(vectors.numpy().mean((0, 1)), [1.0, -2.0], atol=0.04)
    with pytest.raises(ValueError, match=r"a covariance of shape \(2, 2\), expected"):
        source.multivariate_normal([1.0, 2.0, 3.0], np.eye(2))
    counts = source.multinomial(50, [0.2, 0.3, 0.5], 4)
    assert counts.shape == (4, 3) and (counts.sum(1) == 50).all()
    shares = source.dirichlet(dr.asarray([1.0, 2.0, 3.0, 4.0]), size=(2, 5))
    assert shares.shape == (2, 5, 4) and dr.allclose(shares.sum(-1), 1.0)
    assert source.poisson(dr.asarray([0.0, 1000.0])).tolist()[0] == 0
    assert source.binomial(np.array([[0], [3]]), np.array([1.0, 0.0])).tolist() == [[0, 0], [3, 0]]
    assert source.gamma(2.0, size=()).shape == () and source.exponential().shape == ()
    places = source.normal(dr.asarray([0.0, 1e6]), 1.0)
    assert places.shape == (2,) and abs(places.tolist()[1] - 1e6) < 10
    assert source.uniform(np.array([[0.0], [5.0]]), [1.0, 6.0], dtype="float32").dtype == np.float32
    assert source.integers(1, 1, 5, endpoint=True).tolist() == [1] * 5


def test_choices() -> None:
    source = dr.random.default_rng(4)
    drawn = source.choice(3, 30_000, p=[0.2, 0.0, 0.8]).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 30_000, [0.2, 0.0, 0.8], atol=0.01)
    firsts = [source.choice([10, 20, 30], 2, replace=False, p=[0.5, 0.25, 0.25]).tolist() for _ in range(1500)]
    assert all(a != b for a, b in firsts)
    assert abs(np.mean([a == 10 for a, _ in firsts]) - 0.5) < 0.04
    assert abs(np.mean([10 in pair for pair in firsts]) - 5 / 6) < 0.04  # 1/2 + 1/2 * (1/4 / 3/4) * 2
    assert source.choice(dr.arange(12).reshape(3, 4), 2, axis=1).shape == (3, 2)
    x = dr.arange(12).reshape(3, 4)
    source.shuffle(x, axis=1)
    assert sorted(x.numpy()[0].tolist()) == [0, 1, 2, 3] and (x.numpy() % 4 == x.numpy()[0] % 4).all()
    for mistake in (lambda: source.choice(3, p=[0.5, 0.2, 0.2]), lambda: source.choice(3, p=[1.0])):
        with pytest.raises(ValueError, match="probabilities that add up to 1"):
            mistake()
    with pytest.raises(ValueError, match="2 elements of 1 with a probability above 0"):
        source.choice(3, 2, replace=False, p=[1.0, 0.0, 0.0])


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="scale is -1"):
        dr.random.exponential(-1.0)
    with pytest.raises(ValueError, match="a is 0, expected a positive number"):
        dr.random.weibull(0)
    with pytest.raises(ValueError, match="lam < 0"):  # told by NumPy, where the values are computed
        dr.random.poisson(-1.0).wait()


@pytest.mark.parametrize(
    ("name", "first", "rest"),
    [
        ("normal", 5.0, ([1.0, 2.0, 3.0],)), ("uniform", 0.0, (dr.asarray([1.0, 2.0, 3.0]),)),
        ("lognormal", 0.5, (dr.asarray([0.1, 0.2, 0.3], "float32"),)), ("exponential", [1, 2, 3], ()),
        ("laplace", np.arange(3.0), (2,)), ("gumbel", 1, ([1, 2, 3],)),
        ("logistic", [0.0, 1.0, 2.0], (dr.asarray(2.0),)),
        ("rayleigh", [1, 2, 3], ()), ("weibull", [1.0, 2.0, 3.0], ()), ("pareto", [3, 4, 5], ()),
        ("power", dr.asarray([1, 2, 3]), ()),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_that_are_arrays_say_the_size(name: str, first: Any, rest: tuple[Any, ...]) -> None:
    """Each column is what a number as parameter gives: the draws below it are the same."""

    def column(parameter: Any, k: int) -> Any:
        return np.asarray(parameter)[..., k].item() if np.ndim(parameter) else float(parameter)

    draw = getattr(dr.random.Generator(5), name)
    assert draw(first, *rest).shape == (3,)
    whole = getattr(dr.random.Generator(5), name)(first, *rest, size=(4, 3))
    assert whole.shape == (4, 3) and whole.dtype == np.float64
    for k in range(3):
        alone = getattr(dr.random.Generator(5), name)(column(first, k), *(column(a, k) for a in rest), size=(4, 3))
        np.testing.assert_allclose(whole[:, k].numpy(), alone[:, k].numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"size is \(\), expected one that parameters of shape \(3,\) broadcast to"):
        draw(first, *rest, size=())


def test_gradients_reach_parameters() -> None:
    for shape in ((), (3,)):
        loc, scale = dr.ones(shape, requires_grad=True), dr.full(shape, 2.0, requires_grad=True)
        drawn = dr.random.Generator(1).normal(loc, scale, 3)
        drawn.sum().backward()
        np.testing.assert_allclose(loc.grad.sum().item(), 3.0)
        np.testing.assert_allclose(scale.grad.sum().item(), ((drawn - loc) / scale).sum().item())


def test_lines_of_multinomial_and_lists() -> None:
    source = dr.random.Generator(3)
    assert source.multinomial([10, 20], [0.5, 0.5]).sum(1).tolist() == [10, 20]
    assert source.multinomial(10, [[1.0, 0.0], [0.0, 1.0]]).tolist() == [[10, 0], [0, 10]]
    assert sorted(source.permutation([3, 1, 2]).tolist()) == [1, 2, 3]
    assert source.choice(0, 0).shape == source.choice([], (0, 2)).shape[:1] == (0,)
    with pytest.raises(ValueError, match=r"dirichlet: alpha of shape \(\), expected a vector"):
        source.dirichlet(1.0)
    with pytest.raises(ValueError, match=r"multinomial: pvals is 0.5, expected an array"):
        source.multinomial(3, 0.5)
    with pytest.raises(ValueError, match=r"choice: 2 of 0 elements, expected at least one"):
        source.choice([], 2)
    with pytest.raises(NotImplementedError, match=r"integers: bounds that are arrays"):
        source.integers([1, 2])
