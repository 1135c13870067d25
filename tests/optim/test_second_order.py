"""L-BFGS, BFGS and Newton find the minimum of Rosenbrock's function; L-BFGS makes PyTorch's steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr

START = (-1.2, 1.0)


def rosenbrock(x: Any, y: Any) -> Any:
    """Least, 0, at (1, 1), at the end of a curved valley."""
    return 100 * (y - x**2) ** 2 + (1 - x) ** 2


def closure_of(optimizer: Any, loss_of: Callable[[], Any]) -> Callable[[], Any]:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize(
    "make",
    [
        lambda params: dr.optim.LBFGS(params, max_iter=200, tolerance_change=0.0, line_search_fn="strong_wolfe"),
        lambda params: dr.optim.BFGS(params, max_iter=200),
    ],
    ids=["LBFGS", "BFGS"],
)
def test_minimum_of_rosenbrock(make: Callable[..., Any], device: str) -> None:
    x, y = (dr.asarray(value, device=device, requires_grad=True) for value in START)
    optimizer = make([x, y])
    first = optimizer.step(closure_of(optimizer, lambda: rosenbrock(x, y)))
    assert float(first) == pytest.approx(24.2)
    np.testing.assert_allclose([x.item(), y.item()], 1.0, rtol=1e-6)


def test_newton_finds_it_too(device: str) -> None:
    x, y = (dr.asarray(value, device=device, requires_grad=True) for value in START)
    optimizer = dr.optim.Newton([x, y], max_iter=30)
    assert float(optimizer.step(rosenbrock)) == pytest.approx(24.2)
    np.testing.assert_allclose([x.item(), y.item()], 1.0, rtol=1e-8)


def test_newton_leaves_a_saddle_downhill() -> None:
    p = dr.asarray([0.5, 0.1], requires_grad=True)  # the Hessian is indefinite here
    optimizer = dr.optim.Newton([p], max_iter=30)
    optimizer.step(lambda p: p[0] ** 2 - p[1] ** 2 + p[1] ** 4)
    np.testing.assert_allclose(p.numpy(), [0.0, 0.5**0.5], atol=1e-6)


def test_newton_solves_a_quadratic_in_one_step() -> None:
    A = np.array([[3.0, 1.0], [1.0, 2.0]])
    p = dr.asarray([5.0, -7.0], requires_grad=True)
    dr.optim.Newton([p]).step(lambda p: 0.5 * (p @ dr.asarray(A) @ p) - (p * dr.asarray([1.0, 4.0])).sum())
    np.testing.assert_allclose(p.numpy(), np.linalg.solve(A, [1.0, 4.0]), rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1, "max_iter": 8},
        {"max_iter": 5, "history_size": 3},
        {"max_iter": 10, "line_search_fn": "strong_wolfe"},
    ],
)
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of float(tensor)
def test_lbfgs_as_in_torch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    xs = [dr.asarray(value, requires_grad=True) for value in START]
    ts = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in START]
    own, other = dr.optim.LBFGS(xs, **options), torch.optim.LBFGS(ts, **options)
    for _ in range(3):
        own.step(closure_of(own, lambda: rosenbrock(*xs)))
        other.step(closure_of(other, lambda: rosenbrock(*ts)))
        np.testing.assert_allclose([x.item() for x in xs], [t.item() for t in ts], rtol=1e-6)


def test_lbfgs_in_pieces_and_from_its_state() -> None:
    """Two steps of a loaded state go where those of the original go."""
    ends = []
    for load in (False, True):
        x, y = (dr.asarray(value, requires_grad=True) for value in START)
        optimizer = dr.optim.LBFGS([x, y], max_iter=4, line_search_fn="strong_wolfe")
        for _ in range(2):
            optimizer.step(closure_of(optimizer, lambda x=x, y=y: rosenbrock(x, y)))
            if load:
                state = optimizer.state_dict()
                optimizer = dr.optim.LBFGS([x, y])
                optimizer.load_state_dict(state)
        ends.append((x.item(), y.item()))
    assert ends[0] == ends[1]


def test_several_shapes_and_a_parameter_without_gradient() -> None:
    weights, bias = dr.zeros((3, 2), requires_grad=True), dr.zeros(2, requires_grad=True)
    unused = dr.ones(4, requires_grad=True)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((20, 3))
    targets = inputs @ np.arange(6.0).reshape(3, 2) + [1.0, -1.0]
    data, wanted = dr.asarray(inputs), dr.asarray(targets)
    optimizer = dr.optim.BFGS([weights, bias, unused], max_iter=60)
    optimizer.step(closure_of(optimizer, lambda: ((data @ weights + bias - wanted) ** 2).mean()))
    np.testing.assert_allclose(weights.numpy(), np.arange(6.0).reshape(3, 2), atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), [1.0, -1.0], atol=1e-5)
    assert unused.numpy().tolist() == [1.0] * 4
