"""Five steps of SGD with momentum from fixed weights: the losses of torch, of plain NumPy, and of the serial engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import dagrun as dr
from dagrun import models, nn
from dagrun.nn import functional as F

STEPS, RATE, MOMENTUM, ROWS = 5, 0.05, 0.9, 4
State = dict[str, np.ndarray[Any, Any]]


class LastOfLSTM(nn.Module):
    """An LSTM whose last output goes through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(6, 8), nn.Linear(8, 10)

    def forward(self, x: dr.Array) -> dr.Array:
        scores: dr.Array = self.fc(self.rnn(x)[0][-1])
        return scores


MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: models.mlp(12, [16, 16]), (ROWS, 12)),
    "lenet": (models.LeNet5, (ROWS, 1, 28, 28)),
    "lstm": (LastOfLSTM, (5, ROWS, 6)),
    "resnet18": (lambda: models.resnet18(10, small=True), (ROWS, 3, 16, 16)),
}


def fixed(name: str) -> tuple[nn.Module, State, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A model, its weights, and a batch, that depend on the name alone."""
    make, shape = MAKERS[name]
    net, rng = make(), np.random.default_rng(0)
    state: State = {}
    for key, x in net.state_dict().items():
        if key.endswith("weight") and x.ndim > 1:
            state[key] = (rng.standard_normal(x.shape) / np.sqrt(np.prod(x.shape[1:]))).astype(np.float32)
        else:
            state[key] = x.numpy() if x.ndim == 0 else np.full(x.shape, float("bias" not in key), np.float32)
    return net, state, rng.standard_normal(shape, np.float32), rng.integers(0, 10, ROWS)


def in_dagrun(name: str, device: str = "cpu:0") -> tuple[list[float], bytes]:
    """The losses, and the bits of the state afterwards."""
    net, state, x, y = fixed(name)
    net.load_state_dict(state)
    net.to(device)
    inputs, targets = dr.asarray(x, device=device), dr.asarray(y, device=device)
    optimizer = dr.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return [loss.item() for loss in losses], b"".join(x.numpy().tobytes() for x in net.state_dict().values())


# ---- torch


def torch_net(torch: Any, name: str) -> Any:
    """The forward pass with torch's functions: from a state and inputs to scores."""
    f = torch.nn.functional

    def mlp(w: Any, x: Any) -> Any:
        x = f.relu(f.linear(x, w["1.weight"], w["1.bias"]))
        x = f.relu(f.linear(x, w["3.weight"], w["3.bias"]))
        return f.linear(x, w["5.weight"], w["5.bias"])

    def lenet(w: Any, x: Any) -> Any:
        x = f.max_pool2d(f.relu(f.conv2d(x, w["features.0.weight"], w["features.0.bias"], padding=2)), 2)
        x = f.max_pool2d(f.relu(f.conv2d(x, w["features.3.weight"], w["features.3.bias"])), 2).flatten(1)
        for number in (1, 3):
            x = f.relu(f.linear(x, w[f"classifier.{number}.weight"], w[f"classifier.{number}.bias"]))
        return f.linear(x, w["classifier.5.weight"], w["classifier.5.bias"])

    def lstm(w: Any, x: Any) -> Any:
        weights = [w[f"rnn.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        zeros = torch.zeros(1, ROWS, 8)
        y, _, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, False)
        return f.linear(y[-1], w["fc.weight"], w["fc.bias"])

    def resnet18(w: Any, x: Any) -> Any:
        def norm(x: Any, at: str) -> Any:
            return f.batch_norm(x, None, None, w[f"{at}.weight"], w[f"{at}.bias"], True)

        x = f.relu(norm(f.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
        for stage in range(1, 5):
            for block in range(2):
                at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                skip = x
                if f"{at}.downsample.0.weight" in w:
                    skip = f.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                    skip = norm(skip, f"{at}.downsample.1")
                x = f.relu(norm(f.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1"))
                x = f.relu(norm(f.conv2d(x, w[f"{at}.conv2.weight"], padding=1), f"{at}.bn2") + skip)
        return f.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])

    return {"mlp": mlp, "lenet": lenet, "lstm": lstm, "resnet18": resnet18}[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
def test_losses_are_those_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    net, state, x, y = fixed(name)
    forward = torch_net(torch, name)
    weights = {key: torch.tensor(value) for key, value in state.items()}
    parameters = [weights[key].requires_grad_() for key, _ in net.named_parameters()]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
    losses = []
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(forward(weights, torch.tensor(x)), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(in_dagrun(name)[0], losses, rtol=1e-4, atol=1e-4)


# ---- plain NumPy, in double precision


def relu_back(g: Any, y: Any) -> Any:
    return g * (y > 0)


def conv_and_pool(x: Any, w: Any, b: Any, pad: int) -> tuple[Any, Callable[[Any], tuple[Any, Any, Any]]]:
    """Convolution, ReLU, largest of 2 x 2; and the gradients of x, w and b from that of the result."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    k = w.shape[-1]
    windows = sliding_window_view(x, (k, k), axis=(2, 3))
    y = np.maximum(np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None], 0)
    n, o, h, v = y.shape
    cells = y.reshape(n, o, h // 2, 2, v // 2, 2)
    largest = cells.max(axis=(3, 5), keepdims=True)

    def back(g: Any) -> tuple[Any, Any, Any]:
        g = relu_back((g[:, :, :, None, :, None] * (cells == largest)).reshape(y.shape), y)
        spread = np.pad(g, ((0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)))
        gx = np.einsum("nohwij,ocij->nchw", sliding_window_view(spread, (k, k), axis=(2, 3)), w[:, :, ::-1, ::-1])
        inner = slice(pad, -pad or None)
        return gx[:, :, inner, inner], np.einsum("nchwij,nohw->ocij", windows, g), g.sum((0, 2, 3))

    return largest[:, :, :, 0, :, 0], back


def dense_part(x: Any, w: State, layers: list[str], labels: Any) -> tuple[float, Any, State]:
    """Linear layers with ReLU between them and cross-entropy: the loss, the gradients of x and of the weights."""
    seen, grads = [x], {}
    for layer in layers:
        z = seen[-1] @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]
        seen.append(z if layer == layers[-1] else np.maximum(z, 0))
    z = seen.pop()
    z = z - z.max(axis=1, keepdims=True)
    logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    g = (np.exp(logs) - np.eye(10)[labels]) / len(labels)
    for layer in reversed(layers):
        below = seen.pop()
        grads |= {f"{layer}.weight": g.T @ below, f"{layer}.bias": g.sum(0)}
        g = g @ w[f"{layer}.weight"]
        g = relu_back(g, below) if seen else g
    return -logs[np.arange(len(labels)), labels].mean(), g, grads


def mlp_by_hand(w: State, x: Any, y: Any) -> tuple[float, State]:
    loss, _, grads = dense_part(x, w, ["1", "3", "5"], y)
    return loss, grads


def lenet_by_hand(w: State, x: Any, y: Any) -> tuple[float, State]:
    first, first_back = conv_and_pool(x, w["features.0.weight"], w["features.0.bias"], 2)
    second, second_back = conv_and_pool(first, w["features.3.weight"], w["features.3.bias"], 0)
    layers = ["classifier.1", "classifier.3", "classifier.5"]
    loss, g, grads = dense_part(second.reshape(len(x), -1), w, layers, y)
    g, grads["features.3.weight"], grads["features.3.bias"] = second_back(g.reshape(second.shape))
    _, grads["features.0.weight"], grads["features.0.bias"] = first_back(g)
    return loss, grads


@pytest.mark.parametrize(("name", "by_hand"), [("mlp", mlp_by_hand), ("lenet", lenet_by_hand)])
def test_losses_are_those_of_plain_numpy(name: str, by_hand: Callable[..., Any], device: str) -> None:
    _, state, x, y = fixed(name)
    w = {key: value.astype(np.float64) for key, value in state.items()}
    velocity = {key: np.zeros_like(value) for key, value in w.items()}
    losses = []
    for _ in range(STEPS):
        loss, grads = by_hand(w, x.astype(np.float64), y)
        for key, g in grads.items():
            velocity[key] = MOMENTUM * velocity[key] + g
            w[key] = w[key] - RATE * velocity[key]
        losses.append(loss)
    assert losses[-1] != losses[0]
    np.testing.assert_allclose(in_dagrun(name, device)[0], losses, rtol=1e-4, atol=1e-4)


# ---- the serial engine


@pytest.mark.parametrize("name", MAKERS)
def test_asynchronous_is_serial_bit_for_bit(name: str) -> None:
    with dr.engine("serial"):
        serial = in_dagrun(name)
    assert in_dagrun(name) == serial


@pytest.mark.parametrize("name", ["mlp", "lenet", "lstm"])
def test_simulated_devices_have_the_same_bits(name: str) -> None:
    assert in_dagrun(name, "sim:0") == in_dagrun(name)
