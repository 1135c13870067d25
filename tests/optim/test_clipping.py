"""Clipping by norm and value, and loss scaling, neither of which waits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import native


def with_gradients(device: str = "cpu:0") -> list[Any]:
    rng = np.random.default_rng(3)
    params = [dr.zeros(shape, device=device, requires_grad=True) for shape in ((3, 4), (5,), (), (2, 1))]
    for p in params[:-1]:
        p.grad = dr.asarray(rng.standard_normal(p.shape), device=device)
    return params  # the last one has none


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm(norm_type: float, max_norm: float, device: str) -> None:
    params = with_gradients(device)
    before = [p.grad.numpy() for p in params[:-1]]
    whole = np.concatenate([g.reshape(-1) for g in before])
    norm = dr.optim.clip_grad_norm_(params, max_norm, norm_type)
    expected = np.linalg.norm(whole, norm_type)
    assert norm.item() == pytest.approx(expected, rel=1e-12)
    factor = min(1.0, max_norm / (expected + 1e-6))
    for p, g in zip(params, before, strict=False):
        np.testing.assert_allclose(p.grad.numpy(), g * factor, rtol=1e-12)
    assert params[-1].grad is None


def test_a_norm_that_is_no_number_raises_where_it_is_asked() -> None:
    params = with_gradients()
    params[0].grad = dr.full((3, 4), math.inf)
    before = params[1].grad.tolist()
    with pytest.raises(RuntimeError, match="the norm of the gradients is inf, expected a finite number"):
        dr.optim.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert params[1].grad.tolist() == before
    assert dr.optim.clip_grad_norm_(params, 1.0).item() == math.inf  # nothing is raised without waiting


def test_clip_grad_norm_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    params = with_gradients()[:-1]
    theirs = [torch.zeros(p.shape, dtype=torch.float64, requires_grad=True) for p in params]
    for p, t in zip(params, theirs, strict=True):
        t.grad = torch.tensor(p.grad.numpy())
    norm = dr.optim.clip_grad_norm_(params, 0.7)
    assert norm.item() == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 0.7).item(), rel=1e-6)
    for p, t in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), t.grad.numpy(), rtol=1e-6)


def test_a_gradient_of_two_parameters_is_clipped_once() -> None:
    p, q = dr.zeros(2, requires_grad=True), dr.zeros(2, requires_grad=True)
    p.grad = q.grad = dr.asarray([3.0, 4.0])
    dr.optim.clip_grad_norm_([p, q], math.sqrt(50.0) / 2)
    np.testing.assert_allclose(q.grad.numpy(), [1.5, 2.0], rtol=1e-6)


def test_clip_grad_value() -> None:
    p = dr.zeros(4, requires_grad=True)
    p.grad = dr.asarray([-3.0, -0.5, 0.25, math.nan])
    dr.optim.clip_grad_value_(p, 0.5)
    np.testing.assert_array_equal(p.grad.numpy(), [-0.5, -0.5, 0.25, math.nan])


def test_devices_together() -> None:
    p, q = dr.zeros(1, device="cpu:0", requires_grad=True), dr.zeros(1, device="cpu:1", requires_grad=True)
    p.grad, q.grad = dr.full(1, 3.0, device="cpu:0"), dr.full(1, 4.0, device="cpu:1")
    assert dr.optim.clip_grad_norm_([p, q], 1.0).item() == 5.0
    assert str(q.grad.device) == "cpu:1"
    assert q.grad.item() == pytest.approx(0.8, rel=1e-6)


def test_no_gradients() -> None:
    assert dr.optim.clip_grad_norm_([dr.zeros(2, requires_grad=True)], 1.0).item() == 0.0


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"norm_type is 0\.0"):
        dr.optim.clip_grad_norm_([], 1.0, 0)
    with pytest.raises(ValueError, match="clip_value is -1"):
        dr.optim.clip_grad_value_([], -1)


def test_nothing_waits() -> None:
    """All of a scaled, clipped step is recorded while the lanes stand still."""
    with dr.engine("async"):
        p = dr.ones(100_000, requires_grad=True)
        optimizer, scaler = dr.optim.Adam([p]), dr.optim.LossScaler()
        for _ in range(2):
            native.pause(True)
            optimizer.zero_grad()
            scaler.scale((p * p).sum()).backward()
            scaler.unscale_(optimizer)
            norm = dr.optim.clip_grad_norm_([p], 1.0)
            scaler.step(optimizer)
            scaler.update()
            assert not native.is_ready(p)
            assert not native.is_ready(norm)
            native.pause(False)
            dr.wait()


# ---- loss scaling

OPTIMIZERS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("NAdam", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    ("Rprop", {"lr": 0.1}),
    ("LAMB", {"lr": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_skipped_steps_leave_no_trace(name: str, options: dict[str, Any], device: str) -> None:
    """Scaled steps, some with overflow, end where unscaled steps without the overflowing ones end."""
    ends = []
    for scaled in (False, True):
        p = dr.asarray(np.linspace(-1, 1, 9), device=device, requires_grad=True)
        optimizer = getattr(dr.optim, name)([p], **options)
        scaler = dr.optim.LossScaler(init_scale=1024.0, growth_interval=3)
        for step in range(12):
            overflows = step in (0, 4, 5)
            if overflows and not scaled:
                continue
            optimizer.zero_grad()
            loss = ((p - 0.3) ** 2).sum() * (math.inf if overflows else 1.0)
            if scaled:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
        ends.append(p.numpy())
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-12)
    assert int(optimizer.state[p]["step"]) == 9


def test_the_scale_backs_off_and_grows() -> None:
    p = dr.ones(2, requires_grad=True)
    optimizer, scaler = dr.optim.SGD([p], lr=0.0), dr.optim.LossScaler(init_scale=8.0, growth_interval=2)
    scales = []
    for factor in (1.0, math.inf, 1.0, 1.0, 1.0, math.nan, 1.0):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [8.0, 4.0, 4.0, 8.0, 8.0, 4.0, 4.0]
    other = dr.optim.LossScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    assert other.state_dict()["_growth_tracker"] == 1


def test_skipped_state_is_saved() -> None:
    """Step counts are arrays after a scaled step; they are saved and loaded as numbers."""
    p = dr.ones(2, requires_grad=True)
    optimizer, scaler = dr.optim.Adam([p]), dr.optim.LossScaler()
    scaler.scale(p.sum()).backward()
    scaler.step(optimizer)
    other = dr.optim.Adam([p])
    other.load_state_dict(optimizer.state_dict())
    assert other.state[p]["step"] == 1


def test_unscaled_twice() -> None:
    p = dr.ones(2, requires_grad=True)
    optimizer, scaler = dr.optim.SGD([p]), dr.optim.LossScaler()
    with pytest.raises(RuntimeError, match="call step first"):
        scaler.update()
    scaler.scale(p.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscaled already"):
        scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match=r"growth_factor 0\.5"):
        dr.optim.LossScaler(growth_factor=0.5)


def test_half_precision_gradients_survive() -> None:
    """A gradient of 1e-8 is 0 in float16 unless the loss is scaled."""
    p = dr.asarray(np.ones(3, np.float16), requires_grad=True)
    optimizer, scaler = dr.optim.SGD([p], lr=0.0), dr.optim.LossScaler(init_scale=2.0**15)
    factor = dr.asarray(np.full(3, 1e-4, np.float16))
    scaler.scale((p * factor * 1e-4).sum()).backward()
    assert (p.grad.numpy() > 0).all()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
