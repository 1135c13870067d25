"""Layers on devices of their own: two columns that exchange, pipelines of micro-batches, both kinds together."""

from __future__ import annotations

import numpy as np
import pytest
from training import batch, bits, loss, values, weights

import dagrun as dr
from dagrun import nn, optim
from dagrun.core import native, tracing
from dagrun.parallel import DataParallel, OnDevice, Pipeline, Replicas


def train(net: nn.Module, steps: int = 3, rows: int = 8) -> nn.Module:
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for seed in range(steps):
        optimizer.zero_grad()
        x, y = batch(rows, seed)
        out = net(x)
        nn.functional.mse_loss(out, y.to_device(out.device)).backward()
        optimizer.step()
    return net


def ancestors(records: list, sequence: int) -> set[int]:
    before = {r.sequence: [s for s, _ in r.predecessors] for r in records}
    found: set[int] = set()
    stack = [sequence]
    while stack:
        for s in before.get(stack.pop(), ()):
            if s not in found:
                found.add(s)
                stack.append(s)
    return found


class Columns(nn.Module):
    """Two columns as in AlexNet: the second layer of each sees its own column, the third sees both, then they join."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__()
        places = (left, right)
        self.first = nn.ModuleList([OnDevice(nn.Linear(4, 6), d) for d in places])
        self.second = nn.ModuleList([OnDevice(nn.Linear(6, 6), d) for d in places])
        self.third = nn.ModuleList([OnDevice(nn.Linear(12, 6), d) for d in places])
        self.last = OnDevice(nn.Linear(12, 3), left)

    def forward(self, x: dr.Array) -> dr.Array:
        columns = [dr.tanh(layer(x)) for layer in self.first]
        columns = [dr.tanh(layer(c)) for layer, c in zip(self.second, columns, strict=True)]
        columns = [dr.tanh(layer(self.joined(columns, layer.device))) for layer in self.third]
        return self.last(self.joined(columns, self.last.device))

    @staticmethod
    def joined(columns: list[dr.Array], device: dr.Device) -> dr.Array:
        return dr.concatenate([c.to_device(device) for c in columns], axis=1)


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_two_columns_on_two_devices_train_as_on_one(kind: str) -> None:
    one = train(weights(Columns("cpu:0", "cpu:0")))
    two = train(weights(Columns(f"{kind}:0", f"{kind}:1")))
    assert two.first[1].module.weight.device is dr.device(f"{kind}:1")
    assert bits(one) == bits(two)
    with dr.engine("serial"):
        assert bits(train(weights(Columns(f"{kind}:0", f"{kind}:1")))) == bits(two)


def test_a_column_waits_for_the_other_where_they_exchange_only() -> None:
    net = weights(Columns("cpu:0", "cpu:1"))
    with tracing() as records:
        net(batch(4)[0]).wait()
    activations = [r for r in records if r.name == "tanh"]
    left, right = (sorted(r.sequence for r in activations if r.device == d) for d in ("cpu:0", "cpu:1"))
    assert len(left) == len(right) == 3
    assert right[0] in ancestors(records, right[1]) and not ancestors(records, right[1]) & set(left)
    assert not ancestors(records, left[1]) & set(right)
    assert set(left[:2]) <= ancestors(records, right[2])


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_alexnet_in_two_columns_trains_as_on_one_device(kind: str) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.random((2, 3, 63, 63), np.float32), rng.integers(0, 5, 2)

    def trained(devices: list[str]) -> bytes:
        net = weights(dr.models.ColumnAlexNet(5, hidden=16, dropout=0.0, devices=devices))
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            nn.functional.cross_entropy(
                net(dr.asarray(images, device=devices[0])), dr.asarray(labels, device=devices[0])
            ).backward()
            optimizer.step()
            optimizer.zero_grad()
        return bits(net)

    assert trained([f"{kind}:0", f"{kind}:1"]) == trained(["cpu:0", "cpu:0"])


class Recurrent(nn.Module):
    """A stage of a pipeline: an LSTM layer, without its states."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, hidden, batch_first=True)

    def forward(self, x: dr.Array) -> dr.Array:
        return self.lstm(x)[0]


def pipeline(devices: list[str], micro_batches: int, hidden: int = 5) -> Pipeline:
    stages = [Recurrent(3 if k == 0 else hidden, hidden) for k in range(len(devices))]
    return weights(Pipeline(stages, devices, micro_batches))


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_a_pipeline_of_lstm_layers_gives_what_the_layers_give(kind: str) -> None:
    x = dr.asarray(np.random.default_rng(0).standard_normal((6, 4, 3)), "float32")
    one, many = pipeline(["cpu:0"] * 3, 1), pipeline([f"{kind}:{k}" for k in range(3)], 3)
    for net in (one, many):
        (net(x) ** 2).sum().backward()
    np.testing.assert_allclose(many(x).detach().numpy(), one(x).detach().numpy(), atol=1e-6)
    for p, own in zip(one.parameters(), many.parameters(), strict=True):
        np.testing.assert_allclose(own.grad.numpy(), p.grad.numpy(), atol=1e-5)


