"""One module on several devices: the same loss, gradients and parameters as on one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from training import assert_close, batch, bits, loss, mlp, values, weights

import dagrun as dr
from dagrun import nn, optim
from dagrun.parallel import DataParallel, Replicas, SyncBatchNorm


def names(kind: str, count: int) -> list[str]:
    return [f"{kind}:{i}" for i in range(count)]


def plain_run(net: nn.Module, steps: int = 5, rows: int = 8, momentum: float = 0.9) -> nn.Module:
    """Steps of SGD on the whole batch."""
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
    device = str(next(net.parameters()).device)
    for seed in range(steps):
        optimizer.zero_grad()
        loss(net, batch(rows, seed, device)).backward()
        optimizer.step()
    return net


def replicas_run(both: Replicas, steps: int = 5, rows: int = 8) -> nn.Module:
    optimizers = [optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in both.modules]
    for seed in range(steps):
        both.step(loss, batch(rows, seed))
        for optimizer in optimizers:
            optimizer.step()
    return both.modules[0]


@pytest.mark.parametrize("kind", ["cpu", "sim"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_five_steps_are_those_of_one_device_with_the_whole_batch(devices: int, norm: bool, kind: str) -> None:
    def net() -> nn.Module:
        return mlp(f"{kind}:0", norm=norm)

    expected = plain_run(SyncBatchNorm.convert(net()))
    data = DataParallel(SyncBatchNorm.convert(net()), names(kind, devices))
    assert_close(plain_run(data).module, expected)
    both = Replicas(SyncBatchNorm.convert(net()), names(kind, devices))
    assert_close(replicas_run(both), expected)
    for copy in both.modules[1:]:  # every copy made the same steps: parameters and running statistics
        assert bits(copy) == bits(both.modules[0])


def test_sync_batch_norm_is_batch_norm_of_the_whole_batch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((6, 5, 3, 2)).astype("float32")
    theirs, ours = torch.nn.BatchNorm2d(5), SyncBatchNorm(5)
    both = DataParallel(ours, ["cpu:0", "cpu:1", "cpu:2"])
    there, here = torch.tensor(x, requires_grad=True), dr.asarray(x, requires_grad=True)
    y, z = theirs(there), both(here)
    (y**3).sum().backward()
    (z**3).sum().backward()
    np.testing.assert_allclose(z.detach().numpy(), y.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(here.grad.numpy(), there.grad.numpy(), atol=2e-5)
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-4)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(getattr(ours, name).numpy(), getattr(theirs, name).numpy(), atol=1e-6)
    assert ours.num_batches_tracked.item() == 1
    ours.eval(), theirs.eval()
    np.testing.assert_allclose(both(here).detach().numpy(), theirs(there).detach().numpy(), atol=2e-6)


def checkpointed(whole: bool) -> list[np.ndarray]:
    """Gradients of a network with SyncBatchNorm on two devices, plain or computed again in backward."""
    net = DataParallel(SyncBatchNorm.convert(mlp("cpu:0", norm=True)), names("cpu", 2))
    x = batch(6, 0)[0].detach().requires_grad_()
    y = dr.checkpoint(net, x) if whole else net(x)
    (y * y).sum().backward()
    return [g.numpy() for g in (x.grad, *(p.grad for p in net.parameters()))]


def test_checkpoint_around_all_replicas_is_right_and_around_one_refused() -> None:
    for found, expected in zip(checkpointed(True), checkpointed(False), strict=True):
        np.testing.assert_array_equal(found, expected)

    class Again(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: dr.Array) -> dr.Array:
            return dr.checkpoint(self.inner, x)

    inner = Again(SyncBatchNorm.convert(mlp("cpu:0", norm=True)))
    with pytest.raises(RuntimeError, match=r"checkpoint around a layer where replicas meet \(such as SyncBatchNorm\)"):
        DataParallel(inner, names("cpu", 2))(batch(6, 0)[0])
    assert DataParallel(inner, ["cpu:0"])(batch(6, 0)[0]).shape[0] == 6  # one replica meets nobody


@pytest.mark.parametrize("norm", [False, True])
def test_as_many_shards_give_the_same_bits_on_any_number_of_devices(norm: bool) -> None:
    def net() -> nn.Module:
        return SyncBatchNorm.convert(mlp(norm=norm))

    kept = {bits(replicas_run(Replicas(net(), names("cpu", n), shards=4, ordered=True))) for n in (1, 2, 4)}
    assert len(kept) == 1
    kept = {bits(plain_run(DataParallel(net(), names("cpu", n), shards=4)).module) for n in (1, 2, 4)}
    assert len(kept) == 1


class Running(nn.Module):
    """A statistic of its own, as plain batch normalisation has it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", dr.zeros(4, "float32"))

    def forward(self, x: dr.Array) -> dr.Array:
        with dr.no_grad():
            self.seen += x.mean(axis=0)
        return x


