"""One training step of a small network (784-256-128-10, batch 64, float32, SGD), waiting for the loss after each.

Every peer starts from the same weights and sees the same batches; the losses of the first steps must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import dagrun as dr

SIZES, BATCH, RATE, STEPS = (784, 256, 128, 10), 64, np.float32(0.1), 40
Step = Callable[[int], float]


def weights() -> list[np.ndarray[Any, Any]]:
    """Weights and biases in turn, layer by layer."""
    rng = np.random.default_rng(0)
    made: list[np.ndarray[Any, Any]] = []
    for rows, columns in pairwise(SIZES):
        made += [rng.standard_normal((rows, columns), dtype=np.float32) * np.float32((2 / rows) ** 0.5)]
        made += [np.zeros(columns, np.float32)]
    return made


def batches() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Eight batches: images and one-hot labels."""
    rng = np.random.default_rng(1)
    labels = np.eye(SIZES[-1], dtype=np.float32)[rng.integers(0, SIZES[-1], (8, BATCH))]
    return list(zip(rng.random((8, BATCH, SIZES[0]), dtype=np.float32), labels, strict=True))


def step_by_hand(xp: Any, x: Any, t: Any, parameters: list[Any]) -> Any:
    """Loss and update with hand-written gradients; NumPy and dagrun run the same lines."""
    w1, b1, w2, b2, w3, b3 = parameters
    h1 = xp.maximum(x @ w1 + b1, 0)
    h2 = xp.maximum(h1 @ w2 + b2, 0)
    z = h2 @ w3 + b3
    z = z - z.max(axis=1, keepdims=True)
    e = xp.exp(z)
    total = e.sum(axis=1, keepdims=True)
    loss = ((xp.log(total) - z) * t).sum() / BATCH
    dz = (e / total - t) / BATCH
    dh2 = (dz @ w3.T) * (h2 > 0)
    dh1 = (dh2 @ w2.T) * (h1 > 0)
    for w, b, below, above in ((w3, b3, h2, dz), (w2, b2, h1, dh2), (w1, b1, x, dh1)):
        w -= RATE * (below.T @ above)
        b -= RATE * above.sum(axis=0)
    return loss


def in_numpy() -> Step:
    data, parameters = batches(), weights()
    return lambda i: float(step_by_hand(np, *data[i % 8], parameters))


def in_dagrun() -> Step:
    data = [(dr.asarray(x), dr.asarray(t)) for x, t in batches()]
    parameters = [dr.asarray(w) for w in weights()]

    def step(i: int) -> float:
        loss = step_by_hand(dr, *data[i % 8], parameters).item()
        dr.wait()
        return float(loss)

    return step


def in_torch(torch: Any) -> Step:
    data = [(torch.from_numpy(x), torch.from_numpy(t).argmax(1)) for x, t in batches()]
    parameters = [torch.from_numpy(w).requires_grad_() for w in weights()]
    w1, b1, w2, b2, w3, b3 = parameters
    optimizer = torch.optim.SGD(parameters, lr=float(RATE))

    def step(i: int) -> float:
        x, labels = data[i % 8]
        z = torch.relu(torch.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3
        loss = torch.nn.functional.cross_entropy(z, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def test_training_step(bench: Any) -> None:
    torch = bench.torch()

    def numpy_on(threads: int) -> Callable[[], float]:
        step = in_numpy()

        def run() -> float:
            with threadpool_limits(threads, user_api="blas"):
                return float(bench.clock(lambda: [step(i) for i in range(STEPS)]))

        return run

    def steps(step: Step) -> Callable[[], None]:
        return lambda: [step(i) for i in range(STEPS)] and None

    makers = {"NumPy": in_numpy, "dagrun": in_dagrun} | ({"torch eager": lambda: in_torch(torch)} if torch else {})
    losses = {name: [step(i) for i in range(5)] for name, step in ((name, make()) for name, make in makers.items())}
    for name in losses:
        np.testing.assert_allclose(losses[name], losses["NumPy"], rtol=1e-4, err_msg=name)

    peers: dict[str, Callable[[], Any]] = {f"NumPy, {n} BLAS thread{'s' * (n > 1)}": numpy_on(n) for n in (1, 2)}
    if torch:
        peers["torch eager"] = steps(in_torch(torch))
    bench.run(steps(in_dagrun()), peers, rounds=31, per=STEPS, blas=True)
    for peer in peers:
        bench.against("training step of the MLP 784-256-128-10, batch 64, one device, waiting every step", peer)
