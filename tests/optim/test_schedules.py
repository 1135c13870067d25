"""Every schedule is its published formula, exactly, and PyTorch's where it has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import dagrun as dr
from dagrun.optim import lr_scheduler as schedules

BASES = (0.5, 0.02)
EPOCHS = 24


def optimizer_of(module: Any, array: Any, **options: Any) -> Any:
    """SGD with two groups of different rates."""
    return module.SGD([{"params": [array()], "lr": lr} for lr in BASES], momentum=0.9, **options)


def rates(make: Callable[[Any, Any], Any], epochs: int = EPOCHS) -> list[list[float]]:
    """The rates that a schedule sets, epoch by epoch."""
    optimizer = optimizer_of(dr.optim, lambda: dr.ones(2, requires_grad=True))
    scheduler = make(schedules, optimizer)
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in optimizer.param_groups])
        assert scheduler.get_last_lr() == found[-1]
        scheduler.step()
    return found


def sgdr(t: int, first: int, factor: int) -> float:
    """The share of the current cosine of SGDR that is done."""
    length = first
    while t >= length:
        t, length = t - length, length * factor
    return t / length


def cyclic(base: float, t: int, kind: int) -> float:
    """CyclicLR from 0.1 (or 0.2) to 1.1 in 3 steps, back in 5."""
    low = {BASES[0]: 0.1, BASES[1]: 0.2}[base]
    cycle, place = divmod(t, 8)
    share = place / 3 if place <= 3 else (8 - place) / 5
    return low + (1.1 - low) * share * (1.0, 0.5**cycle, 0.9**t, 1 / (cycle + 1))[kind]


CASES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[float, int], float]]] = {
    "lambda": (lambda s, o: s.LambdaLR(o, lambda t: 0.95**t), lambda b, t: b * 0.95**t),
    "multiplicative": (lambda s, o: s.MultiplicativeLR(o, lambda t: 1 - 0.02 * t),
                       lambda b, t: b * math.prod([1 - 0.02 * k for k in range(1, t + 1)])),
    "cyclic": (lambda s, o: s.CyclicLR(o, [0.1, 0.2], 1.1, 3, 5), lambda b, t: cyclic(b, t, 0)),
    "cyclic, half each time": (lambda s, o: s.CyclicLR(o, [0.1, 0.2], 1.1, 3, 5, "triangular2"),
                               lambda b, t: cyclic(b, t, 1)),
    "cyclic, shrinking": (lambda s, o: s.CyclicLR(o, [0.1, 0.2], 1.1, 3, 5, "exp_range", 0.9),
                          lambda b, t: cyclic(b, t, 2)),
    "cyclic, own": (lambda s, o: s.CyclicLR(o, [0.1, 0.2], 1.1, 3, 5, scale_fn=lambda n: 1 / n),
                    lambda b, t: cyclic(b, t, 3)),
    "constant": (lambda s, o: s.ConstantLR(o, 0.25, 4), lambda b, t: b * 0.25 if t < 4 else b),
    "step": (lambda s, o: s.StepLR(o, 7, 0.5), lambda b, t: b * 0.5 ** (t // 7)),
    "multi-step": (lambda s, o: s.MultiStepLR(o, [3, 9, 9, 20], 0.5),
                   lambda b, t: b * 0.5 ** sum(t >= m for m in (3, 9, 9, 20))),
    "exponential": (lambda s, o: s.ExponentialLR(o, 0.9), lambda b, t: b * 0.9**t),
    "linear": (lambda s, o: s.LinearLR(o, 0.1, 0.9, 8), lambda b, t: b * (0.1 + (0.9 - 0.1) * (min(t, 8) / 8))),
    "polynomial": (lambda s, o: s.PolynomialLR(o, 16, 2.0), lambda b, t: b * (1 - min(t, 16) / 16) ** 2.0),
    "cosine": (lambda s, o: s.CosineAnnealingLR(o, 10, 0.01),
               lambda b, t: 0.01 + (b - 0.01) * (1 + math.cos(math.pi * (t / 10))) / 2),
    "restarts": (lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
                 lambda b, t: 0.01 + (b - 0.01) * (1 + math.cos(math.pi * sgdr(t, 3, 2))) / 2),
    "equal restarts": (lambda s, o: s.CosineAnnealingWarmRestarts(o, 5),
                       lambda b, t: b * (1 + math.cos(math.pi * sgdr(t, 5, 1))) / 2),
}  # fmt: skip
OWN: dict[str, tuple[Callable[[Any, Any], Any], Callable[[float, int], float]]] = {
    "time-based": (lambda s, o: s.TimeBasedDecay(o, 0.3), lambda b, t: b / (1 + 0.3 * t)),
    "warm-up": (lambda s, o: s.CosineWarmup(o, 4, 20, 0.001),
                lambda b, t: b * t / 4 if t < 4
                else 0.001 + (b - 0.001) * (1 + math.cos(math.pi * ((min(t, 20) - 4) / 16))) / 2),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CASES, *OWN])
def test_published_formula(name: str) -> None:
    make, formula = {**CASES, **OWN}[name]
    for t, found in enumerate(rates(make)):
        assert found == pytest.approx([formula(base, t) for base in BASES], rel=1e-12 if "cyclic" in name else 0, abs=0)


def in_torch(make: Callable[[Any, Any], Any], epochs: int = EPOCHS) -> list[list[float]]:
    torch = pytest.importorskip("torch")
    optimizer = optimizer_of(torch.optim, lambda: torch.ones(2, requires_grad=True))
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", CASES)
def test_as_in_torch(name: str) -> None:
    make, _ = CASES[name]
    for own, theirs in zip(rates(make), in_torch(make), strict=True):
        assert own == pytest.approx(theirs, rel=1e-9, abs=1e-12)


COMBINED: dict[str, Callable[[Any, Any], Any]] = {
    "chained": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 5), s.ExponentialLR(o, 0.9), s.StepLR(o, 6)]),
    "sequential": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 5), s.ExponentialLR(o, 0.9), s.CosineAnnealingLR(o, 8)], [5, 12]
    ),
}


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.filterwarnings("ignore")  # PyTorch's SequentialLR warns of its own use of step(epoch)
def test_combined_as_in_torch(name: str) -> None:
    epochs = (
        12 if name == "sequential" else EPOCHS
    )  # its recursive cosine does not start anew where the closed one does
    for own, theirs in zip(rates(COMBINED[name], epochs), in_torch(COMBINED[name], epochs), strict=True):
        assert own == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"three_phase": True, "anneal_strategy": "linear"}, {"pct_start": 0.5}])
def test_one_cycle_as_in_torch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ours = optimizer_of(dr.optim, lambda: dr.ones(2, requires_grad=True))
    theirs = optimizer_of(torch.optim, lambda: torch.ones(2, requires_grad=True))
    own = schedules.OneCycleLR(ours, [0.3, 0.1], total_steps=20, **options)
    other = torch.optim.lr_scheduler.OneCycleLR(theirs, [0.3, 0.1], total_steps=20, **options)
    for _ in range(19):
        for name in ("lr", "momentum"):
            got, expected = ([group[name] for group in o.param_groups] for o in (ours, theirs))
            assert got == pytest.approx(expected, rel=1e-9)
        theirs.step()
        own.step()
        other.step()
    own.step()
    with pytest.raises(ValueError, match="step 21, expected at most total_steps = 20"):
        own.step()


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_momentum_goes_the_opposite_way_of_a_cycle_as_in_torch(mode: str) -> None:
    torch = pytest.importorskip("torch")
    options = {"base_momentum": [0.5, 0.6], "max_momentum": 0.8, "gamma": 0.95}
    both = []
    for module in (dr, torch):
        optimizer = optimizer_of(module.optim, lambda module=module: module.ones(2, requires_grad=True))
        both.append((optimizer, module.optim.lr_scheduler.CyclicLR(optimizer, 0.01, [0.1, 0.3], 4, 2, mode, **options)))
    for _ in range(20):
        own, theirs = ([(g["lr"], g["momentum"]) for g in optimizer.param_groups] for optimizer, _ in both)
        for pair, expected in zip(own, theirs, strict=True):
            assert pair == pytest.approx(expected, rel=1e-9)
        both[1][0].step()
        for _, scheduler in both:
            scheduler.step()


def test_one_cycle_turns_betas() -> None:
    optimizer = dr.optim.Adam([dr.ones(2, requires_grad=True)])
    scheduler = schedules.OneCycleLR(optimizer, 0.1, total_steps=10)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)
    scheduler.step()
    assert 0.85 < optimizer.param_groups[0]["betas"][0] < 0.95


@pytest.mark.parametrize("options", [{}, {"mode": "max", "threshold_mode": "abs", "threshold": 0.05}, {"cooldown": 2}])
def test_plateau_as_in_torch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ours = optimizer_of(dr.optim, lambda: dr.ones(2, requires_grad=True))
    theirs = optimizer_of(torch.optim, lambda: torch.ones(2, requires_grad=True))
    own = schedules.ReduceLROnPlateau(ours, factor=0.5, patience=2, min_lr=0.01, **options)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=2, min_lr=0.01, **options)
    for metric in [1.0, 0.9, 0.91, 0.92, 0.93, 0.93, 0.93, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86, 0.2, 0.3, 0.4]:
        own.step(dr.asarray(metric))
        other.step(metric)
        assert own.get_last_lr() == pytest.approx([group["lr"] for group in theirs.param_groups])


@pytest.mark.parametrize("name", [*CASES, *OWN, *COMBINED])
def test_state_goes_on(name: str) -> None:
    make = {**{k: v[0] for k, v in {**CASES, **OWN}.items()}, **COMBINED}[name]
    expected = rates(make)
    optimizer = optimizer_of(dr.optim, lambda: dr.ones(2, requires_grad=True))
    scheduler = make(schedules, optimizer)
    for _ in range(9):
        scheduler.step()
    other = optimizer_of(dr.optim, lambda: dr.ones(2, requires_grad=True))
    resumed = make(schedules, other)
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for t in range(9, EPOCHS):
        assert [group["lr"] for group in other.param_groups] == expected[t]
        resumed.step()


def test_errors_name_the_value() -> None:
    optimizer = dr.optim.SGD([dr.ones(2, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="T_max is 0, expected at least 1"):
        schedules.CosineAnnealingLR(optimizer, 0)
    with pytest.raises(ValueError, match="warmup_steps 5 of total_steps 4"):
        schedules.CosineWarmup(optimizer, 5, 4)
    with pytest.raises(ValueError, match=r"milestones \[3, 2\] for 3 schedulers"):
        schedules.SequentialLR(optimizer, [schedules.ExponentialLR(optimizer, 0.9)] * 3, [3, 2])
    with pytest.raises(KeyError, match="initial_lr"):
        schedules.StepLR(dr.optim.SGD([dr.ones(2, requires_grad=True)]), 3, last_epoch=4)
    with pytest.raises(ValueError, match="mode 'up' and scale_mode 'cycle', expected 'triangular'"):
        schedules.CyclicLR(optimizer, 0.1, 0.2, mode="up")
    with pytest.raises(ValueError, match="2 rates in max_lr, expected 1"):
        schedules.CyclicLR(optimizer, 0.1, [0.2, 0.3])
    with pytest.raises(ValueError, match="cycle_momentum=True, but the optimizer has neither"):
        schedules.CyclicLR(dr.optim.Adagrad([dr.ones(2, requires_grad=True)]), 0.1, 0.2)
    with pytest.raises(TypeError, match="expected an Optimizer"):
        schedules.StepLR(3, 3)  # type: ignore[arg-type]