def test_buffers_are_those_of_the_first_part_wherever_the_parts_are() -> None:
    def net() -> nn.Module:
        return nn.Sequential(Running(), mlp())

    first = sum(batch(8, seed)[0].numpy()[:2].mean(axis=0) for seed in range(5))
    for count in (1, 2, 4):
        both = replicas_run(Replicas(net(), names("cpu", count), shards=4))
        np.testing.assert_allclose(both[0].seen.numpy(), first, rtol=1e-5)
        data = plain_run(DataParallel(net(), names("cpu", count), shards=4)).module
        np.testing.assert_allclose(data[0].seen.numpy(), first, rtol=1e-5)


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_asynchronous_is_serial_bit_for_bit(kind: str) -> None:
    def run() -> bytes:
        both = Replicas(SyncBatchNorm.convert(mlp(norm=True)), names(kind, 2))
        return bits(replicas_run(both)) + bits(plain_run(DataParallel(mlp(f"{kind}:0"), names(kind, 2))).module)

    with dr.engine("serial"):
        serial = run()
    assert run() == serial


@pytest.mark.parametrize("rows", [7, 3, 1])
def test_batches_that_do_not_divide_and_fewer_rows_than_devices(rows: int) -> None:
    expected = plain_run(mlp(), rows=rows)
    assert_close(plain_run(DataParallel(mlp(), names("cpu", 4)), rows=rows).module, expected)
    both = Replicas(mlp(), names("cpu", 4))
    assert_close(replicas_run(both, rows=rows), expected)
    assert len({bits(copy) for copy in both.modules}) == 1
    assert_close(replicas_run(Replicas(mlp(), names("cpu", 2), shards=4), rows=rows), expected)


def test_loss_and_gradients_are_those_of_the_whole_batch() -> None:
    net, both = mlp(), Replicas(mlp(), names("cpu", 3))
    total = loss(net, batch(10))
    total.backward()
    assert both.step(loss, batch(10)).item() == pytest.approx(total.item(), rel=1e-6)
    for copy in both.modules:
        for p, own in zip(net.parameters(), copy.parameters(), strict=True):
            np.testing.assert_allclose(own.grad.numpy(), p.grad.numpy(), atol=1e-7)


class Tied(nn.Module):
    """One weight used twice, one that is frozen, and one that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 3)
        self.last.bias.requires_grad = False

    def forward(self, x: dr.Array) -> dr.Array:
        return self.last(dr.tanh(self.second(dr.tanh(self.first(x)))))


@pytest.mark.parametrize("shards", [2, 4])
def test_shared_frozen_and_unused_parameters(shards: int) -> None:
    expected = plain_run(weights(Tied()))
    both = Replicas(weights(Tied()), names("cpu", 2), shards=shards)
    assert_close(replicas_run(both), expected)
    for copy in both.modules:
        assert copy.second.weight is copy.first.weight
        assert copy.unused.weight.grad is None and copy.last.bias.grad is None
        assert not copy.last.bias.requires_grad
    data = DataParallel(weights(Tied()), names("cpu", 2), shards=shards)
    assert_close(plain_run(data).module, expected)
    assert data.module.unused.weight.grad is None
    assert bits(data) == bits(data.module)


class Sometimes(nn.Module):
    """Its second parameter is used only where the first row is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter([1.0]), nn.Parameter([1.0])

    def forward(self, x: dr.Array) -> dr.Array:
        return x * self.a * self.b if x[0, 0].item() > 0 else x * self.a


def test_a_parameter_that_one_part_does_not_use() -> None:
    x = dr.asarray([[1.0], [-2.0]], "float32")
    both = Replicas(Sometimes(), names("cpu", 2))
    both.step(lambda net, part: net(part).sum(), x)
    assert [(net.a.grad.tolist(), net.b.grad.tolist()) for net in both.modules] == [([-0.5], [0.5])] * 2


