"""Layers of training on the CPU against torch: convolutions forward and backward, and a whole step of LeNet.

The convolutions are those of LeNet (batch 64, 28 x 28) and of ResNet-18 for CIFAR (batch 32), each with its gradients
in input and weight. The step of LeNet: two convolutions with max pooling, three linear layers, cross-entropy, SGD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.nn import functional as F

# n, channels, size, outputs, kernel, stride, padding
CONVOLUTIONS = {
    "LeNet 1": (64, 1, 28, 6, 5, 1, 2),
    "LeNet 2": (64, 6, 14, 16, 5, 1, 0),
    "ResNet 3 to 64 at 32": (32, 3, 32, 64, 3, 1, 1),
    "ResNet 64 at 32": (32, 64, 32, 64, 3, 1, 1),
    "ResNet 64 to 128, stride 2": (32, 64, 32, 128, 3, 2, 1),
    "ResNet 64 to 128, 1 x 1": (32, 64, 32, 128, 1, 2, 0),
    "ResNet 128 at 16": (32, 128, 16, 128, 3, 1, 1),
    "ResNet 256 at 8": (32, 256, 8, 256, 3, 1, 1),
    "ResNet 512 at 4": (32, 512, 4, 512, 3, 1, 1),
}


CALLS = 10  # in a round: the first after a pause would be a cold one


@pytest.fixture
def torch(bench: Any) -> Any:
    return bench.torch() or pytest.skip("torch is not installed")


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(bench: Any, torch: Any, name: str) -> None:
    n, c, size, o, k, stride, padding = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, size, size), dtype=np.float32)
    w = rng.standard_normal((o, c, k, k), dtype=np.float32)
    bias = rng.standard_normal(o, dtype=np.float32)
    ours = [dr.asarray(a, requires_grad=True) for a in (x, w, bias)]
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, w, bias)]
    g = rng.standard_normal(F.conv2d(*ours, stride, padding).shape, dtype=np.float32)
    down, their_down = dr.asarray(g), torch.tensor(g)
    results: dict[str, list[np.ndarray[Any, Any]]] = {}

    def here() -> None:
        for _ in range(CALLS):
            for leaf in ours:
                leaf.grad = None
            F.conv2d(*ours, stride, padding).backward(down)
            dr.wait()

    def there() -> None:
        for _ in range(CALLS):
            for leaf in theirs:
                leaf.grad = None
            torch.nn.functional.conv2d(*theirs, stride, padding).backward(their_down)

    bench.run(here, {"torch eager": there}, rounds=9, per=CALLS, blas=True)
    results["ours"] = [leaf.grad.numpy() for leaf in ours]
    for mine, other in zip(results["ours"], theirs, strict=True):
        scale = float(np.abs(other.grad.numpy()).max())
        np.testing.assert_allclose(mine / scale, other.grad.numpy() / scale, atol=1e-4)
    bench.against(f"convolution {name}, forward and backward", "torch eager")


SHAPES = ((6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (400, 120), (120,), (120, 84), (84,), (84, 10), (10,))
BATCH, RATE, STEPS = 64, 0.1, 20


def weights() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(s, dtype=np.float32) * np.float32((2 / (s[0] if len(s) == 2 else np.prod(s[1:]))) ** 0.5)
        if len(s) > 1
        else np.zeros(s, np.float32)
        for s in SHAPES
    ]


def batches() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(1)
    return [(rng.random((BATCH, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, BATCH)) for _ in range(8)]


def lenet(functions: Any, relu: Callable[[Any], Any], x: Any, labels: Any, p: list[Any]) -> Any:
    """The loss; dagrun and torch run the same lines."""
    h = functions.max_pool2d(relu(functions.conv2d(x, p[0], p[1], padding=2)), 2)
    h = functions.max_pool2d(relu(functions.conv2d(h, p[2], p[3])), 2).reshape(BATCH, -1)
    h = relu(relu(h @ p[4] + p[5]) @ p[6] + p[7]) @ p[8] + p[9]
    return functions.cross_entropy(h, labels)


def in_dagrun() -> Callable[[int], float]:
    data = [(dr.asarray(x), dr.asarray(t)) for x, t in batches()]
    parameters = [dr.asarray(w, requires_grad=True) for w in weights()]

    def step(i: int) -> float:
        loss = lenet(F, dr.relu, *data[i % 8], parameters)
        loss.backward()
        with dr.no_grad():
            for p in parameters:
                p -= RATE * p.grad
                p.grad = None
        value = float(loss.item())
        dr.wait()
        return value

    return step


def in_torch(torch: Any) -> Callable[[int], float]:
    data = [(torch.from_numpy(x), torch.from_numpy(t)) for x, t in batches()]
    parameters = [torch.from_numpy(w).requires_grad_() for w in weights()]
    optimizer = torch.optim.SGD(parameters, lr=RATE)

    def step(i: int) -> float:
        loss = lenet(torch.nn.functional, torch.relu, *data[i % 8], parameters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def test_lenet_step(bench: Any, torch: Any) -> None:
    first = [[step(i) for i in range(5)] for step in (in_dagrun(), in_torch(torch))]
    np.testing.assert_allclose(*first, rtol=1e-4)
    ours, theirs = in_dagrun(), in_torch(torch)

    def steps(step: Callable[[int], float]) -> Callable[[], None]:
        return lambda: [step(i) for i in range(STEPS)] and None

    bench.run(steps(ours), {"torch eager": steps(theirs)}, rounds=9, per=STEPS, blas=True)
    bench.against(f"training step of LeNet, batch {BATCH}", "torch eager")
