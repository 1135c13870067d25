"""One training step of ResNet-18 for images of 32 x 32: batch 32, float32, SGD with momentum, waiting for the loss.

torch starts from the same weights, has the same keys and sees the same batches; the losses of the first steps must
agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr

BATCH, RATE, MOMENTUM, STEPS = 32, 0.05, 0.9, 2  # steps in a round


def batches() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(1)
    return [(rng.standard_normal((BATCH, 3, 32, 32), np.float32), rng.integers(0, 10, BATCH)) for _ in range(4)]


def in_dagrun(net: Any) -> Callable[[int], float]:
    data = [(dr.asarray(x), dr.asarray(labels)) for x, labels in batches()]
    optimizer = dr.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def step(i: int) -> float:
        x, labels = data[i % 4]
        loss = dr.nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = float(loss.item())
        dr.wait()
        return value

    return step


def in_torch(torch: Any, state: dict[str, np.ndarray[Any, Any]]) -> Callable[[int], float]:
    f = torch.nn.functional
    data = [(torch.from_numpy(x), torch.from_numpy(labels)) for x, labels in batches()]
    w = {key: torch.tensor(value) for key, value in state.items()}
    parameters = [value.requires_grad_() for key, value in w.items() if key.endswith(("weight", "bias"))]
    optimizer = torch.optim.SGD(parameters, RATE, MOMENTUM)

    def layer(x: Any, conv: str, norm: str, stride: int = 1) -> Any:
        kernel = w[f"{conv}.weight"]
        x = f.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        statistics = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
        return f.batch_norm(x, *statistics, w[f"{norm}.weight"], w[f"{norm}.bias"], training=True)

    def forward(x: Any) -> Any:
        x = f.relu(layer(x, "conv1", "bn1"))
        for at in (f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)):
            wider = f"{at}.downsample.0.weight" in w
            skip = layer(x, f"{at}.downsample.0", f"{at}.downsample.1", 2) if wider else x
            x = f.relu(layer(x, f"{at}.conv1", f"{at}.bn1", 1 + wider))
            x = f.relu(layer(x, f"{at}.conv2", f"{at}.bn2") + skip)
        return f.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])

    def step(i: int) -> float:
        x, labels = data[i % 4]
        loss = f.cross_entropy(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def test_resnet18_step(bench: Any) -> None:
    torch = bench.torch() or pytest.skip("torch is not installed")
    dr.random.seed(0)
    net = dr.models.resnet18(10, small=True)
    theirs = in_torch(torch, {key: value.numpy() for key, value in net.state_dict().items()})
    ours = in_dagrun(net)
    np.testing.assert_allclose([ours(i) for i in range(3)], [theirs(i) for i in range(3)], rtol=1e-3)

    def steps(step: Callable[[int], float]) -> Callable[[], None]:
        return lambda: [step(i) for i in range(STEPS)] and None

    bench.run(steps(ours), {"torch eager": steps(theirs)}, rounds=7, warmup=1, per=STEPS, blas=True)
    bench.against(f"training step of ResNet-18 for 32 x 32, batch {BATCH}", "torch eager")