def test_two_stages_work_at_once() -> None:
    net = pipeline(["cpu:0", "cpu:1"], 4, hidden=256)
    x = dr.asarray(np.random.default_rng(0).standard_normal((64, 8, 3)), "float32")
    net(x).wait()
    native.pause(True)  # all is recorded before anything runs: the picture does not depend on how fast that goes
    with tracing() as records:
        y = net(x)
        native.pause(False)
        y.wait()
    steps = [r for r in records if "lstm" in r.name]
    first, second = ([r for r in steps if r.device == d] for d in ("cpu:0", "cpu:1"))
    assert len(first) == len(second) >= 4
    # Neither waits for the other: the second stage of the first part, and the first stage of the last.
    assert not ancestors(records, second[len(second) // 4 - 1].sequence) & {
        r.sequence for r in first[len(first) // 4 :]
    }
    assert not ancestors(records, first[-1].sequence) & {r.sequence for r in second}
    if dr.engine_stats()["workers"] > 1:
        assert any(a.begin_ns < b.end_ns and b.begin_ns < a.end_ns for a in first for b in second)


def test_micro_batches_that_do_not_divide() -> None:
    x = dr.asarray(np.random.default_rng(0).standard_normal((5, 2, 3)), "float32")
    expected = pipeline(["cpu:0", "cpu:0"], 1)(x).detach().numpy()
    for micro in (2, 5, 9):
        found = pipeline(["cpu:0", "cpu:1"], micro)(x)
        assert found.device is dr.device("cpu:1")
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


def stages() -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 3)]


def test_two_by_two_hybrid_of_lstm_layers() -> None:
    """A pipeline of two LSTM layers, each on two devices that share the rows of every micro-batch."""
    x = dr.asarray(np.random.default_rng(0).standard_normal((8, 4, 3)), "float32")
    plain = pipeline(["cpu:0"] * 2, 1)
    parts = [DataParallel(Recurrent(3 if k == 0 else 5, 5).to(f"cpu:{2 * k}"), [f"cpu:{2 * k}", f"cpu:{2 * k + 1}"])
             for k in range(2)]  # fmt: skip
    both = weights(Pipeline(parts, ["cpu:0", "cpu:2"], micro_batches=2))
    with tracing() as records:
        for net in (plain, both):
            (net(x) ** 2).sum().backward()
        dr.wait()
    assert {r.device for r in records if "lstm" in r.name} == {f"cpu:{k}" for k in range(4)}
    for p, own in zip(plain.parameters(), both.parameters(), strict=True):
        np.testing.assert_allclose(own.grad.numpy(), p.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_two_by_two_hybrid(kind: str) -> None:
    """Two stages, each on two devices that share its batch."""
    plain = train(weights(nn.Sequential(*stages())))

    def hybrid() -> Pipeline:
        layers = [layer.to(f"{kind}:{2 * k}") for k, layer in enumerate(stages())]
        parts = [DataParallel(s, [f"{kind}:{2 * k}", f"{kind}:{2 * k + 1}"]) for k, s in enumerate(layers)]
        return weights(Pipeline(parts, [f"{kind}:0", f"{kind}:2"], micro_batches=2))

    net = train(hybrid())
    for x, y in zip(values(plain).values(), values(net).values(), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-6)
    with tracing() as records:
        net(batch(8)[0]).wait()
    assert {r.device for r in records} == {f"{kind}:{k}" for k in range(4)}
    with dr.engine("serial"):
        assert bits(train(hybrid())) == bits(net)


def test_a_placed_module_stays_where_it_is() -> None:
    net = weights(Columns("cpu:0", "cpu:1"))
    both = Replicas(net, ["cpu:0"])
    assert both.modules[0].first[1].module.weight.device is dr.device("cpu:1")
    both.step(loss, batch(8))
    assert net.first[1].module.weight.grad.device is dr.device("cpu:1")
    with pytest.raises(dr.DeviceError, match="the layers are placed on cpu:0, cpu:1 already"):
        Replicas(net, ["cpu:0", "cpu:1"])
    with pytest.raises(dr.DeviceError, match=r"first.1.module.weight is on cpu:1, expected cpu:0"):
        DataParallel(net, ["cpu:0", "cpu:1"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 stages and 1 devices"):
        Pipeline(stages(), ["cpu:0"])
    with pytest.raises(ValueError, match="0 stages"):
        Pipeline([], [])
    with pytest.raises(ValueError, match="0 micro-batches"):
        Pipeline(stages(), ["cpu:0", "cpu:1"], 0)
