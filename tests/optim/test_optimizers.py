"""Each optimizer against its published equation in NumPy and against PyTorch; groups, state, what is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optim.references import CASES

import dagrun as dr
from dagrun.core import engine_stats

SHAPES = ((3, 4), (7,), (), (0, 3), (130,))
STEPS = 20
NAMED = [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(CASES)]
FAMILIES = [pytest.param(name, options, id=f"{name}-{i}") for i, (name, _, options) in enumerate(CASES)]


def starts(dtype: Any = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


def gradients_of(values: list[np.ndarray], step: int) -> list[np.ndarray]:
    """Those of a sum of squares of distances to targets that move, so that signs change."""
    return [np.asarray(2 * (x - np.cos(step + np.arange(x.size).reshape(x.shape))), x.dtype) for x in values]


def parameters(dtype: Any = "float32", device: str = "cpu:0") -> list[Any]:
    return [dr.asarray(x, device=device, requires_grad=True) for x in starts(dtype)]


def advance(optimizer: Any, params: list[Any], first: int = 0, count: int = STEPS) -> None:
    """Steps with the gradients of `gradients_of`, computed by dagrun."""
    for step in range(first, first + count):
        for p in params:
            target = np.asarray(np.cos(step + np.arange(p.size).reshape(p.shape)), p.dtype)
            p.grad = 2 * (p.detach() - dr.asarray(target, device=p.device))
        optimizer.step()


@pytest.mark.parametrize(("name", "reference", "options"), NAMED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_published_equation(name: str, reference: Callable[..., Any], options: dict[str, Any], dtype: str) -> None:
    values, states = starts(dtype), [{} for _ in SHAPES]
    for step in range(1, STEPS + 1):
        gradients = gradients_of(values, step - 1)
        values = [reference(p, g, s, step, **options) for p, g, s in zip(values, gradients, states, strict=True)]
    params = parameters(dtype)
    advance(getattr(dr.optim, name)(params, **options), params)
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    for p, value in zip(params, values, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.numpy(), value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_as_in_torch(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, name) or (name == "SGD" and "decoupled_weight_decay" in options):
        pytest.skip(f"PyTorch has no such {name}")
    params, theirs = parameters("float64"), [torch.tensor(x, requires_grad=True) for x in starts("float64")]
    own, other = getattr(dr.optim, name)(params, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(STEPS):
        advance(own, params, step, 1)
        for p, g in zip(theirs, gradients_of([p.detach().numpy() for p in theirs], step), strict=True):
            p.grad = torch.tensor(g)
        other.step()
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_same_bits_on_every_engine_and_device(name: str, options: dict[str, Any], device: str) -> None:
    results = []
    for mode, where in (("async", device), ("serial", device), ("async", "cpu:0")):
        with dr.engine(mode):
            params = parameters(device=where)
            optimizer = getattr(dr.optim, name)(params, **options)
            advance(optimizer, params)
            results.append([p.numpy().tobytes() for p in params])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_state_goes_on_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    whole = parameters()
    advance(getattr(dr.optim, name)(whole, **options), whole)
    params = parameters()
    first = getattr(dr.optim, name)(params, **options)
    advance(first, params, 0, 8)
    copies = [dr.asarray(p.numpy(), requires_grad=True) for p in params]
    second = getattr(dr.optim, name)(copies, lr=99.0)
    second.load_state_dict(first.state_dict())
    advance(first, params, 8, 3)  # what was loaded is a copy
    advance(second, copies, 8, STEPS - 8)
    assert [p.numpy().tobytes() for p in copies] == [p.numpy().tobytes() for p in whole]


def test_state_of_torch() -> None:
    torch = pytest.importorskip("torch")
    params, theirs = parameters("float64"), [torch.tensor(x, requires_grad=True) for x in starts("float64")]
    own, other = dr.optim.Adam(params, lr=0.1), torch.optim.Adam(theirs, lr=0.1)

    def step_torch(step: int) -> None:
        for p, g in zip(theirs, gradients_of([p.detach().numpy() for p in theirs], step), strict=True):
            p.grad = torch.tensor(g)
        other.step()

    for step in range(5):
        step_torch(step)
    with dr.no_grad():
        for p, q in zip(params, theirs, strict=True):
            p[...] = q.detach().numpy()
    own.load_state_dict(other.state_dict())
    assert own.state[params[0]]["step"] == 5
    advance(own, params, 5, 3)
    for step in range(5, 8):
        step_torch(step)
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12)


def test_the_form_of_a_state_dict() -> None:
    p, q = dr.ones(2, requires_grad=True), dr.ones(3, requires_grad=True)
    optimizer = dr.optim.Adam([{"params": [p], "lr": 0.5}, {"params": q}], lr=0.25)
    p.grad, q.grad = dr.ones(2), dr.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0], [1]]
    assert [group["lr"] for group in state["param_groups"]] == [0.5, 0.25]
    assert sorted(state["state"]) == [0, 1]
    assert sorted(state["state"][1]) == ["exp_avg", "exp_avg_sq", "step"]
    assert state["state"][1]["step"] == 1
    with pytest.raises(ValueError, match=r"groups of \[1, 1\] parameters, expected \[2\]"):
        dr.optim.Adam([p, q]).load_state_dict(state)


def test_groups_have_rates_of_their_own() -> None:
    p, q = dr.ones(2, requires_grad=True), dr.ones(2, requires_grad=True)
    optimizer = dr.optim.SGD([{"params": [p], "lr": 0.5}], lr=0.25)
    optimizer.add_param_group({"params": [q]})
    p.grad = q.grad = dr.ones(2)
    optimizer.step()
    assert p.numpy().tolist() == [0.5, 0.5]
    assert q.numpy().tolist() == [0.75, 0.75]
    optimizer.param_groups[1]["lr"] = 1.0
    optimizer.step()
    assert q.numpy().tolist() == [-0.25, -0.25]


def test_no_gradient_no_step() -> None:
    p, q = dr.ones(2, requires_grad=True), dr.ones(2, requires_grad=True)
    optimizer = dr.optim.Adam([p, q], lr=0.5)
    for _ in range(2):
        p.grad = dr.ones(2)
        optimizer.step()
    assert q.numpy().tolist() == [1.0, 1.0]
    assert q not in optimizer.state
    q.grad = dr.ones(2)
    optimizer.step()  # the first of q, the third of p
    assert (optimizer.state[p]["step"], optimizer.state[q]["step"]) == (3, 1)
    np.testing.assert_allclose(q.numpy(), 0.5, rtol=1e-6)
    optimizer.zero_grad()
    assert p.grad is None
    assert dr.optim.SGD([p]).step() is None


def test_zero_grad_keeps_zeros_where_asked() -> None:
    p = dr.ones(2, requires_grad=True)
    p.grad = dr.ones(2)
    dr.optim.SGD([p]).zero_grad(set_to_none=False)
    assert p.grad is not None
    assert p.grad.numpy().tolist() == [0.0, 0.0]


def test_closure_is_differentiated_and_returned() -> None:
    p = dr.asarray([3.0], requires_grad=True)
    optimizer = dr.optim.SGD([p], lr=0.25)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with dr.no_grad():
        assert optimizer.step(closure).item() == 9.0
    assert p.numpy().tolist() == [1.5]


def test_views_and_shared_gradients() -> None:
    """A parameter that is a column of a matrix, a gradient that is broadcast, and one that two parameters share."""
    matrix = dr.ones((3, 2))
    column = matrix[:, 0]
    column.requires_grad_()
    other = dr.ones(3, requires_grad=True)
    (column + other).sum().backward()
    dr.optim.SGD([column, other], lr=0.5, momentum=0.5).step()
    assert matrix.numpy().tolist() == [[0.5, 1.0]] * 3
    assert other.numpy().tolist() == [0.5] * 3


def test_a_gradient_may_be_the_memory_of_a_parameter() -> None:
    p, q = dr.asarray([1.0, 2.0], requires_grad=True), dr.asarray([10.0, 20.0], requires_grad=True)
    p.grad, q.grad = q.detach(), p.detach()
    dr.optim.SGD([p, q], lr=0.5).step()
    assert p.numpy().tolist() == [-4.0, -8.0]
    assert q.numpy().tolist() == [9.5, 19.0]


def test_devices_and_dtypes_in_one_group() -> None:
    params = [
        dr.asarray(np.ones(5, dtype), device=where, requires_grad=True)
        for dtype in ("float16", "float32", "float64")
        for where in ("cpu:0", "cpu:1", "sim:0")
    ]
    for p in params:
        p.grad = dr.full(5, 2.0, dtype="float32", device=p.device)
    dr.optim.SGD(params, lr=0.25, momentum=0.5).step()
    for p in params:
        assert p.numpy().tolist() == [0.5] * 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: dr.optim.SGD([p], lr=-1.0), r"SGD: lr is -1.0, expected 0 <= lr < inf"),
        (lambda p: dr.optim.Adam([p], betas=(0.9, 1.0)), r"Adam: betas is \(0.9, 1.0\), expected 0 <= betas < 1"),
        (lambda p: dr.optim.Adam([p], lr=float("nan")), "lr is nan"),
        (lambda p: dr.optim.SGD([p], nesterov=True), "nesterov with momentum 0.0 and dampening 0.0"),
        (lambda p: dr.optim.SGD([]), "params is empty"),
        (lambda p: dr.optim.SGD([p, p]), r"parameter of shape \(2,\) is there twice"),
        (lambda p: dr.optim.SGD([p * 2]), r"was computed from others"),
        (lambda p: dr.optim.Rprop([p], etas=(1.5, 1.2)), r"etas is \(1.5, 1.2\)"),
        (lambda p: dr.optim.LBFGS([p], line_search_fn="armijo"), "line_search_fn is 'armijo'"),
        (lambda p: dr.optim.LBFGS([{"params": [p]}, {"params": [dr.ones(1)]}]), "2 groups of parameters"),
    ],
)
def test_errors_name_the_value(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(dr.ones(2, requires_grad=True))


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="params is a Array, expected a list"):
        dr.optim.SGD(dr.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match=r"params is a Linear, expected a list of arrays .* module.parameters\(\)"):
        dr.optim.SGD(dr.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="a parameter is a ndarray"):
        dr.optim.SGD([np.ones(2)])
    with pytest.raises(TypeError, match="expected a closure"):
        dr.optim.LBFGS([dr.ones(2, requires_grad=True)]).step()


def test_many_parameters_are_few_operations() -> None:
    params = [dr.ones((5, 5), requires_grad=True) for _ in range(100)]
    optimizer = dr.optim.Adam(params)
    for p in params:
        p.grad = dr.ones((5, 5))
    optimizer.step()
    dr.wait()
    before = engine_stats()
    optimizer.step()
    after = engine_stats()
    assert after["recorded"] - before["recorded"] == 2


def test_repr() -> None:
    assert repr(dr.optim.Adagrad([dr.ones(2, requires_grad=True)])).splitlines()[1] == (
        "  group 0: 1 parameters, lr=0.01, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, "
        "maximize=False"
    )