class Everything(nn.Module):
    """Takes and gives nested batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, given: dict, *, scale: float, shift: dr.Array) -> dict:
        y = self.layer(given["x"])
        return {"y": (y * scale + shift, None), "names": [given["x"]]}


def test_nested_inputs_and_results() -> None:
    net = weights(Everything())
    x, shift = batch(5)
    one = net({"x": x}, scale=2.0, shift=shift)
    both = DataParallel(net, ["cpu:0", "cpu:1"])({"x": x}, scale=2.0, shift=shift.numpy())
    np.testing.assert_allclose(both["y"][0].detach().numpy(), one["y"][0].detach().numpy(), rtol=1e-6)
    assert both["y"][1] is None and both["names"][0].shape == (5, 4)


def test_dropout_draws_in_program_order() -> None:
    def run() -> list:
        dr.random.seed(3)
        net = DataParallel(nn.Sequential(nn.Linear(4, 3), Noise()), ["cpu:0", "cpu:1"])
        weights(net)
        return net(batch(6)[0]).tolist()

    class Noise(nn.Module):
        def forward(self, x: dr.Array) -> dr.Array:
            return x + dr.random.normal(size=x.shape, device=x.device).astype("float32")

    with dr.engine("serial"):
        serial = run()
    assert run() == serial


# ---- what is refused, and what fails


def test_devices_that_do_not_fit() -> None:
    for make in (DataParallel, Replicas):
        name = make.__name__
        with pytest.raises(
            dr.DeviceError, match=rf"{name}: devices \['cpu:0', 'cpu:0'\], expected one or more that di"
        ):
            make(mlp(), ["cpu:0", "cpu:0"])
        with pytest.raises(dr.DeviceError, match=f"{name}: devices"):
            make(mlp(), [])
        with pytest.raises(ValueError, match=f"{name}: 1 shards for 2 devices"):
            make(mlp(), ["cpu:0", "cpu:1"], shards=1)
    with pytest.raises(dr.DeviceError, match=r"0.weight is on cpu:1, expected cpu:0, .* module.to\('cpu:0'\)"):
        DataParallel(mlp("cpu:1"), ["cpu:0", "cpu:1"])
    both = DataParallel(mlp(), ["cpu:0", "cpu:1"])
    both.to("cpu:1")
    with pytest.raises(dr.DeviceError, match="is on cpu:1, expected cpu:0"):
        both(batch(4)[0])
    moved = Replicas(mlp("cpu:3"), ["cpu:0", "cpu:1"])
    assert [next(net.parameters()).device for net in moved.modules] == list(map(dr.device, ["cpu:0", "cpu:1"]))
    with pytest.raises(ValueError, match="one part for each device"):
        Replicas(mlp(), ["cpu:0"], shards=2, reduce=dr.parallel.all_reduce)


def test_batches_that_cannot_be_split() -> None:
    net = DataParallel(mlp(), ["cpu:0", "cpu:1"])
    with pytest.raises(ValueError, match="an array without axes cannot be split"):
        net(dr.ones((), "float32"))
    with pytest.raises(ValueError, match="arrays of no rows"):
        net()
    both = Replicas(mlp(), ["cpu:0", "cpu:1"])
    with pytest.raises(ValueError, match=r"arrays of \[3, 4\] rows"):
        both.step(loss, (batch(3)[0], batch(4)[1]))
    with pytest.raises(ValueError, match=r"the loss is an array of shape \(2, 3\), expected an array of one element"):
        both.step(lambda net, part: net(part[0]), batch(4))
    with pytest.raises(ValueError, match="the loss is a float"):
        both.step(lambda net, part: 1.0, batch(4))
    with pytest.raises(ValueError, match="a result without axes"):
        DataParallel(Scalar(), ["cpu:0", "cpu:1"])(batch(4)[0])
    both.modules[0].requires_grad_(False), both.modules[1].requires_grad_(False)
    with pytest.raises(RuntimeError, match="no gradient to follow"):
        both.step(loss, batch(4))


class Scalar(nn.Module):
    def forward(self, x: dr.Array) -> dr.Array:
        return x.sum()


class Fails(nn.Module):
    """Fails on one device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = dr.device(device)

    def forward(self, x: dr.Array) -> dr.Array:
        if x.device is self.device:
            raise ArithmeticError("no such number")
        return x


@pytest.mark.parametrize("device", ["cpu:0", "cpu:1", "cpu:2"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_replica_that_fails_ends_all_of_them(device: str, place: int) -> None:
    """Before the first meeting, between two, and after the last."""
    layers: list[nn.Module] = [SyncBatchNorm(4), SyncBatchNorm(4)]
    layers.insert(place, Fails(device))
    both = DataParallel(nn.Sequential(*layers), names("cpu", 3))
    with pytest.raises(ArithmeticError, match="no such number"):
        both(batch(6)[0])
    assert not [thread for thread in threading.enumerate() if "(run)" in thread.name]


class Skips(nn.Module):
    """Meets the others in one of the parts only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = SyncBatchNorm(1)

    def forward(self, x: dr.Array) -> dr.Array:
        return self.norm(x) if x[0, 0].item() > 0 else x


def test_replicas_that_do_not_all_meet() -> None:
    with pytest.raises(RuntimeError, match="1 of 2 replicas reached a layer where all must meet"):
        DataParallel(Skips(), ["cpu:0", "cpu:1"])(np.array([[1], [-1]], "float32"))


def test_modes_of_the_calling_thread_hold_in_the_replicas() -> None:
    both = DataParallel(SyncBatchNorm.convert(mlp(norm=True)), ["cpu:0", "cpu:1"])
    with dr.no_grad():
        assert not both(batch(4)[0]).requires_grad
    with dr.default_device("cpu:1"):
        assert both(batch(4)[0].numpy()).device is dr.device("cpu:0")
    bad = DataParallel(nn.Sequential(SyncBatchNorm(4), nn.Linear(4, 1)), ["cpu:0", "cpu:1"])
    x = np.ones((4, 4), "float32")
    x[3, 3] = np.nan
    with pytest.raises(FloatingPointError, match=r"multiply at .* gave a NaN"), dr.detect_anomaly():
        bad(x)


def test_state_keys_are_those_of_the_module_below_module() -> None:
    net = mlp(norm=True)
    keys = list(net.state_dict())
    converted = SyncBatchNorm.convert(net)
    assert list(converted.state_dict()) == keys
    assert list(DataParallel(converted, ["cpu:0"]).state_dict()) == [f"module.{key}" for key in keys]
    assert values(converted)["1.running_var"].tolist() == [1.0] * 8
