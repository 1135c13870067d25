"""One training step of an LSTM: hidden size 256, 32 steps, batch 32, float32, SGD, waiting for the loss after each.

Both peers start from the same weights and see the same input; the losses of the first steps must agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr

STEPS, BATCH, UNITS, CLASSES, RATE = 32, 32, 256, 10, 0.1
ROUNDS_OF = 5  # training steps to a measured run


def _problem(width: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (4 * UNITS, width), "weight_hh_l0": (4 * UNITS, UNITS), "bias_ih_l0": (4 * UNITS,),
              "bias_hh_l0": (4 * UNITS,), "weight": (CLASSES, UNITS), "bias": (CLASSES,)}  # fmt: skip
    weights = {name: rng.uniform(-1 / 16, 1 / 16, shape).astype(np.float32) for name, shape in shapes.items()}
    return rng.standard_normal((STEPS, BATCH, width), np.float32), rng.integers(0, CLASSES, BATCH), weights


def _split(weights: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {n: w for n, w in weights.items() if n.endswith("l0")}, {n: w for n, w in weights.items() if "_" not in n}


def in_dagrun(width: int) -> Callable[[], float]:
    x, labels, weights = _problem(width)
    layer, head = dr.nn.LSTM(width, UNITS), dr.nn.Linear(UNITS, CLASSES)
    for module, state in zip((layer, head), _split(weights), strict=True):
        module.load_state_dict(state)
    inputs, targets = dr.asarray(x), dr.asarray(labels)
    parameters = [*layer.parameters(), *head.parameters()]

    def step() -> float:
        y, _ = layer(inputs)
        loss = dr.nn.functional.cross_entropy(head(y[-1]), targets)
        loss.backward()
        with dr.no_grad():
            for parameter in parameters:
                parameter -= RATE * parameter.grad
                parameter.grad = None
        value = float(loss.item())
        dr.wait()
        return value

    return step


def in_torch(torch: Any, width: int) -> Callable[[], float]:
    x, labels, weights = _problem(width)
    layer, head = torch.nn.LSTM(width, UNITS), torch.nn.Linear(UNITS, CLASSES)
    for module, state in zip((layer, head), _split(weights), strict=True):
        module.load_state_dict({name: torch.from_numpy(w) for name, w in state.items()})
    inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
    optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=RATE)

    def step() -> float:
        y, _ = layer(inputs)
        loss = torch.nn.functional.cross_entropy(head(y[-1]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


@pytest.mark.parametrize("width", [64, 256])
def test_training_step(bench: Any, width: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    ours, theirs = in_dagrun(width), in_torch(torch, width)
    np.testing.assert_allclose([ours() for _ in range(5)], [theirs() for _ in range(5)], rtol=1e-4)

    def several(step: Callable[[], float]) -> Callable[[], None]:
        return lambda: [step() for _ in range(ROUNDS_OF)] and None

    bench.run(several(ours), {"torch eager": several(theirs)}, rounds=15, per=ROUNDS_OF, blas=True)
    bench.against(f"training step of an LSTM {width}-256, 32 steps, batch 32, waiting every step", "torch eager")
