"""Optimizer steps: Adam on one large parameter and on many small ones, against NumPy and PyTorch.

Every peer makes the same steps from the same values; the parameters after them must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr

BETAS, EPS, RATE, STEPS = (0.9, 0.999), 1e-8, 1e-3, 20
CASES = {"1 M elements": ((1 << 20,), 1), "200 parameters of 16 x 16": ((16, 16), 200)}
Step = Callable[[], Any]


def values(shape: tuple[int, ...], count: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Parameters and gradients."""
    rng = np.random.default_rng(0)
    return [(rng.random(shape, dtype=np.float32), rng.random(shape, dtype=np.float32)) for _ in range(count)]


def in_numpy(shape: tuple[int, ...], count: int) -> tuple[Step, Callable[[], Any]]:
    sets = [(p, g, np.zeros_like(p), np.zeros_like(p), np.empty_like(p)) for p, g in values(shape, count)]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        size, root = RATE / (1 - BETAS[0] ** t), (1 - BETAS[1] ** t) ** 0.5
        for p, g, m, v, work in sets:
            m *= BETAS[0]
            m += np.multiply(g, 1 - BETAS[0], out=work)
            v *= BETAS[1]
            np.multiply(g, g, out=work)
            work *= 1 - BETAS[1]
            v += work
            np.sqrt(v, out=work)
            work /= root
            work += EPS
            np.divide(m, work, out=work)
            work *= size
            p -= work

    return step, lambda: sets[0][0]


def in_dagrun(shape: tuple[int, ...], count: int) -> tuple[Step, Callable[[], Any]]:
    params = []
    for p, g in values(shape, count):
        params.append(dr.asarray(p, requires_grad=True))
        params[-1].grad = dr.asarray(g)
    optimizer = dr.optim.Adam(params, RATE, BETAS, EPS)
    return optimizer.step, lambda: params[0].numpy()


def in_torch(torch: Any, shape: tuple[int, ...], count: int, **options: Any) -> tuple[Step, Callable[[], Any]]:
    params = []
    for p, g in values(shape, count):
        params.append(torch.tensor(p, requires_grad=True))
        params[-1].grad = torch.tensor(g)
    optimizer = torch.optim.Adam(params, RATE, BETAS, EPS, **options)
    return optimizer.step, lambda: params[0].detach().numpy()


@pytest.mark.parametrize("case", CASES)
def test_adam(bench: Any, case: str) -> None:
    torch = bench.torch()
    shape, count = CASES[case]
    made = {"NumPy with out=": in_numpy(shape, count)}
    if torch:
        made["torch fused"] = in_torch(torch, shape, count, fused=True)
        made["torch foreach"] = in_torch(torch, shape, count, foreach=True)
    own_step, own_result = in_dagrun(shape, count)
    for step, _ in (*made.values(), (own_step, own_result)):
        for _ in range(3):
            step()
    for name, (_, result) in made.items():
        np.testing.assert_allclose(own_result(), result(), rtol=1e-5, atol=1e-6, err_msg=name)

    def steps(step: Step) -> Callable[[], None]:
        def run() -> None:
            for _ in range(STEPS):
                step()
            dr.wait()

        return run

    peers = {name: steps(step) for name, (step, _) in made.items()}
    bench.run(steps(own_step), peers, rounds=11, per=STEPS, blas=True)
    for peer in peers:
        bench.against(f"Adam step, {case}, float32", peer, at_least=1 if peer == "torch fused" else None)
